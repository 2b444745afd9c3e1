// SPDX-License-Identifier: Apache-2.0
#include "memory.h"

#include <sys/mman.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace native {
namespace {

constexpr size_t kPage = 4096, kSlotBytes = 16 * kPage;

size_t whole_pages(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

[[noreturn]] void give_up(const char* what) {
  std::perror(what);
  std::exit(2);
}

uint8_t* map_between_guards(size_t bytes) {
  void* const p = mmap(nullptr, bytes + 2 * kPage, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) give_up("mmap");
  uint8_t* const begin = static_cast<uint8_t*>(p) + kPage;
  if (mprotect(begin, bytes, PROT_READ | PROT_WRITE) != 0) give_up("mprotect");
  return begin;
}

}  // namespace

void* Memory::take(size_t bytes, size_t element, size_t skew) {
  const std::lock_guard<std::mutex> lock(mutex_);
  void* const p = place(bytes, element, skew);
  std::memset(p, fill, bytes);
  taken_.push_back({static_cast<const uint8_t*>(p), bytes});
  return p;
}

void Memory::reset() {
  taken_.clear();
  release();
}

uint64_t Memory::hash() const {
  uint64_t h = 0xcbf29ce484222325ull;
  for (const Taken& t : taken_)
    for (size_t i = 0; i < t.bytes; ++i) h = (h ^ t.p[i]) * 0x100000001b3ull;
  return h;
}

void* HeapMemory::place(size_t bytes, size_t element, size_t skew) {
  uint8_t* const p = static_cast<uint8_t*>(std::malloc(bytes + skew * element));
  if (p == nullptr) give_up("malloc");
  blocks_.push_back(p);
  return p + skew * element;
}

void HeapMemory::release() {
  for (void* p : blocks_) std::free(p);
  blocks_.clear();
}

// Slots are used again, the smallest that fits first come first served: a call takes few of them.
void* GuardedMemory::place(size_t bytes, size_t, size_t) {
  const size_t least = bytes > kSlotBytes ? whole_pages(bytes) : kSlotBytes;
  size_t i = used_;
  while (i < slots_.size() && slots_[i].bytes < least) ++i;
  if (i == slots_.size()) slots_.push_back({map_between_guards(least), least});
  std::swap(slots_[i], slots_[used_]);
  const Slot& slot = slots_[used_++];
  return side_ == Side::kEnd ? slot.begin + slot.bytes - bytes : slot.begin;
}

GuardedMemory::~GuardedMemory() {
  for (const Slot& s : slots_) munmap(s.begin - kPage, s.bytes + 2 * kPage);
}

}  // namespace native
