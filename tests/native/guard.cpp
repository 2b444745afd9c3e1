// SPDX-License-Identifier: Apache-2.0
// Every buffer of a call against a page that nobody may touch, on either side of it:
//   guard FIRST LAST CASES    V = FIRST to LAST x operator x type x side x CASES seeds, every
//   engine guard planted read|write end|start    one element too far, by a loop of vectors: must be
//   killed
// Prints one line of JSON.
#include <cstdio>
#include <cstdlib>

#include "check.h"

namespace {

using namespace native;

int run_all(int64_t first, int64_t last, int64_t cases) {
  using Side = GuardedMemory::Side;
  long long runs = 0;
  for (const Side side : {Side::kEnd, Side::kStart}) {
    GuardedMemory inputs(side), reference(side), outputs(side);
    for (int64_t v = first; v <= last; ++v)
      for (int operation = 0; operation < kOperations; ++operation)
        for (int dtype = 0; dtype < 3; ++dtype)
          for (int64_t seed = 0; seed < cases; ++seed) {
            inputs.reset();
            const uint64_t label = uint64_t((((seed * 512 + v) * 16 + operation) * 4 + dtype) * 2 +
                                            (side == Side::kEnd));
            Source source(nullptr, 0, label * 0x9e3779b97f4a7c15ull);
            const std::unique_ptr<Case> made = make_case(source, inputs, {operation, dtype, v});
            const Pool pool = pretended_pool(seed % 2 == 0 ? 1 : 2);
            const std::string wrong = check_case(*made, inputs, reference, outputs, pool);
            if (!wrong.empty()) {
              std::fprintf(stderr, "MISMATCH %s\n", wrong.c_str());
              return 1;
            }
            ++runs;
          }
  }
  std::printf("{\"cases\": %lld, \"engines\": %zu}\n", runs, available_engines().size());
  return 0;
}

// What an engine with a mistake would do to a buffer of 100 floats.
int planted(const std::string& what, const std::string& where) {
  const bool end = where == "end";
  GuardedMemory memory(end ? GuardedMemory::Side::kEnd : GuardedMemory::Side::kStart);
  volatile float* const p = static_cast<float*>(memory.take(100 * sizeof(float), sizeof(float)));
  const int first = end ? 0 : -1, last = end ? 100 : 99;
  float sum = 0.0f;
  for (int i = first; i <= last; ++i) {
    if (what == "write")
      p[i] = 1.0f;
    else
      sum += p[i];
  }
  std::printf("not caught: %g\n", double(sum));
  return 0;
}

}  // namespace

int main(int n, char** argument) {
  if (n == 4 && std::string(argument[1]) == "planted") return planted(argument[2], argument[3]);
  if (n == 4)
    return run_all(std::atoll(argument[1]), std::atoll(argument[2]), std::atoll(argument[3]));
  std::fprintf(stderr, "usage: guard FIRST LAST CASES | planted read|write end|start\n");
  return 2;
}
