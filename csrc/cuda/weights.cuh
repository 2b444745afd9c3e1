// SPDX-License-Identifier: Apache-2.0
// Weights of a lane's tokens and their exact sums: the law of core/weight.h in fewer instructions.
//
// floor(t) comes from one addition rounded down, the integer RNE(2^43 y) of a float from two
// additions whose bit patterns are summed (docs/design.md, "Exact sums from bit patterns").
#pragma once

#include "../core/stats.h"
#include "row.cuh"

namespace fusedraw::cuda {

constexpr float kFloorMagic = 0x1.8p23f;  // t + this, rounded down: floor(t) in the low bits
constexpr float kHighMagic = 6.0f, kLowMagic = 0x1.8p-20f, kBothMagic = 6.0f + 0x1.8p-20f;
constexpr int kHighShift = 22;
constexpr float kClampT = -45.0f;         // weighs 0, as the law asks for t <= -44
constexpr float kNoWeight = 0x1p-44f;     // e at or below weighs 0
constexpr float kSmallWeight = 0x1p-22f;  // e at or below has no high part

// exp2p(t) for t in [-126, 0].
FD_DEVICE float exp2_of(float t) {
  const float shifted = add_round_down(t, kFloorMagic);
  const float f = t - (shifted - kFloorMagic);
  float p = fma32(0x1.c5417ap-13f, f, 0x1.46d64ap-10f);
  p = fma32(p, f, 0x1.3d0b92p-7f);
  p = fma32(p, f, 0x1.c68912p-5f);
  p = fma32(p, f, 0x1.ebfd58p-3f);
  p = fma32(p, f, 0x1.62e42cp-1f);
  p = fma32(p, f, 1.0f);
  return float_of(bits_of(p) + (bits_of(shifted) << 23));
}

// RNE(2^43 e), 0 <= e < 2, in integers of 32 bits.
FD_DEVICE uint64_t fixed_of(float e) {
  const float high = e * 0x1p21f;
  const uint32_t h = uint32_t(high);
  return (uint64_t(h) << kHighShift) + round_to_uint((high - float(h)) * 0x1p22f);
}

FD_DEVICE float clamped_gap(const WeightRule& rule, float x) {
  const float t = (x - rule.m) * rule.c;
  return t > kClampT ? t : kClampT;
}

// relative_weight() and weight_of() of the core, by these means.
FD_DEVICE float relative_of(const WeightRule& rule, float x) {
  if (rule.kind == WeightKind::kProbs) return x / rule.m;
  if (rule.kind == WeightKind::kUniform) return x > -inf32() ? 1.0f : 0.0f;
  return exp2_of(clamped_gap(rule, x));
}
FD_DEVICE uint64_t weight_at(const WeightRule& rule, float x) {
  return fixed_of(relative_of(rule, x));
}

// A sum of integers RNE(2^43 y), split at bit 22.
struct FixedSum {
  uint64_t high = 0;
  int64_t low = 0;
  __device__ u128 total() const { return (u128(high) << kHighShift) + u128(__int128(low)); }
};

// The same of a few values: at most 32 lie between two calls of flush (n * 2^21 * 1.2 < 2^31).
struct PartSum {
  uint32_t high = 0, low = 0;
  __device__ void add(float y) {
    const float s = y + kHighMagic;
    high += bits_of(s);
    low += bits_of(y + (kBothMagic - s));
  }
  __device__ void add_small(float y) { low += bits_of(y + kLowMagic); }
  // n values were added, `whole` of them by add().
  __device__ void flush(FixedSum& to, uint32_t n, uint32_t whole) {
    to.high += high - whole * bits_of(kHighMagic);
    to.low += int32_t(low - n * bits_of(kLowMagic));
    high = low = 0;
  }
};

FD_DEVICE u128 block_total(const FixedSum& s) {
  FixedSum all;
  all.high = block_sum(s.high);
  all.low = int64_t(block_sum(uint64_t(s.low)));
  return all.total();
}

}  // namespace fusedraw::cuda
