// SPDX-License-Identifier: Apache-2.0
// The first pass over a row: by the thread block that goes on with it, or by several beforehand,
// whose findings it then collects.
#pragma once

#include "kept.cuh"
#include "space.cuh"

namespace fusedraw::cuda {

// A row of a call as the kernels of every op see it.
struct RowTask {
  RowsView x;
  MaskView mask;
  ParamsView params;
  Options options;
  bool lists;  // gather candidates for the filters
};

FD_DEVICE uint32_t want_of(const RowTask& task, int64_t row) {
  if (!task.lists) return 0;
  post_plan(task.params, task.options, row, task.x.cols);
  return wanted_list(task.x.cols);
}
// How many candidates of each part can be passed on.
FD_DEVICE bool can_pass_on(const Space& space, uint32_t want) {
  return want > 0 && want + want / 4 <= kPassedOn && space.per_split <= kMaxPassedBlocks;
}

// Holds a barrier.
template <typename T>
FD_DEVICE List new_list(const Row<T>& r, uint32_t want) {
  if (threadIdx.x == 0) {
    list_count().store(0, 0);
    board().put(kWordHi, bits_of(inf32()));
  }
  __syncthreads();
  return {0, r.smallest_valid(), want > 0};
}

// One part of a row: maxima to the workspace, findings to its record.
template <typename T>
__global__ void __launch_bounds__(kThreads, kResident) scan_part_kernel(RowTask task, Space space) {
  const int64_t row = int(blockIdx.x) / space.splits;
  const int split = int(blockIdx.x) % space.splits;
  post_row<T>(task.x, task.mask, row, task.options.probs, space.maxima_of<T>(), space.spreads_of());
  const Row<T> r = posted_row<T>();
  uint32_t want = want_of(task, row);
  if (!can_pass_on(space, want)) want = 0;
  List list = new_list(r, want);
  const int begin = split * space.per_split, end = begin + space.per_split;
  const int last = end < r.blocks ? end : r.blocks;
  const Maxima<T> maxima{space.per_split <= kSharedBlocks, begin};
  const PartFacts facts = scan_blocks(r, begin, last, maxima, list, want);
  if (maxima.is_near) {
#pragma unroll 1
    for (int b = begin + int(threadIdx.x); b < last; b += kThreads)
      Maxima<T>{false, 0}.store(b, near_maxima().load(b - begin), near_spreads().load(b - begin));
  }
  if (list.held && list_count().load(0) > kPassedOn) raise(list, want, kPassedOn, false);
  const uint32_t n = list.held ? list_count().load(0) : 0;
  if (threadIdx.x == 0) {
    uint32_t flags = 0;
    if (facts.nan) flags |= kPartNan;
    if (facts.negative) flags |= kPartNegative;
    if (list.held) flags |= kPartHasList;
    space.records_of(row).store(split, PartRecord{facts.max_key, flags, order_key(list.lo), n});
  }
  if (threadIdx.x < n)
    space.passed_of(row, split)
        .store(threadIdx.x,
               entry_id(list_entries().load(int(threadIdx.x))) - int64_t(begin) * kBlock);
}

// What the parts found. Their candidates become the list: it holds all of the row's tokens down to
// the highest of their thresholds, and that part alone has as many as are wanted.
template <typename T>
FD_DEVICE PartFacts collect_parts(const Row<T>& r, List& list, const Space& space, int64_t row,
                                  uint32_t want) {
  const int t = int(threadIdx.x);
  PartRecord part{0, kPartHasList, 0, 0};
  if (t < space.splits) part = space.records_of(row).load(t);
  PartFacts facts;
  facts.max_key = block_max(part.max_key);
  facts.nan = __syncthreads_or(part.flags & kPartNan) != 0;
  facts.negative = __syncthreads_or(part.flags & kPartNegative) != 0;
  const bool lists = __syncthreads_and(part.flags & kPartHasList) != 0 && can_pass_on(space, want);
  const uint32_t lo = block_max(part.lo_key);
  if (t < space.splits) list_bins().store(t, part.count);
  if (r.blocks <= kSharedBlocks) {
#pragma unroll 1
    for (int b = int(threadIdx.x); b < r.blocks; b += kThreads) {
      near_maxima().store(b, to_float(Maxima<T>::far().load(b)));
      near_spreads().store(b, Maxima<T>::far_spreads().load(b));
    }
  }
  list = new_list(r, lists ? want : 0);
  if (lists) {
    list.lo = from_order_key(lo);
#pragma unroll 1
    for (int s = 0; s < space.splits; ++s) {
      const uint32_t n = list_bins().load(s);
      if (threadIdx.x < n) {
        const int64_t id =
            int64_t(s) * space.per_split * kBlock + space.passed_of(row, s).load(threadIdx.x);
        const float x = value_at(r, id);
        if (x >= list.lo) list_entries().store(int(list_count().add(0, 1)), entry_of(x, id));
      }
    }
  }
  return facts;
}

// The first pass, whoever makes it. Leaves maxima and list for take_work().
template <typename T>
FD_DEVICE RowFacts read_row(const Space& space, int64_t row, uint32_t want) {
  const Row<T> r = posted_row<T>();
  List list = new_list(r, want);
  bool tried = true;
  PartFacts facts;
  if (space.splits > 1) {
    facts = collect_parts(r, list, space, row, want);
    tried = can_pass_on(space, want);
  } else {
    facts = scan_blocks(r, 0, r.blocks, Maxima<T>{r.blocks <= kSharedBlocks, 0}, list, want);
  }
  leave_list(list, tried);
  return judge(facts, r.probs);
}

}  // namespace fusedraw::cuda
