// SPDX-License-Identifier: Apache-2.0
// From the lists of a call to edits that readers of a row find (edits.cuh): one thread block a row,
// before any other kernel of the call. It reads the lists twice, and of the row the edited tokens.
#pragma once

#include "plan.cuh"
#include "row.cuh"

namespace fusedraw::cuda {

struct MarkTask {
  RowsView x;
  EditsView edits;
  RulesView rules;
};

// Noise blocks whose edits are marked at a time: V up to 262144 in one go.
constexpr int kSegmentBlocks = 1024;
constexpr int kSegmentWords = kSegmentBlocks * kBlockWords;
// A slot's mark: the token's place in the segment with flags above it, and a count.
constexpr int kPlaceBits = 18;
static_assert(kSegmentBlocks * kBlock == 1 << kPlaceBits, "places of a segment");

// Of a segment: the edited tokens, and of each block how many of them lie in blocks before.
FD_DEVICE Shared<uint32_t> segment_bits() {
  FD_SHARED(uint32_t, bits, kSegmentWords);
  return bits;
}
FD_DEVICE Shared<uint32_t> segment_before() {
  FD_SHARED(uint32_t, before, kSegmentBlocks);
  return before;
}

// A row's part of a list; offsets are data, so they are cut to what there is.
struct ListRange {
  int64_t begin, end, slots;  // slots: where the row's begin, of this list alone
};
FD_DEVICE ListRange range_of(const IdLists& l, int64_t row, int64_t cols) {
  if (l.ids == nullptr) return {0, 0, 0};
  const auto each = [cols](int64_t n) { return n < cols ? n : cols; };
  if (l.offsets == nullptr) {
    const int64_t begin = row * l.row_stride;
    return {begin, begin + l.length, row * each(l.length)};
  }
  const Global<const int64_t> offsets(l.offsets + row * l.offsets_stride);
  const int64_t begin = clipped(offsets.load(0), l.total), end = clipped(offsets.load(1), l.total);
  return {begin, end, l.offsets_stride != 0 ? begin : row * each(l.total)};
}

// The tokens [first, first + n) of a row of cols.
struct Segment {
  int64_t first, cols;
  int blocks;
};
// fn(place, i) of each entry of a list that names a token of the segment. False where one names no
// token of the row at all.
template <typename Fn>
FD_DEVICE bool each_listed(const IdLists& l, const ListRange& range, const Segment& segment,
                           Fn fn) {
  bool ok = true;
#pragma unroll 1
  for (int64_t i = range.begin + int64_t(thread_id()); i < range.end; i += kThreads) {
    const int64_t id = l.wide ? Global<const int64_t>(static_cast<const int64_t*>(l.ids)).load(i)
                              : Global<const int32_t>(static_cast<const int32_t*>(l.ids)).load(i);
    if (id >= segment.cols) ok = false;
    const uint64_t place = uint64_t(id - segment.first);  // padding is far above
    if (id >= 0 && place < uint64_t(kSegmentBlocks) * kBlock && id < segment.cols)
      fn(int(place), i);
  }
  return ok;
}

// Writes the records of the segment's blocks that have edits, and gives the number of edited tokens
// in the segment; `slots` of the row lie before. Holds barriers.
FD_DEVICE uint32_t write_records(const Global<uint32_t>& words, const Segment& segment,
                                 int row_blocks, uint32_t slots) {
  const Shared<uint32_t> bits = segment_bits();
  const int first_block = int(segment.first / kBlock);
  uint32_t before = 0;
#pragma unroll 1
  for (int from = 0; from < segment.blocks; from += kThreads) {
    const int b = from + thread_id();
    const bool real = b < segment.blocks;
    uint32_t n = 0, ranks[2] = {0, 0};
    if (real) {
#pragma unroll
      for (int w = 0; w < kBlockWords; ++w) {
        ranks[w / 4] |= n << (w % 4 * 8);  // at most 224
        n += uint32_t(__popc(bits.load(b * kBlockWords + w)));
      }
    }
    const uint32_t from_here = block_suffix(n);
    const uint32_t all = uint32_t(block_broadcast(0, from_here));
    const uint32_t mine = before + all - from_here;
    const uint32_t edited = __ballot_sync(kFullWarp, n != 0);
    if (real) segment_before().store(b, mine);
    if (real && lane_id() == 0) words.store((first_block + b) / 32, edited);
    if (n != 0) {
      const Global<uint32_t> record =
          words.at(words_of_bits(row_blocks) + int64_t(first_block + b) * kRecordWords);
      const Shared<uint32_t> from = bits.at(b * kBlockWords);
#pragma unroll 1
      for (int w = 0; w < kBlockWords; w += 4)
        record.store16(w,
                       Vec16{{from.load(w), from.load(w + 1), from.load(w + 2), from.load(w + 3)}});
      record.store16(kRecordRanks, Vec16{{ranks[0], ranks[1], slots + mine, 0}});
    }
    before += all;
  }
  __syncthreads();
  return before;
}

// The slot of a place of the segment, -1 where it has none.
FD_DEVICE int64_t slot_in_segment(int place) {
  const Shared<uint32_t> bits = segment_bits();
  const int word = place / 32;
  const uint32_t here = bits.load(word);
  if (!(here >> (place % 32) & 1u)) return -1;  // only where the list changes meanwhile
  uint32_t n =
      segment_before().load(place / kBlock) + uint32_t(__popc(here & ((1u << place % 32) - 1)));
#pragma unroll 1
  for (int w = word / kBlockWords * kBlockWords; w < word; ++w) n += uint32_t(__popc(bits.load(w)));
  return n;
}

// A row's slots in the workspace.
struct Slots {
  Global<float> values;
  Global<uint32_t> marks;
  __device__ Global<uint64_t> whole_marks() const {
    return Global<uint64_t>(reinterpret_cast<uint64_t*>(marks.address()));
  }
};

// Each slot's place, without flags or counts yet. A barrier at the end.
FD_DEVICE void begin_slots(const Slots& slots, int blocks) {
#pragma unroll 1
  for (int word = thread_id(); word < blocks * kBlockWords; word += kThreads) {
    uint32_t left = segment_bits().load(word);
    if (left == 0) continue;
    int64_t slot = slot_in_segment(word * 32 + __ffs(int(left)) - 1);
#pragma unroll 1
    for (; left != 0; left &= left - 1, ++slot) {
      slots.whole_marks().store(slot, uint64_t(word * 32 + __ffs(int(left)) - 1));
    }
  }
  __syncthreads();
}

// The segment's n values, from marks that are complete.
template <typename T>
FD_DEVICE void write_values(const MarkTask& task, int64_t row, const Segment& segment,
                            const Slots& slots, uint32_t n) {
  Penalties p;
  p.repetition = float(number_at(task.rules, row, kRepetition));
  p.frequency = float(number_at(task.rules, row, kFrequency));
  p.presence = float(number_at(task.rules, row, kPresence));
  const Global<const T> x(static_cast<const T*>(task.x.data) + row * task.x.row_stride +
                          segment.first);
#pragma unroll 1
  for (uint32_t i = uint32_t(thread_id()); i < n; i += kThreads) {
    const uint64_t both = slots.whole_marks().load(i);
    const uint32_t word = uint32_t(both);
    Mark mark;
    mark.count = int32_t(both >> 32);
    mark.flags = uint8_t(word >> kPlaceBits) | (mark.count > 0 ? kSeen : 0);
    if (mark.flags & kBiased) mark.bias = slots.values.load(i);
    const float before = to_float(x.load(word & ((1u << kPlaceBits) - 1))) + 0.0f;
    slots.values.store(i, edited_value(before, mark, p));
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kResidentParts)
    mark_rows_kernel(MarkTask task, EditSpace space) {
  const int64_t row = blockIdx.x, cols = task.x.cols;
  const EditsView& e = task.edits;
  const ListRange history = range_of(e.history, row, cols), prompt = range_of(e.prompt, row, cols),
                  suppress = range_of(e.suppress, row, cols), bias = range_of(e.bias, row, cols);
  const int64_t first_slot = history.slots + prompt.slots + suppress.slots + bias.slots;
  const Global<uint32_t> head = space.head_of(row);
  uint32_t n = 0;
  bool ok = true;
#pragma unroll 1
  for (int64_t first = 0; first < cols; first += int64_t(kSegmentBlocks) * kBlock) {
    const int left = space.blocks - int(first / kBlock);
    const Segment segment{first, cols, left < kSegmentBlocks ? left : kSegmentBlocks};
    __syncthreads();
#pragma unroll 1
    for (int w = thread_id(); w < segment.blocks * kBlockWords; w += kThreads)
      segment_bits().store(w, 0);
    __syncthreads();
    const auto edit = [](int place, int64_t) {
      segment_bits().either(place / 32, 1u << place % 32);
    };
    ok &= each_listed(e.history, history, segment, edit);
    ok &= each_listed(e.prompt, prompt, segment, edit);
    ok &= each_listed(e.suppress, suppress, segment, edit);
    ok &= each_listed(e.bias, bias, segment, edit);
    __syncthreads();
    const uint32_t here = write_records(head.at(kHeadWords), segment, space.blocks, n);
    if (here == 0) continue;
    const Slots slots{space.values_at(first_slot + n),
                      Global<uint32_t>(space.marks_at(first_slot + n))};
    begin_slots(slots, segment.blocks);
    const auto flag = [&](int place, MarkFlag f) {
      const int64_t slot = slot_in_segment(place);
      return slot < 0 ||
             !(slots.marks.either(2 * slot, uint32_t(f) << kPlaceBits) >> kPlaceBits & f);
    };
    each_listed(e.history, history, segment, [&](int place, int64_t) {
      const int64_t slot = slot_in_segment(place);
      if (slot >= 0) slots.marks.add(2 * slot + 1, 1);
    });
    each_listed(e.prompt, prompt, segment, [&](int place, int64_t) { flag(place, kSeen); });
    each_listed(e.suppress, suppress, segment,
                [&](int place, int64_t) { flag(place, kSuppressed); });
    each_listed(e.bias, bias, segment, [&](int place, int64_t i) {
      const float value = Global<const float>(e.values).load(i);
      const int64_t slot = slot_in_segment(place);
      const bool first_time = flag(place, kBiased);
      if (slot >= 0 && first_time) slots.values.store(slot, value);
      ok &= first_time && value < inf32();
    });
    __syncthreads();
    write_values<T>(task, row, segment, slots, here);
    n += here;
  }
  const bool all_ok = __syncthreads_and(int(ok)) != 0;
  if (thread_id() == 0) {
    head.store(kHeadBad, !all_ok);
    head.store(kHeadCount, n);
    head.store(kHeadSlots, uint32_t(first_slot));
    head.store(kHeadSlots + 1, uint32_t(uint64_t(first_slot) >> 32));
  }
}

}  // namespace fusedraw::cuda
