// SPDX-License-Identifier: Apache-2.0
// The score of a given token, a thread block a row, and its gradient, a thread block a chunk of a
// row.
//
// A recorded kept set takes the place of the filters; of its row only its own tokens are read
// unless something asks for the rest. No thread trusts what it says before it is checked.
#pragma once

#include "../core/token_logprob.h"
#include "outputs.cuh"
#include "parts.cuh"
#include "whole_rows.cuh"

namespace fusedraw::cuda {

// The scored token, and where the row's recorded set lies: words that only a draw uses otherwise.
enum { kWordScored = kWordDrawn, kWordListed = kWordSeed, kWordListedSize = kWordOffset };

// Read by one thread; a barrier at the end.
FD_DEVICE void post_token(const int64_t* token_ids, const KeptSetsView& kept, int64_t row) {
  if (thread_id() == 0) {
    board().put(kWordScored, uint64_t(Global<const int64_t>(token_ids).load(row)));
    const Global<const int64_t> offsets(kept.offsets);
    if (!offsets.null()) {
      const KeptIds list = kept_ids_between(kept, offsets.load(row), offsets.load(row + 1));
      board().put(kWordListed, reinterpret_cast<uint64_t>(list.ids));
      board().put(kWordListedSize, uint64_t(list.n));
    }
  }
  __syncthreads();
}
FD_DEVICE int64_t scored_token() { return int64_t(board().word(kWordScored)); }
FD_DEVICE Global<const int32_t> listed_ids() {
  return Global<const int32_t>(reinterpret_cast<const int32_t*>(board().word(kWordListed)));
}
FD_DEVICE int64_t listed_size() { return int64_t(board().word(kWordListedSize)); }

// The valid tokens of a recorded set: how many, and the largest of them.
struct ListedFacts {
  uint8_t status = kOk;
  float max = 0.0f;
  int64_t n = 0;
};
// Left on the board, like all that is needed later; a barrier at the end.
FD_DEVICE void leave_facts(const ListedFacts& facts) {
  __syncthreads();
  if (thread_id() == 0) {
    board().put(kWordListedMax, uint64_t(facts.status) << 32 | bits_of(facts.max));
    board().put(kWordListedCount, uint64_t(facts.n));
  }
  __syncthreads();
}
FD_DEVICE ListedFacts listed_facts() {
  const uint64_t word = board().word(kWordListedMax);
  return {uint8_t(word >> 32), float_of(uint32_t(word)), int64_t(board().word(kWordListedCount))};
}
template <typename T>
FD_DEVICE_CALL ListedFacts read_listed() {
  const Row<T> r = posted_row<T>();
  const Global<const int32_t> ids = listed_ids();
  const int64_t cols = r.cols(), n = listed_size();
  bool malformed = n < 0, nan = false;
  uint32_t best = 0;
  uint64_t valid = 0;
#pragma unroll 1
  for (int64_t j = int64_t(thread_id()); j < n; j += kThreads) {
    const int64_t id = ids.load(j);
    if (id < 0 || id >= cols || (j > 0 && id <= ids.load(j - 1))) {
      malformed = true;
      continue;
    }
    const float x = value_at(r, id);
    nan |= x != x;
    if (!(x > -inf32())) continue;
    ++valid;
    const uint32_t key = order_key(x);
    best = best > key ? best : key;
  }
  ListedFacts facts;
  malformed = __syncthreads_or(malformed) != 0;
  nan = __syncthreads_or(nan) != 0;
  facts.n = int64_t(block_sum(valid));
  best = block_max(best);
  if (facts.n > 0) facts.max = from_order_key(best);
  facts.status = malformed              ? kBadParam
                 : nan                  ? kNan
                 : facts.max == inf32() ? kPosInf
                 : facts.n == 0         ? kEmpty
                                        : kOk;
  return facts;
}

// What a token is among those of a recorded set.
struct Listed {
  u128 total = 0;
  uint64_t weight = 0;
  bool found = false;
};
template <typename T>
FD_DEVICE_CALL Listed weigh_listed(WeightRule rule, bool greedy) {
  const Row<T> r = posted_row<T>();
  const Global<const int32_t> ids = listed_ids();
  const int64_t n = listed_size(), id = scored_token();
  FixedSum sum;
  uint32_t own = 0, first = 0;  // 0: nothing, as of no key and of no id below 2^31
#pragma unroll 1
  for (int64_t j = int64_t(thread_id()); j < n; j += kThreads) {
    const uint32_t other = uint32_t(ids.load(j));
    const float x = value_at(r, other);
    if (!(x > -inf32())) continue;
    const uint64_t w = weight_at(rule, x);
    sum.high += w >> kHighShift;
    sum.low += int64_t(w & ((1u << kHighShift) - 1));
    if (other == uint32_t(id)) own = order_key(x);
    if (x == rule.m && first < ~other) first = ~other;
  }
  Listed listed;
  listed.total = block_total(sum);
  own = block_max(own);
  first = block_max(first);
  listed.found = own != 0;
  if (greedy) {
    listed.total = u128(1) << kWeightBits;
    listed.weight = listed.found && ~first == uint32_t(id) ? uint64_t{1} << kWeightBits : 0;
  } else if (listed.found) {
    listed.weight = weight_at(rule, from_order_key(own));
  }
  return listed;
}

// By one thread.
FD_DEVICE void store_scores(const TokenLogprobCall& call, int64_t row, const RowScore& score) {
  const bool ok = score.status == kOk;
  store_global(call.status + row, score.status);
  store_global(call.logp + row, ok ? score.logp : nan32());
  if (call.entropy) store_global(call.entropy + row, ok ? score.entropy : nan32());
  const Global<double> saved(call.saved + row * kSavedColumns);
#pragma unroll 1
  for (int i = 0; i < kSavedColumns; ++i) saved.store(i, ok ? score.saved[i] : 0.0);
}

// K by the filters. Leaves support and sums on the board for score_of_cut().
template <typename T>
FD_DEVICE void weigh_filtered(const TokenLogprobCall& call) {
  choose_kept<T>();
  if (!has_flag(kFlagGreedy) && board().word(kWordPostWeight) == 1) {
    const Cut cut = stricter(posted_cut(), Cut{lightest_value<T>(1), kAllTies});
    post_cut(cut, keeps_whole());  // what is dropped weighs nothing
  }
  SampleOutputs out;  // what is asked of the passes
  out.logp = call.logp;
  out.entropy = call.entropy;
  store_counts<T>(out, call.options.mix_valid);
  post_sums<T>(out);
}
template <typename T>
FD_DEVICE void score_of_cut(const TokenLogprobCall& call, const RowParams& params, int64_t id,
                            RowScore& score) {
  const Row<T> r = posted_row<T>();
  const float x = value_at(r, id);
  const Cut cut = posted_cut();
  const bool in_kept = keeps(cut, x, id);
  const bool in_support = call.options.mix_valid ? x >= r.smallest_valid() : in_kept;
  uint64_t w = 0;
  if (in_kept) w = has_flag(kFlagGreedy) ? uint64_t{1} << kWeightBits : weight_at(posted_rule(), x);
  score_token(score, params, w, board().wide(kWordSumKept),
              in_support ? int64_t(board().word(kWordSupport)) : 0);
  score_rule(score, params, posted_rule().m, posted_rule().m, cut);
}

// K as recorded. Leaves the support on the board, and the sums that the entropy needs.
template <typename T>
FD_DEVICE void weigh_whole(const TokenLogprobCall& call) {
  const Cut all = keep_all(posted_row<T>().smallest_valid());
  int64_t support = 0;
  if (call.options.mix_valid && mix_eps_of() > 0.0f) support = count_kept<T>(all);
  Sums sums;
  if (call.entropy && !has_flag(kFlagGreedy)) sums = row_sums<T>(posted_rule(), all, true);
  __syncthreads();
  if (thread_id() == 0) {
    board().put(kWordSupport, uint64_t(support));
    board().put_wide(kWordSum, sums.s);
    board().put_wide(kWordSumG, sums.g);
  }
  __syncthreads();
}
template <typename T>
FD_DEVICE void score_of_list(const TokenLogprobCall& call, const RowParams& params, int64_t id,
                             const ListedFacts& facts, const Listed& listed, bool whole,
                             RowScore& score) {
  int64_t support = listed.found ? facts.n : 0;
  if (call.options.mix_valid) {
    const bool valid = value_at(posted_row<T>(), id) > -inf32();
    support = whole && valid ? int64_t(board().word(kWordSupport)) : 0;
  }
  score_token(score, params, listed.weight, listed.total, support);
  score_rule(score, params, whole ? posted_rule().m : facts.max, facts.max, Cut{0.0f, 0});
}

// Whether more of the row is asked for than a recorded set.
FD_DEVICE bool reads_whole(const TokenLogprobCall& call) {
  return call.kept.offsets == nullptr || call.entropy ||
         (call.options.mix_valid && mix_eps_of() > 0.0f);
}
FD_DEVICE WeightRule rule_at(float max) {
  return weight_rule(max, has_flag(kFlagGreedy) ? 1.0f : temperature_of(), false);
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kResident)
    token_logprob_kernel(TokenLogprobCall call, Space space) {
  const int64_t row = blockIdx.x;
  post_row<T>(call.x, call.mask, row, false, space.maxima_of<T>(), space.spreads_of());
  post_plan(call.params, call.options, row, call.x.cols);
  post_token(call.ids, call.kept, row);
  const bool replays = call.kept.offsets != nullptr;
  const int64_t id = scored_token();
  uint8_t status = has_flag(kFlagBad) || id < 0 || id >= call.x.cols ? kBadParam : kOk;
  leave_facts(status == kOk && replays ? read_listed<T>() : ListedFacts{});
  if (listed_facts().status == kBadParam) status = kBadParam;
  const bool whole = status == kOk && reads_whole(call);
  if (whole) {
    const RowFacts read = read_row<T>(space, row, true);
    status = read.status;
    if (status == kOk) leave_rule(rule_at(read.max));
  }
  if (status == kOk) status = listed_facts().status;
  if (status != kOk) {
    if (thread_id() == 0) {
      RowScore score;
      score.status = status;
      store_scores(call, posted_row_number(), score);
    }
    return;
  }
  Listed listed;
  if (!replays) {
    weigh_filtered<T>(call);
  } else {
    if (reads_whole(call)) weigh_whole<T>(call);
    listed = weigh_listed<T>(rule_at(listed_facts().max), has_flag(kFlagGreedy));
  }
  if (thread_id() != 0) return;
  RowScore score;
  RowParams params;
  load_params(call.params, posted_row_number(), params);
  if (replays)
    score_of_list<T>(call, params, scored_token(), listed_facts(), listed, reads_whole(call),
                     score);
  else
    score_of_cut<T>(call, params, scored_token(), score);
  if (call.entropy)
    score_entropy(score, params, Sums{board().wide(kWordSum), board().wide(kWordSumG), 0});
  store_scores(call, posted_row_number(), score);
}

// Slopes on the board: words that only the forward uses otherwise.
enum {
  kWordMaxima = kWordSum,  // of the row and of K
  kWordScaleMean,
  kWordOwnEach,
  kWordSpreadCut,
  kWordSlopeLast
};
FD_DEVICE uint64_t two_floats(float high, float low) {
  return uint64_t(bits_of(high)) << 32 | bits_of(low);
}
FD_DEVICE float high_float(uint64_t word) { return float_of(uint32_t(word >> 32)); }
FD_DEVICE float low_float(uint64_t word) { return float_of(uint32_t(word)); }

// Read by one thread; a barrier at the end.
FD_DEVICE void post_slopes(const TokenLogprobGradCall& call, int64_t row) {
  if (thread_id() == 0) {
    const Global<const double> from(call.saved + row * kSavedColumns);
    double saved[kSavedColumns];
#pragma unroll
    for (int i = 0; i < kSavedColumns; ++i) saved[i] = from.load(i);
    const Global<const float> g(call.grad_logp), h(call.grad_entropy);
    const RowSlopes s = row_slopes(saved, g.load(row), h.null() ? 0.0f : h.load(row));
    board().put(kWordMaxima, two_floats(s.rule.m, s.kept_rule.m));
    board().put(kWordScaleMean, two_floats(s.rule.c, s.mean));
    board().put(kWordOwnEach, two_floats(s.own, s.each));
    board().put(kWordSpreadCut, two_floats(s.spread, s.cut.lo));
    board().put(kWordSlopeLast, uint64_t(s.cut.last));
  }
  __syncthreads();
}
FD_DEVICE RowSlopes posted_slopes() {
  const uint64_t maxima = board().word(kWordMaxima), scale_mean = board().word(kWordScaleMean);
  const uint64_t own_each = board().word(kWordOwnEach), spread_cut = board().word(kWordSpreadCut);
  RowSlopes s;
  s.rule.m = high_float(maxima);
  s.kept_rule.m = low_float(maxima);
  s.rule.c = s.kept_rule.c = high_float(scale_mean);
  s.mean = low_float(scale_mean);
  s.own = high_float(own_each);
  s.each = low_float(own_each);
  s.spread = high_float(spread_cut);
  s.cut = {low_float(spread_cut), int64_t(board().word(kWordSlopeLast))};
  return s;
}

// kept_slope() and entropy_slope() of the core, in fewer instructions.
FD_DEVICE float slope_of(const RowSlopes& s, float x, bool kept) {
  float slope = 0.0f;
  if (kept) {
    const float e = exp2_of(clamped_gap(s.kept_rule, x));
    if (e > kNoWeight) slope = 0.0f - s.each * e;
  }
  if (s.spread != 0.0f) {
    const float t = clamped_gap(s.rule, x), e = exp2_of(t);
    if (e > kNoWeight) slope -= s.spread * (e * (t + s.mean));
  }
  return slope;
}

template <typename T>
FD_DEVICE void store_slope(const Global<T>& out, int64_t id, float slope) {
  T y;
  round_to(slope, y);
  out.store(id, y);
}

// The kept tokens of a replayed row with ids in [first, end), over what the entropy left there.
template <typename T>
FD_DEVICE void store_listed(const RowSlopes& s, int64_t first, int64_t end, const Global<T>& out) {
  const Row<T> r = posted_row<T>();
  const Global<const int32_t> ids = listed_ids();
  const int64_t n = listed_size();
  int64_t low = 0, high = n;
  while (low < high) {
    const int64_t middle = low + (high - low) / 2;
    if (ids.load(middle) < first)
      low = middle + 1;
    else
      high = middle;
  }
#pragma unroll 1
  for (int64_t j = low + int64_t(thread_id()); j < n; j += kThreads) {
    const int64_t id = ids.load(j);
    if (id >= end) break;
    const float x = value_at(r, id);
    if (x > -inf32()) store_slope(out, id, slope_of(s, x, true));
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kResident)
    token_logprob_grad_kernel(TokenLogprobGradCall call, int chunks, int per_chunk) {
  const int64_t row = int64_t(blockIdx.x) / chunks;
  const int chunk = int(int64_t(blockIdx.x) % chunks);
  post_row<T>(call.x, call.mask, row, false, static_cast<T*>(nullptr), nullptr);
  post_token(call.ids, call.kept, row);
  post_slopes(call, row);
  const RowSlopes s = posted_slopes();
  const Global<T> out(static_cast<T*>(call.grad) + row * call.x.cols);
  Row<T> r = posted_row<T>();
  if (!out.aligned16()) r.run_blocks = 0;
  const bool moves = s.own != 0.0f || s.each != 0.0f, replays = call.kept.offsets != nullptr;
  const int begin = chunk * per_chunk;
  const int end = begin + per_chunk < r.blocks ? begin + per_chunk : r.blocks;
#pragma unroll 1
  for (int b = begin + warp_id(); b < end; b += kWarps) {
    T y[kPerLane];
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) round_to(0.0f, y[j]);
    if (s.spread != 0.0f || (moves && !replays)) {
      const Values v = fetch_values(r, b, lane_id());
      const BlockCut cut = cut_of_block(s.cut, b);
      const bool runs = in_runs(r, b);
#pragma unroll
      for (int j = 0; j < kPerLane; ++j) {
        const bool kept = moves && !replays && cut.keeps(v.x[j], place_of<T>(runs, lane_id(), j));
        round_to(slope_of(s, v.x[j], kept), y[j]);
      }
    }
    store_lane(r, out, b, y);
  }
  if (!moves) return;
  __syncthreads();
  if (replays) {
    store_listed(s, int64_t(begin) * kBlock, int64_t(end) * kBlock, out);
    __syncthreads();
  }
  const int64_t id = scored_token(), block = id / kBlock;
  if (thread_id() == 0 && block >= begin && block < end) {
    RowSlopes rest = s;
    rest.each = 0.0f;
    store_slope(out, id, s.own + slope_of(rest, value_at(r, id), false));
  }
}

}  // namespace fusedraw::cuda
