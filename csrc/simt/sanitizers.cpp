// SPDX-License-Identifier: Apache-2.0
// ThreadSanitizer's sync objects and the ends of its fibers.
#include "sanitizers.h"

#include <sys/mman.h>

#include <deque>
#include <new>

namespace fusedraw::simt {

namespace {

// ThreadSanitizer knows a sync object by its address, one for every 8 bytes.
constexpr size_t kObjectBytes = 8, kRegionBytes = size_t{1} << 27;
char* region = nullptr;
size_t used = 0;

// Of the 8128 fibers that there can be at once, those that have ended.
constexpr size_t kMostRetired = 4096;
std::deque<void*>& retired() {
  static std::deque<void*> fibers;
  return fibers;
}

}  // namespace

void tsan_retire([[maybe_unused]] void* fiber) {
#if FD_SIMT_TSAN
  retired().push_back(fiber);
  if (retired().size() <= kMostRetired) return;
  __tsan_destroy_fiber(retired().front());
  retired().pop_front();
#endif
}

void tsan_begin_launch() {
  if (!kTsan || (region && !used)) return;
  constexpr size_t kPage = 4096;
  // Mapped anew, no address has a history.
  void* p = mmap(region, region ? (used + kPage - 1) / kPage * kPage : kRegionBytes,
                 PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | (region ? MAP_FIXED : 0), -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  region = static_cast<char*>(p);
  used = 0;
}

void* tsan_fresh_object() {
  if (used + kObjectBytes > kRegionBytes) used = 0;  // an old one then hides a race, at worst
  void* p = region + used;
  used += kObjectBytes;
  return p;
}

}  // namespace fusedraw::simt
