// SPDX-License-Identifier: Apache-2.0
// The first pass over a row: the maximum of every noise block, NaN, negative probabilities, and the
// list of the largest tokens where it is wanted.
#pragma once

#include "list.cuh"

namespace fusedraw::cuda {

struct RowFacts {
  float max;
  uint8_t status;  // what the logits alone say
};
// What thread blocks that share a row tell each other.
struct PartFacts {
  uint32_t max_key = 0;
  bool nan = false, negative = false;
};

FD_DEVICE RowFacts judge(const PartFacts& f, bool probs) {
  const float m = from_order_key(f.max_key);
  uint8_t status = kOk;
  if (f.negative)
    status = kBadParam;
  else if (f.nan)
    status = kNan;
  else if (m == inf32())
    status = kPosInf;
  else if (m == -inf32() || (probs && m == 0.0f))
    status = kEmpty;
  return {m + 0.0f, status};
}

// Lane maxima of a batch to block maxima: lane i gets that of block i / (32 / kBatch). Of two
// blocks each half of the warp reduces one.
FD_DEVICE float batch_maxima(const float (&m)[2]) {
  const bool upper = lane_id() & 16;
  float c = larger(upper ? m[1] : m[0], shuffle_xor(upper ? m[0] : m[1], 16));
#pragma unroll
  for (int d = 8; d > 0; d /= 2) c = larger(c, shuffle_xor(c, d));
  return c;
}
FD_DEVICE float batch_maxima(const float (&m)[1]) {
  float c = m[0];
#pragma unroll
  for (int d = 16; d > 0; d /= 2) c = larger(c, shuffle_xor(c, d));
  return c;
}

// Blocks [begin, end) of the row. want > 0: gathers into the list, whose lo is then the smallest
// value that counts.
template <typename T>
FD_DEVICE PartFacts scan_blocks(const Row<T>& r, int begin, int end, const Maxima<T>& maxima,
                                List& list, uint32_t want) {
  constexpr int kLanesEach = kLanes / kBatch<T>;
  float top = -inf32();
  bool nan = false, negative = false;
#pragma unroll 1
  for (int first = begin; first < end; first += kTileBlocks<T>) {
    const int b = first + warp_id() * kBatch<T>;
    const Batch<T> batch = fetch_batch(r, b, lane_id(), [&](int u) { return b + u < end; });
    const bool begins = want > 0 && first == begin && end - begin > kListCapacity / kBlock;
    float m[kBatch<T>];
#pragma unroll
    for (int u = 0; u < kBatch<T>; ++u) {
      const Values v = widened(r, batch.share[u], batch.bits(u));
#pragma unroll
      for (int j = 0; j < kPerLane; j += 2) nan |= unordered(v.x[j], v.x[j + 1]);
      if (r.probs) {
#pragma unroll
        for (int j = 0; j < kPerLane; ++j) negative |= v.x[j] < 0.0f;
      }
      if (begins) store_groups<T>(v, u);
      m[u] = -inf32();
#pragma unroll
      for (int j = 0; j < kPerLane; j += 2) m[u] = larger(m[u], larger(v.x[j], v.x[j + 1]));
      top = larger(top, m[u]);
    }
    const float of_block = batch_maxima(m);
    const int mine = b + lane_id() / kLanesEach;
    if (lane_id() % kLanesEach == 0 && mine < end) maxima.store(mine, of_block);
    if (want > 0 && list.held) gather_tile(list, r, maxima, batch, b, end, want, begins);
  }
  PartFacts facts;
  facts.max_key = block_max(order_key(top));
  facts.nan = __syncthreads_or(nan) != 0;
  facts.negative = __syncthreads_or(negative) != 0;
  return facts;
}

}  // namespace fusedraw::cuda
