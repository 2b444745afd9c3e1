// SPDX-License-Identifier: Apache-2.0
// Draws from a row of probabilities. One is a sample. Many with replacement search running sums of
// the blocks' weights; many without take the smallest arrivals of all tokens, which lie in the
// workspace, in order.
#pragma once

#include "emit.cuh"
#include "outputs.cuh"
#include "whole_rows.cuh"

namespace fusedraw::cuda {

// The workspace: of each row, running sums of its blocks' weights or the arrivals of its tokens.
struct DrawSpace {
  Space rows;
  int64_t extra = 0, bytes = 0;
  __device__ Global<u128> ends_of(int64_t row) const {
    return Global<u128>(reinterpret_cast<u128*>(rows.base + extra) + row * rows.blocks);
  }
  __device__ Global<uint64_t> arrivals_of(int64_t row, int64_t cols) const {
    return Global<uint64_t>(reinterpret_cast<uint64_t*>(rows.base + extra) + row * cols);
  }
};
inline DrawSpace plan_draws(const MultinomialCall& call, void* base) {
  DrawSpace s;
  s.rows = plan_space(call.x, true, false, base);
  s.extra = s.rows.bytes;
  s.bytes = s.extra + call.x.rows * (call.replacement ? s.rows.blocks * int64_t(sizeof(u128))
                                                      : call.x.cols * int64_t(sizeof(uint64_t)));
  return s;
}

// Weights of the blocks [begin, end).
template <typename T>
FD_DEVICE_CALL void store_block_sums(Global<u128> sums, int begin, int end) {
  const Work<T> w = take_work<T>();
#pragma unroll 1
  for (int b = begin + warp_id(); b < end; b += kWarps) {
    uint64_t mass = 0;
    if (relative_of(w.rule, w.maxima.load(b)) > kNoWeight) {
      each_in_turn(fetch_values(w.row, b, lane_id()),
                   [&](float x, int) { mass += weight_at(w.rule, x); });
      mass = warp_sum(mass);
    }
    if (lane_id() == 0) sums.store(b, mass);
  }
}

// Sums of blocks become running sums, each with its own block.
FD_DEVICE_CALL void add_up(Global<u128> sums, int blocks) {
  u128 before = 0;
#pragma unroll 1
  for (int first = 0; first < blocks; first += kThreads) {
    const int b = first + thread_id();
    const uint64_t here = b < blocks ? uint64_t(sums.load(b)) : 0;
    const uint64_t from_here = block_suffix(here);  // 256 * 2^51 at most
    const uint64_t all = block_broadcast(0, from_here);
    if (b < blocks) sums.store(b, before + (all - from_here + here));
    before += all;
  }
}

constexpr uint64_t kNoArrival = ~uint64_t{0};
constexpr uint64_t kLastArrival = 0x4044000000000000u;  // bits of 40.0, above every E

// E(ORDER, i) / D(w_i) of the tokens of blocks [begin, end).
template <typename T>
FD_DEVICE_CALL void store_arrivals(NoiseSource noise, Global<uint64_t> arrivals, int begin,
                                   int end) {
  const Work<T> w = take_work<T>();
#pragma unroll 1
  for (int b = begin; b < end; ++b) {
    const int64_t id = int64_t(b) * kBlock + int64_t(thread_id());
    if (id >= w.row.cols()) break;
    const uint64_t weight = weight_at(w.rule, value_at(w.row, id));
    arrivals.store(id, weight == 0 ? kNoArrival : arrival_value(noise, kPurposeOrder, id, weight));
  }
}

// A thread block for each part of a row, or one for all of it: block sums (kReplace) or arrivals.
template <typename T, bool kReplace>
__global__ void __launch_bounds__(kThreads, kResident)
    weigh_kernel(MultinomialCall call, DrawSpace space) {
  const int64_t row = int64_t(blockIdx.x) / space.rows.splits;
  const int split = int(int64_t(blockIdx.x) % space.rows.splits);
  post_row<T>(call.x, MaskView{}, row, true, space.rows.maxima_of<T>(), space.rows.spreads_of());
  if (!kReplace) post_key(call.keys, row);
  const RowFacts facts = read_row<T>(space.rows, row, false);
  leave_rule(weight_rule(facts.max, 1.0f, true));
  if (split == 0) {
    put(call.status, row, facts.status);
    if (thread_id() == 0)
      space.rows.law_of(row).store(
          0, RowLaw{posted_rule(), Cut{0.0f, 0}, 1.0, 0.0, facts.status, false});
  }
  if (facts.status != kOk) return;
  const int begin = split * space.rows.per_split, after = begin + space.rows.per_split;
  const int end = after < space.rows.blocks ? after : space.rows.blocks;
  if (kReplace) {
    store_block_sums<T>(space.ends_of(row), begin, end);
    if (space.rows.splits > 1) return;
    __syncthreads();
    add_up(space.ends_of(row), space.rows.blocks);
  } else {
    store_arrivals<T>(NoiseSource{0, call.forced, call.n_forced},
                      space.arrivals_of(row, call.x.cols), begin, end);
  }
}

// Of rows in parts.
static __global__ void __launch_bounds__(kThreads) add_up_kernel(DrawSpace space) {
  const int64_t row = blockIdx.x;
  if (space.rows.law_of(row).load(0).status == kOk) add_up(space.ends_of(row), space.rows.blocks);
}

// A point of a row's mass: within a block, so much weight from its first token.
struct Point {
  int block;  // -1: none
  uint64_t rest;
};

// Of draw j, by one thread.
FD_DEVICE Point locate(const Global<u128>& ends, int blocks, const NoiseSource& noise, int64_t j) {
  const u128 point =
      scale_uniform(noise_r128(noise.noise(), kPurposeMany, j), ends.load(blocks - 1));
  int low = 0, high = blocks - 1;  // the first block whose end exceeds the point
#pragma unroll 1
  while (low < high) {
    const int middle = low + (high - low) / 2;
    if (ends.load(middle) > point)
      high = middle;
    else
      low = middle + 1;
  }
  const u128 before = low == 0 ? u128(0) : ends.load(low - 1);
  return {low, uint64_t(point - before)};
}

// The first token of block b whose running sum of weights exceeds `rest`, by a warp: 8 tokens in a
// row for each lane.
template <typename T>
FD_DEVICE int64_t token_at(const Row<T>& r, const WeightRule& rule, int b, uint64_t rest) {
  const int64_t first = int64_t(b) * kBlock + lane_id() * kPerLane;
  Values v;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) v.x[j] = value_at(r, first + j);
  uint64_t own = 0;
  each_in_turn(v, [&](float x, int) { own += weight_at(rule, x); });
  uint64_t running = own;
#pragma unroll
  for (int d = 1; d < kLanes; d *= 2) {
    const uint64_t o = shuffle_up(running, d);
    if (lane_id() >= d) running += o;
  }
  const int lane = __ffs(int(__ballot_sync(kFullWarp, running > rest))) - 1;
  int place = kPerLane;
  running -= own;
  each_in_turn(v, [&](float x, int j) {
    running += weight_at(rule, x);
    if (running > rest && j < place) place = j;
  });
  return int64_t(b) * kBlock + lane * kPerLane + __shfl_sync(kFullWarp, place, lane);
}

