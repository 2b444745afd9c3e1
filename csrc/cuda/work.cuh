// SPDX-License-Identifier: Apache-2.0
// A thread block at work on one row: the row, its block maxima, its rule, and shared memory.
#pragma once

#include "scan.cuh"
#include "weights.cuh"

namespace fusedraw::cuda {

template <typename T>
struct Work {
  Row<T> row;
  Maxima<T> maxima;
  WeightRule rule;
  List list;
};

FD_DEVICE int64_t posted_row_number() { return int64_t(board().word(kWordRow)); }

// Every pass over a row takes the work from the board, so that no registers hold it in between.
FD_DEVICE List posted_list() {
  const uint64_t list = board().word(kWordList), state = board().word(kWordListState);
  return {uint32_t(list), float_of(uint32_t(list >> 32)), state != 0};
}
FD_DEVICE WeightRule posted_rule() {
  const uint64_t rule = board().word(kWordRule);
  return {WeightKind(board().word(kWordRuleKind)), float_of(uint32_t(rule)),
          float_of(uint32_t(rule >> 32))};
}
template <typename T>
FD_DEVICE Work<T> take_work() {
  const Row<T> r = posted_row<T>();
  return {r, {r.blocks <= kSharedBlocks, 0}, posted_rule(), posted_list()};
}
// Both hold barriers.
FD_DEVICE void leave_list(const List& l) {
  __syncthreads();
  if (thread_id() == 0) {
    board().put(kWordList, uint64_t(bits_of(l.lo)) << 32 | l.n);
    board().put(kWordListState, uint64_t(l.held));
  }
  __syncthreads();
}
FD_DEVICE void leave_rule(const WeightRule& r) {
  __syncthreads();
  if (thread_id() == 0) {
    board().put(kWordRule, uint64_t(bits_of(r.c)) << 32 | bits_of(r.m));
    board().put(kWordRuleKind, uint64_t(r.kind));
  }
  __syncthreads();
}

FD_DEVICE Cut keep_all(float smallest_valid) { return {smallest_valid, kAllTies}; }

// A cut of which only the value is held: the last id, seldom looked at, lies on the board.
struct PostedCut {
  float lo;
  int word;
};
FD_DEVICE int64_t last_of(const Cut& cut) { return cut.last; }
FD_DEVICE int64_t last_of(const PostedCut& cut) { return int64_t(board().word(cut.word)); }

// Whether a cut can keep anything of block b.
template <typename T, typename AnyCut>
FD_DEVICE bool block_alive(const Work<T>& w, const AnyCut& cut, int b) {
  const float m = w.maxima.load(b);
  return m > cut.lo || (m == cut.lo && last_of(cut) >= int64_t(b) * kBlock);
}

// A cut as one block sees it: ties are kept up to a place. No cut keeps what lies below the
// smallest valid value, so padding is never kept.
struct BlockCut {
  float lo;
  int last;
  __device__ bool keeps(float x, int place) const { return x > lo || (x == lo && place <= last); }
};
template <typename AnyCut>
FD_DEVICE BlockCut cut_of_block(const AnyCut& cut, int b) {
  const int64_t last = last_of(cut) - int64_t(b) * kBlock;
  return {cut.lo, last < 0 ? -1 : last < kBlock ? int(last) : kBlock};
}

// Calls fn(values, b) for every block that `wanted` asks for, a warp each.
template <typename T, typename Wanted, typename Fn>
FD_DEVICE void for_blocks(const Work<T>& w, Wanted wanted, Fn fn) {
#pragma unroll 1
  for (int b = warp_id(); b < w.row.blocks; b += kWarps)
    if (wanted(b)) fn(fetch_values(w.row, b, lane_id()), b);
}

// The same, token by token, for what a cut keeps: fn(x, place, b); end(), by the whole warp, behind
// each block.
template <typename T, typename AnyCut, typename Fn, typename End>
FD_DEVICE void for_kept(const Work<T>& w, const AnyCut& cut, Fn fn, End end) {
  for_blocks(
      w, [&](int b) { return block_alive(w, cut, b); },
      [&](const Values& v, int b) {
        const BlockCut block = cut_of_block(cut, b);
        const bool runs = in_runs(w.row, b);
        each_in_turn(v, [&](float x, int j) {
          const int place = place_of<T>(runs, lane_id(), j);
          if (block.keeps(x, place)) fn(x, place, b);
        });
        end();
      });
}
template <typename T, typename AnyCut, typename Fn>
FD_DEVICE void for_kept(const Work<T>& w, const AnyCut& cut, Fn fn) {
  for_kept(w, cut, fn, [] {});
}

// The lowest id with x = m. Every thread gets it.
template <typename T>
FD_DEVICE_CALL int64_t first_token() {
  const Work<T> w = take_work<T>();
  uint32_t block = ~0u;
#pragma unroll 1
  for (int b = thread_id(); b < w.row.blocks && block == ~0u; b += kThreads)
    if (w.maxima.load(b) == w.rule.m) block = uint32_t(b);
  const int64_t first = int64_t(~block_max(~block)) * kBlock;
  const int place = thread_id();
  const uint32_t here = value_at(w.row, first + place) == w.rule.m ? uint32_t(~place) : 0;
  const uint32_t found = block_max(here);
  return found == 0 ? first : first + ~found;  // none: only where the row changes meanwhile
}

// Number of tokens, weightless ones included, that a cut keeps.
template <typename T>
FD_DEVICE_CALL int64_t count_kept(Cut cut) {
  const Work<T> w = take_work<T>();
  uint64_t n = 0;
  for_kept(w, cut, [&](float, int, int) { ++n; });
  return int64_t(block_sum(n));
}

}  // namespace fusedraw::cuda
