// SPDX-License-Identifier: Apache-2.0
// Barriers, warp operations and fences, as the names of platform.h call them.
#pragma once

#include <cstdint>

namespace fusedraw::simt {

enum class Op : uint8_t {
  kSyncThreads,
  kSyncThreadsCount,
  kSyncThreadsOr,
  kSyncThreadsAnd,
  kSyncWarp,
  kShuffle,
  kShuffleXor,
  kShuffleUp,
  kShuffleDown,
  kBallot,
  kAny,
  kAll
};

// Where in the source: a default argument of every operation. Not the return address, since a
// compiler may make two calls of one.
struct Place {
  const char* file = nullptr;
  int line = 0;
};
constexpr Place here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) {
  return {file, line};
}

// All threads of the block; returns what the operation makes of their values.
uint64_t block_barrier(Op op, uint64_t value, Place place);
// The lanes of `mask`; `operand` is a shuffle's lane, delta or lane mask.
uint64_t warp_op(Op op, uint32_t mask, uint64_t value, int operand, int width, Place place);
void thread_fence();
// After an atomic on `p`.
void after_atomic(const void* p);

}  // namespace fusedraw::simt
