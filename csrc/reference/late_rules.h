// SPDX-License-Identifier: Apache-2.0
// Edits of a row and the rules of core/late_rules.h on a sorted row.
#pragma once

#include <map>

#include "sorted_row.h"

namespace fusedraw::reference {

// The marks of a row's tokens, by id. False: BAD_PARAM.
inline bool read_marks(const EditsView& v, int64_t row, int64_t cols, std::map<int64_t, Mark>& to) {
  bool ok = true;
  const auto each = [&](const IdLists& list, auto fn) {
    const IdRange range = ids_of(list, row);
    for (int64_t i = range.begin; i < range.end; ++i) {
      const int64_t id = id_at(list, i);
      if (id < 0) continue;
      if (id >= cols)
        ok = false;
      else
        fn(to[id], i);
    }
  };
  each(v.history, [](Mark& m, int64_t) { m.flags |= kSeen, ++m.count; });
  each(v.prompt, [](Mark& m, int64_t) { m.flags |= kSeen; });
  each(v.suppress, [](Mark& m, int64_t) { m.flags |= kSuppressed; });
  each(v.bias, [&](Mark& m, int64_t i) { ok &= mark_bias(m, v.values[i]); });
  return ok;
}

// How many of the first tokens top-n-sigma keeps.
inline size_t sigma_prefix(const SortedRow& row, float n_sigma) {
  GapSums g;
  const float m = row.tokens[0].x;
  for (const Token& t : row.tokens) {
    const uint64_t q = fixed_gap(m, t.x);
    ++g.n, g.q += q, g.qq += u128(q) * q;
  }
  const double reach = sigma_reach(g, n_sigma);
  size_t n = 0;
  while (n < row.tokens.size() && double(m - row.tokens[n].x) <= reach) ++n;
  return n;
}

inline Sums stats_of(const WeightRule& rule, const std::vector<Token>& tokens) {
  SortedRow kept;
  kept.rule = rule;
  kept.tokens = tokens;
  return entropy_sums(kept, false);
}

// What typical, epsilon, eta and XTC leave of K.
inline void narrow_late(std::vector<Token>& kept, const WeightRule& rule, const LateRules& rules,
                        const Noise& noise) {
  const auto drop = [&kept](auto&& out) {
    kept.erase(std::remove_if(kept.begin(), kept.end(), out), kept.end());
  };
  drop([](const Token& t) { return t.w == 0; });
  if (rules.typical_p < 1.0f) {
    const Sums sums = stats_of(rule, kept);
    const float center = typical_center(sums);
    std::vector<std::pair<float, uint64_t>> by_distance;
    for (const Token& t : kept) by_distance.emplace_back(typical_distance(rule, center, t.x), t.w);
    std::sort(by_distance.begin(), by_distance.end());
    const u128 target = ceil_mul(rules.typical_p, sums.s);
    u128 mass = 0;
    float reach = 0.0f;
    for (const auto& [distance, w] : by_distance) {
      mass += w;
      reach = distance;
      if (mass >= target) break;
    }
    drop([&](const Token& t) { return typical_distance(rule, center, t.x) > reach; });
  }
  if (rules.epsilon_cutoff > 0.0f) {
    const u128 s = sum_weights(kept, kept.size());
    const uint64_t least = epsilon_weight(rules.epsilon_cutoff, s, kept[0].w);
    drop([least](const Token& t) { return t.w < least; });
  }
  if (rules.eta_cutoff > 0.0f) {
    const uint64_t least = eta_weight(rules.eta_cutoff, stats_of(rule, kept), kept[0].w);
    drop([least](const Token& t) { return t.w < least; });
  }
  if (coin_fires(noise_r64(noise, kPurposeXtc, 0), rules.xtc_probability)) {
    const uint64_t least = xtc_weight(rules.xtc_threshold, sum_weights(kept, kept.size()));
    size_t n = 0;
    while (n < kept.size() && kept[n].w >= least) ++n;
    if (n > 1) kept.erase(kept.begin(), kept.begin() + int64_t(n) - 1);
  }
}

}  // namespace fusedraw::reference
