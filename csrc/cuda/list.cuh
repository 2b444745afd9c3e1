// SPDX-License-Identifier: Apache-2.0
// The largest tokens of a row, gathered in shared memory while the row is read.
//
// A list holds every valid token at or above `lo`. When room is short, lo is raised to a value with
// at least `want` of the gathered tokens at or above it, so the first `want` of the order are never
// lost. Where ties leave no such value the list is given up, and the row is read again instead.
#pragma once

#include "row.cuh"
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
// How many there are, while the list is being gathered.
FD_DEVICE Shared<uint32_t> list_count() {
  FD_SHARED(uint32_t, count, 1);
  return count;
}

// The same in every thread.
struct List {
  uint32_t n = 0;  // when it is done
  float lo = 0.0f;
  bool held = false;  // the list is what it says; else it was given up or never begun
};

// Only what lies below this is gathered: +inf, or where an earlier list ended.
FD_DEVICE float list_end() { return float_of(uint32_t(board().word(kWordHi))); }

FD_DEVICE Shared<uint32_t> list_bins() {
  FD_SHARED(uint32_t, bins, kThreads);
  return bins;
}

// The lowest key with at least `want` of the first n entries at or above it, and not many more; 0
// if there are fewer. A radix search like select_key, in 32 bits: it runs while a tile is held.
FD_DEVICE uint32_t list_threshold(uint32_t n, uint32_t lowest, uint32_t want) {
  uint32_t top = 0;
#pragma unroll 1
  for (uint32_t i = threadIdx.x; i < n; i += kThreads) {
    const uint32_t key = entry_key(list_entries().load(int(i)));
    top = top > key ? top : key;
  }
  top = block_max(top);
  if (top < lowest) return 0;
  const int t = int(threadIdx.x);
  uint32_t left = want;
#pragma unroll 1
  for (int round = 0; round < 5; ++round) {
    const int width = 32 - __clz(int(top - lowest)), shift = width > 8 ? width - 8 : 0;
    __syncthreads();
    list_bins().store(t, 0);
    if (t == 0) board().put(kWordBin, kThreads);
    __syncthreads();
#pragma unroll 1
    for (uint32_t i = threadIdx.x; i < n; i += kThreads) {
      const uint32_t key = entry_key(list_entries().load(int(i)));
      if (key >= lowest && key <= top) list_bins().add(int((key - lowest) >> shift), 1);
    }
    __syncthreads();
    const uint32_t mine = list_bins().load(t), from = block_suffix(mine);
    if (from >= left && from - mine < left)  // one thread at most
      board().put(kWordBin,
                  uint64_t(from - left) << 32 | (left - (from - mine)) << 9 | uint32_t(t));
    __syncthreads();
    const uint64_t found = board().word(kWordBin);
    if (found == kThreads) return 0;
    lowest += (uint32_t(found) & 0x1ffu) << shift;
    if (shift == 0 || uint32_t(found >> 32) <= want / 4) return lowest;
    left = uint32_t(found) >> 9;
    const uint32_t end = lowest + ((1u << shift) - 1);
    top = end < top ? end : top;
  }
  return lowest;
}

// Drops what lies below lo. An entry moves towards the front only, past entries that were read.
FD_DEVICE void drop_below(float lo) {
  const uint32_t least = order_key(lo), n = list_count().load(0);
  __syncthreads();
  if (threadIdx.x == 0) list_count().store(0, 0);
#pragma unroll 1
  for (uint32_t first = 0; first < n; first += kThreads) {
    const uint32_t i = first + threadIdx.x;
    const uint64_t e = i < n ? list_entries().load(int(i)) : ~uint64_t{0};
    __syncthreads();
    if (i < n && entry_key(e) >= least) list_entries().store(int(list_count().add(0, 1)), e);
  }
  __syncthreads();
}

