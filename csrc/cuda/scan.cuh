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

// Lane values of a batch to block values by op: lane i gets that of block i / (32 / kBatch). Of two
// blocks each half of the warp reduces one.
template <typename Op>
FD_DEVICE float batch_reduce(const float (&m)[2], Op op) {
  const bool upper = lane_id() & 16;
  float c = op(upper ? m[1] : m[0], shuffle_xor(upper ? m[0] : m[1], 16));
#pragma unroll
  for (int d = 8; d > 0; d /= 2) c = op(c, shuffle_xor(c, d));
  return c;
}
template <typename Op>
FD_DEVICE float batch_reduce(const float (&m)[1], Op op) {
  float c = m[0];
#pragma unroll
  for (int d = 16; d > 0; d /= 2) c = op(c, shuffle_xor(c, d));
  return c;
}

// The spreads of a batch from its lane maxima: a lane's 8 tokens weigh at most 8 times its maximum.
// The factor covers the law's rounding of t (44 * 2^-22), that of this sum and of the exponential.
template <int kBlocks>
FD_DEVICE uint8_t batch_spread(const float (&m)[kBlocks], float of_block, float scale) {
  float e[kBlocks];
#pragma unroll
  for (int u = 0; u < kBlocks; ++u) {
    const float top = from_lane(of_block, u * (kLanes / kBlocks));
    e[u] = rough_exp2((m[u] - top) * scale);
  }
  const float sum = batch_reduce(e, [](float a, float b) { return a + b; });
  const float spread = sum * (float(kPerLane) * (1.0f + 0x1p-10f)) + 1.0f;
  return spread < 255.0f ? uint8_t(spread) : 255;
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
    const float of_block = batch_reduce(m, [](float a, float c) { return larger(a, c); });
    const int mine = b + lane_id() / kLanesEach;
    const bool stores = lane_id() % kLanesEach == 0 && mine < end;
    if (want > 0) {  // a race that follows will mostly be that of the list
      if (stores) maxima.store(mine, of_block, 255);
      if (list.held) gather_tile(list, r, maxima, batch, b, end, want, begins ? want : 0);
    } else {
      const float scale = float_of(uint32_t(board().word(kWordScale)));
      const uint8_t spread = scale > 0.0f ? batch_spread(m, of_block, scale) : 255;
      if (stores) maxima.store(mine, of_block, spread);
    }
  }
  PartFacts facts;
  facts.max_key = block_max(order_key(top));
  facts.nan = __syncthreads_or(nan) != 0;
  facts.negative = __syncthreads_or(negative) != 0;
  return facts;
}

}  // namespace fusedraw::cuda
