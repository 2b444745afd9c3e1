// SPDX-License-Identifier: Apache-2.0
// Callers on std::threads, for ThreadSanitizer: each runs every engine on the same inputs at the
// same time, and some of them split their rows, or the blocks of a row, over threads of their own.
//   threads THREADS ROUNDS    every operator x type, ROUNDS cases of each
//   threads planted           a race: must be reported
// Prints one line of JSON.
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <mutex>
#include <thread>

#include "check.h"
#include "operations.h"

namespace {

using namespace native;

struct Shared {
  const Case* made;
  const Memory* inputs;
  std::mutex mutex;
  std::string wrong;
};

void call(Shared& shared, int t) {
  HeapMemory reference, outputs;
  const Pool pool = t % 4 == 3 ? threaded_pool(3) : Pool{};
  const std::string wrong =
      check_case(*shared.made, *shared.inputs, reference, outputs, pool, t % 4 == 2 ? 2 : 1);
  if (wrong.empty()) return;
  const std::lock_guard<std::mutex> lock(shared.mutex);
  shared.wrong = wrong;
}

int run_all(int threads, int rounds) {
  constexpr int64_t kCols[] = {257, 1, 700, 33, 4097, 256};
  long long calls = 0;
  for (int round = 0; round < rounds; ++round)
    for (int operation = 0; operation < kOperations; ++operation)
      for (int dtype = 0; dtype < 3; ++dtype) {
        HeapMemory inputs;
        const uint64_t label = uint64_t((round * 16 + operation) * 4 + dtype);
        Source source(nullptr, 0, (label + 1) * 0x9e3779b97f4a7c15ull);
        const int64_t cols = kCols[label % 6];
        const std::unique_ptr<Case> made = make_case(source, inputs, {operation, dtype, cols});
        Shared shared{made.get(), &inputs, {}, {}};
        std::vector<std::thread> running;
        for (int t = 0; t < threads; ++t) running.emplace_back(call, std::ref(shared), t);
        for (std::thread& t : running) t.join();
        if (!shared.wrong.empty()) {
          std::fprintf(stderr, "MISMATCH %s\n", shared.wrong.c_str());
          return 1;
        }
        calls += threads * (long long)(available_engines().size());
      }
  std::printf("{\"calls\": %lld, \"threads\": %d, \"engines\": %zu}\n", calls, threads,
              available_engines().size());
  return 0;
}

// Two callers with one output buffer.
int planted() {
  HeapMemory inputs, outputs;
  Source source(nullptr, 0, 1);
  const std::unique_ptr<Case> made = make_case(source, inputs, {2, 0, 300});
  struct Same : Memory {
    void* p = std::malloc(1 << 20);
    ~Same() override { std::free(p); }
    void* place(size_t, size_t, size_t) override { return p; }
    void release() override {}
  } same;
  std::thread one([&] { made->run({*available_engines()[1], Pool{}}, same); });
  std::thread two([&] { made->run({*available_engines()[1], Pool{}}, same); });
  one.join();
  two.join();
  return 0;
}

}  // namespace

int main(int n, char** argument) {
  if (n == 2 && std::string(argument[1]) == "planted") return planted();
  if (n == 3) return run_all(std::atoi(argument[1]), std::atoi(argument[2]));
  std::fprintf(stderr, "usage: threads THREADS ROUNDS | planted\n");
  return 2;
}
