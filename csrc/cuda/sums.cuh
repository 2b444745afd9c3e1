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
        const BlockCut block = cut_of_block(cut, b);
        const bool runs = in_runs(w.row, b);
#pragma unroll
        for (int j = 0; j < kPerLane; ++j)
          if (!block.keeps(v.x[j], place_of<T>(runs, lane_id(), j))) v.x[j] = w.row.pad();
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
// from by 8.4e-8; a tree of 3 float32 additions, 1.8e-7, and compensated ones; and V * 2^-43 for
// the rounding to integers and what lies below t = -44.
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
FD_DEVICE void begin_compensated() { bins().low.store(int(threadIdx.x), 0); }
FD_DEVICE void add_compensated(float y) {
  const uint64_t before = bins().low.load(int(threadIdx.x));
  const float sum = float_of(uint32_t(before)), rest = float_of(uint32_t(before >> 32));
  const float s = sum + y, z = s - sum;
  const float more = rest + ((sum - (s - z)) + (y - z));
  bins().low.store(int(threadIdx.x), uint64_t(bits_of(more)) << 32 | bits_of(s));
}
FD_DEVICE double end_compensated() {
  const uint64_t all = bins().low.load(int(threadIdx.x));
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

// A second pass over what is not below `least`, for its rough S (and the top-p targets from that),
// and over the whole row or only over the blocks that matter to the list. want > 0: gathers the
// list of the row's largest tokens.
template <typename T>
FD_DEVICE void second_pass(float least, uint32_t wanted, bool sum) {
  __syncthreads();
  if (threadIdx.x == 0) {
    board().put(kWordWant, wanted);
    if (wanted > 0) list_count().store(0, 0);
  }
  __syncthreads();
  Work<T> w = take_work<T>();
  const Row<T>& r = w.row;
  begin_compensated();
  if (wanted > 0) {
    w.list.lo = least;
    w.list.held = r.cols() < kMaxListed;
    if (!sum && list_end() == inf32() && int(wanted) <= r.blocks && w.maxima.is_near) {
      // As many blocks, hence tokens, reach the want-th largest block maximum.
      __syncthreads();
#pragma unroll 1
      for (int b = int(threadIdx.x); b < r.blocks; b += kThreads)
        list_entries().store(b, entry_of(w.maxima.load(b), 0));
      __syncthreads();
      const uint32_t key = list_threshold(uint32_t(r.blocks), order_key(least), wanted);
      if (key != 0) w.list.lo = from_order_key(key);
    }
  }
#pragma unroll 1
  for (int first = 0; first < r.blocks; first += kTileBlocks<T>) {
    const int b = first + warp_id() * kBatch<T>;
    const uint32_t want = uint32_t(board().word(kWordWant));
    const float lowest = sum ? least : w.list.lo;
    const Batch<T> batch = fetch_batch(
        r, b, lane_id(), [&](int u) { return b + u < r.blocks && w.maxima.load(b + u) >= lowest; });
    const bool begins =
        want > 0 && first == 0 && w.list.lo == least && r.blocks > kListCapacity / kBlock;
#pragma unroll
    for (int u = 0; u < kBatch<T>; ++u) {
      const Values v = widened(r, batch.share[u], batch.bits(u));
      if (begins) store_groups<T>(v, u);
      if (sum) add_compensated(rough_sum(w.rule, v, least));
    }
    if (want > 0 && w.list.held)
      gather_tile(w.list, r, w.maxima, batch, b, r.blocks, want,
                  !begins             ? 0
                  : want == kListWant ? kOpensWith
                                      : want);
  }
  if (board().word(kWordWant) > 0) leave_list(w.list, true);
  if (!sum) return;
  const double s = block_sum_of_doubles(end_compensated());
  if (threadIdx.x == 0) {
    const Estimate e = estimate_from(s, r.cols());
    board().put_wide(kWordWanted, ceil_mul(top_p_of(), e.least));
    board().put_wide(kWordMost, ceil_mul(top_p_of(), e.most));
  }
  __syncthreads();
}

}  // namespace fusedraw::cuda
