// SPDX-License-Identifier: Apache-2.0
// The workspace of a call: where each part lies, how rows are split over thread blocks, and what
// thread blocks tell each other through it.
#pragma once

#include "work.cuh"

namespace fusedraw::cuda {

// What one of the thread blocks that share a row leaves behind.
struct PartRecord {
  uint32_t max_key, has_list, lo_key, count;
};

// What a writing or counting kernel needs to know of a row that another kernel worked on.
struct RowLaw {
  WeightRule rule;
  Cut cut;
  double divisor, log_sum;  // of the weights that share the mass
  uint8_t status;
  bool greedy;
};

// A row's maxima, records, passed-on ids and law, each after the other and 256-byte aligned.
struct Space {
  uint8_t* base = nullptr;
  int64_t maxima = 0, spreads = 0, records = 0, passed = 0, laws = 0, bytes = 0;  // offsets
  int blocks = 0, per_split = 0, splits = 1;                                      // noise blocks

  template <typename T>
  __device__ FarMax<T>* maxima_of() const {
    return reinterpret_cast<FarMax<T>*>(base + maxima);
  }
  __device__ uint8_t* spreads_of() const { return base + spreads; }
  __device__ Global<PartRecord> records_of(int64_t row) const {
    return Global<PartRecord>(reinterpret_cast<PartRecord*>(base + records) + row * splits);
  }
  __device__ Global<uint16_t> passed_of(int64_t row, int split) const {
    return Global<uint16_t>(reinterpret_cast<uint16_t*>(base + passed) +
                            (row * splits + split) * kPassedOn);
  }
  __device__ Global<RowLaw> law_of(int64_t row) const {
    return Global<RowLaw>(reinterpret_cast<RowLaw*>(base + laws) + row);
  }
};

// with_laws: another kernel follows that needs them; lists: parts may pass candidates on.
inline Space plan_space(const RowsView& x, bool with_laws, bool lists, void* base) {
  Space s;
  s.base = static_cast<uint8_t*>(base);
  s.blocks = int((x.cols + kBlock - 1) / kBlock);
  if (x.rows < kSplitBelow && s.blocks > kSplitBlocks) {
    const int wanted = (s.blocks + kSplitBlocks - 1) / kSplitBlocks;
    const int splits = wanted < kMaxSplits ? wanted : kMaxSplits;
    const int each = (s.blocks + splits - 1) / splits;
    s.per_split = (each + kMaxTileBlocks - 1) / kMaxTileBlocks * kMaxTileBlocks;
    s.splits = (s.blocks + s.per_split - 1) / s.per_split;
  } else {
    s.per_split = s.blocks;
  }
  const auto take = [&s](int64_t bytes) { return take_bytes(s.bytes, bytes); };
  const int64_t size = x.dtype == DType::kFloat32 ? 4 : 2, parts = x.rows * s.splits;
  const bool far = s.splits > 1 || s.blocks > kSharedBlocks;
  s.maxima = take(far ? x.rows * s.blocks * size : 0);
  s.spreads = take(far ? x.rows * s.blocks : 0);
  s.records = take(s.splits > 1 ? parts * int64_t(sizeof(PartRecord)) : 0);
  s.passed = take(s.splits > 1 && lists ? parts * kPassedOn * 2 : 0);
  s.laws = take(with_laws ? x.rows * int64_t(sizeof(RowLaw)) : 0);
  return s;
}

// The workspace of a call that scans whole rows, one thread block each, in `slots` places, whatever
// their dtypes; an operator adds its own parts.
struct SlotSpace {
  uint8_t* base = nullptr;
  int64_t maxima = 0, spreads = 0, bytes = 0;  // offsets
  int64_t rows = 0;
  int blocks = 0;

  void plan_slots(const RowsView& x, int64_t slots, void* at) {
    base = static_cast<uint8_t*>(at);
    rows = x.rows;
    blocks = int((x.cols + kBlock - 1) / kBlock);
    const bool far = blocks > kSharedBlocks;
    maxima = take(far ? slots * blocks * 4 : 0);
    spreads = take(far ? slots * blocks : 0);
  }
  int64_t take(int64_t more) { return take_bytes(bytes, more); }
  // What the first pass over a row takes.
  __device__ Space of_rows() const {
    Space s;
    s.base = base;
    s.maxima = maxima;
    s.spreads = spreads;
    s.blocks = s.per_split = blocks;
    return s;
  }
};

}  // namespace fusedraw::cuda
