// SPDX-License-Identifier: Apache-2.0
// Rules beyond top-k, top-p and min-p, as decisions on integer sums over the set that they narrow:
// top-n-sigma before them; typical, epsilon cutoff, eta cutoff and XTC after them.
//
// Each gives a cut from below (a smallest value or weight), typical and XTC also one from above.
// Engines supply the sums, nothing else.
#pragma once

#include "edits.h"
#include "stats.h"

namespace fusedraw {

// Columns of a packed row of rules.
enum RuleColumn {
  kTopNSigma = 0,
  kTypicalP,
  kEpsilonCutoff,
  kEtaCutoff,
  kXtcThreshold,
  kXtcProbability,
  kRepetition,
  kFrequency,
  kPresence,
  kRuleColumns
};

struct LateRules {
  float top_n_sigma = 0.0f, typical_p = 1.0f, epsilon_cutoff = 0.0f, eta_cutoff = 0.0f;
  float xtc_threshold = 0.1f, xtc_probability = 0.0f;
  Penalties penalties;
};

FD_FN bool in_unit(float p) { return p >= 0.0f && p <= 1.0f; }

// Rounds a packed row to the law's types. False: BAD_PARAM.
FD_FN bool read_rules(const double* p, LateRules& out) {
  out.top_n_sigma = float(p[kTopNSigma]);
  out.typical_p = float(p[kTypicalP]);
  out.epsilon_cutoff = float(p[kEpsilonCutoff]);
  out.eta_cutoff = float(p[kEtaCutoff]);
  out.xtc_threshold = float(p[kXtcThreshold]);
  out.xtc_probability = float(p[kXtcProbability]);
  Penalties& q = out.penalties;
  q.repetition = float(p[kRepetition]);
  q.frequency = float(p[kFrequency]);
  q.presence = float(p[kPresence]);
  return out.top_n_sigma >= 0.0f && in_unit(out.typical_p) && in_unit(out.epsilon_cutoff) &&
         in_unit(out.eta_cutoff) && in_unit(out.xtc_threshold) && in_unit(out.xtc_probability) &&
         q.repetition > 0.0f && q.repetition <= kFltMax && q.frequency >= -kFltMax &&
         q.frequency <= kFltMax && q.presence >= -kFltMax && q.presence <= kFltMax;
}
FD_FN bool has_sigma(const LateRules& r) { return r.top_n_sigma > 0.0f && r.top_n_sigma < inf32(); }
// Whether anything narrows K after min-p.
FD_FN bool has_late(const LateRules& r) {
  return r.typical_p < 1.0f || r.epsilon_cutoff > 0.0f || r.eta_cutoff > 0.0f ||
         r.xtc_probability > 0.0f;
}

// Top-n-sigma. Gaps below the maximum as integers: q = RNE(2^13 * min(m - x, 512)) <= 2^22.
constexpr float kGapUnit = 0x1p13f, kMostGap = 512.0f;
FD_FN uint32_t fixed_gap(float m, float x) {
  const float gap = m - x;
  const float y = (gap < kMostGap ? gap : kMostGap) * kGapUnit;
  return bits_of(y + 0x1.8p23f) - bits_of(0x1.8p23f);  // rounds to an integer
}
struct GapSums {
  uint64_t n = 0, q = 0;
  u128 qq = 0;  // of q * q
};
// sigma * n_sigma, sigma the standard deviation (of the whole row, no n - 1).
FD_FN double sigma_reach(const GapSums& g, float n_sigma) {
  const u128 spread = u128(g.n) * g.qq - u128(g.q) * g.q;
#if defined(__CUDA_ARCH__)
  const double root = __dsqrt_rn(to_double(spread));
#else
  const double root = __builtin_sqrt(to_double(spread));
#endif
  return double(n_sigma) * (root / to_double(g.n) * 0x1p-13);
}

FD_FN float sigma_value(float m, double reach) {
  return smallest_holding(-kFltMax, m, [&](float x) { return double(m - x) <= reach; });
}

// Typical: tokens by |u - a|, u = -t, a = G / S: how far a token's surprise lies from the mean.
FD_FN float typical_center(const Sums& k) { return float(to_double(k.g) / to_double(k.s)); }
FD_FN float signed_distance(const WeightRule& r, float center, float x) {
  return (0.0f - scaled_gap(r, x)) - center;
}
FD_FN float typical_distance(const WeightRule& r, float center, float x) {
  const float d = signed_distance(r, center, x);
  return d < 0.0f ? 0.0f - d : d;
}
// The values within `reach` of the center: from `lo` to `hi`.
struct ValueRange {
  float lo, hi;
};
FD_FN ValueRange typical_range(const WeightRule& r, float center, float reach) {
  const float lo = smallest_holding(
      -kFltMax, r.m, [&](float x) { return signed_distance(r, center, x) <= reach; });
  // The largest x that is not too likely: one below the smallest that is.
  if (signed_distance(r, center, r.m) >= 0.0f - reach) return {lo, r.m};
  const float above = smallest_holding(
      lo, r.m, [&](float x) { return !(signed_distance(r, center, x) >= 0.0f - reach); });
  return {lo, next_down(above)};
}

// The least weight that the cutoffs keep; `first` is the weight of the best token that is left.
FD_FN uint64_t at_most(u128 least, uint64_t first) {
  return least < u128(first) ? uint64_t(least) : first;
}
FD_FN uint64_t epsilon_weight(float epsilon, u128 s, uint64_t first) {
  return at_most(ceil_mul(epsilon, s), first);
}
// min(epsilon, sqrt(epsilon) * exp(-entropy)) of S: the entropy's log S cancels.
FD_FN uint64_t eta_weight(float epsilon, const Sums& k, uint64_t first) {
  const float mean = float(to_double(k.g) / to_double(k.s));
#if defined(__CUDA_ARCH__)
  const double root = __dsqrt_rn(double(epsilon));
#else
  const double root = __builtin_sqrt(double(epsilon));
#endif
  const double bound = root * (0x1p43 * double(exp2p(0.0f - mean)));
  uint64_t least = uint64_t(bound);
  if (double(least) < bound) ++least;
  return at_most(ceil_mul(epsilon, k.s), least < first ? least : first);
}

// XTC: the least weight of a "top choice".
FD_FN uint64_t xtc_weight(float threshold, u128 s) {
  const u128 least = ceil_mul(threshold, s);
  const u128 most = u128(1) << kWeightBits;
  return least < 1 ? 1 : least > most ? uint64_t(most) + 1 : uint64_t(least);
}

// A cut from above: drops x > hi, and of x == hi the ids below first.
struct Ceiling {
  float hi = inf32();
  int64_t first = 0;
};
FD_FN bool below(const Ceiling& c, float x, int64_t id) {
  return x < c.hi || (x == c.hi && id >= c.first);
}

}  // namespace fusedraw
