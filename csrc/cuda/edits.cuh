// SPDX-License-Identifier: Apache-2.0
// Edits of rows as their readers see them: where a call keeps them in the workspace, and how the
// value of an edited token is found. marks.cuh puts them there.
//
// Of a row lies there, in this order: a head, one bit for each noise block that has edits, and a
// record for each of those; elsewhere the values of the row's edited tokens, ascending by id.
#pragma once

#include "../core/call.h"
#include "reduce.cuh"

namespace fusedraw::cuda {

// Rows of T of which tokens may be edited, with a ceiling (core/late_rules.h) in force or not. As
// wide as T, since it says how rows lie in memory.
template <typename T>
struct Edited {
  T stored;
};
template <typename T>
struct RowTraits {
  using Stored = T;
  using FarMax = T;  // of maxima in the workspace
  static constexpr bool kEdited = false;
};
template <typename T>
struct RowTraits<Edited<T>> {
  using Stored = T;
  using FarMax = float;
  static constexpr bool kEdited = true;
};
template <typename T>
using Stored = typename RowTraits<T>::Stored;
template <typename T>
using FarMax = typename RowTraits<T>::FarMax;
template <typename T>
constexpr bool kEdited = RowTraits<T>::kEdited;

// Words of a head: whether the lists are bad, the number of edited tokens, where the row's slots
// begin (two words).
constexpr int kHeadBad = 0, kHeadCount = 1, kHeadSlots = 2, kHeadWords = 4;
// Words of a record, which is 16-byte aligned: a bit for each token of the block; in a byte each,
// how many tokens of the block lie before each of these words; the slot of the first one.
constexpr int kBlockWords = kBlock / 32;
constexpr int kRecordRanks = kBlockWords, kRecordWords = kRecordRanks + 4;

struct EditSpace {
  uint8_t* base = nullptr;
  int64_t rows = 0, values = 0, marks = 0, ceilings = 0, bytes = 0;  // offsets
  int64_t row_words = 0;                                             // 0: the call has no lists
  int blocks = 0;                                                    // of a row

