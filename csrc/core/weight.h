// SPDX-License-Identifier: Apache-2.0
// Integer weights: w = RNE(2^43 * exp2p(t)), t = fl32(fl32(x - m) * c).
//
// exp2p is a float32 polynomial of degree 6, bit-equal on every instruction set, monotone, within
// 8.7e-8 of 2^t; w(0) = 2^43, w(-1) = 2^42, w = 0 for t <= -44.
#pragma once

#include "order.h"

namespace fusedraw {

constexpr int kWeightBits = 43;
constexpr float kWeightFloor = -44.0f;  // tokens at or below weigh nothing
constexpr double kLog2E = 0x1.71547652b82fep+0;
constexpr float kExp2Poly[6] = {0x1.c5417ap-13f, 0x1.46d64ap-10f, 0x1.3d0b92p-7f,
                                0x1.c68912p-5f,  0x1.ebfd58p-3f,  0x1.62e42cp-1f};

// 2^(t - floor(t)) in [1, 2] and n = floor(t), for t in [-2^30, 0].
FD_FN float exp2_significand(float t, int& n) {
  n = int(t);
  if (float(n) > t) --n;
  const float f = t - float(n);
  // A copy inside: device code sees no constants of the host's.
  constexpr float c[6] = {kExp2Poly[0], kExp2Poly[1], kExp2Poly[2],
                          kExp2Poly[3], kExp2Poly[4], kExp2Poly[5]};
  float p = c[0];
  for (int i = 1; i < 6; ++i) p = fma32(p, f, c[i]);
  return fma32(p, f, 1.0f);
}

// 2^t for t in [-126, 0].
FD_FN float exp2p(float t) {
  int n;
  const float p = exp2_significand(t, n);
  return p * float_of(uint32_t(n + 127) << 23);
}

// RNE(2^43 * y) for y in [0, 2): exact scaling, then the 2^52 trick rounds to an integer.
FD_FN uint64_t fixed43(float y) { return uint64_t((double(y) * 0x1p43 + 0x1p52) - 0x1p52); }

// How a row turns x into weights.
enum class WeightKind : uint8_t {
  kLogits,   // t = fl32(fl32(x - m) * c)
  kUniform,  // temperature above 2^64: t = 0 for every valid token
  kProbs,    // e = fl32(p / m), no temperature
};

struct WeightRule {
  WeightKind kind = WeightKind::kLogits;
  float m = 0.0f;  // the largest valid x
  float c = 0.0f;
};

// c of a temperature > 0.
FD_FN float temperature_scale(float temperature) {
  const float c = float(kLog2E / double(temperature));
  return c < kFltMax ? c : kFltMax;
}

FD_FN WeightRule weight_rule(float m, float temperature, bool probs) {
  WeightRule r;
  r.m = m + 0.0f;  // -0 reads as +0
  if (probs) {
    r.kind = WeightKind::kProbs;
  } else if (temperature > 0x1p64f) {
    r.kind = WeightKind::kUniform;
  } else {
    r.c = temperature_scale(temperature);
  }
  return r;
}

// t of a valid logit; +0 at x = m.
FD_FN float scaled_gap(const WeightRule& r, float x) {
  if (r.kind == WeightKind::kUniform) return 0.0f;
  return (x - r.m) * r.c + 0.0f;
}

// e of a valid token for the weight: 0 where the law says w = 0.
FD_FN float relative_weight(const WeightRule& r, float x) {
  if (r.kind == WeightKind::kProbs) return x / r.m;
  const float t = scaled_gap(r, x);
  return t <= kWeightFloor ? 0.0f : exp2p(t);
}

FD_FN uint64_t weight_of(const WeightRule& r, float x) { return fixed43(relative_weight(r, x)); }

// The smallest float x <= m with weight_of(x) >= w, 1 <= w <= 2^43. Weights are monotone in x.
FD_FN float smallest_with_weight(const WeightRule& r, uint64_t w) {
  if (r.kind == WeightKind::kUniform) return -kFltMax;
  const float low = r.kind == WeightKind::kProbs ? 0.0f : -kFltMax;
  return smallest_holding(low, r.m, [&](float x) { return weight_of(r, x) >= w; });
}

}  // namespace fusedraw
