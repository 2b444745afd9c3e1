// SPDX-License-Identifier: Apache-2.0
// Working memory of one thread: under 1 MB for V up to 262144, kept between calls; what a longer
// row needs beyond that is given back after the call.
//
// Compiled once for the baseline processor, so that no library template is instantiated inside an
// instruction set's target region.
#pragma once

#include <cstddef>

namespace fusedraw {

class Scratch {
 public:
  enum Slot {
    kGroupMax,     // float, lane maxima of each block
    kBlockMax,     // float, one a block
    kBlockSum,     // uint64, one a block (draws with replacement)
    kBlockWeight,  // float, weight of the block's maximum
    kBound,        // float, one a block: lower bound of the block's race value
    kNoiseWords,   // uint32, one a block
    kMaskWords,    // uint32, one bit a token
    kDraftMask,    // the same of a second row
    kDraftMax,     // float, one a block, likewise
    kTail,         // the last block of each open row, padded, in the row's type
    kListA,        // candidates, values then ids
    kListB,
    kSample,  // values and weights of a sample of the row
    kKeys,    // sort keys and weights of a short list
    kListWeights,
    kMembers,    // float, one a token: several models as one row; for their mean, each of them
    kWide,       // whole-row temporaries of the rarely used paths
    kMarks,      // what the lists say of each listed token
    kEdits,      // their values, by block
    kStale,      // uint8, one a block: edits changed its maxima
    kEditSlots,  // where each block's edits start, then the hash table of listed ids
    kSlots
  };
  static Scratch& of_this_thread();

  // At least `bytes` bytes, 64-byte aligned, contents undefined. Valid until the slot is asked for
  // more. Throws std::bad_alloc.
  void* get(Slot slot, size_t bytes);
  template <typename T>
  T* array(Slot slot, size_t n) {
    return static_cast<T*>(get(slot, n * sizeof(T)));
  }
  // Returns what exceeds the budget to the system.
  void trim();

  ~Scratch();

 private:
  struct Block {
    void* p = nullptr;
    size_t size = 0;
  };
  Block blocks_[kSlots];
  size_t total_ = 0;
};

}  // namespace fusedraw
