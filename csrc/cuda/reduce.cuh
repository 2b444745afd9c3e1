// SPDX-License-Identifier: Apache-2.0
// Reductions over a warp and over a thread block. All are of integers (floats as order-preserving
// integers), so their order does not matter. Those over a block hold barriers: every thread calls.
#pragma once

#include "tuning.cuh"

namespace fusedraw::cuda {

// Opaque: what is computed from it is computed where it is used. Hoisted out of the loops around
// it, as a compiler would, it costs registers in every loop within.
FD_DEVICE int thread_id() { return int(opaque(threadIdx.x)); }
FD_DEVICE int lane_id() { return thread_id() % kLanes; }
FD_DEVICE int warp_id() { return thread_id() / kLanes; }

FD_DEVICE uint32_t shuffle_xor(uint32_t v, int mask) { return __shfl_xor_sync(kFullWarp, v, mask); }
FD_DEVICE uint64_t shuffle_xor(uint64_t v, int mask) {
  return uint64_t(shuffle_xor(uint32_t(v >> 32), mask)) << 32 | shuffle_xor(uint32_t(v), mask);
}
FD_DEVICE float shuffle_xor(float v, int mask) { return float_of(shuffle_xor(bits_of(v), mask)); }

FD_DEVICE uint32_t shuffle_down(uint32_t v, int d) { return __shfl_down_sync(kFullWarp, v, d); }
FD_DEVICE uint64_t shuffle_down(uint64_t v, int d) {
  return uint64_t(__shfl_down_sync(kFullWarp, uint32_t(v >> 32), d)) << 32 |
         __shfl_down_sync(kFullWarp, uint32_t(v), d);
}
FD_DEVICE uint64_t shuffle_from(uint64_t v, int lane) {
  return uint64_t(__shfl_sync(kFullWarp, uint32_t(v >> 32), lane)) << 32 |
         __shfl_sync(kFullWarp, uint32_t(v), lane);
}
FD_DEVICE uint64_t shuffle_up(uint64_t v, int d) {
  return uint64_t(__shfl_up_sync(kFullWarp, uint32_t(v >> 32), unsigned(d))) << 32 |
         __shfl_up_sync(kFullWarp, uint32_t(v), unsigned(d));
}
FD_DEVICE float from_lane(float v, int lane) {
  return float_of(__shfl_sync(kFullWarp, bits_of(v), lane));
}
FD_DEVICE uint64_t from_first_lane(uint64_t v) {
  return uint64_t(__shfl_sync(kFullWarp, uint32_t(v >> 32), 0)) << 32 |
         __shfl_sync(kFullWarp, uint32_t(v), 0);
}

template <typename T>
FD_DEVICE T warp_sum(T v) {
#pragma unroll
  for (int d = kLanes / 2; d > 0; d /= 2) v += shuffle_xor(v, d);
  return v;
}

// What a thread block shares: slots of reductions, and words that any thread may need later but
// none should hold in registers until then.
struct Board {
  Shared<uint64_t> slots;  // [kBoardSize]
  __device__ Shared<uint64_t> words() const { return slots.at(kSlots); }
  __device__ uint64_t word(int i) const { return slots.load(kSlots + i); }
  __device__ u128 wide(int i) const { return u128(word(i + 1)) << 64 | word(i); }
  // By one thread; a barrier must come before others read.
  __device__ void put(int i, uint64_t v) const { slots.store(kSlots + i, v); }
  __device__ void put_wide(int i, u128 v) const {
    put(i, uint64_t(v));
    put(i + 1, uint64_t(v >> 64));
  }
  static constexpr int kSlots = 2 * kWarps;
};
enum BoardWord {
  // The race: best value so far, an id.
  kWordBest,
  kWordPick,
  // select_key: what is wanted below the keys ruled out, then what it found.
  kWordWanted,
  kWordAbove = kWordWanted + 2,
  kWordAt = kWordAbove + 2,
  kWordMost = kWordAt + 2,
  kWordBefore = kWordMost + 2,
  kWordBin = kWordBefore + 2,
  // The row's parameters, as a plan.
  kWordTopK,
  kWordPreWeight,
  kWordPostWeight,
  kWordTopP,  // and mix_eps
  kWordFlags,
  kWordSeed,
  kWordOffset,
  // The row, its rule and its list.
  kWordRow,
  kWordRowData,
  kWordCols,
  kWordRowKind,
  kWordMask,
  kWordFarMaxima,
  kWordFarSpreads,
  kWordScale,
  kWordGroups,
  kWordRule,
  kWordRuleKind,
  kWordList,
  kWordListState,
  // Of edited rows.
  kWordEdits,
  kWordEditValues,
  kWordCeiling,
  kWordCeilingFirst,
  // What the filters keep, and what was drawn.
  kWordCut,
  kWordCutLast,
  kWordFieldLast,
  kWordStage,
  kWordStep,
  kWordPass,
  kWordMore,
  kWordBaseLast,
  kWordDrawn,
  kWordExplored,
  kWordSupport,
  kWordListedMax,
  kWordListedCount,
  kWordSum,
  kWordSumKept = kWordSum + 2,
  kWordSumAtOne = kWordSumKept + 2,
  kWordSumG = kWordSumAtOne + 2,
  kWordSumH = kWordSumG + 2,
  kWordSumEnd = kWordSumH + 1,
  kBoardWords
};
constexpr int kBoardSize = Board::kSlots + kBoardWords;

FD_DEVICE Board board() {
  FD_SHARED(uint64_t, board_slots, kBoardSize);
  return {board_slots};
}

// Counts what threads gather, in 32 bits: shared memory has no atomics of 64 but loops.
FD_DEVICE Shared<uint32_t> counter() {
  FD_SHARED(uint32_t, count, 1);
  return count;
}

FD_DEVICE uint32_t block_max(uint32_t v) {
  v = warp_max(v);
  __syncthreads();
  if (lane_id() == 0) board().slots.store(warp_id(), v);
  __syncthreads();
  return warp_max(uint32_t(board().slots.load(lane_id() % kWarps)));
}

FD_DEVICE uint64_t block_sum(uint64_t v) {
  v = warp_sum(v);
  __syncthreads();
  if (lane_id() == 0) board().slots.store(warp_id(), v);
  __syncthreads();
  v = board().slots.load(lane_id() % kWarps);
#pragma unroll
  for (int d = kWarps / 2; d > 0; d /= 2) v += shuffle_xor(v, d);
  return v;
}

// Sum over this thread and all later ones.
template <typename T>
FD_DEVICE T block_suffix(T v) {
#pragma unroll
  for (int d = 1; d < kLanes; d *= 2) {
    const T o = shuffle_down(v, d);
    if (lane_id() + d < kLanes) v += o;
  }
  __syncthreads();
  if (lane_id() == 0) board().slots.store(warp_id(), v);
  __syncthreads();
  T later = lane_id() % kWarps > warp_id() ? T(board().slots.load(lane_id() % kWarps)) : T{0};
#pragma unroll
  for (int d = kWarps / 2; d > 0; d /= 2) later += shuffle_xor(later, d);
  return v + later;
}

// The best of a race: least value, then least id. Values are non-negative doubles, so their bits
// order as integers. The id is of a block, or of a token within one or within a list.
struct Arrival {
  uint64_t value;  // bits
  uint32_t id;
  __device__ bool any() const { return id != ~0u; }
  __device__ bool before(const Arrival& o) const {
    return value < o.value || (value == o.value && id < o.id);
  }
};
FD_DEVICE Arrival no_arrival() { return {~uint64_t{0}, ~0u}; }

// In three parts: of the lanes that are least so far, the least next part.
FD_DEVICE Arrival warp_first(const Arrival& a) {
  const uint32_t high = warp_min(uint32_t(a.value >> 32));
  bool least = uint32_t(a.value >> 32) == high;
  const uint32_t low = warp_min(least ? uint32_t(a.value) : ~0u);
  least = least && uint32_t(a.value) == low;
  const uint32_t id = warp_min(least ? a.id : ~0u);
  return {uint64_t(high) << 32 | low, id};
}

FD_DEVICE Arrival block_first(Arrival a) {
  a = warp_first(a);
  __syncthreads();
  if (lane_id() == 0) {
    board().slots.store(2 * warp_id(), a.value);
    board().slots.store(2 * warp_id() + 1, a.id);
  }
  __syncthreads();
  const int of = 2 * (lane_id() % kWarps);
  return warp_first({board().slots.load(of), uint32_t(board().slots.load(of + 1))});
}

// Gives every thread what one of them knows.
FD_DEVICE uint64_t block_broadcast(int from, uint64_t v) {
  __syncthreads();
  if (thread_id() == from) board().slots.store(0, v);
  __syncthreads();
  return board().slots.load(0);
}

}  // namespace fusedraw::cuda