  __device__ Global<uint32_t> head_of(int64_t row) const {
    return Global<uint32_t>(reinterpret_cast<uint32_t*>(base + rows) + row * row_words);
  }
  __device__ Global<float> values_at(int64_t slot) const {
    return Global<float>(reinterpret_cast<float*>(base + values) + slot);
  }
  // Two words a slot: see marks.cuh.
  __device__ uint32_t* marks_at(int64_t slot) const {
    return reinterpret_cast<uint32_t*>(base + marks) + 2 * slot;
  }
  __device__ Global<Ceiling> ceiling_of(int64_t row) const {
    return Global<Ceiling>(reinterpret_cast<Ceiling*>(base + ceilings) + row);
  }
};
// Of n bits, in pieces of 16 bytes.
FD_FN int words_of_bits(int n) { return (n + 127) / 128 * 4; }

// Most slots that a list may take, of all rows. It begins where the row's part of the list does,
// or at the same number for each row.
inline int64_t slots_of_row(int64_t n, int64_t cols) { return n < cols ? n : cols; }
inline int64_t slots_of_list(const IdLists& l, int64_t rows, int64_t cols) {
  if (l.ids == nullptr) return 0;
  if (l.offsets == nullptr) return rows * slots_of_row(l.length, cols);
  return l.offsets_stride != 0 ? l.total : rows * slots_of_row(l.total, cols);
}

// Behind `at` bytes of the workspace, which the caller aligns.
inline EditSpace plan_edits(const SampleCall& call, bool with_ceilings, int64_t at, void* base) {
  EditSpace s;
  s.base = static_cast<uint8_t*>(base);
  s.bytes = at;
  s.blocks = int((call.x.cols + kBlock - 1) / kBlock);
  const auto take = [&s](int64_t bytes) { return take_bytes(s.bytes, bytes); };
  const EditsView& e = call.edits;
  int64_t slots = 0;
  if (any_edits(e)) {
    s.row_words = kHeadWords + words_of_bits(s.blocks) + int64_t(s.blocks) * kRecordWords;
    for (const IdLists* l : {&e.history, &e.prompt, &e.suppress, &e.bias})
      slots += slots_of_list(*l, call.x.rows, call.x.cols);
  }
  s.rows = take(call.x.rows * s.row_words * 4);
  s.values = take(slots * 4);
  s.marks = take(slots * 8);
  s.ceilings = take(with_ceilings ? call.x.rows * int64_t(sizeof(Ceiling)) : 0);
  return s;
}

// The record of one noise block.
struct BlockEdits {
  Global<const uint32_t> words;
  __device__ bool has(int place) const { return words.load(place >> 5) >> (place & 31) & 1u; }
  __device__ float value(int place) const {
    const int w = place >> 5;
    const uint32_t here = words.load(w) & ((1u << (place & 31)) - 1);
    const Vec16 ranks = words.load16(kRecordRanks);
    const uint32_t before = (w < 4 ? ranks.w[0] : ranks.w[1]) >> (w % 4 * 8) & 0xffu;
    const Global<const float> values(reinterpret_cast<const float*>(board().word(kWordEditValues)));
    return values.load(int64_t(ranks.w[2]) + before + uint32_t(__popc(here)));
  }
};
FD_DEVICE bool has_edits() { return board().word(kWordEdits) != 0; }
FD_DEVICE Global<const uint32_t> edit_words() {
  return Global<const uint32_t>(reinterpret_cast<const uint32_t*>(board().word(kWordEdits)));
}
// Bit u: block b + u has edits. The n blocks lie in one word: b is a multiple of n.
FD_DEVICE uint32_t edited_blocks(int b, int n) {
  return has_edits() ? edit_words().load(b >> 5) >> (b & 31) & ((1u << n) - 1) : 0;
}
FD_DEVICE BlockEdits edits_of_block(int b, int blocks) {
  return {edit_words().at(words_of_bits(blocks) + int64_t(b) * kRecordWords)};
}

// The ceiling that readers of the row go by, and the one that the filters left: +inf where none.
FD_DEVICE float ceiling_in_force() { return float_of(uint32_t(board().word(kWordCeiling))); }
FD_DEVICE float ceiling_found() { return float_of(uint32_t(board().word(kWordCeiling) >> 32)); }
FD_DEVICE int64_t ceiling_first() { return int64_t(board().word(kWordCeilingFirst)); }
FD_DEVICE void put_ceiling(const Ceiling& c, bool in_force) {  // by one thread
  board().put(kWordCeiling, uint64_t(bits_of(c.hi)) << 32 | bits_of(in_force ? c.hi : inf32()));
  board().put(kWordCeilingFirst, uint64_t(c.first));
}
// Both hold barriers.
FD_DEVICE void leave_ceiling(const Ceiling& c) {
  __syncthreads();
  if (thread_id() == 0) put_ceiling(c, true);
  __syncthreads();
}
// Whether readers shall go by what the filters left.
template <typename T>
FD_DEVICE void enforce_ceiling(bool in_force) {
  if constexpr (kEdited<T>) {
    __syncthreads();
    if (thread_id() == 0) put_ceiling({ceiling_found(), ceiling_first()}, in_force);
    __syncthreads();
  }
}

// After post_row. Holds a barrier.
template <typename T>
FD_DEVICE void post_edits(const EditSpace& space, int64_t row) {
  if constexpr (kEdited<T>) {
    if (thread_id() == 0) {
      uint64_t edits = 0, values = 0;
      if (space.row_words != 0) {
        const Global<uint32_t> head = space.head_of(row);
        const int64_t slots =
            int64_t(uint64_t(head.load(kHeadSlots + 1)) << 32 | head.load(kHeadSlots));
        if (head.load(kHeadCount) != 0) {
          edits = head.at(kHeadWords).address();
          values = space.values_at(slots).address();
        }
      }
      board().put(kWordEdits, edits);
      board().put(kWordEditValues, values);
      put_ceiling(Ceiling{}, false);
    }
    __syncthreads();
  }
}

}  // namespace fusedraw::cuda
