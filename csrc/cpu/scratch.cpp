// SPDX-License-Identifier: Apache-2.0
#include "scratch.h"

#include <cstdlib>
#include <new>

namespace fusedraw {

Scratch& Scratch::of_this_thread() {
  static thread_local Scratch scratch;
  return scratch;
}

void* Scratch::get(Slot slot, size_t bytes) {
  Block& b = blocks_[slot];
  if (b.size >= bytes && b.p != nullptr) return b.p;
  const size_t size = (bytes + 4095) / 4096 * 4096 + 4096;
  void* p = std::aligned_alloc(64, size);
  if (p == nullptr) throw std::bad_alloc();
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
