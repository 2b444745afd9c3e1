// SPDX-License-Identifier: Apache-2.0
// The global memory that kernels may touch, declared by the host as ranges of bytes.
//
// While a scope lives, each launch of its thread may touch what is declared in it or in a scope
// around it, and nothing else; with no scope, global memory is counted but not bounded. Rows with
// gaps are ranges of their own, then the gaps are out of bounds. Ranges that overlap become one, of
// the first's name, with the permissions of both.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "memory_check.h"

namespace fusedraw::simt {

enum : unsigned {
  kRead = 1,
  kWrite = 2,
  kUninitialised = 4  // reading a byte that no kernel has written is an error
};

class Buffers {
 public:
  Buffers();
  ~Buffers();
  Buffers(const Buffers&) = delete;
  Buffers& operator=(const Buffers&) = delete;

  // A null or empty range declares nothing.
  void declare(const void* p, size_t bytes, unsigned flags, const std::string& name);
  // The host has written it, as a memset between two launches does.
  void initialised(const void* p, size_t bytes);
  // Whether the calling thread has a scope.
  static bool active();

 private:
  size_t outer_;  // ranges of the scopes around
};

// What a launch's arguments are known to point to: an overload beside the argument's type says
// more.
template <typename T>
void declare_buffers(Buffers&, const T&) {}

// Of the launch that begins on this thread.
void begin_global_checks();
// Fails unless the access is allowed; notes what it writes.
void check_global(const void* p, size_t bytes, size_t alignment, Access access);

}  // namespace fusedraw::simt
