// SPDX-License-Identifier: Apache-2.0
// A whole row, widened, weighed and sorted: what every operation of the reference starts from.
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "../core/call.h"
#include "../core/stats.h"

namespace fusedraw::reference {

struct Token {
  float x;
  int64_t id;
  uint64_t w;
};

struct SortedRow {
  uint8_t status = kOk;
  WeightRule rule;
  std::vector<Token> tokens;  // valid ones, in the order of the law
};

inline float value_at(const RowsView& v, int64_t row, int64_t id) {
  const int64_t i = row * v.row_stride + id;
  switch (v.dtype) {
    case DType::kBFloat16:
      return widen(static_cast<const BFloat16*>(v.data)[i]) + 0.0f;
    case DType::kFloat16:
      return widen(static_cast<const Float16*>(v.data)[i]) + 0.0f;
    default:
      return static_cast<const float*>(v.data)[i] + 0.0f;
  }
}

// Gives every token its weight. temperature > 0, or 0 for greedy (the first token alone has one).
inline void weigh(SortedRow& r, float temperature, bool probs) {
  const bool greedy = !probs && temperature == 0.0f;
  r.rule = weight_rule(r.tokens[0].x, greedy ? 1.0f : temperature, probs);
  for (Token& t : r.tokens) t.w = weight_of(r.rule, t.x);
  if (greedy)
    for (size_t i = 0; i < r.tokens.size(); ++i) r.tokens[i].w = i == 0 ? uint64_t{1} << 43 : 0;
}

// What takes the place of a token's value; -inf for one that is not to be looked at.
using Edit = std::function<float(int64_t id, float x)>;

inline SortedRow read_row(const RowsView& v, const MaskView& mask, int64_t row, float temperature,
                          bool probs, const Edit& edit = {}) {
  SortedRow r;
  bool nan = false, pos_inf = false, negative = false;
  for (int64_t i = 0; i < v.cols; ++i) {
    if (!mask_allows(mask, row, i)) continue;
    float x = value_at(v, row, i);
    if (edit) x = edit(i, x);
    nan |= x != x;
    pos_inf |= x == inf32();
    negative |= x < 0.0f;
    const bool valid = probs ? x > 0.0f : x > -inf32();
    if (valid) r.tokens.push_back({x, i, 0});
  }
  r.status = probs && negative ? kBadParam : nan ? kNan : pos_inf ? kPosInf : kOk;
  if (r.status == kOk && r.tokens.empty()) r.status = kEmpty;
  if (r.status != kOk) return r;
  std::sort(r.tokens.begin(), r.tokens.end(),
            [](const Token& a, const Token& b) { return before(a.x, a.id, b.x, b.id); });
  weigh(r, temperature, probs);
  return r;
}

inline u128 sum_weights(const std::vector<Token>& t, size_t n) {
  u128 s = 0;
  for (size_t i = 0; i < n; ++i) s += t[i].w;
  return s;
}

// S, G and H of the valid tokens.
inline Sums entropy_sums(const SortedRow& row, bool greedy) {
  Sums a;
  for (const Token& k : row.tokens) {
    a.s += k.w;
    if (greedy || k.w == 0) continue;
    const float t = scaled_gap(row.rule, k.x), e = exp2p(t), y = -t * e;
    a.g += fixed43(y);
    a.h += fixed43(y * -t);
  }
  return a;
}

// A prefix of n tokens, extended over the ties of its last one.
inline size_t extend_ties(const std::vector<Token>& t, size_t n, bool ties_all) {
  while (ties_all && n > 0 && n < t.size() && t[n].x == t[n - 1].x) ++n;
  return n;
}

// The shortest non-empty prefix of the first `among` tokens whose weight reaches ceil(p * S).
inline size_t top_p_prefix(const std::vector<Token>& t, size_t among, float top_p) {
  const u128 target = ceil_mul(top_p, sum_weights(t, among));
  u128 s = 0;
  for (size_t i = 0; i < among; ++i) {
    s += t[i].w;
    if (s >= target) return i + 1;
  }
  return among;
}

// Tokens that stay in K, a subset of row.tokens in the same order. Only the first
// `among_first` tokens are looked at.
inline std::vector<Token> kept_set(const SortedRow& row, const Plan& plan, size_t among_first) {
  std::vector<Token> t(row.tokens.begin(), row.tokens.begin() + int64_t(among_first));
  if (plan.greedy) {
    t.resize(1);
    return t;
  }
  auto drop_lighter = [&t](uint64_t least) {
    while (!t.empty() && t.back().w < least) t.pop_back();
  };
  drop_lighter(plan.pre_weight);
  size_t n = t.size();
  if (plan.top_k > 0 && uint64_t(plan.top_k) < n)
    n = extend_ties(t, size_t(plan.top_k), plan.ties_all);
  if (plan.has_top_p) {
    const size_t among = plan.joint ? t.size() : n;
    const size_t by_mass = extend_ties(t, top_p_prefix(t, among, plan.top_p), plan.ties_all);
    n = std::min(n, by_mass);
  }
  t.resize(n);
  drop_lighter(plan.post_weight);
  return t;
}
inline std::vector<Token> kept_set(const SortedRow& row, const Plan& plan) {
  return kept_set(row, plan, row.tokens.size());
}

}  // namespace fusedraw::reference
