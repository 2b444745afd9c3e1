// SPDX-License-Identifier: Apache-2.0
// Sums of weights over a row: exact ones, and a rough one with a proven bound that is often enough
// to decide where top-p cuts.
#pragma once

#include "plan.cuh"
#include "work.cuh"

namespace fusedraw::cuda {

// What a lane adds up. `stats`: G and H too.
struct LaneSums {
  FixedSum s, g, h;
};

FD_DEVICE void add_share(LaneSums& sums, const WeightRule& rule, const Values& v, float e_max,
                         bool stats) {
  if (rule.kind != WeightKind::kLogits) {  // entropies are those of the uniform law: G = H = 0
    each_in_turn(v, [&](float x, int) {
      const uint64_t weight = weight_at(rule, x);
      sums.s.high += weight >> kHighShift;
      sums.s.low += int64_t(weight & ((1u << kHighShift) - 1));
    });
    return;
  }
  PartSum s, g, h;
  if (stats) {
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) {
      const float t = clamped_gap(rule, v.x[j]), e = exp2_of(t);
      const float y = e > kNoWeight ? -t * e : 0.0f;
      s.add(e);
      g.add(y);
      h.add(y * -t);
    }
    g.flush(sums.g, kPerLane, kPerLane);
    h.flush(sums.h, kPerLane, kPerLane);
    s.flush(sums.s, kPerLane, kPerLane);
  } else if (e_max > kSmallWeight) {
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) s.add(exp2_of(clamped_gap(rule, v.x[j])));
    s.flush(sums.s, kPerLane, kPerLane);
  } else {
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) s.add_small(exp2_of(clamped_gap(rule, v.x[j])));
    s.flush(sums.s, kPerLane, 0);
  }
}

// Exact sums over what a cut keeps.
template <typename T>
FD_DEVICE_CALL Sums row_sums(WeightRule rule, Cut cut, bool stats) {
  const Work<T> w = take_work<T>();
  LaneSums lane;
  for_blocks(
      w,
      [&](int b) {
        return block_alive(w, cut, b) && relative_of(rule, w.maxima.load(b)) > kNoWeight;
      },
      [&](Values v, int b) {
        if (cut.lo > w.row.smallest_valid() || cut.last != kAllTies) {
          const BlockCut block = cut_of_block(cut, b);
          const bool runs = in_runs(w.row, b);
          const int lane = lane_id();
#pragma unroll
          for (int j = 0; j < kPerLane; ++j)
            if (!block.keeps(v.x[j], place_of<T>(runs, lane, j))) v.x[j] = w.row.pad();
        }
        add_share(lane, rule, v, relative_of(rule, w.maxima.load(b)), stats);
      });
  Sums sums;
  sums.s = block_total(lane.s);
  if (stats) {
    sums.g = block_total(lane.g);
    sums.h = block_total(lane.h);
  }
  return sums;
}

// About the sum of e over what lies at or above lo, for logits.
FD_DEVICE float rough_sum(const WeightRule& rule, const Values& v, float lo) {
  float e[kPerLane];
#pragma unroll
  for (int j = 0; j < kPerLane; ++j)
    e[j] = v.x[j] >= lo ? rough_exp2((v.x[j] - rule.m) * rule.c) : 0.0f;
  return ((e[0] + e[1]) + (e[2] + e[3])) + ((e[4] + e[5]) + (e[6] + e[7]));
}

// S to within a relative error of kRoughError: 2^t to 2^-22, which the law's own polynomial differs
// from by 8.7e-8; at most 4 float32 additions of the same value, 2.4e-7, and compensated ones; and
// V * 2^-43 for the rounding to integers and what lies below t = -44.
constexpr double kRoughError = 1.0e-6;
struct Estimate {
  u128 least = 0, most = 0;
};
FD_DEVICE Estimate estimate_from(double s, int64_t cols) {
  const double slack = s * kRoughError + double(cols) * 0x1p-43;
  return {u128((s - slack) * 0x1p43), u128((s + slack) * 0x1p43) + 1};
}

// A float sum and its rest, a thread each, in the low bins: registers are few in the pass that
// adds.
FD_DEVICE void begin_compensated() { bins().low.store(thread_id(), 0); }
FD_DEVICE void add_compensated(float y) {
  const uint64_t before = bins().low.load(thread_id());
  const float sum = float_of(uint32_t(before)), rest = float_of(uint32_t(before >> 32));
  const float s = sum + y, z = s - sum;
  const float more = rest + ((sum - (s - z)) + (y - z));
  bins().low.store(thread_id(), uint64_t(bits_of(more)) << 32 | bits_of(s));
}
FD_DEVICE double end_compensated() {
  const uint64_t all = bins().low.load(thread_id());
  return double(float_of(uint32_t(all))) + double(float_of(uint32_t(all >> 32)));
}

FD_DEVICE double block_sum_of_doubles(double v) {
  for (int d = kLanes / 2; d > 0; d /= 2) v += double_of(shuffle_xor(bits_of(v), d));
  __syncthreads();
  if (lane_id() == 0) board().slots.store(warp_id(), bits_of(v));
  __syncthreads();
  double all = 0;
  for (int i = 0; i < kWarps; ++i) all += double_of(board().slots.load(i));
  return all;
}

// What a second pass is to do, on the board.
constexpr uint64_t kPassSums = uint64_t{1} << 32, kPassGroups = uint64_t{1} << 33;
FD_DEVICE void post_pass(float lo, bool sums) {  // by one thread
  board().put(kWordPass, (sums ? kPassSums : 0) | bits_of(lo));
}

// A second pass over the row: the top-p targets from a rough S of what lies at or above lo, and
// group keys where the first pass left none. Registers are short here: what the loop needs now and
// then it takes from the board.
template <typename T>
FD_DEVICE void second_pass() {
  constexpr int kEach = 2;  // blocks a warp and round: more would spill
  __syncthreads();
  if (thread_id() == 0 && !posted_groups().any()) {
    const Groups groups = make_groups(posted_row<T>().blocks, 0);
    leave_groups(groups);
    if (groups.any()) board().put(kWordPass, board().word(kWordPass) | kPassGroups);
  }
  __syncthreads();
  const Row<T> r = posted_row<T>();
  begin_compensated();
#pragma unroll 1
  for (int b = warp_id() * kEach; b < r.blocks; b += kWarps * kEach) {
    const uint64_t pass = board().word(kWordPass);
    const float lo = float_of(uint32_t(pass));
    const auto batch = fetch_batch<kEach>(r, b, r.blocks, lane_id());
    if (pass & kPassGroups) {
      float m[kEach];
      largest_of_lane(r, batch, m);
      store_groups(posted_groups(), m, b, r.blocks);
    }
    if (!(pass & kPassSums)) continue;
    const WeightRule rule = posted_rule();
    float of_lane = 0.0f;
#pragma unroll
    for (int u = 0; u < kEach; ++u) of_lane += rough_sum(rule, batch.values(r, u), lo);
    add_compensated(of_lane);
  }
  if (!(board().word(kWordPass) & kPassSums)) return;
  const double all = block_sum_of_doubles(end_compensated());
  if (thread_id() == 0) {
    const Estimate e = estimate_from(all, posted_row<T>().cols());
    board().put_wide(kWordWanted, ceil_mul(top_p_of(), e.least));
    board().put_wide(kWordMost, ceil_mul(top_p_of(), e.most));
  }
  __syncthreads();
}

}  // namespace fusedraw::cuda
