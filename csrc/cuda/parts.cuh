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
  EditSpace edits = {};
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

// Of a part's list, what reaches the returned value goes to the workspace, as offsets from the
// part's first token: at least as many as are wanted, where the part has them. The list is given up
// where they are too many. Holds barriers.
FD_DEVICE float pass_on(List& list, const Global<uint16_t>& to, int64_t first_id, uint32_t top_key,
                        uint32_t want) {
  const auto key_of = [](int i) { return entry_key(list_entries().load(i)); };
  uint32_t least = order_key(list.lo);
  if (list.held && list.n > uint32_t(kPassedOn)) {
    const uint32_t key =
        key_threshold(int(list.n), least, top_key, want, key_of, [](uint32_t) { return 1u; });
    least = key > least ? key : least;
  }
  __syncthreads();
  if (thread_id() == 0) counter().store(0, 0);
  __syncthreads();
#pragma unroll 1
  for (uint32_t i = uint32_t(thread_id()); i < list.n && list.held; i += kThreads) {
    if (key_of(int(i)) < least) continue;
    const uint32_t at = counter().add(0, 1);
    if (at < uint32_t(kPassedOn)) to.store(at, entry_id(list_entries().load(int(i))) - first_id);
  }
  __syncthreads();
  list.n = counter().load(0);
  list.held = list.held && list.n <= uint32_t(kPassedOn);
  return from_order_key(least);
}

// One part of a row: maxima to the workspace, findings to its record.
template <typename T>
__global__ void __launch_bounds__(kThreads, kEdited<T> ? kResidentEditedParts : kResidentParts)
    scan_part_kernel(RowTask task, Space space) {
  const int64_t row = int(blockIdx.x) / space.splits;
  const int split = int(blockIdx.x) % space.splits;
  post_row<T>(task.x, task.mask, row, task.options.probs, space.maxima_of<T>(), space.spreads_of());
  post_edits<T>(task.edits, row);
  const Row<T> r = posted_row<T>();
  const uint32_t want = want_of(task, row);
  const bool lists = can_pass_on(space, want);
  const int begin = split * space.per_split, end = begin + space.per_split;
  const int last = end < r.blocks ? end : r.blocks;
  const Maxima<T> maxima{space.per_split <= kSharedBlocks, begin};
  const Groups groups = lists ? make_groups(space.per_split, begin) : Groups{0, begin};
  const uint32_t max_key = scan_blocks(r, begin, last, maxima, groups);
  if (maxima.is_near) {
#pragma unroll 1
    for (int b = begin + thread_id(); b < last; b += kThreads)
      Maxima<T>{false, 0}.store(b, near_maxima().load(b - begin), near_spreads().load(b - begin));
  }
  List list;
  if (lists) {
    const float lo =
        value_of_count(groups.of_blocks(last - begin), r.smallest_valid(), max_key >> 16, want);
    list = gather(r, maxima, groups, lo, begin, last);
    list.lo = pass_on(list, space.passed_of(row, split), int64_t(begin) * kBlock, max_key, want);
  }
  if (thread_id() == 0)
    space.records_of(row).store(split, PartRecord{max_key, list.held, order_key(list.lo), list.n});
}

// What the parts found. Their candidates become the list: it holds all of the row's tokens down to
// the highest of their thresholds, and that part alone has as many as are wanted.
template <typename T>
FD_DEVICE uint32_t collect_parts(const Row<T>& r, List& list, const Space& space, int64_t row,
                                 uint32_t want) {
  const int t = thread_id();
  PartRecord part{0, 1, 0, 0};
  if (t < space.splits) part = space.records_of(row).load(t);
  const uint32_t max_key = block_max(part.max_key);
  const bool lists = __syncthreads_and(int(part.has_list)) != 0 && can_pass_on(space, want);
  const uint32_t lo = block_max(part.lo_key);
  if (t < space.splits) threshold_bins().store(t, part.count);
  if (r.blocks <= kSharedBlocks) {
#pragma unroll 1
    for (int b = thread_id(); b < r.blocks; b += kThreads) {
      near_maxima().store(b, to_float(Maxima<T>::far().load(b)));
      near_spreads().store(b, Maxima<T>::far_spreads().load(b));
    }
  }
  __syncthreads();
  if (thread_id() == 0) counter().store(0, 0);
  __syncthreads();
  list = {0, from_order_key(lo), lists};
  if (lists) {
#pragma unroll 1
    for (int s = 0; s < space.splits; ++s) {
      const int n = int(threshold_bins().load(s));
      if (t < n) {
        const int64_t id = int64_t(s) * space.per_split * kBlock + space.passed_of(row, s).load(t);
        const float x = value_at(r, id);
        if (x >= list.lo) list_entries().store(int(counter().add(0, 1)), entry_of(x, id));
      }
    }
    __syncthreads();
    list.n = counter().load(0);
  }
  return max_key;
}

// The first pass, whoever makes it. Leaves maxima, and list or groups where the filters may ask for
// them (`lists`), for take_work().
template <typename T>
FD_DEVICE RowFacts read_row(const Space& space, int64_t row, bool lists) {
  const Row<T> r = posted_row<T>();
  const uint32_t want = lists ? wanted_list(r.cols()) : 0;
  List list;
  Groups groups{0, 0};
  uint32_t max_key = 0;
  if (space.splits > 1) {
    max_key = collect_parts(r, list, space, row, want);
  } else {
    if (lists && may_list(r.cols())) groups = make_groups(r.blocks, 0);
    max_key = scan_blocks(r, 0, r.blocks, Maxima<T>{r.blocks <= kSharedBlocks, 0}, groups);
  }
  if (thread_id() == 0) leave_groups(groups);
  leave_list(list);
  return judge(max_key, r.probs());
}

}  // namespace fusedraw::cuda
