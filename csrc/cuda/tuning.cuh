// SPDX-License-Identifier: Apache-2.0
// Sizes of the CUDA engine. None of them changes a result.
#pragma once

#include "memory.cuh"

namespace fusedraw::cuda {

constexpr int kLanes = 32;
constexpr uint32_t kFullWarp = 0xffffffffu;
// 4 thread blocks (kResident) of these fill half of a Hopper SM at 64 registers a thread.
constexpr int kThreads = 256, kWarps = kThreads / kLanes;
// Tokens of a noise block that one lane holds.
constexpr int kPerLane = kBlock / kLanes;
static_assert(kThreads == kBlock, "one thread a token of a noise block, one a bin");
// Noise blocks that a warp loads before it works on them, 64 bytes a lane, and those that a thread
// block then holds: a tile. Half of a Hopper SM's threads then have 64 KB on the way.
template <typename T>
constexpr int kBatch = 64 / (kPerLane * int(sizeof(T)));
template <typename T>
constexpr int kTileBlocks = kWarps * kBatch<T>;
constexpr int kMaxTileBlocks = 32;

// Block maxima kept in shared memory: V up to 262144. More go to the workspace.
constexpr int kSharedBlocks = 1024;
// Groups of 16 to 256 tokens, as small as fit, of which the maxima are kept too, as 16 bits.
constexpr int kMaxGroups = 4096;
// Candidates, and the most that are asked for: with them come others of the same 16 bits.
constexpr int kListCapacity = 1664, kListWant = 1024;
constexpr int64_t kMaxListed = (int64_t{1} << 32) - 1;  // longer rows have ids that no list holds
constexpr int kShortList = 256;  // kept tokens that race as a list, one a thread

// Below kSplitBelow rows, a row is scanned by one thread block for each kSplitBlocks noise blocks.
constexpr int kSplitBelow = 128, kSplitBlocks = 128, kMaxSplits = 16;
// Candidates that each of them passes on as ids: 1 % of a bfloat16 row is 655 bytes of 65536.
constexpr int kPassedOn = 96, kMaxPassedBlocks = 256;  // as 16-bit offsets
static_assert(kMaxSplits * kPassedOn <= kListCapacity, "all of them fit the list");

// Noise blocks of a row that a thread block writes, of few rows and of many.
constexpr int kFewRowsChunk = kWarps, kManyRowsChunk = 8 * kWarps;
// Draws from one row are shared out over about so many warps: all that a large device can hold.
constexpr int kDrawingWarps = 8192;

}  // namespace fusedraw::cuda
