// SPDX-License-Identifier: Apache-2.0
// The maxima of groups of tokens, as 16 bits each: they say where the largest tokens of a row are,
// so that only those are read again.
//
// A group is what 2 to 32 neighbouring lanes hold of a noise block. Its key is the upper half of
// its maximum's order_key, which is the key of a value at or below the maximum: a token that
// reaches the value of a key is in a group that reaches the key.
#pragma once

#include "row.cuh"

namespace fusedraw::cuda {

FD_DEVICE Shared<uint16_t> group_keys() {
  FD_SHARED(uint16_t, group_keys, kMaxGroups);
  return group_keys;
}

struct Groups {
  int log_lanes;  // of a group, 1 to 5; 0: there are none
  int from;       // the block of the first group
  __device__ bool any() const { return log_lanes != 0; }
  __device__ int of_blocks(int n) const { return n << (5 - log_lanes); }
  __device__ int of_lane(int b, int lane) const {
    return of_blocks(b - from) + (lane >> log_lanes);
  }
};
// The finest groups of so many blocks that fit.
FD_DEVICE Groups make_groups(int blocks, int from) {
  if (blocks > kMaxGroups) return {0, from};
  Groups groups{1, from};
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (groups.of_blocks(blocks) > kMaxGroups) ++groups.log_lanes;
  return groups;
}
FD_DEVICE uint32_t group_key(float x) { return order_key(x) >> 16; }
FD_DEVICE float value_of_group_key(uint32_t key) { return from_order_key(key << 16); }

// The groups of the whole row, where a pass has left them.
FD_DEVICE Groups posted_groups() { return {int(board().word(kWordGroups)), 0}; }
FD_DEVICE void leave_groups(const Groups& groups) {
  board().put(kWordGroups, uint64_t(groups.log_lanes));
}

// Lane values of a batch to values of 4 lanes, by op: lane i goes on with block i % kBlocks.
// at_pair(u, v): in between, the value of two lanes of block u + i % 2.
template <typename Op, typename AtPair>
FD_DEVICE float fold_batch(const float (&m)[4], Op op, AtPair at_pair) {
  const bool odd = lane_id() & 1, upper = lane_id() & 2;
  const float a = op(odd ? m[1] : m[0], shuffle_xor(odd ? m[0] : m[1], 1));
  const float c = op(odd ? m[3] : m[2], shuffle_xor(odd ? m[2] : m[3], 1));
  at_pair(0, a);
  at_pair(2, c);
  return op(upper ? c : a, shuffle_xor(upper ? a : c, 2));
}
template <typename Op, typename AtPair>
FD_DEVICE float fold_batch(const float (&m)[2], Op op, AtPair at_pair) {
  const bool odd = lane_id() & 1;
  const float a = op(odd ? m[1] : m[0], shuffle_xor(odd ? m[0] : m[1], 1));
  at_pair(0, a);
  return op(a, shuffle_xor(a, 2));
}
template <int kBlocks, typename Op>
FD_DEVICE float fold_batch(const float (&m)[kBlocks], Op op) {
  return fold_batch(m, op, [](int, float) {});
}
// From there to values of blocks.
template <typename Op>
FD_DEVICE float fold_groups(float v, Op op) {
#pragma unroll
  for (int d = 4; d < kLanes; d *= 2) v = op(v, shuffle_xor(v, d));
  return v;
}

// Stores the keys of the groups of blocks b to end - 1 of a batch that begins at b; m: maxima of
// the lanes. Gives the maximum of the lane's block.
template <int kBlocks>
FD_DEVICE float store_groups(const Groups& groups, const float (&m)[kBlocks], int b, int end) {
  const int lane = lane_id(), block = b + lane % kBlocks;
  float v = fold_batch(m, larger_or_nan, [&](int u, float pair) {
    const int of = b + u + lane % 2;
    if (groups.log_lanes == 1 && of < end)
      group_keys().store(groups.of_lane(of, lane), group_key(pair));
  });
  float group = v;
#pragma unroll
  for (int d = 4; d < kLanes; d *= 2) {
    v = larger_or_nan(v, shuffle_xor(v, d));
    if (d >> groups.log_lanes == 0) group = v;
  }
  const bool first = (lane & ((1 << groups.log_lanes) - 1)) < kBlocks;
  if (groups.log_lanes > 1 && first && block < end)
    group_keys().store(groups.of_lane(block, lane), group_key(group));
  return v;
}

FD_DEVICE Shared<uint32_t> threshold_bins() {
  FD_SHARED(uint32_t, bins, kThreads);
  return bins;
}

// The largest key with at least `wanted` at or above it, of n items' amounts; 0: there is none. A
// radix search in 256 bins over the keys in [lowest, top]; the amounts add up to less than 2^32.
template <typename KeyOf, typename AmountOf>
FD_DEVICE uint32_t key_threshold(int n, uint32_t lowest, uint32_t top, uint32_t wanted,
                                 KeyOf key_of, AmountOf amount_of) {
  if (top < lowest) return 0;
  const int t = thread_id();
#pragma unroll 1
  for (int round = 0; round < 4; ++round) {  // each narrows the range by 8 bits
    const int width = 32 - __clz(int(top - lowest)), shift = width > 8 ? width - 8 : 0;
    __syncthreads();
    threshold_bins().store(t, 0);
    if (t == 0) board().put(kWordBin, kThreads);
    __syncthreads();
#pragma unroll 1
    for (int i = thread_id(); i < n; i += kThreads) {
      const uint32_t key = key_of(i);
      if (key >= lowest && key <= top)
        threshold_bins().add(int((key - lowest) >> shift), amount_of(key));
    }
    __syncthreads();
    const uint32_t mine = threshold_bins().load(t), from = block_suffix(mine);
    if (from >= wanted && from - mine < wanted)  // one thread at most
      board().put(kWordBin, uint64_t(from - mine) << 32 | uint32_t(t));
    __syncthreads();
    const uint64_t found = board().word(kWordBin);
    if (found == kThreads) return 0;
    lowest += uint32_t(found) << shift;
    if (shift == 0) return lowest;
    wanted -= uint32_t(found >> 32);
    const uint32_t end = lowest + ((1u << shift) - 1);
    top = end < top ? end : top;
  }
  return lowest;
}

}  // namespace fusedraw::cuda
