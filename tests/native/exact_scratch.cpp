// SPDX-License-Identifier: Apache-2.0
// In the place of csrc/cpu/scratch.cpp: a row's working memory, each piece of exactly the size that
// was asked for, and nothing kept between rows. AddressSanitizer then sees what reads beyond it, or
// reads what an earlier row left there.
#include <cstdlib>
#include <new>

#include "../../csrc/cpu/scratch.h"

namespace fusedraw {

Scratch& Scratch::of_this_thread() {
  static thread_local Scratch scratch;
  return scratch;
}

void* Scratch::get(Slot slot, size_t bytes) {
  Block& b = blocks_[slot];
  if (b.p != nullptr && b.size >= bytes) return b.p;
  void* p = nullptr;
  if (posix_memalign(&p, 64, bytes > 0 ? bytes : 1) != 0) throw std::bad_alloc();
  std::free(b.p);
  b = {p, bytes};
  return p;
}

void Scratch::trim() {
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
