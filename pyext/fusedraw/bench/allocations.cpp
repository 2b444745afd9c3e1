// SPDX-License-Identifier: Apache-2.0
//
// Counts what a process allocates: loaded ahead of the C library (LD_PRELOAD), it passes every call
// of malloc's family on to glibc's and, between allocations_start and allocations_stop, adds up
// those of at least kSmall bytes, in all threads. Smaller ones are Python's objects and messages.

#include <atomic>
#include <cerrno>
#include <cstddef>
#include <cstdint>

#include <malloc.h>

extern "C" {
void* __libc_malloc(size_t size);
void* __libc_calloc(size_t count, size_t size);
void* __libc_realloc(void* old, size_t size);
void* __libc_memalign(size_t alignment, size_t size);
void __libc_free(void* block);
}

namespace {

constexpr size_t kSmall = 1024;

std::atomic<bool> counting{false};
std::atomic<int64_t> live{0}, peak{0}, allocations{0};

void* added(void* block) {
  if (block == nullptr || !counting.load(std::memory_order_relaxed)) return block;
  const size_t size = malloc_usable_size(block);
  if (size < kSmall) return block;
  ++allocations;
  const int64_t now = live += int64_t(size);
  int64_t most = peak;
  while (now > most && !peak.compare_exchange_weak(most, now)) {
  }
  return block;
}

void* dropped(void* block) {
  if (block == nullptr || !counting.load(std::memory_order_relaxed)) return block;
  const size_t size = malloc_usable_size(block);
  if (size >= kSmall) live -= int64_t(size);
  return block;
}

}  // namespace

extern "C" {

void* malloc(size_t size) { return added(__libc_malloc(size)); }
void* calloc(size_t count, size_t size) { return added(__libc_calloc(count, size)); }
void* realloc(void* old, size_t size) { return added(__libc_realloc(dropped(old), size)); }
void* memalign(size_t alignment, size_t size) { return added(__libc_memalign(alignment, size)); }
void* aligned_alloc(size_t alignment, size_t size) { return memalign(alignment, size); }
void free(void* block) { __libc_free(dropped(block)); }

int posix_memalign(void** out, size_t alignment, size_t size) {
  void* block = memalign(alignment, size);
  if (block == nullptr) return ENOMEM;
  *out = block;
  return 0;
}

void allocations_start() {
  live = peak = allocations = 0;
  counting = true;
}

void allocations_stop(int64_t* most, int64_t* count) {
  counting = false;
  *most = peak;
  *count = allocations;
}

}  // extern "C"
