// SPDX-License-Identifier: Apache-2.0
// A block's shared memory and what is known of every word of it: who wrote, read or changed it
// since the block's last barrier, and whether anyone ever did.
//
// Two accesses of a word, not both reads or both atomics, race unless a block barrier lies between
// or both lanes met in a __syncwarp (or a chain of them) between. Exact but for one thing: of a
// warp's readers before and after a __syncwarp of a part of it, only the later ones are remembered.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "memory_check.h"

namespace fusedraw::simt {

struct Thread;

class SharedMemory {
 public:
  SharedMemory() = default;
  ~SharedMemory();
  SharedMemory(const SharedMemory&) = delete;
  SharedMemory& operator=(const SharedMemory&) = delete;

  // A block begins. Arrays of the same launch keep their place.
  void begin(uint64_t launch, size_t dynamic_bytes);
  // All threads of the block have met.
  void barrier();
  void* array(const void* tag, const char* name, size_t element_bytes, size_t n);
  void* dynamic_array(const char* name, size_t element_bytes);

  bool contains(const void* p) const {
    return uintptr_t(p) - uintptr_t(memory_) < kArenaBytes && memory_;
  }
  void check(Thread& t, const void* p, size_t bytes, Access access);

 private:
  // Arrays begin at multiples of this, so that whatever lies before or behind one is nobody's, and
  // bank 0 is where it is on the device.
  static constexpr size_t kSlotBytes = 16 * 1024, kSlots = 256;
  static constexpr size_t kArenaBytes = kSlotBytes * kSlots, kGuardBytes = 4096;

  // Threads that accessed a word alike since the last barrier.
  struct Party {
    uint32_t epoch = 0, clock = 0, lanes = 0;
    uint16_t warp = 0;   // of `lanes`
    uint16_t other = 0;  // 1 + a thread of another warp; 0: none
  };
  struct Word {
    uint32_t init_epoch = 0, write_epoch = 0, write_clock = 0;
    uint16_t writer = 0;
    Party reads, atomics;
  };
  struct Array {
    const void* tag;
    std::string name;
    char* begin;
    size_t bytes, element_bytes;
    int shift;  // a word of the shadow is 2^shift bytes
    size_t first_word;
    bool alive;
  };

  Array& make(const void* tag, const char* name, size_t element_bytes, size_t bytes, int shift);
  void revive(Array& a);
  void check_word(Thread& t, Word& w, const Array& a, const char* at, Access access);
  void add(Party& party, const Thread& t) const;
  // A thread of `party` that the accesses of t are not ordered behind; -1: none.
  int conflict(const Party& party, const Thread& t) const;
  [[noreturn]] void race(const Array& a, const char* at, const char* what, int other) const;
  std::string show(const Array& a, const char* at) const;

  char* memory_ = nullptr;
  uint64_t launch_ = 0;
  uint32_t first_epoch_ = 0, epoch_ = 0;
  size_t dynamic_bytes_ = 0, static_bytes_ = 0, slots_ = 0;
  std::vector<Array> arrays_;
  std::vector<Word> words_;
  uint8_t slot_array_[kSlots] = {};  // 1 + index into arrays_; 0: none
};

}  // namespace fusedraw::simt
