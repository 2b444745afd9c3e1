// SPDX-License-Identifier: Apache-2.0
// Where the accesses of kernels come in.
#include "memory_check.h"

#include <cstdio>

#include "buffers.h"
#include "engine.h"

namespace fusedraw::simt {

namespace {

constexpr size_t kWide = 16;

void global_access(const void* site, const void* p, size_t bytes, size_t alignment, Access access) {
  Thread& self = *engine.self;
  if (self.block->shared.contains(p))
    fail("accesses shared memory at " + show_address(p) + " as global memory");
  check_global(p, bytes, alignment, access);
  Counts& counts = engine.counts;
  if (access != Access::kWrite) counts.global_read_bytes += bytes;
  if (access != Access::kRead) counts.global_written_bytes += bytes;
  counts.loads16 += access == Access::kRead && bytes == kWide && alignment == kWide;
  if (engine.options.count_requests)
    self.warp->log.add(engine.counts, self.lane, site, p, bytes, false, access);
}

void shared_access(const void* site, const void* p, size_t bytes, Access access) {
  Thread& self = *engine.self;
  if (engine.options.check_shared) self.block->shared.check(self, p, bytes, access);
  if (engine.options.count_requests)
    self.warp->log.add(engine.counts, self.lane, site, p, bytes, true, access);
}

}  // namespace

void on_global(const void* p, size_t bytes, size_t alignment, Access access) {
  global_access(__builtin_return_address(0), p, bytes, alignment, access);
}

void on_shared(const void* p, size_t bytes, Access access) {
  shared_access(__builtin_return_address(0), p, bytes, access);
}

void on_atomic(const void* p, size_t bytes) {
  const void* site = __builtin_return_address(0);
  if (engine.self->block->shared.contains(p))
    shared_access(site, p, bytes, Access::kAtomic);
  else
    global_access(site, p, bytes, bytes, Access::kAtomic);
}

void* shared_array(const void* tag, const char* name, size_t element_bytes, size_t n) {
  return engine.self->block->shared.array(tag, name, element_bytes, n);
}

void* dynamic_shared_array(const char* name, size_t element_bytes) {
  return engine.self->block->shared.dynamic_array(name, element_bytes);
}

std::string show_address(const void* p) {
  char text[24];
  snprintf(text, sizeof text, "%p", p);
  return text;
}

}  // namespace fusedraw::simt
