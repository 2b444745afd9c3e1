// SPDX-License-Identifier: Apache-2.0
// Derived keys: (seed, request, sample, step) -> the key of a row.
#pragma once

#include "philox.h"

namespace fusedraw {

struct Key {
  uint64_t seed = 0, offset = 0;
};

// ASCII "KEYS": keeps derived keys apart from any counter of the noise.
constexpr uint32_t kDeriveTag = 0x4B455953u;

// Sample ids count modulo 2^32.
FD_FN Key derive_key(uint64_t seed, uint64_t request, uint64_t sample, uint64_t step) {
  const Philox4 h = philox4x32_10(uint32_t(seed), uint32_t(seed >> 32), uint32_t(request),
                                  uint32_t(request >> 32), uint32_t(sample), kDeriveTag);
  return {uint64_t(h.o1) << 32 | h.o0, step};
}

}  // namespace fusedraw
