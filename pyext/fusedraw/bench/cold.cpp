// SPDX-License-Identifier: Apache-2.0
//
// Takes memory out of every cache of the machine, line by line: what a call reads first then comes
// from memory, however large the last cache is (a virtual machine may be told of hundreds of MB).

#include <cstdint>

#include <immintrin.h>

namespace {
constexpr int64_t kLine = 64;  // bytes; of every x86-64 processor so far
}

extern "C" {

// clflush, which every x86-64 processor has; it also orders itself against stores to the line.
void cold_evict(const void* data, int64_t bytes) {
  const auto begin = reinterpret_cast<uintptr_t>(data) / kLine * kLine;
  const auto end = reinterpret_cast<uintptr_t>(data) + uintptr_t(bytes);
  for (uintptr_t line = begin; line < end; line += kLine) {
    _mm_clflush(reinterpret_cast<const void*>(line));
  }
  _mm_mfence();
}

}  // extern "C"
