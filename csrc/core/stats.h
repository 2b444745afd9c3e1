// SPDX-License-Identifier: Apache-2.0
// By-products of a draw from integer sums: float64 inside, one rounding to float32 at the end.
// Zero results are +0 (hence the `+ 0.0f`).
#pragma once

#include "noise.h"
#include "weight.h"

namespace fusedraw {

// Integer sums of a row's weights; g, h carry -t*e and t*t*e for the entropies.
struct Sums {
  u128 s = 0, g = 0, h = 0;
};

// LS(S) = ln(S / 2^43).
FD_FN double log_sum(u128 s) {
  int k;
  const double z = split_binade(to_double(s) * 0x1p-43, k);
  return double(k) * kLn2 + twice_atanh((z - 1.0) / (z + 1.0));
}

// log2 of a normal float32 in float32: y = z * 2^k, z in [3/4, 3/2); log2(z) = s * Q(s), s = z - 1,
// Q of degree 8 (a Lawson fit, absolute error 7.8e-9 before rounding). Exact at powers of two.
constexpr float kLog2Poly[9] = {0x1.321deep-4f,  -0x1.60a018p-3f, 0x1.bcb2fp-3f,
                                -0x1.f24f12p-3f, 0x1.2711eep-2f,  -0x1.712f74p-2f,
                                0x1.ec71b6p-2f,  -0x1.7154b4p-1f, 0x1.715476p+0f};
constexpr uint32_t kThreeQuarters = 0x3f400000u;  // bits of 0.75
FD_FN float log2p(float y) {
  constexpr float c[9] = {kLog2Poly[0], kLog2Poly[1], kLog2Poly[2], kLog2Poly[3], kLog2Poly[4],
                          kLog2Poly[5], kLog2Poly[6], kLog2Poly[7], kLog2Poly[8]};  // as in exp2p
  const int32_t k = int32_t(bits_of(y) - kThreeQuarters) >> 23;
  const float s = float_of(bits_of(y) - (uint32_t(k) << 23)) - 1.0f;
  float q = c[0];
  for (int i = 1; i < 9; ++i) q = fma32(q, s, c[i]);
  return fma32(s, q, float(k));
}

FD_FN float log_prob(float t, double ls) { return float(double(t) * kLn2 - ls) + 0.0f; }

FD_FN double entropy_value(const Sums& a) {
  return log_sum(a.s) + kLn2 * (to_double(a.g) / to_double(a.s));
}
FD_FN float entropy_of(const Sums& a) { return float(entropy_value(a)) + 0.0f; }

FD_FN float varentropy_of(const Sums& a) {
  const double d = to_double(a.s), g = to_double(a.g) / d, h = to_double(a.h) / d;
  const double v = kLn2 * kLn2 * (h - g * g);
  return float(v > 0.0 ? v : 0.0);
}

// mu, the behaviour policy's probability of a token: w its weight if kept (else 0), support the
// size of U if the token lies in U (else 0).
FD_FN double mixture_prob(uint64_t w, u128 s_kept, float mix_eps, int64_t support) {
  const double eps = double(mix_eps);
  double mu = w == 0 ? 0.0 : (1.0 - eps) * (to_double(w) / to_double(s_kept));
  if (eps > 0.0 && support > 0) mu = mu + eps / to_double(uint64_t(support));
  return mu > 1.0 ? 1.0 : mu;
}
FD_FN float mixture_log_prob(uint64_t w, u128 s_kept, float mix_eps, int64_t support) {
  const double mu = mixture_prob(w, s_kept, mix_eps, support);
  if (!(mu > 0.0)) return -inf32();
  return float(-neg_log(mu)) + 0.0f;
}

FD_FN float softmax_of(float e, double d_sum) { return float(0x1p43 * double(e) / d_sum); }

}  // namespace fusedraw
