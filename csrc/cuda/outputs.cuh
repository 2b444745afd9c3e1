// SPDX-License-Identifier: Apache-2.0
// By-products of a draw. What needs a pass over the row of its own reads it again.
#pragma once

#include "emit.cuh"
#include "race.cuh"

namespace fusedraw::cuda {

// One row's value, by one thread, where it is asked for.
template <typename O, typename V>
FD_DEVICE void put(O* out, int64_t row, V value) {
  if (out != nullptr && thread_id() == 0) store_global(out + row, O(value));
}

FD_DEVICE void fill_top(int64_t* ids, float* logps, int64_t from, int64_t n, float logp) {
#pragma unroll 1
  for (int64_t j = from + int64_t(thread_id()); j < n; j += kThreads) {
    store_global(ids + j, int64_t{-1});
    store_global(logps + j, logp);
  }
}

FD_DEVICE void store_bad_row(const SampleOutputs& out, int64_t row, uint8_t status) {
  const float bad = nan32();
  put(out.ids, row, -1);
  put(out.status, row, status);
  put(out.logp, row, bad);
  put(out.logp_full, row, bad);
  put(out.logp_raw, row, bad);
  put(out.entropy, row, bad);
  put(out.varentropy, row, bad);
  put(out.margin, row, bad);
  put(out.kept_mass, row, bad);
  put(out.n_kept, row, 0);
  put(out.rank, row, 0);
  put(out.explored, row, false);
  fill_top(out.top_ids + row * out.top_n, out.top_logps + row * out.top_n, 0, out.top_n, bad);
}

FD_DEVICE void store_token(const SampleOutputs& out, int64_t row) {
  put(out.ids, row, int64_t(board().word(kWordDrawn)));
  put(out.status, row, kOk);
  put(out.explored, row, board().word(kWordExplored) != 0);
}

template <typename T>
FD_DEVICE int64_t size_of_kept(const Cut& cut, bool on_list) {
  if (!on_list) return count_kept<T>(cut);
  uint64_t n = 0;
  ListItems{posted_list().n, cut}.for_each([&](float, int64_t) { ++n; });
  return int64_t(block_sum(n));
}

// The largest value apart from the first token's; below every valid one if there is none.
template <typename T>
FD_DEVICE_CALL float second_value() {
  const int64_t first = first_token<T>();
  const Work<T> w = take_work<T>();
  float second = -inf32();
#pragma unroll 1
  for (int b = thread_id(); b < w.row.blocks; b += kThreads)
    if (b != int(first / kBlock)) second = larger(second, w.maxima.load(b));
  const int64_t id = first / kBlock * kBlock + int64_t(thread_id());
  if (id != first) second = larger(second, value_at(w.row, id));
  return from_order_key(block_max(order_key(second)));
}

// The first top_n of the order. Overwrites the list.
template <typename T>
FD_DEVICE_CALL void store_top(int64_t* ids, float* logps, int64_t n, double ls) {
  const Work<T> w = take_work<T>();
  const WeightRule at_one = weight_rule(w.rule.m, 1.0f, false);
  __syncthreads();
  if (thread_id() == 0) board().put(kWordBaseLast, uint64_t(kAllTies));
  __syncthreads();
  const int64_t had = emit_in_order(
      RowItems<T>{w, {w.row.smallest_valid(), kWordBaseLast}}, w.row.cols(), n, ~uint32_t{0},
      [](float x, int64_t) { return uint64_t(~order_key(x)); },
      [&](int64_t j, uint64_t key, int64_t id) {
        const float x = from_order_key(~uint32_t(key));
        store_global(ids + j, id);
        store_global(logps + j, log_prob(scaled_gap(at_one, x), ls));
      });
  fill_top(ids, logps, had, n, -inf32());
}

// Each kind of pass over the row stands here once, in a loop over those that are wanted.
template <typename T>
FD_DEVICE void store_counts(const SampleOutputs& out, bool over_valid) {
  const bool mixing = mix_eps_of() > 0.0f;
  if (thread_id() == 0) board().put(kWordSupport, 0);
#pragma unroll 1
  for (int i = 0; i < 3; ++i) {
    const bool wanted = i == 0   ? out.rank != nullptr
                        : i == 1 ? out.n_kept || (out.logp && mixing && !over_valid)
                                 : out.logp && mixing && over_valid;
    if (!wanted) continue;
    enforce_ceiling<T>(i == 1);
    const int64_t id = int64_t(board().word(kWordDrawn));
    const Row<T> r = posted_row<T>();
    Cut cut = i == 1 ? posted_cut() : keep_all(r.smallest_valid());
    if (i == 0) cut = {value_at(r, id), id};
    const List list = posted_list();
    const bool on_list = list.held && (i == 0 ? cut.lo > list.lo : cut.lo >= list.lo);
    const int64_t n = size_of_kept<T>(cut, on_list);
    const int64_t row = posted_row_number();
    if (i == 0) put(out.rank, row, n - 1);
    if (i == 1) put(out.n_kept, row, n);
    if (i != 0 && thread_id() == 0) board().put(kWordSupport, uint64_t(n));
    enforce_ceiling<T>(false);
  }
}

// S of the tempered law, S of what is kept and S at T = 1 go to the board, G and H too.
template <typename T>
FD_DEVICE void post_sums(const SampleOutputs& out) {
  const bool stats = out.entropy || out.varentropy, greedy = has_flag(kFlagGreedy);
  const bool have_sums =
      !greedy && (stats || out.logp_full || out.kept_mass || (out.logp && keeps_whole()));
#pragma unroll 1
  for (int i = 0; i < 3; ++i) {
    const bool wanted = i == 0   ? have_sums
                        : i == 1 ? out.logp || out.kept_mass
                                 : out.logp_raw || out.top_n > 0;
    const WeightRule rule = posted_rule(), at_one = weight_rule(rule.m, 1.0f, false);
    const bool same =
        i == 1 ? keeps_whole() : rule.kind == WeightKind::kLogits && rule.c == at_one.c;
    Sums sums;
    sums.s = u128(1) << kWeightBits;
    if (wanted && (i > 0 && have_sums && same)) {
      sums.s = board().wide(kWordSum);
    } else if (wanted && i == 1 && listed(posted_list(), posted_cut())) {
      sums.s = mass_on_list(posted_cut());
    } else if (wanted && !(i == 1 && greedy)) {
      enforce_ceiling<T>(i == 1);
      const Cut all = keep_all(posted_row<T>().smallest_valid());
      sums = row_sums<T>(i == 2 ? at_one : rule, i == 1 ? posted_cut() : all, i == 0 && stats);
      enforce_ceiling<T>(false);
    }
    __syncthreads();
    if (thread_id() == 0) {
      board().put_wide(i == 0 ? kWordSum : i == 1 ? kWordSumKept : kWordSumAtOne, sums.s);
      if (i == 0) {
        board().put_wide(kWordSumG, sums.g);
        board().put_wide(kWordSumH, sums.h);
      }
    }
    __syncthreads();
  }
}

// What follows from the sums: one thread's work.
template <typename T>
FD_DEVICE void store_figures(const SampleOutputs& out, bool over_valid) {
  const int64_t row = posted_row_number();
  const bool greedy = has_flag(kFlagGreedy);
  const int64_t id = int64_t(board().word(kWordDrawn));
  const float x = value_at(posted_row<T>(), id);
  const WeightRule rule = posted_rule();
  bool in_kept = keeps(posted_cut(), x, id);
  if constexpr (kEdited<T>)
    in_kept = in_kept && below(Ceiling{ceiling_found(), ceiling_first()}, x, id);
  const u128 s = board().wide(kWordSum), s_kept = board().wide(kWordSumKept);
  put(out.kept_mass, row, float(to_double(s_kept) / to_double(s)));
  if (out.logp) {
    uint64_t weight = 0;
    if (in_kept) weight = greedy ? uint64_t{1} << kWeightBits : weight_at(rule, x);
    const bool in_support = over_valid || (in_kept && weight > 0);
    const int64_t support = in_support ? int64_t(board().word(kWordSupport)) : 0;
    put(out.logp, row, mixture_log_prob(weight, s_kept, mix_eps_of(), support));
  }
  if (out.logp_full) {
    const float logp = log_prob(scaled_gap(rule, x), log_sum(s));
    put(out.logp_full, row, !greedy ? logp : in_kept ? 0.0f : -inf32());
  }
  if (out.entropy || out.varentropy) {
    const Sums sums{s, board().wide(kWordSumG), board().wide(kWordSumH)};
    put(out.entropy, row, entropy_of(sums));
    put(out.varentropy, row, varentropy_of(sums));
  }
  if (out.logp_raw) {
    const WeightRule at_one = weight_rule(rule.m, 1.0f, false);
    put(out.logp_raw, row, log_prob(scaled_gap(at_one, x), log_sum(board().wide(kWordSumAtOne))));
  }
}

template <typename T>
FD_DEVICE void by_products(const SampleOutputs& out, bool over_valid) {
  if (out.margin) {
    const float second = second_value<T>();
    const bool alone = !(second >= posted_row<T>().smallest_valid());
    put(out.margin, posted_row_number(), alone ? inf32() : posted_rule().m - second);
  }
  store_counts<T>(out, over_valid);
  post_sums<T>(out);
  if (thread_id() == 0) store_figures<T>(out, over_valid);
  if (out.top_n > 0) {
    const int64_t at = posted_row_number() * out.top_n;
    store_top<T>(out.top_ids + at, out.top_logps + at, out.top_n,
                 log_sum(board().wide(kWordSumAtOne)));
  }
}

}  // namespace fusedraw::cuda
