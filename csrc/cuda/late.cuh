// SPDX-License-Identifier: Apache-2.0
// Top-n-sigma before the prefixes; typical, epsilon, eta and XTC after them: passes over what the
// row keeps by then, whose decisions are those of core/late_rules.h. A ceiling (a cut from above)
// is a row that reads without what lies above it, so that everything that reads K works as before;
// maxima of blocks stay upper bounds, and lists, which know no ceiling, are given up.
#pragma once

#include "kept.cuh"

namespace fusedraw::cuda {

// On the board while the filters are at work: words that by-products use later. Of two floats, the
// second stands above.
enum {
  kWordSigma = kWordBase + 1,  // top-n-sigma, typical_p
  kWordCutoffs,                // epsilon, eta
  kWordXtc,                    // threshold, probability
  kWordCenter,                 // of typical; the largest distance from it
  kWordRange,                  // two values
  kWordLeast,                  // a weight
  kWordRulesEnd
};
static_assert(kWordRulesEnd <= kWordSumEnd + 1, "words of by-products");

FD_DEVICE void put_floats(int word, float first, float second) {
  board().put(word, uint64_t(bits_of(second)) << 32 | bits_of(first));
}
FD_DEVICE float first_of(int word) { return float_of(uint32_t(board().word(word))); }
FD_DEVICE float second_of(int word) { return float_of(uint32_t(board().word(word) >> 32)); }

// After post_plan: the row's rules, and what its lists say. A barrier at the end.
FD_DEVICE void post_rules(const RulesView& view, const EditSpace& edits, int64_t row) {
  if (thread_id() == 0) {
    double packed[kRuleColumns];
#pragma unroll
    for (int i = 0; i < kRuleColumns; ++i) packed[i] = number_at(view, row, i);
    LateRules r;
    bool ok = read_rules(packed, r);
    if (edits.row_words != 0) ok = ok && edits.head_of(row).load(kHeadBad) == 0;
    if (!ok) board().put(kWordFlags, board().word(kWordFlags) | kFlagBad);
    put_floats(kWordSigma, has_sigma(r) ? r.top_n_sigma : 0.0f, r.typical_p);
    put_floats(kWordCutoffs, r.epsilon_cutoff, r.eta_cutoff);
    put_floats(kWordXtc, r.xtc_threshold, r.xtc_probability);
  }
  __syncthreads();
}

// The sums of top-n-sigma over the valid tokens.
template <typename T>
FD_DEVICE_CALL GapSums gap_sums() {
  const Work<T> w = take_work<T>();
  const float least = w.row.smallest_valid(), m = w.rule.m;
  uint64_t n = 0, q_sum = 0, low = 0, high = 0;
  for_blocks(
      w, [&](int b) { return w.maxima.load(b) >= least; },
      [&](const Values& v, int) {
        uint64_t squares = 0;  // at most 8 * 2^44
        each_in_turn(v, [&](float x, int) {
          if (!(x >= least)) return;
          const uint64_t q = fixed_gap(m, x);
          ++n;
          q_sum += q;
          squares += q * q;
        });
        low += uint32_t(squares);
        high += squares >> 32;
      });
  GapSums g;
  g.n = block_sum(n);
  g.q = block_sum(q_sum);
  g.qq = (u128(block_sum(high)) << 32) + block_sum(low);
  return g;
}

// Where the filters begin: at the smallest valid value, or where top-n-sigma cuts.
template <typename T>
FD_DEVICE void post_base() {
  const float n_sigma = first_of(kWordSigma);
  GapSums g;
  if (n_sigma > 0.0f) g = gap_sums<T>();
  __syncthreads();
  if (thread_id() == 0) {
    float base = posted_row<T>().smallest_valid();
    if (n_sigma > 0.0f) base = larger(base, sigma_value(posted_rule().m, sigma_reach(g, n_sigma)));
    put_floats(kWordBase, base, 0.0f);
  }
  __syncthreads();
}

template <typename T>
FD_DEVICE u128 mass_of_kept() {
  if (listed(posted_list(), posted_cut())) return mass_on_list(posted_cut());
  return row_sums<T>(posted_rule(), posted_cut(), false).s;
}

// fn(x, id) for every token of the row that a cut keeps.
template <typename T, typename Fn>
FD_DEVICE void for_all_kept(const Cut& cut, Fn fn) {
  const Work<T> w = take_work<T>();
  for_kept(w, cut, [&](float x, int place, int b) { fn(x, int64_t(b) * kBlock + place); });
}

// The weight of the best token that is left.
template <typename T>
FD_DEVICE_CALL uint64_t best_weight() {
  const WeightRule rule = posted_rule();
  float best = rule.m;
  if (ceiling_in_force() < inf32()) {
    uint32_t key = 0;
    for_all_kept<T>(posted_cut(), [&](float x, int64_t) {
      const uint32_t k = order_key(x);
      key = k > key ? k : key;
    });
    key = block_max(key);
    if (key != 0) best = from_order_key(key);  // nothing: only where the row changes meanwhile
  }
  return weight_at(rule, best);
}

// The list, if any, does not know of a ceiling.
FD_DEVICE void cut_from_above(const Ceiling& c) {
  leave_ceiling(c);
  leave_list(List{});
}

// The weight that typical asks for, of all there is.
FD_DEVICE u128 typical_target(u128 total) {
  const u128 target = ceil_mul(second_of(kWordSigma), total);
  return target < 1 ? u128(1) : target;
}

// The tokens of K among which the reach of typical ends, on the list: all of K where that is listed
// already; else those in one of 256 bins of equal width, on a list of their own. On the board: the
// weight that is wanted of them. False: too many for a list.
template <typename T>
FD_DEVICE bool list_typical() {
  if (listed(posted_list(), posted_cut())) {
    const u128 wanted = typical_target(mass_on_list(posted_cut()));
    __syncthreads();
    if (thread_id() == 0) board().put_wide(kWordMost, wanted);
    __syncthreads();
    return true;
  }
  const auto bin_of = [](float x) {  // the nearest first, as select_key goes
    const float distance = typical_distance(posted_rule(), first_of(kWordCenter), x);
    const float b = distance * (255.0f / larger(second_of(kWordCenter), 0x1p-100f));
    return b < 255.0f ? 255 - int(b) : 0;
  };
  const Found found = select_key(
      0, 255, [](u128 total) { return typical_target(total); },
      [&](const BinAdder& add) {
        for_all_kept<T>(posted_cut(), [&](float x, int64_t) {
          add(uint64_t(bin_of(x)), weight_at(posted_rule(), x));
        });
      });
  if (!found.reached) return false;
  if (thread_id() == 0) {
    counter().store(0, 0);
    board().put_wide(kWordMost, board().wide(kWordWanted));
  }
  __syncthreads();
  for_all_kept<T>(posted_cut(), [&](float x, int64_t id) {
    if (bin_of(x) != int(found.key)) return;
    const uint32_t at = counter().add(0, 1);
    if (at < kListCapacity) list_entries().store(int(at), entry_of(x, id));
  });
  __syncthreads();
  const uint32_t n = counter().load(0);
  leave_list(List{n, inf32(), true});  // it answers for no cut
  return n <= kListCapacity;
}

// Typical: of the weight, the share whose surprise lies nearest to the mean.
template <typename T>
FD_DEVICE_CALL void cut_typical() {
  const Sums sums = row_sums<T>(posted_rule(), posted_cut(), true);
  __syncthreads();
  if (thread_id() == 0) {
    const WeightRule rule = posted_rule();
    const float center = typical_center(sums);
    // Distances fall and rise again, so the farthest is that of the first or the last token.
    const float above = typical_distance(rule, center, rule.m);
    const float under = typical_distance(rule, center, posted_cut().lo);
    put_floats(kWordCenter, center, above > under ? above : under);
  }
  __syncthreads();
  const bool on_list = list_typical<T>();
  const auto key_of = [](float distance) { return uint64_t(~bits_of(distance)); };
  const Found found = select_key(
      key_of(second_of(kWordCenter)), key_of(0.0f),
      [&](u128 total) { return on_list ? board().wide(kWordMost) : typical_target(total); },
      [&](const BinAdder& add) {
        const WeightRule rule = posted_rule();
        const float center = first_of(kWordCenter);
        const auto count = [&](float x, int64_t) {
          add(key_of(typical_distance(rule, center, x)), weight_at(rule, x));
        };
        if (on_list)
          ListItems{posted_list().n, posted_cut()}.for_each(count);
        else
          for_all_kept<T>(posted_cut(), count);
      });
  if (posted_list().lo == inf32()) leave_list(List{});
  if (!found.reached) return;  // only where the row changes meanwhile
  if (thread_id() == 0) {
    const float reach = float_of(~uint32_t(found.key));
    const ValueRange range = typical_range(posted_rule(), first_of(kWordCenter), reach);
    put_floats(kWordRange, range.lo, range.hi);
  }
  __syncthreads();
  const float hi = second_of(kWordRange);
  narrow(Cut{first_of(kWordRange), kAllTies});
  if (hi < posted_rule().m) cut_from_above(Ceiling{hi, 0});
}

// Epsilon and eta: tokens lighter than a weight go.
template <typename T>
FD_DEVICE_CALL void cut_lighter(bool eta) {
  const uint64_t first = best_weight<T>();
  Sums sums;
  if (eta)
    sums = row_sums<T>(posted_rule(), posted_cut(), true);
  else
    sums.s = mass_of_kept<T>();
  __syncthreads();
  if (thread_id() == 0)
    board().put(kWordLeast, eta ? eta_weight(second_of(kWordCutoffs), sums, first)
                                : epsilon_weight(first_of(kWordCutoffs), sums.s, first));
  __syncthreads();
  narrow(Cut{lightest_value<T>(board().word(kWordLeast)), kAllTies});
}

// XTC: of the tokens at or above a weight the last in the order takes the lead.
template <typename T>
FD_DEVICE_CALL void cut_top_choices() {
  const u128 sum = mass_of_kept<T>();
  __syncthreads();
  if (thread_id() == 0) board().put(kWordLeast, xtc_weight(first_of(kWordXtc), sum));
  __syncthreads();
  const uint64_t least = board().word(kWordLeast);
  if (least > uint64_t{1} << kWeightBits) return;
  const Cut top = stricter(posted_cut(), Cut{lightest_value<T>(least), kAllTies});
  uint32_t lowest = ~0u;
  for_all_kept<T>(top, [&](float x, int64_t) {
    const uint32_t key = order_key(x);
    lowest = key < lowest ? key : lowest;
  });
  lowest = ~block_max(~lowest);
  if (lowest == ~0u) return;  // no token is a top choice
  const float hi = from_order_key(lowest);
  if (thread_id() == 0) board().put(kWordLeast, ~uint64_t{0});
  __syncthreads();
  for_all_kept<T>(top, [&](float x, int64_t id) {
    if (x == hi) board().words().min(kWordLeast, ~uint64_t(id));
  });
  __syncthreads();
  cut_from_above(Ceiling{hi, int64_t(~board().word(kWordLeast))});
}

template <typename T>
FD_DEVICE void narrow_late(const NoiseSource& noise) {
  narrow(Cut{lightest_value<T>(1), kAllTies});
  if (second_of(kWordSigma) < 1.0f) cut_typical<T>();
#pragma unroll 1
  for (int eta = 0; eta < 2; ++eta)
    if ((eta ? second_of(kWordCutoffs) : first_of(kWordCutoffs)) > 0.0f) cut_lighter<T>(eta != 0);
  if (coin_fires(noise_r64(noise.noise(), kPurposeXtc, 0), second_of(kWordXtc)))
    cut_top_choices<T>();
}

// What the filters keep of a row with rules. The row's own rule is posted, before and afterwards.
// False: nothing, since what is left weighs nothing at the row's temperature.
template <typename T>
FD_DEVICE bool choose_by_rules(const Options& options, const NoiseSource& noise) {
  if (has_flag(kFlagGreedy)) {
    if (thread_id() == 0) put_floats(kWordBase, posted_row<T>().smallest_valid(), 0.0f);
    __syncthreads();
    choose_kept<T>();
    return true;
  }
  const float own = temperature_of();
  if (options.temperature_last) {
    leave_rule(weight_rule(posted_rule().m, 1.0f, false));
    if (thread_id() == 0)
      board().put(kWordFlags, (board().word(kWordFlags) & 0xffffffffu) | uint64_t(bits_of(1.0f))
                                                                             << 32);
  }
  post_base<T>();
  choose_kept<T>();
  const bool late = second_of(kWordSigma) < 1.0f || first_of(kWordCutoffs) > 0.0f ||
                    second_of(kWordCutoffs) > 0.0f || second_of(kWordXtc) > 0.0f;
  if (late) narrow_late<T>(noise);
  if (options.temperature_last) {
    narrow(Cut{lightest_value<T>(1), kAllTies});
    if (thread_id() == 0)
      board().put(kWordFlags, (board().word(kWordFlags) & 0xffffffffu) | uint64_t(bits_of(own))
                                                                             << 32);
    leave_rule(weight_rule(posted_rule().m, own, false));
    narrow(Cut{lightest_value<T>(1), kAllTies});
  }
  if (ceiling_found() < inf32()) post_cut(posted_cut(), false);
  return !(options.temperature_last && late) || count_kept<T>(posted_cut()) > 0;
}

}  // namespace fusedraw::cuda
