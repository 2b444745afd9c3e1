// SPDX-License-Identifier: Apache-2.0
// Where top-k cuts a row, and what top-p shares with it. Fast paths gather a short list of
// candidates that provably holds the cut; where no list is short enough, a bisection over float
// values by exact counts or masses finds it in at most 32 passes. Guesses only decide how long the
// list is, never the result.
#pragma once

namespace fusedraw {
namespace {

// The largest value with at least k of a[0, n) at or above it, or a lower one (with at most ~2 k
// at or above it where values are distinct). n a multiple of kLanes or padded with -inf.
float lower_bound_of_kth(const float* a, int64_t n, int64_t k, float top) {
  uint32_t low = order_key(-kFltMax), high = order_key(top);  // count(>= low) >= k assumed
  // Values lie close below the top: start a few steps down and widen by doubling.
  float step = top < 0 ? -top * 0.01f + 0.5f : top * 0.01f + 0.5f;
  for (int i = 0; i < 48 && low < high; ++i) {
    uint32_t middle = low + (high - low) / 2;
    if (step > 0) {
      const float guess = top - step;
      if (guess > -kFltMax && order_key(guess) > low && order_key(guess) < high)
        middle = order_key(guess);
      else
        step = 0;
    }
    const V::F pivot = V::set(from_order_key(middle));
    int64_t count = 0;
    for (int64_t j = 0; j < n; j += V::kLanes)
      count += __builtin_popcount(V::bits(V::ge(V::load(a + j), pivot)));
    if (count >= k) {
      low = middle;
      if (count <= k + k / 4) break;
      step = 0;
    } else {
      high = middle;
      step *= 2;
    }
  }
  return from_order_key(low);
}

// Exact count of kept tokens at or above x.
int64_t count_at_least(const Row& r, const Cut& cut, float x) {
  return count_kept(r, stricter(cut, Cut{x, kAllTies}));
}
u128 mass_at_least(const Row& r, const Cut& cut, float x) {
  return kept_sum(r, stricter(cut, Cut{x, kAllTies}));
}

// The id of the n-th kept token (n >= 1, ascending ids) whose value is x.
int64_t nth_tie(const Row& r, const Cut& cut, float x, u128 n) {
  alignas(64) float buffer[kBlock];
  for (int64_t b = 0; b < r.blocks; ++b) {
    if (r.block_max[b] < x || !block_alive(r, cut, b)) continue;
    const float* v = kept_block(r, cut, b, buffer);
    for (int i = 0; i < kBlock; ++i)
      if (v[i] == x && --n == 0) return b * kBlock + i;
  }
  return kAllTies;
}

// Largest key in [low, high] for which reached(value) holds, given that it holds at low.
template <typename Reached>
float bisect_value(float low_value, float high_value, Reached reached) {
  uint32_t low = order_key(low_value), high = order_key(high_value);
  while (low < high) {
    const uint32_t middle = low + (high - low + 1) / 2;
    if (reached(from_order_key(middle)))
      low = middle;
    else
      high = middle - 1;
  }
  return from_order_key(low);
}

Cut top_k_by_counting(const Row& r, const Cut& all, int64_t k, bool ties_all) {
  const float x = bisect_value(smallest_valid(r), r.rule.m,
                               [&](float v) { return count_at_least(r, all, v) >= k; });
  if (ties_all) return {x, kAllTies};
  const int64_t above = x == r.rule.m ? 0 : count_at_least(r, all, next_up(x));
  return {x, nth_tie(r, all, x, u128(uint64_t(k - above)))};
}

// The first k valid tokens. `list`, when it comes back with n > 0, holds all of them (and maybe
// more).
Cut top_k_cut(const Row& r, int64_t k, bool ties_all, List& list, Scratch& scratch) {
  const Cut all{smallest_valid(r), kAllTies};
  list.n = 0;
  if (k >= r.cols) return all;
  if (k > kListCapacity / 2 && count_at_least(r, all, all.lo) <= k) return all;
  const int64_t groups = r.blocks * V::kLanes;
  if (k <= kListCapacity / 2 && k * 2 <= groups) {
    // k blocks, or k groups, have a maximum at or above lo: so have k tokens.
    const float lo = k * 2 <= r.blocks ? lower_bound_of_kth(r.block_max, r.blocks, k, r.rule.m)
                                       : lower_bound_of_kth(r.group_max, groups, k, r.rule.m);
    if (gather_row(list, r, all, lo)) {
      if (list.n < k) return all;  // fewer than k valid tokens in the row
      return list_top_k(list, k, ties_all, scratch);
    }
  } else if (r.cols <= kListCapacity / 2 && gather_row(list, r, all, all.lo)) {
    if (list.n <= k) return all;
    return list_top_k(list, k, ties_all, scratch);
  }
  list.n = 0;
  if (count_at_least(r, all, all.lo) <= k) return all;
  return top_k_by_counting(r, all, k, ties_all);
}

}  // namespace
}  // namespace fusedraw
