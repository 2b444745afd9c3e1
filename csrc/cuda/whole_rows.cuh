// SPDX-License-Identifier: Apache-2.0
// Whole rows as output: softmax, log_softmax, masks and renormalisation. One kernel finds the law
// of each row, a thread block a row; another writes the rows, a thread block a chunk.
//
// A law is a rule, a cut and a sum; the one token of T = 0 is a cut like any other.
#pragma once

#include <type_traits>

#include "outputs.cuh"
#include "parts.cuh"

namespace fusedraw::cuda {

// By thread 0: the law of the row whose rule and cut are posted.
FD_DEVICE void store_law(const Space& space, int64_t row, u128 sum) {
  if (thread_id() == 0)
    space.law_of(row).store(0, RowLaw{posted_rule(), posted_cut(), to_double(sum), log_sum(sum),
                                      kOk, has_flag(kFlagGreedy)});
}
FD_DEVICE void store_no_law(const Space& space, int64_t row, uint8_t status) {
  if (thread_id() == 0)
    space.law_of(row).store(0, RowLaw{WeightRule{}, Cut{0.0f, 0}, 1.0, 0.0, status, false});
}

FD_DEVICE void post_temperature(const SoftmaxCall& call, int64_t row) {
  if (thread_id() == 0) {
    const Global<const double> data(call.temperature);
    const float t =
        float(data.null() ? call.temperature_value : data.load(row * call.temperature_stride));
    const uint64_t flags = t == 0.0f ? kFlagGreedy : t > 0.0f ? 0 : kFlagBad;
    board().put(kWordFlags, uint64_t(bits_of(t)) << 32 | flags);
  }
  __syncthreads();
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kResident)
    softmax_law_kernel(SoftmaxCall call, Space space) {
  const int64_t row = blockIdx.x;
  post_row<T>(call.x, call.mask, row, false, space.maxima_of<T>(), space.spreads_of());
  post_temperature(call, row);
  RowFacts facts{0.0f, kBadParam};
  if (!has_flag(kFlagBad)) facts = read_row<T>(space, row, false);
  put(call.status, row, facts.status);
  if (facts.status != kOk) {
    store_no_law(space, row, facts.status);
    return;
  }
  const bool greedy = has_flag(kFlagGreedy);
  leave_rule(weight_rule(facts.max, greedy ? 1.0f : temperature_of(), false));
  Cut cut = keep_all(posted_row<T>().smallest_valid());
  if (greedy) cut = {posted_rule().m, first_token<T>()};
  post_cut(cut, !greedy);
  u128 sum = u128(1) << kWeightBits;
  if (!greedy) sum = row_sums<T>(posted_rule(), posted_cut(), false).s;
  store_law(space, row, sum);
}

// S of what is kept.
template <typename T>
FD_DEVICE u128 kept_sum() {
  if (has_flag(kFlagGreedy)) return u128(1) << kWeightBits;
  if (listed(posted_list(), posted_cut())) return mass_on_list(posted_cut());
  return row_sums<T>(posted_rule(), posted_cut(), false).s;
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kResident)
    filter_law_kernel(FilterCall call, Space space) {
  const int64_t row = blockIdx.x;
  post_row<T>(call.x, call.mask, row, call.options.probs, space.maxima_of<T>(), space.spreads_of());
  post_plan(call.params, call.options, row, call.x.cols);
  RowFacts facts{0.0f, kBadParam};
  if (!has_flag(kFlagBad)) facts = read_row<T>(space, row, true);
  put(call.status, row, facts.status);
  if (facts.status != kOk) {
    store_no_law(space, row, facts.status);
    return;
  }
  leave_rule(
      weight_rule(facts.max, has_flag(kFlagGreedy) ? 1.0f : temperature_of(), call.options.probs));
  choose_kept<T>();
  // K keeps only tokens with weight, unless the operation says otherwise.
  if (!has_flag(kFlagGreedy) && board().word(kWordPostWeight) == 1)
    narrow(Cut{lightest_value<T>(1), kAllTies});
  store_law(space, row, call.renorm ? kept_sum<T>() : u128(1) << kWeightBits);
}

// What is written of a row.
enum class Whole : uint8_t { kShares, kLogs, kMask };
template <typename T, Whole kWhat>
using Written = std::conditional_t<kWhat == Whole::kMask, T, float>;

struct WriteTask {
  RowsView x;
  MaskView mask;
  void* out;
  float least_t;  // e is 0 below
  bool probs;
  int chunks, per_chunk;  // of a row; noise blocks
};
constexpr float kLeastSoftmaxT = -126.0f, kLeastWeightT = -0x1.5ffffep5f;  // the float after -44

// Of the law, on the board: words that only `sample` uses otherwise.
enum { kWordDivisor = kWordSum, kWordLogSum, kWordRestBelow, kWordReciprocal };

// fl32(2^43 e / D(S)), found without a division. The reciprocal of S / 2^43 is kept as a float and
// a small rest, once a little too large and once a little too small (by 2^-44 of it, well above
// every rounding here): where both give the same float, that is the quotient. Elsewhere, and near
// the end of the range, the division is made.
struct Quotient {
  float head, above, below;
};
FD_DEVICE void post_quotient(double divisor) {
  const double inverse = 1.0 / (divisor * 0x1p-43);
  const float head = float(inverse);
  const double rest = inverse - double(head), slack = inverse * 0x1p-44;
  board().put(kWordReciprocal, uint64_t(bits_of(head)) << 32 | bits_of(float(rest + slack)));
  board().put(kWordRestBelow, bits_of(float(rest - slack)));
  board().put(kWordDivisor, bits_of(divisor));
}
FD_DEVICE Quotient posted_quotient() {
  const uint64_t word = board().word(kWordReciprocal);
  return {float_of(uint32_t(word >> 32)), float_of(uint32_t(word)),
          float_of(uint32_t(board().word(kWordRestBelow)))};
}

// Puts a row's law on the board and gives its status; a barrier at the end.
FD_DEVICE uint8_t post_law(const Space& space, int64_t row) {
  if (thread_id() == 0) {
    const RowLaw law = space.law_of(row).load(0);
    board().put(kWordRule, uint64_t(bits_of(law.rule.c)) << 32 | bits_of(law.rule.m));
    board().put(kWordRuleKind, uint64_t(law.rule.kind));
    board().put(kWordCut, bits_of(law.cut.lo));
    board().put(kWordCutLast, uint64_t(law.cut.last));
    board().put(kWordLogSum, bits_of(law.log_sum));
    board().put(kWordPick, law.status);
    post_quotient(law.divisor);
  }
  __syncthreads();
  return uint8_t(board().word(kWordPick));
}

// e of each value that `kept` says is kept, else 0.
template <typename Kept>
FD_DEVICE Values relative_weights(const WeightRule& rule, const Values& v, float least_t,
                                  Kept kept) {
  if (rule.kind != WeightKind::kLogits)
    return map_in_turn(v, [&](float x, int j) { return kept(x, j) ? relative_of(rule, x) : 0.0f; });
  Values e;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    const float t = (v.x[j] - rule.m) * rule.c;
    e.x[j] = kept(v.x[j], j) && t >= least_t ? exp2_of(larger(t, kLeastSoftmaxT)) : 0.0f;
  }
  return e;
}

