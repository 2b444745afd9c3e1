// SPDX-License-Identifier: Apache-2.0
// The SIMT executor as its callers see it: runs a kernel's threads as fibers on the calling thread.
//
// A launch returns when the grid is done. An error (a race, a bad access, a barrier that not all
// reach, ...) ends the launch with a std::runtime_error that says what, where and by whom; the
// executor can be used again afterwards. Launches of several system threads wait for each other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <tuple>

#include "buffers.h"
#include "counts.h"

struct uint3 {
  unsigned x, y, z;
};
struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

namespace fusedraw::simt {

struct Options {
  // 0: blocks, warps and lanes in ascending order; 1: descending; others seed random orders, with
  // random preemption at atomics and fences.
  uint64_t schedule = 0;
  int resident = 1;          // blocks alive at once: a grid that waits for itself needs all of them
  bool check_shared = true;  // races, bounds and unwritten words of shared memory
  bool count_requests = true;  // sectors and bank conflicts; bytes are always counted
  // Threads that only spin are given up after so many atomics and fences without one that ends or a
  // barrier that opens.
  uint64_t patience = uint64_t{1} << 24;
  // CUDA promises no order of memory from shuffles and votes; true grants it nevertheless.
  bool shuffles_order_memory = false;
};
// Of the calling thread; read when a launch begins.
Options& options();

struct Kernel {
  void* function;                       // for its name
  void (*call)(const void* arguments);  // of one thread
  const void* arguments;
  size_t argument_bytes;
};

void run(const Kernel& kernel, dim3 grid, int threads, size_t dynamic_shared_bytes);

template <typename... Parameters, typename... Arguments>
void launch_kernel(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared_bytes,
                   const Arguments&... arguments) {
  using Call = std::tuple<void (*)(Parameters...), Parameters...>;
  const Call call(kernel, arguments...);
  Kernel k;
  k.function = reinterpret_cast<void*>(kernel);
  k.call = [](const void* c) {
    std::apply([](auto function, const auto&... a) { function(a...); },
               *static_cast<const Call*>(c));
  };
  k.arguments = &call;
  k.argument_bytes = sizeof(std::tuple<Parameters...>);
  if (!Buffers::active()) return run(k, grid, threads, shared_bytes);
  Buffers scope;
  (declare_buffers(scope, arguments), ...);
  run(k, grid, threads, shared_bytes);
}

}  // namespace fusedraw::simt