// Raises lo to where at least `want` tokens are left, and gives the list up where more than `room`
// are. opens: the entries are not tokens yet but kGroups maxima a thread (store_groups), which at
// least as many tokens reach.
FD_DEVICE void raise(List& l, uint32_t want, uint32_t room, bool opens) {
  __syncthreads();
  const uint32_t n = opens ? uint32_t(kGroups * kThreads) : list_count().load(0);
  const uint32_t key = list_threshold(n, order_key(l.lo), want);
  if (key > order_key(l.lo)) {
    l.lo = from_order_key(key);
    if (!opens) drop_below(l.lo);
  }
  __syncthreads();
  if (list_count().load(0) > room) l.held = false;
}

// A lane's tokens of block b that lie at or above lo. Past the capacity they are counted only.
template <typename T>
FD_DEVICE void gather_share(const List& l, const Row<T>& r, const Share<T>& s, uint32_t allowed,
                            int b) {
  const Values v = widened(r, as_stored(s), allowed);
  const bool runs = in_runs(r, b);
  const int lane = in_register(lane_id());
  const float hi = list_end();
  uint32_t hits = 0;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j)
    if (v.x[j] >= l.lo && v.x[j] < hi) hits |= 1u << j;
  if (hits == 0) return;
  uint32_t at = list_count().add(0, uint32_t(__popc(hits)));
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) {
    if (!(hits >> j & 1u)) continue;
    if (at < kListCapacity)
      list_entries().store(int(at),
                           entry_of(v.x[j], int64_t(b) * kBlock + place_of<T>(runs, lane, j)));
    ++at;
  }
}

// To the entries: the maxima of groups of a lane's tokens of block u of its batch.
template <typename T>
FD_DEVICE void store_groups(const Values& v, int u) {
  constexpr int kEach = kGroups / kBatch<T>, kTokens = kPerLane / kEach;
  const float hi = list_end();
#pragma unroll
  for (int g = 0; g < kEach; ++g) {
    float m = -inf32();  // which stays where a NaN stands
#pragma unroll
    for (int j = 0; j < kTokens; ++j)
      if (v.x[g * kTokens + j] < hi) m = larger(m, v.x[g * kTokens + j]);
    list_entries().store((u * kEach + g) * kThreads + int(threadIdx.x), entry_of(m, 0));
  }
}

// Adds a tile: every warp brings its batch, the blocks from b on, whose maxima are known. Holds
// barriers. In one go; should that be too much, once more in steps of which each is sure to fit.
// opens_with > 0: the entries hold group maxima of the tile (store_groups); the first threshold is
// the largest but that many, since at least as many tokens reach it.
template <typename T>
FD_DEVICE void gather_tile(List& l, const Row<T>& r, const Maxima<T>& maxima, const Batch<T>& batch,
                           int b, int end, uint32_t want, uint32_t opens_with) {
  constexpr int kStepWarps = kListStep / kBlock, kPerBlock = kWarps / kStepWarps;
  constexpr int kSteps = kBatch<T> * kPerBlock, kAll = -1;
#pragma unroll 1
  for (int step = kAll; step < kSteps && l.held; ++step) {
    const bool opens = step == kAll && opens_with > 0;
    if (opens || (step != kAll && list_count().load(0) > kListCapacity - kListStep))
      raise(l, opens ? opens_with : want, kListCapacity - kListStep, opens);
    __syncthreads();
    const uint32_t before = list_count().load(0);
    __syncthreads();
#pragma unroll
    for (int u = 0; u < kBatch<T>; ++u) {
      const bool now =
          step == kAll || (u == step / kPerBlock && warp_id() / kStepWarps == step % kPerBlock);
      if (now && b + u < end && maxima.load(b + u) >= l.lo)
        gather_share(l, r, batch.share[u], batch.bits(u), b + u);
    }
    __syncthreads();
    const bool fits = list_count().load(0) <= kListCapacity;
    __syncthreads();
    if (!fits && threadIdx.x == 0) list_count().store(0, before);
    __syncthreads();
    if (fits && step == kAll) return;
  }
}

}  // namespace fusedraw::cuda