FD_DEVICE Values shares_of(const Values& e) {
  const Quotient q = posted_quotient();
  Values y;
  bool sure = true;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    y.x[j] = fma32(e.x[j], q.head, e.x[j] * q.below);
    sure &= y.x[j] == fma32(e.x[j], q.head, e.x[j] * q.above) &&
            (y.x[j] >= 0x1p-100f || e.x[j] == 0.0f);
  }
  if (sure) return y;
  const double divisor = double_of(board().word(kWordDivisor));
  return map_in_turn(e, [divisor](float x, int) { return softmax_of(x, divisor); });
}

FD_DEVICE float gap_of(const WeightRule& rule, float x) {
  return rule.kind == WeightKind::kUniform ? 0.0f : (x - rule.m) * rule.c;
}

template <typename T, typename O>
FD_DEVICE void store_lane(const Row<T>& r, const Global<O>& out, int b, const O (&y)[kPerLane]) {
  constexpr int kRun = 16 / int(sizeof(O));
  const Global<O> block = out.at(int64_t(b) * kBlock);
  if (in_runs(r, b)) {
#pragma unroll
    for (int j = 0; j < kPerLane; j += kRun) {
      Vec16 v;
      memcpy(&v, y + j, 16);
      block.store16(place_of<T>(true, lane_id(), j), v);
    }
    return;
  }
  const int64_t rest = r.cols() - int64_t(b) * kBlock;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    const int place = j * kLanes + lane_id();
    if (place < rest) block.store(place, y[j]);
  }
}

template <typename T, Whole kWhat>
FD_DEVICE void write_block(const Row<T>& r, const Global<Written<T, kWhat>>& out, int b,
                           float least_t) {
  const Share<T> s = fetch(r, b, lane_id());
  const uint32_t allowed = !r.masked() ? 0 : allowed_bits(r, b, lane_id());
  const Values v = widened(r, s, allowed);
  const BlockCut cut = cut_of_block(posted_cut(), b);
  const bool runs = in_runs(r, b);
  const auto kept = [&](float x, int j) { return cut.keeps(x, place_of<T>(runs, lane_id(), j)); };
  if constexpr (kWhat == Whole::kMask) {
    T y[kPerLane], dropped;
    set_neg_inf(dropped);
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) y[j] = kept(v.x[j], j) ? s.e[j] : dropped;
    store_lane(r, out, b, y);
  } else if constexpr (kWhat == Whole::kLogs) {
    const WeightRule rule = posted_rule();
    const double ls = double_of(board().word(kWordLogSum));
    Values y;
#pragma unroll
    for (int j = 0; j < kPerLane; ++j)
      y.x[j] = kept(v.x[j], j) ? log_prob(gap_of(rule, v.x[j]), ls) : -inf32();
    store_lane(r, out, b, y.x);
  } else {
    store_lane(r, out, b, shares_of(relative_weights(posted_rule(), v, least_t, kept)).x);
  }
}

template <typename T, Whole kWhat>
__global__ void __launch_bounds__(kThreads, kResident)
    write_rows_kernel(WriteTask task, Space space) {
  using O = Written<T, kWhat>;
  const int64_t row = int64_t(blockIdx.x) / task.chunks;
  const int chunk = int(int64_t(blockIdx.x) % task.chunks);
  post_row<T>(task.x, task.mask, row, task.probs, static_cast<T*>(nullptr), nullptr);
  const bool ok = post_law(space, row) == kOk;
  const Global<O> out(static_cast<O*>(task.out) + row * task.x.cols);
  Row<T> r = posted_row<T>();
  if (!out.aligned16()) r.run_blocks = 0;
  const int begin = chunk * task.per_chunk;
  const int end = begin + task.per_chunk < r.blocks ? begin + task.per_chunk : r.blocks;
#pragma unroll 1
  for (int b = begin + warp_id(); b < end; b += kWarps) {
    if (ok) {
      write_block<T, kWhat>(r, out, b, task.least_t);
    } else {
      O bad[kPerLane];
#pragma unroll
      for (int j = 0; j < kPerLane; ++j) set_nan(bad[j]);
      store_lane(r, out, b, bad);
    }
  }
}

}  // namespace fusedraw::cuda
