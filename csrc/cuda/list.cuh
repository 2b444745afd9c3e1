// SPDX-License-Identifier: Apache-2.0
// The largest tokens of a row in shared memory: every valid one at or above a value, gathered from
// the groups that reach it. Where there are more than fit, there is no list, and the row is read
// again instead.
#pragma once

#include "groups.cuh"
#include "select.cuh"

namespace fusedraw::cuda {

// A token as one integer that sorts by the order of the law, first token first.
FD_DEVICE uint64_t entry_of(float x, int64_t id) {
  return uint64_t(~order_key(x)) << 32 | uint32_t(id);
}
FD_DEVICE uint32_t entry_key(uint64_t e) { return ~uint32_t(e >> 32); }
FD_DEVICE float entry_value(uint64_t e) { return from_order_key(entry_key(e)); }
FD_DEVICE int64_t entry_id(uint64_t e) { return int64_t(uint32_t(e)); }

FD_DEVICE Shared<uint64_t> list_entries() {
  FD_SHARED(uint64_t, entries, kListCapacity);
  return entries;
}
// The same in every thread.
struct List {
  uint32_t n = 0;
  float lo = 0.0f;
  bool held = false;  // there is a list: of all valid tokens at or above lo
};

// A warp's part of block b. Past the capacity tokens are counted only.
template <typename T>
FD_DEVICE void gather_block(const Row<T>& r, const Groups& groups, float lo, int b) {
  const int lane = lane_id();
  if (groups.any() && group_keys().load(groups.of_lane(b, lane)) < group_key(lo)) return;
  const bool runs = in_runs(r, b);
  each_in_turn(fetch_values(r, b, lane), [&](float x, int j) {
    if (!(x >= lo)) return;
    const uint32_t at = counter().add(0, 1);
    if (at < kListCapacity)
      list_entries().store(int(at),
                           entry_of(x, int64_t(b) * kBlock + place_of<T>(runs, lane_id(), j)));
  });
}

// The list of what reaches lo in blocks [begin, end), whose maxima are known. Holds barriers.
template <typename T>
FD_DEVICE List gather(const Row<T>& r, const Maxima<T>& maxima, const Groups& groups, float lo,
                      int begin, int end) {
  __syncthreads();
  if (thread_id() == 0) counter().store(0, 0);
  __syncthreads();
#pragma unroll 1
  for (int first = begin + warp_id() * kLanes; first < end; first += kThreads) {
    const int b = first + lane_id();
    uint32_t reach = __ballot_sync(kFullWarp, b < end && maxima.load(b) >= lo);
#pragma unroll 1
    for (; reach != 0; reach &= reach - 1) {
      gather_block(r, groups, lo, first + __ffs(int(reach)) - 1);
      // More than fit are of no use: this block was the last.
      const uint64_t n = lane_id() == 0 ? counter().add(0, 0) : 0;
      if (from_first_lane(n) > uint64_t(kListCapacity)) reach = 1;
    }
  }
  __syncthreads();
  const uint32_t n = counter().load(0);
  return {n, lo, n <= kListCapacity};
}

// The value that at least `wanted` tokens of n groups reach, at or above least; none: least.
FD_DEVICE float value_of_count(int n, float least, uint32_t top_key, uint32_t wanted) {
  const uint32_t key = key_threshold(
      n, group_key(least), top_key, wanted, [](int i) { return uint32_t(group_keys().load(i)); },
      [](uint32_t) { return 1u; });
  return key == 0 ? least : larger(value_of_group_key(key), least);
}

}  // namespace fusedraw::cuda
