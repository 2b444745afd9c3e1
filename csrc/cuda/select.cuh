// SPDX-License-Identifier: Apache-2.0
// Where a measure of keys, taken from the largest key down, reaches a target: a radix search over
// 256 bins, one a thread. Serves lists in shared memory and whole rows, counts and masses alike.
//
// Visits the items once for every 8 bits in which keys differ. Sums are integers, so the order of
// the atomics does not matter.
#pragma once

#include "reduce.cuh"

namespace fusedraw::cuda {

struct Bins {
  Shared<uint64_t> low, high;  // [kThreads] each: an amount is low + high * 2^64
};
FD_DEVICE Bins bins() {
  FD_SHARED(uint64_t, bins_low, kThreads);
  FD_SHARED(uint64_t, bins_high, kThreads);
  return {bins_low, bins_high};
}

// Adds amounts to the bins of a range of keys. In words of 32 bits, each carrying into the next:
// shared memory has no atomics of 64 but loops, in which all who meet at a bin wait for each other.
// How often a word wraps depends on its sum alone.
struct BinAdder {
  uint64_t first, last;
  int shift;
  __device__ void operator()(uint64_t key, uint64_t amount) const {
    if (key < first || key > last) return;
    const int bin = int((key - first) >> shift);
    const Shared<uint32_t> words = bins().low.words();
    const uint32_t low = uint32_t(amount);
    const uint64_t carried = (amount >> 32) + (words.add(2 * bin, low) + low < low ? 1 : 0);
    const uint32_t high = uint32_t(carried);
    if (high != 0 && words.add(2 * bin + 1, high) + high < high)
      bins().high.words().add(2 * bin, 1);
  }
};

FD_DEVICE int bits_needed(uint64_t n) { return n == 0 ? 0 : 64 - __clzll(int64_t(n)); }

// On the board afterwards: kWordAbove, the measure strictly above the key found; kWordAt, its own.
struct Found {
  uint64_t key;  // the largest one with at least the target at or above it
  bool reached;
};

// visit(add) calls add(key, amount) for every item, by all threads of the block together and
// without barriers. target(total) is asked once, with the sum over [first, last].
template <typename Target, typename Visit>
FD_DEVICE Found select_key(uint64_t first, uint64_t last, Target target, Visit visit) {
  const int t = thread_id();
#pragma unroll 1
  for (int round = 0; round < 8; ++round) {  // each narrows the range by 8 bits
    const int width = bits_needed(last - first);
    const int shift = width > 8 ? width - 8 : 0;
    __syncthreads();
    bins().low.store(t, 0);
    bins().high.store(t, 0);
    __syncthreads();
    visit(BinAdder{first, last, shift});
    __syncthreads();
    {
      // In limbs of 22 bits and more, which 256 bins do not overflow.
      const uint64_t all = bins().low.load(t), over = bins().high.load(t);
      const uint64_t low = all & 0x3fffffu, high = over << 42 | all >> 22;
      const uint64_t from_low = block_suffix(low), from_high = block_suffix(high);
      const u128 from = (u128(from_high) << 22) + from_low;
      const u128 above = from - ((u128(high) << 22) + low);
      if (t == 0) {
        if (round == 0) {
          board().put_wide(kWordWanted, target(from));
          board().put_wide(kWordAbove, 0);
        }
        board().put(kWordBin, kThreads);
      }
      __syncthreads();
      const u128 wanted = board().wide(kWordWanted);
      __syncthreads();
      if (wanted > above && from >= wanted) {  // one thread at most
        board().put(kWordBin, uint64_t(t));
        board().put_wide(kWordWanted, wanted - above);
        board().put_wide(kWordAbove, board().wide(kWordAbove) + above);
        board().put_wide(kWordAt, from - above);
      }
      __syncthreads();
    }
    const uint64_t bin = board().word(kWordBin);
    if (bin == kThreads) return {0, false};  // less than the target in all
    first += bin << shift;
    if (shift == 0) break;
    const uint64_t end = first + ((uint64_t{1} << shift) - 1);
    last = end < last ? end : last;
  }
  return {first, true};
}

}  // namespace fusedraw::cuda
