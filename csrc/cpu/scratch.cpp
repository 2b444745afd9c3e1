// SPDX-License-Identifier: Apache-2.0
#include "scratch.h"

#include <cstdlib>
#include <new>

namespace fusedraw {
namespace {

#ifdef FUSEDRAW_EXACT_SCRATCH
// For AddressSanitizer: not a byte beyond what was asked for, and nothing that outlives a row, so
// that it sees what reads beyond, or what an earlier row left there.
constexpr size_t kBudget = 0;
size_t room_for(size_t bytes) { return bytes > 0 ? bytes : 1; }
#else
constexpr size_t kBudget = 900 << 10;
size_t room_for(size_t bytes) { return (bytes + 4095) / 4096 * 4096 + 4096; }
#endif

}  // namespace

Scratch& Scratch::of_this_thread() {
  static thread_local Scratch scratch;
  return scratch;
}

void* Scratch::get(Slot slot, size_t bytes) {
  Block& b = blocks_[slot];
  if (b.size >= bytes && b.p != nullptr) return b.p;
  const size_t size = room_for(bytes);
  void* p = nullptr;
  if (posix_memalign(&p, 64, size) != 0) throw std::bad_alloc();
  std::free(b.p);
  total_ += size - b.size;
  b = {p, size};
  return p;
}

void Scratch::trim() {
  if (total_ <= kBudget) return;
  for (Block& b : blocks_) {
    std::free(b.p);
    b = {};
  }
  total_ = 0;
}

Scratch::~Scratch() {
  for (Block& b : blocks_) std::free(b.p);
}

}  // namespace fusedraw
