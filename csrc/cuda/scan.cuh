// SPDX-License-Identifier: Apache-2.0
// The first pass over a row: the maximum of every noise block, NaN, negative probabilities, and the
// maxima of groups where a list may be wanted, else the spreads of blocks.
#pragma once

#include "list.cuh"

namespace fusedraw::cuda {

struct RowFacts {
  float max;
  uint8_t status;  // what the logits alone say
};
// The order_key of a row's maximum, or one of these above all of them.
constexpr uint32_t kKeyOfNan = ~1u, kKeyOfNegative = ~0u;

FD_DEVICE uint32_t key_of_max(float x) { return x != x ? kKeyOfNan : order_key(x); }

FD_DEVICE RowFacts judge(uint32_t max_key, bool probs) {
  const float m = from_order_key(max_key);
  uint8_t status = kOk;
  if (max_key == kKeyOfNegative)
    status = kBadParam;
  else if (max_key == kKeyOfNan)
    status = kNan;
  else if (m == inf32())
    status = kPosInf;
  else if (m == -inf32() || (probs && m == 0.0f))
    status = kEmpty;
  return {m + 0.0f, status};
}

template <typename T, int kBlocks>
FD_DEVICE bool any_negative(const Row<T>& r, const Batch<T, kBlocks>& batch) {
  bool negative = false;
#pragma unroll
  for (int u = 0; u < kBlocks; ++u) {
    const Values v = batch.values(r, u);
#pragma unroll
    for (int j = 0; j < kPerLane; ++j) negative |= v.x[j] < 0.0f;
  }
  return negative;
}

// The spread of the lane's block from the lane maxima of a batch: a lane's 8 tokens weigh at most 8
// times its maximum. The factor covers the law's rounding of t (44 * 2^-22), that of this sum and
// of the exponential.
template <int kBlocks>
FD_DEVICE uint8_t spread_of(const float (&m)[kBlocks], float of_block, float scale) {
  float e[kBlocks];
#pragma unroll
  for (int u = 0; u < kBlocks; ++u) e[u] = rough_exp2((m[u] - from_lane(of_block, u)) * scale);
  const auto sum = [](float a, float b) { return a + b; };
  const float all = fold_groups(fold_batch(e, sum), sum);
  const float spread = all * (float(kPerLane) * (1.0f + 0x1p-10f)) + 1.0f;
  return spread < 255.0f ? uint8_t(spread) : 255;
}

// Blocks [begin, end) of the row. Gives the key of their maximum.
template <typename T>
FD_DEVICE uint32_t scan_blocks(const Row<T>& r, int begin, int end, const Maxima<T>& maxima,
                               const Groups& groups) {
  uint32_t top = 0;
#pragma unroll 1
  for (int b = begin + warp_id() * kBatch<T>; b < end; b += kTileBlocks<T>) {
    const auto batch = fetch_batch<kBatch<T>>(r, b, end, lane_id());
    float m[kBatch<T>], of_block;
    largest_of_lane(r, batch, m);
    if (r.probs() && any_negative(r, batch)) top = kKeyOfNegative;
    uint8_t spread = 255;
    if (groups.any()) {  // the race that follows will mostly be that of a list
      of_block = store_groups(groups, m, b, end);
    } else {
      of_block = fold_groups(fold_batch(m, larger_or_nan), larger_or_nan);
      const float scale = float_of(uint32_t(board().word(kWordScale)));
      if (scale > 0.0f) spread = spread_of(m, of_block, scale);
    }
    const int lane = lane_id();
    if (lane < kBatch<T> && b + lane < end) maxima.store(b + lane, of_block, spread);
    const uint32_t key = key_of_max(of_block);
    top = top > key ? top : key;
  }
  return block_max(top);
}

}  // namespace fusedraw::cuda
