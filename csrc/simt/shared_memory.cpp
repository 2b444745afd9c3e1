// SPDX-License-Identifier: Apache-2.0
// Shared arrays and the shadow of their words: bounds, unwritten words, races.
#include "shared_memory.h"

#include <sys/mman.h>

#include <algorithm>
#include <new>

#include "engine.h"

namespace fusedraw::simt {

namespace {

// Of every device: what a kernel may declare. Of compute capability 9.0: what it may ask for.
constexpr size_t kMaxStatic = 48 * 1024, kMaxTotal = 227 * 1024;
constexpr uint8_t kGarbage = 0xb5;
const char kDynamicTag = 0;

// Counts the stretches between barriers of all blocks, so that what is noted in one stretch means
// nothing in any other. 2^32 of them outlast any process.
uint32_t last_epoch = 0;

uint32_t own_clock(const Thread& t) {
  return t.warp->clocks_differ ? t.warp->clock[t.lane][t.lane] : t.warp->uniform_clock;
}

// Whether t is ordered behind what `lane` of its warp did at its time `clock`.
bool ordered(const Thread& t, int lane, uint32_t clock) {
  return t.warp->clocks_differ ? t.warp->clock[t.lane][lane] >= clock
                               : clock < t.warp->uniform_clock;
}

std::string bytes_text(size_t n) { return std::to_string(n) + (n == 1 ? " byte" : " bytes"); }

const char* verb(Access access) {
  return access == Access::kRead ? "reads" : access == Access::kWrite ? "writes" : "changes";
}

void* map_pages(void* at, size_t bytes) {
  void* p = mmap(at, bytes, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (at ? MAP_FIXED : 0), -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  return p;
}

}  // namespace

SharedMemory::~SharedMemory() {
  if (memory_) munmap(memory_, kArenaBytes);
}

void SharedMemory::begin(uint64_t launch, size_t dynamic_bytes) {
  if (!memory_) memory_ = static_cast<char*>(map_pages(nullptr, kArenaBytes));
  if (launch != launch_) {
    launch_ = launch;
    arrays_.clear();
    words_.clear();
    slots_ = static_bytes_ = 0;
    std::fill(std::begin(slot_array_), std::end(slot_array_), uint8_t(0));
  }
  for (Array& a : arrays_) a.alive = false;
  dynamic_bytes_ = dynamic_bytes;
  epoch_ = first_epoch_ = ++last_epoch;
}

void SharedMemory::barrier() { epoch_ = ++last_epoch; }

SharedMemory::Array& SharedMemory::make(const void* tag, const char* name, size_t element_bytes,
                                        size_t bytes, int shift) {
  const TsanIgnore ignore;
  if (tag != &kDynamicTag) static_bytes_ += bytes;
  if (static_bytes_ > kMaxStatic || static_bytes_ + dynamic_bytes_ > kMaxTotal)
    fail("too much shared memory: " + bytes_text(static_bytes_) + " in arrays (at most " +
         std::to_string(kMaxStatic) + "), " + bytes_text(dynamic_bytes_) + " dynamic (at most " +
         std::to_string(kMaxTotal) + " together)");
  const size_t slots = (bytes + kGuardBytes) / kSlotBytes + 1;
  if (slots_ + slots > kSlots || arrays_.size() == 255) fail("too many shared arrays");
  arrays_.push_back({tag, name, memory_ + slots_ * kSlotBytes, bytes, element_bytes, shift,
                     words_.size(), false});
  std::fill_n(slot_array_ + slots_, slots, uint8_t(arrays_.size()));
  slots_ += slots;
  words_.resize(words_.size() + (bytes >> shift));
  return arrays_.back();
}

// Nothing of the last block is to be found in it.
void SharedMemory::revive(Array& a) {
  a.alive = true;
  const TsanIgnore ignore;
  if (kTsan) map_pages(a.begin, (a.bytes + 4095) & ~size_t(4095));
  std::fill_n(a.begin, a.bytes, char(kGarbage));
}

void* SharedMemory::array(const void* tag, const char* name, size_t element_bytes, size_t n) {
  Array* a = nullptr;
  for (Array& b : arrays_)
    if (b.tag == tag) a = &b;
  if (!a) {
    // The largest power of two that divides the element, at most 8: no two threads share a word
    // of the shadow unless they share an element.
    const int shift = std::min(3, __builtin_ctzll(element_bytes));
    a = &make(tag, name, element_bytes, element_bytes * n, shift);
  }
  if (!a->alive) revive(*a);
  return a->begin;
}

void* SharedMemory::dynamic_array(const char* name, size_t element_bytes) {
  Array* a = nullptr;
  for (Array& b : arrays_)
    if (b.tag == &kDynamicTag) a = &b;
  if (!a) {
    const int shift = std::min(2, __builtin_ctzll(element_bytes));
    const size_t bytes = dynamic_bytes_ >> shift << shift;
    a = &make(&kDynamicTag, name, element_bytes, bytes, shift);
  }
  if (!a->alive) revive(*a);
  return a->begin;
}

void SharedMemory::check(Thread& t, const void* p, size_t bytes, Access access) {
  const char* at = static_cast<const char*>(p);
  if (!contains(p))
    fail(std::string(verb(access)) + " shared memory at " + show_address(p) +
         ", which is not in its block's shared memory");
  const size_t offset = size_t(at - memory_);
  const uint8_t index = slot_array_[offset / kSlotBytes];
  if (!index)
    fail(std::string(verb(access)) + " shared memory at " + show_address(p) +
         ", far from any array");
  const Array& a = arrays_[size_t(index - 1)];
  if (at + bytes > a.begin + a.bytes)
    fail(std::string(verb(access)) + " " + bytes_text(bytes) + " of shared memory at " +
         bytes_text(size_t(at - a.begin)) + " into " + a.name + ", which has " +
         bytes_text(a.bytes) + " (" + std::to_string(a.bytes / a.element_bytes) +
         " elements): out of bounds");
  if ((at - a.begin) & ptrdiff_t((bytes & -bytes) - 1))
    fail(std::string(verb(access)) + " " + bytes_text(bytes) + " of shared memory at " +
         bytes_text(size_t(at - a.begin)) + " into " + a.name + ": misaligned");
  Word* w = &words_[a.first_word + (size_t(at - a.begin) >> a.shift)];
  const size_t n = std::max<size_t>(1, bytes >> a.shift);
  for (size_t i = 0; i < n; ++i) check_word(t, w[i], a, at + (i << a.shift), access);
}

void SharedMemory::check_word(Thread& t, Word& w, const Array& a, const char* at, Access access) {
  if (access == Access::kWrite) {
    w.init_epoch = epoch_;
  } else if (w.init_epoch < first_epoch_) {
    fail(std::string(verb(access)) + " " + show(a, at) + ", which no thread has written so far");
  }
  if (w.write_epoch == epoch_ && w.writer != t.index.x &&
      !(w.writer / kWarp == t.warp->index && ordered(t, w.writer % kWarp, w.write_clock)))
    race(a, at,
         access == Access::kRead    ? "reads (RAW) what %d wrote"
         : access == Access::kWrite ? "writes (WAW) what %d wrote"
                                    : "changes by an atomic what %d wrote",
         w.writer);
  if (access != Access::kAtomic) {
    const int other = conflict(w.atomics, t);
    if (other >= 0)
      race(a, at,
           access == Access::kRead ? "reads what %d changes by an atomic"
                                   : "writes what %d changes by an atomic",
           other);
  }
  if (access != Access::kRead) {
    const int other = conflict(w.reads, t);
    if (other >= 0)
      race(a, at,
           access == Access::kWrite ? "writes (WAR) what %d read"
                                    : "changes by an atomic what %d read",
           other);
  }
  if (access == Access::kWrite) {
    w.write_epoch = epoch_;
    w.write_clock = own_clock(t);
    w.writer = uint16_t(t.index.x);
  } else {
    add(access == Access::kRead ? w.reads : w.atomics, t);
  }
}

void SharedMemory::add(Party& party, const Thread& t) const {
  const uint32_t clock = own_clock(t), lane = 1u << t.lane;
  if (party.epoch != epoch_) {
    party = {epoch_, clock, lane, uint16_t(t.warp->index), 0};
  } else if (party.warp != t.warp->index) {
    party.other = uint16_t(t.index.x + 1);
  } else if (party.clock == clock) {
    party.lanes |= lane;
  } else {
    party.clock = clock;
    party.lanes = lane;
  }
}

int SharedMemory::conflict(const Party& party, const Thread& t) const {
  if (party.epoch != epoch_) return -1;
  if (party.warp != t.warp->index) return party.warp * kWarp + __builtin_ctz(party.lanes);
  if (party.other) return party.other - 1;
  for (uint32_t m = party.lanes & ~(1u << t.lane); m; m &= m - 1)
    if (!ordered(t, __builtin_ctz(m), party.clock)) return party.warp * kWarp + __builtin_ctz(m);
  return -1;
}

void SharedMemory::race(const Array& a, const char* at, const char* what, int other) const {
  std::string text = what;
  text.replace(text.find("%d"), 2, "thread " + std::to_string(other));
  const bool same_warp = engine.self->warp->index == other / kWarp;
  fail("shared memory race on " + show(a, at) + ": " + text + " with no " +
       (same_warp ? "__syncthreads or __syncwarp" : "__syncthreads") + " between");
}

std::string SharedMemory::show(const Array& a, const char* at) const {
  return a.name + "[" + std::to_string(size_t(at - a.begin) / a.element_bytes) + "]";
}

}  // namespace fusedraw::simt
