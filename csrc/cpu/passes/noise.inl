// SPDX-License-Identifier: Apache-2.0
// Philox in lanes: the high words of r64 for consecutive ids, from which bounds are made. The exact
// value of the few ids that a bound does not rule out is computed by core/noise.h.
#pragma once

namespace fusedraw {
namespace {

// words[i] = high word of r64(purpose, first + i) for i in [0, n); first even. Writes up to
// 2 * kLanes - 1 words past n. `low`, where given, gets the low words alike.
void noise_words(const Noise& noise, uint32_t purpose, int64_t first, int64_t n, uint32_t* words,
                 uint32_t* low = nullptr) {
  const V::I m0 = V::iset(kPhiloxM0), m1 = V::iset(kPhiloxM1);
  for (int64_t i = 0; i < n; i += 2 * V::kLanes) {
    V::I c0 = V::iadd(V::iset(uint32_t((first + i) >> 1)), V::iota());
    V::I c1 = V::iset(purpose | noise.domain << 8);
    V::I c2 = V::iset(uint32_t(noise.offset)), c3 = V::iset(uint32_t(noise.offset >> 32));
    uint32_t k0 = uint32_t(noise.seed), k1 = uint32_t(noise.seed >> 32);
    for (int round = 0; round < kPhiloxRounds; ++round) {
      V::I hi0, lo0, hi1, lo1;
      V::mul_wide(c0, m0, hi0, lo0);
      V::mul_wide(c2, m1, hi1, lo1);
      c0 = V::ixor(V::ixor(hi1, c1), V::iset(k0));
      c1 = lo1;
      c2 = V::ixor(V::ixor(hi0, c3), V::iset(k1));
      c3 = lo0;
      k0 += kPhiloxW0;
      k1 += kPhiloxW1;
    }
    V::istore_interleaved(words + i, c1, c3);
    if (low != nullptr) V::istore_interleaved(low + i, c0, c2);
  }
  for (int64_t f = 0; f < noise.n_forced; ++f) {
    const ForcedNoise& forced = noise.forced[noise.n_forced - 1 - f];  // the first entry wins
    if (forced.purpose == purpose && forced.id >= first && forced.id < first + n) {
      words[forced.id - first] = uint32_t(forced.r64 >> 32);
      if (low != nullptr) low[forced.id - first] = uint32_t(forced.r64);
    }
  }
}

// E >= v, and v >= word * 2^-32: with these factors a bound computed in float32 stays a bound.
constexpr float kShrink = 1.0f - 0x1p-18f, kGrow = 1.0f + 0x1p-18f;

// At most E(r64): the noise behind a high word.
V::F noise_floor(V::I words) { return V::mul(V::to_float(words), V::set(0x1p-32f * kShrink)); }

}  // namespace
}  // namespace fusedraw
