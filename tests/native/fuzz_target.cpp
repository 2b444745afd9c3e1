// SPDX-License-Identifier: Apache-2.0
// The fuzz target: bytes -> an operator, its shape, strides, parameters, masks, lists and the bits
// of its rows; every engine against R2. libFuzzer calls it, or drive.cpp.
#include <cstdio>
#include <cstdlib>

#include "check.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* bytes, size_t n) {
  using namespace native;
  static HeapMemory inputs, reference, outputs;
  inputs.reset();
  Source source(bytes, n);
  constexpr int kThreads[] = {1, 1, 1, 2, 3, 8};
  const Pool pool = pretended_pool(source.choose(kThreads));
  const std::unique_ptr<Case> made = make_case(source, inputs);
  const std::string wrong = check_case(*made, inputs, reference, outputs, pool);
  if (!wrong.empty()) {
    std::fprintf(stderr, "MISMATCH %s\n", wrong.c_str());
    std::abort();
  }
  return 0;
}
