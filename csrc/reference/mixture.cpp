// SPDX-License-Identifier: Apache-2.0
#include "reference.h"
#include "sorted_row.h"

namespace fusedraw {

using namespace reference;

namespace {

// Logits by id, -inf where a token is excluded.
std::vector<float> values_of(const SortedRow& row, int64_t cols) {
  std::vector<float> x(size_t(cols), -inf32());
  for (const Token& t : row.tokens) x[size_t(t.id)] = t.x;
  return x;
}

MemberLaw law_of(const SortedRow& row, float temperature) {
  MemberLaw law;
  law.status = row.status;
  law.rule = row.rule;
  if (row.status != kOk) return law;
  law.greedy = temperature == 0.0f;
  law.first = row.tokens[0].id;
  law.sums = entropy_sums(row, law.greedy);
  return law;
}

// Relative probabilities: the mean of e_m / S_m, between the least and the largest e_m.
float mean_of(const MixtureCall& call, const float* c, const MemberLaw* laws,
              const std::vector<std::vector<float>>& x, int64_t id) {
  float p = 0.0f, low = 0.0f, high = 0.0f;
  bool first = true;
  for (int m = 0; m < call.members; ++m) {
    if (c[m] == 0.0f) continue;
    const float v = x[size_t(m)][size_t(id)];
    const float e = v > -inf32() ? member_share(laws[m], v, id) : 0.0f;
    p = first ? c[m] * e : fma32(c[m], e, p);
    low = first ? e : std::min(low, e);
    high = first ? e : std::max(high, e);
    first = false;
  }
  return std::min(std::max(p, low), high);
}

// Logits: x_base + sum of b_m (x_m - x_base).
float sum_of(const MixtureCall& call, const MemberWeights& w, float least,
             const std::vector<std::vector<float>>& x, int64_t id) {
  const float base = x[size_t(w.base)][size_t(id)];
  if (!(base >= least)) return -inf32();
  float y = base;
  for (int m = 0; m < call.members; ++m) {
    if (m == w.base || !takes_part(w, m)) continue;
    const float v = x[size_t(m)][size_t(id)];
    if (v == -inf32() || y == -inf32()) return -inf32();
    y = fma32(w.b[m], v - base, y);
  }
  return y;
}

}  // namespace

void reference_mixture_row(const MixtureCall& call, int64_t row, const Pool&) {
  RowParams params;
  MemberWeights w;
  RowResult bad;
  const double* weights = call.weights.data + row * call.weights.row_stride;
  if (!read_params(call.params.data + row * call.params.row_stride, params) ||
      !read_member_weights(call.how, call.members, [weights](int i) { return weights[i]; }, w))
    bad.status = kBadParam;
  MemberLaw laws[kMaxMembers];
  std::vector<std::vector<float>> x;
  for (int m = 0; m < call.members && bad.status == kOk; ++m) {
    const SortedRow sorted = read_row(call.member[m], call.mask, row, params.temperature, false);
    laws[m] = law_of(sorted, params.temperature);
    bad.status = sorted.status;
    x.push_back(values_of(sorted, call.x.cols));
  }
  if (bad.status != kOk) {
    store_row(call.out, row, bad);
    store_bad_members(call, row);
    return;
  }
  std::vector<float> combined(size_t(call.x.cols));
  float c[kMaxMembers], least = -kFltMax;
  if (call.how == Combination::kArithmetic)
    mean_coefficients(w, call.members, [&laws](int m) { return laws[m].sums.s; }, c);
  if (call.how == Combination::kContrastive) least = plausible_from(laws[0].rule.m, w.plausibility);
  for (int64_t i = 0; i < call.x.cols; ++i)
    combined[size_t(i)] = call.how == Combination::kArithmetic ? mean_of(call, c, laws, x, i)
                                                               : sum_of(call, w, least, x, i);
  const SampleCall draw = draw_call(call, combined.data(), 0);
  const RowResult drawn = reference_draw(draw, row);
  store_row(draw.out, row, drawn);
  if (drawn.status != kOk) {
    store_bad_members(call, row);
    return;
  }
  Sums mean;
  if (wants_mean_entropy(call))
    for (const float p : combined) add_mean_share(mean, p);
  store_members(call, row, w, laws, mean, drawn.id,
                [&](int m) { return x[size_t(m)][size_t(drawn.id)]; });
}

}  // namespace fusedraw