// Each warp makes `each` draws, a lane each; their tokens are found one after another by all lanes.
template <typename T>
__global__ void __launch_bounds__(kThreads, kResident)
    draw_kernel(MultinomialCall call, DrawSpace space, int each, int64_t chunks) {
  const int64_t row = int64_t(blockIdx.x) / chunks;
  const int64_t j = int64_t(blockIdx.x) % chunks * (kWarps * each) + warp_id() * each + lane_id();
  const bool mine = lane_id() < each && j < call.num_samples;
  const RowLaw law = space.rows.law_of(row).load(0);
  int64_t id = -1;
  if (law.status == kOk) {
    post_row<T>(call.x, MaskView{}, row, true, static_cast<T*>(nullptr), nullptr);
    post_key(call.keys, row);
    const Row<T> r = posted_row<T>();
    Point point{-1, 0};
    if (mine)
      point = locate(space.ends_of(row), space.rows.blocks,
                     NoiseSource{0, call.forced, call.n_forced}, j);
#pragma unroll 1
    for (int i = 0; i < each; ++i) {
      const int b = __shfl_sync(kFullWarp, point.block, i);
      if (b < 0) break;
      const int64_t token = token_at(r, law.rule, b, shuffle_from(point.rest, i));
      if (i == lane_id()) id = token;
    }
  }
  if (mine) Global<int64_t>(call.ids).store(row * call.num_samples + j, id);
}

// The arrivals of a row, with their tokens' ids: what emit_in_order goes through.
struct ArrivalItems {
  Global<uint64_t> arrivals;
  int64_t cols;
  template <typename Fn>
  __device__ void for_each(Fn fn) const {
    constexpr int kAtOnce = 4;
    int64_t id = int64_t(thread_id());
#pragma unroll 1
    for (; id < cols; id += kAtOnce * kThreads) {
      uint64_t a[kAtOnce];
#pragma unroll
      for (int i = 0; i < kAtOnce; ++i)
        a[i] = id + i * kThreads < cols ? arrivals.load(id + i * kThreads) : kNoArrival;
#pragma unroll 1
      for (int i = 0; i < kAtOnce; ++i) {
        fn(a[0], id + i * kThreads);
#pragma unroll
        for (int k = 0; k + 1 < kAtOnce; ++k) a[k] = a[k + 1];
      }
    }
  }
};

// Without replacement, a thread block a row.
static __global__ void __launch_bounds__(kThreads, kResident)
    arrivals_in_order_kernel(MultinomialCall call, DrawSpace space) {
  const int64_t row = blockIdx.x;
  const Global<int64_t> ids(call.ids + row * call.num_samples);
  int64_t had = 0;
  const bool ok = space.rows.law_of(row).load(0).status == kOk;
  if (ok)
    had = emit_in_order(
        ArrivalItems{space.arrivals_of(row, call.x.cols), call.x.cols}, call.x.cols,
        call.num_samples, kLastArrival, [](uint64_t a, int64_t) { return a; },
        [&](int64_t j, uint64_t, int64_t id) { ids.store(j, id); });
  if (ok && had < call.num_samples) put(call.status, row, kEmpty);
#pragma unroll 1
  for (int64_t j = had + int64_t(thread_id()); j < call.num_samples; j += kThreads)
    ids.store(j, int64_t{-1});
}

}  // namespace fusedraw::cuda
