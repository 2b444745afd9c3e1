// SPDX-License-Identifier: Apache-2.0
// Several models as one law: how their rows are combined, and what is said about the members.
//
// Every combination gives one float32 row, from which sample draws: relative probabilities for the
// arithmetic mean, logits for all others. See "Several models" in docs/law.md.
#pragma once

#include "call.h"
#include "stats.h"

namespace fusedraw {

enum class Combination : uint8_t {
  kArithmetic,    // sum of a_m p_m
  kGeometric,     // product of p_m^a_m
  kGuidance,      // classifier-free: u + s (c - u)
  kContextAware,  // c + alpha (c - u)
  kContrastive,   // e + beta (e - a), where the expert finds it plausible
};
constexpr int kMaxMembers = 32;

FD_FN bool is_mean(Combination how) { return how <= Combination::kGeometric; }
// Columns of `weights`: one a member, or strength and plausibility of a pair.
FD_FN int weight_columns(Combination how, int members) { return is_mean(how) ? members : 2; }

struct MixtureCall {
  RowsView x;  // the first member: the shape of all
  RowsView member[kMaxMembers];
  int members = 0;
  Combination how = Combination::kArithmetic;
  MaskView mask;
  ParamsView params;
  NumbersView<kMaxMembers> weights;
  KeysView keys;
  Options options;    // `probs` is that of the combined row
  SampleOutputs out;  // of it: no logp_full, logp_raw, varentropy, margin, top_n
  float *member_logp = nullptr, *member_entropy = nullptr;       // [M, B]
  float *mean_entropy = nullptr, *mutual_information = nullptr;  // [B]
  const ForcedNoise* forced = nullptr;
  int64_t n_forced = 0;
};

FD_FN bool wants_member_entropies(const MixtureCall& c) {
  return c.member_entropy || c.mean_entropy || c.mutual_information;
}

FD_FN bool wants_mean_entropy(const MixtureCall& c) {
  return c.how == Combination::kArithmetic && (c.out.entropy || c.mutual_information);
}

// The draw from the combined rows. row_stride 0: one row at a time in the same place.
FD_FN SampleCall draw_call(const MixtureCall& c, const float* combined, int64_t row_stride) {
  SampleCall s;
  s.x.data = combined;
  s.x.rows = c.x.rows;
  s.x.cols = c.x.cols;
  s.x.row_stride = row_stride;
  s.params = c.params;
  s.keys = c.keys;
  s.options = c.options;
  s.out = c.out;
  if (c.options.probs) s.out.entropy = nullptr;  // not of probabilities: store_members()
  s.forced = c.forced;
  s.n_forced = c.n_forced;
  return s;
}

// A row's weights, rounded to the law's types.
struct MemberWeights {
  float a[kMaxMembers] = {};  // of a mean: as given, >= 0
  float b[kMaxMembers] = {};  // of a combination of logits: x_base + sum of b_m (x_m - x_base)
  int base = 0;               // the first member that counts
  float plausibility = 0.0f;
};

// Reads one row through value(column). False: BAD_PARAM.
template <typename Value>
FD_FN bool read_member_weights(Combination how, int members, Value value, MemberWeights& w) {
  if (!is_mean(how)) {
    const float strength = float(value(0)) + 0.0f;
    w.plausibility = float(value(1)) + 0.0f;
    w.b[1] = how == Combination::kGuidance ? 1.0f - strength : -strength;
    return strength >= -kFltMax && strength <= kFltMax && w.b[1] >= -kFltMax &&
           w.plausibility >= 0.0f && w.plausibility <= 1.0f;
  }
  double all = 0.0;
  bool ok = true;
  w.base = -1;
  for (int m = 0; m < members; ++m) {
    const float a = float(value(m)) + 0.0f;
    ok = ok && a >= 0.0f && a <= kFltMax;
    if (a > 0.0f && w.base < 0) w.base = m;
    w.a[m] = a;
    all = all + double(a);
  }
  ok = ok && w.base >= 0;
  for (int m = 0; ok && m < members; ++m) w.b[m] = float(double(w.a[m]) / all);
  return ok;
}

// Whether a member's logits enter a combination of logits.
FD_FN bool takes_part(const MemberWeights& w, int m) { return m == w.base || w.b[m] != 0.0f; }

// The least logit of the expert that is plausible, m its largest: min-p at T = 1.
FD_FN float plausible_from(float m, float plausibility) {
  const uint64_t least = uint64_t(ceil_mul(plausibility, u128(1) << kWeightBits));
  return least == 0 ? -kFltMax : smallest_with_weight(weight_rule(m, 1.0f, false), least);
}

// A member's law at the row's temperature, before any filter.
struct MemberLaw {
  WeightRule rule;
  bool greedy = false;
  int64_t first = 0;  // of a greedy law, the token of probability 1
  Sums sums;          // g where entropies are wanted
  uint8_t status = kOk;
};

// e of a valid token: 0 where the law's integer weight is.
FD_FN float member_share(const MemberLaw& law, float x, int64_t id) {
  if (law.greedy) return id == law.first ? 1.0f : 0.0f;
  const float e = relative_weight(law.rule, x);
  return e > 0x1p-44f ? e : 0.0f;
}

// What an arithmetic mean multiplies each e with: a_m / S_m, over the sum of these.
template <typename Total>
FD_FN void mean_coefficients(const MemberWeights& w, int members, Total total, float* c) {
  double all = 0.0;
  for (int m = 0; m < members; ++m) all = all + double(w.a[m]) / to_double(total(m));
  for (int m = 0; m < members; ++m) c[m] = float(double(w.a[m]) / to_double(total(m)) / all);
}

FD_FN float member_log_prob(const MemberLaw& law, float x, int64_t id) {
  if (law.greedy) return id == law.first ? 0.0f : -inf32();
  if (!(x > -inf32())) return -inf32();
  return log_prob(scaled_gap(law.rule, x), log_sum(law.sums.s));
}

// The weighted mean of the members' entropies, entropy(m) in float64.
template <typename Entropy>
FD_FN double mean_of_entropies(const MemberWeights& w, int members, Entropy entropy) {
  double sum = 0.0, all = 0.0;
  for (int m = 0; m < members; ++m) {
    sum = sum + double(w.a[m]) * entropy(m);
    all = all + double(w.a[m]);
  }
  return sum / all;
}

FD_FN float mutual_information_of(double entropy_of_mean, double mean_entropy) {
  const double v = entropy_of_mean - mean_entropy;
  return float(v > 0.0 ? v : 0.0);
}

FD_FN void store_bad_members(const MixtureCall& c, int64_t row) {
  if (c.out.entropy) c.out.entropy[row] = nan32();
  for (int m = 0; m < c.members; ++m) {
    if (c.member_logp) c.member_logp[m * c.x.rows + row] = nan32();
    if (c.member_entropy) c.member_entropy[m * c.x.rows + row] = nan32();
  }
  if (c.mean_entropy) c.mean_entropy[row] = nan32();
  if (c.mutual_information) c.mutual_information[row] = nan32();
}

// What an arithmetic mean adds up for its entropy: S and G of the relative probability p.
FD_FN void add_mean_share(Sums& a, float p) {
  const uint64_t w = fixed43(p);
  if (w == 0) return;
  a.s += w;
  a.g += fixed43(-log2p(p) * p);
}

// What is said about the members of a row that is not bad: value(m) the logit of the drawn token
// (-inf where it is excluded), `mean` the sums of an arithmetic mean.
template <typename Value>
FD_FN void store_members(const MixtureCall& c, int64_t row, const MemberWeights& w,
                         const MemberLaw* laws, const Sums& mean, int64_t id, Value value) {
  for (int m = 0; m < c.members; ++m) {
    const int64_t at = m * c.x.rows + row;
    if (c.member_logp) c.member_logp[at] = member_log_prob(laws[m], value(m), id);
    if (c.member_entropy) c.member_entropy[at] = entropy_of(laws[m].sums);
  }
  if (c.how == Combination::kArithmetic && c.out.entropy) c.out.entropy[row] = entropy_of(mean);
  if (!c.mean_entropy && !c.mutual_information) return;
  const double of_members =
      mean_of_entropies(w, c.members, [laws](int m) { return entropy_value(laws[m].sums); });
  if (c.mean_entropy) c.mean_entropy[row] = float(of_members) + 0.0f;
  if (c.mutual_information)
    c.mutual_information[row] = mutual_information_of(entropy_value(mean), of_members);
}

}  // namespace fusedraw
