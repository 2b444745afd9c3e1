// SPDX-License-Identifier: Apache-2.0
// A row in global memory, read by warps in noise blocks of 256 tokens, 8 a lane.
//
// Only this file knows dtypes, alignment, masks and the partial last block: what is excluded or
// past the end reads as `pad` (-inf for logits, 0 for probabilities), which never changes a draw.
#pragma once

#include "edits.cuh"

namespace fusedraw::cuda {

FD_DEVICE float to_float(float x) { return x; }
FD_DEVICE float to_float(BFloat16 x) { return float_of(uint32_t(x.bits) << 16); }
FD_DEVICE float to_float(Float16 x) { return half_to_float(x.bits); }

// A value of type T that was widened, in T again.
FD_DEVICE void narrow(float x, float& to) { to = x; }
FD_DEVICE void narrow(float x, BFloat16& to) { to.bits = uint16_t(bits_of(x) >> 16); }
FD_DEVICE void narrow(float x, Float16& to) {
  const uint32_t u = bits_of(x), sign = u >> 16 & 0x8000u, magnitude = u & 0x7fffffffu;
  if (magnitude >= 0x7f800000u)
    to.bits = uint16_t(sign | 0x7c00u);
  else if (magnitude < 0x38800000u)  // subnormal: a multiple of 2^-24
    to.bits = uint16_t(sign | uint32_t(float_of(magnitude) * 0x1p24f));
  else
    to.bits = uint16_t(sign | (magnitude - 0x38000000u) >> 13);
}

template <typename T>
struct Row {
  Global<const Stored<T>> x;
  int blocks;      // at most 2^25
  int run_blocks;  // the first of them are read in 16-byte pieces
  // The rest lies on the board.
  __device__ bool probs() const { return board().word(kWordRowKind) & 1; }
  __device__ MaskView::Kind mask() const { return MaskView::Kind(board().word(kWordRowKind) >> 8); }
  __device__ bool masked() const { return board().word(kWordRowKind) >> 8 != 0; }
  __device__ float pad() const { return probs() ? 0.0f : -inf32(); }
  __device__ float smallest_valid() const { return probs() ? float_of(1u) : -kFltMax; }
  __device__ int64_t cols() const { return int64_t(board().word(kWordCols)); }
  __device__ Global<const uint32_t> mask_words() const {
    return Global<const uint32_t>(reinterpret_cast<const uint32_t*>(board().word(kWordMask)));
  }
  __device__ Global<const uint8_t> mask_bytes() const {
    return Global<const uint8_t>(reinterpret_cast<const uint8_t*>(board().word(kWordMask)));
  }
};

// Puts a row on the board; every thread then takes it from there. Holds a barrier.
template <typename T>
FD_DEVICE void post_row(const RowsView& v, const MaskView& mask, int64_t row, bool probs,
                        FarMax<T>* far_maxima, uint8_t* far_spreads) {
  if (thread_id() == 0) {
    const Stored<T>* x = static_cast<const Stored<T>*>(v.data) + row * v.row_stride;
    board().put(kWordRow, uint64_t(row));
    board().put(kWordRowData, reinterpret_cast<uint64_t>(x));
    board().put(kWordCols, uint64_t(v.cols));
    board().put(kWordRowKind, uint64_t(probs) | uint64_t(mask.kind) << 8);
    const int64_t at = row * mask.row_stride;
    const void* m = mask.data;
    if (mask.kind == MaskView::Kind::kBool) m = static_cast<const uint8_t*>(mask.data) + at;
    if (mask.kind == MaskView::Kind::kBits) m = static_cast<const uint32_t*>(mask.data) + at;
    board().put(kWordMask, reinterpret_cast<uint64_t>(m));
    const int64_t blocks = (v.cols + kBlock - 1) / kBlock;
    board().put(kWordFarMaxima, reinterpret_cast<uint64_t>(far_maxima + row * blocks));
    board().put(kWordFarSpreads, reinterpret_cast<uint64_t>(far_spreads + row * blocks));
    board().put(kWordScale, 0);
  }
  __syncthreads();
}
template <typename T>
FD_DEVICE Row<T> posted_row() {
  const Global<const Stored<T>> x(reinterpret_cast<const Stored<T>*>(board().word(kWordRowData)));
  const int64_t cols = int64_t(board().word(kWordCols));
  return {x, int((cols + kBlock - 1) / kBlock), x.aligned16() ? int(cols / kBlock) : 0};
}

// A lane's share of a noise block, as stored.
template <typename T>
struct alignas(16) Share {
  T e[kPerLane];
};

// Whether block b is read in 16-byte pieces: then a lane holds runs of tokens, else every 32nd.
template <typename T>
FD_DEVICE bool in_runs(const Row<T>& r, int b) {
  return b < r.run_blocks;
}

// Place within the block of a lane's j-th token.
template <typename T>
FD_DEVICE int place_of(bool runs, int lane, int j) {
  constexpr int kRun = 16 / int(sizeof(T));
  return runs ? j / kRun * (kRun * kLanes) + lane * kRun + j % kRun : j * kLanes + lane;
}

template <typename T>
FD_DEVICE bool token_allowed(const Row<T>& r, int64_t id) {
  if (!r.masked()) return true;
  if (r.mask() == MaskView::Kind::kBool) return r.mask_bytes().load(id) != 0;
  return r.mask_words().load(id >> 5) >> (id & 31) & 1u;
}

// Nothing: padding throughout.
template <typename T>
FD_DEVICE Share<Stored<T>> padding(const Row<T>& r) {
  Share<Stored<T>> s;
  Stored<T> nothing{};
  if (!r.probs()) set_neg_inf(nothing);
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) s.e[j] = nothing;
  return s;
}

// From a block that is read in 16-byte pieces.
template <typename T>
FD_DEVICE Share<T> fetch_runs(const Global<const T>& block, int lane) {
  constexpr int kRun = 16 / int(sizeof(T));
  Share<T> s;
#pragma unroll
  for (int g = 0; g < kPerLane / kRun; ++g) {
    const Vec16 v = block.load16((g * kLanes + lane) * kRun);
    memcpy(s.e + g * kRun, &v, 16);
  }
  return s;
}
template <typename T>
FD_DEVICE Share<Stored<T>> fetch(const Row<T>& r, int b, int lane) {
  const Global<const Stored<T>> block = r.x.at(int64_t(b) * kBlock);
  if (in_runs(r, b)) return fetch_runs(block, lane);
  Share<Stored<T>> s = padding(r);
  const int64_t rest = r.cols() - int64_t(b) * kBlock;
  const int end = rest < kBlock ? int(rest) : kBlock;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j)
    if (lane + j * kLanes < end) s.e[j] = block.load(lane + j * kLanes);
  return s;
}

// Bit j: that of the lane's j-th token, from a block's words; of one read in 16-byte pieces.
template <typename T>
FD_DEVICE uint32_t bits_of_runs(const Global<const uint32_t>& words, int lane) {
  constexpr int kRun = 16 / int(sizeof(T));
  uint32_t bits = 0;
#pragma unroll
  for (int g = 0; g < kPerLane / kRun; ++g) {
    const int place = (g * kLanes + lane) * kRun;
    bits |= (words.load(place >> 5) >> (place & 31) & ((1u << kRun) - 1)) << (g * kRun);
  }
  return bits;
}

// Bit j: the lane's j-th token is allowed. Tokens past the end are padding anyway.
template <typename T>
FD_DEVICE uint32_t allowed_bits(const Row<T>& r, int b, int lane) {
  if (r.mask() == MaskView::Kind::kBits && in_runs(r, b)) {
    return bits_of_runs<T>(r.mask_words().at(int64_t(b) * (kBlock / 32)), lane);
  }
  const bool runs = in_runs(r, b);
  uint32_t bits = 0;
#pragma unroll 1
  for (int j = 0; j < kPerLane; ++j) {
    const int64_t id = int64_t(b) * kBlock + place_of<T>(runs, lane, j);
    if (id < r.cols() && token_allowed(r, id)) bits |= 1u << j;
  }
  return bits;
}

// A lane's 8 values of a block. Excluded tokens read as padding.
struct Values {
  float x[kPerLane];
};

// fn(x, j) for each of them in a loop that is not unrolled: for what is long or seldom done.
template <typename Fn>
FD_DEVICE void each_in_turn(Values v, Fn fn) {
#pragma unroll 1
  for (int j = 0; j < kPerLane; ++j) {
    fn(v.x[0], j);
#pragma unroll
    for (int i = 0; i + 1 < kPerLane; ++i) v.x[i] = v.x[i + 1];
  }
}

// The same, giving new values.
template <typename Fn>
FD_DEVICE Values map_in_turn(Values v, Fn fn) {
#pragma unroll 1
  for (int j = 0; j < kPerLane; ++j) {
    const float y = fn(v.x[0], j);
#pragma unroll
    for (int i = 0; i + 1 < kPerLane; ++i) v.x[i] = v.x[i + 1];
    v.x[kPerLane - 1] = y;
  }
  return v;
}

// A lane's values of block b, which has edits, with these in place.
template <typename T>
FD_DEVICE_CALL Values with_edits(Values v, int b, int blocks, bool runs) {
  const BlockEdits edits = edits_of_block(b, blocks);
  const int lane = lane_id();
  uint32_t bits = 0xff;
  if (runs) bits = bits_of_runs<T>(edits.words, lane);
  if (bits == 0) return v;
  return map_in_turn(v, [&](float x, int j) {
    if (!(bits >> j & 1u)) return x;
    const int place = place_of<T>(runs, lane, j);
    return runs || edits.has(place) ? edits.value(place) : x;
  });
}

// edited_block: the block's number if it has edits, else -1.
template <typename T>
FD_DEVICE Values widened(const Row<T>& r, const Share<Stored<T>>& s, uint32_t allowed,
                         int edited_block = -1) {
  Values v;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) v.x[j] = to_float(s.e[j]);
  if constexpr (kEdited<T>) {
    if (edited_block >= 0) v = with_edits<T>(v, edited_block, r.blocks, in_runs(r, edited_block));
  }
  if (r.masked()) {
#pragma unroll
    for (int j = 0; j < kPerLane; ++j)
      if (!(allowed >> j & 1u)) v.x[j] = r.pad();
  }
  return v;
}

template <typename T>
FD_DEVICE Values fetch_values(const Row<T>& r, int b, int lane) {
  const Share<Stored<T>> s = fetch(r, b, lane);
  const uint32_t allowed = !r.masked() ? 0 : allowed_bits(r, b, lane);
  if constexpr (kEdited<T>) {
    Values v = widened(r, s, allowed, edited_blocks(b, 1) ? b : -1);
    const Ceiling ceiling{ceiling_in_force(), ceiling_first()};
    if (ceiling.hi < inf32()) {
      const bool runs = in_runs(r, b);
#pragma unroll
      for (int j = 0; j < kPerLane; ++j)
        if (!below(ceiling, v.x[j], int64_t(b) * kBlock + place_of<T>(runs, lane, j)))
          v.x[j] = r.pad();
    }
    return v;
  }
  return widened(r, s, allowed);
}

// What a warp works on at a time: blocks b to b + kBlocks - 1, of which those from `end` on are not
// read and hold padding.
template <typename T, int kBlocks>
struct Batch {
  Share<Stored<T>> share[kBlocks];
  uint32_t allowed = 0;  // 8 bits a block
  int first = 0;         // block
  uint32_t edited = 0;   // bit u: block first + u has edits
  __device__ uint32_t bits(int u) const { return allowed >> (u * kPerLane) & 0xffu; }
  __device__ Values values(const Row<T>& r, int u) const {
    return widened(r, share[u], bits(u), edited >> u & 1u ? first + u : -1);
  }
};

template <int kBlocks, typename T>
FD_DEVICE Batch<T, kBlocks> fetch_batch(const Row<T>& r, int b, int end, int lane) {
  Batch<T, kBlocks> batch;
  if constexpr (kEdited<T>) {
    batch.first = b;
    batch.edited = edited_blocks(b, kBlocks);
  }
  const int whole = end < r.run_blocks ? end : r.run_blocks;
  if (b + kBlocks <= whole) {
    const Global<const Stored<T>> first = r.x.at(int64_t(b) * kBlock);
#pragma unroll
    for (int u = 0; u < kBlocks; ++u) batch.share[u] = fetch_runs(first.at(u * kBlock), lane);
  } else {
#pragma unroll
    for (int u = 0; u < kBlocks; ++u)
      batch.share[u] = b + u < end ? fetch(r, b + u, lane) : padding(r);
  }
  if (r.masked()) {
#pragma unroll 1
    for (int u = 0; u < kBlocks; ++u)
      if (b + u < end) batch.allowed |= allowed_bits(r, b + u, lane) << (u * kPerLane);
  }
  return batch;
}

// The largest of a lane's tokens, or a NaN if there is one.
FD_DEVICE float largest_of(const Values& v) {
  float m[kPerLane / 2];
#pragma unroll
  for (int j = 0; j < kPerLane / 2; ++j) m[j] = larger_or_nan(v.x[2 * j], v.x[2 * j + 1]);
  return larger_or_nan(larger_or_nan(m[0], m[1]), larger_or_nan(m[2], m[3]));
}
FD_DEVICE float largest_of(const Share<float>& s) {
  Values v;
  memcpy(&v, &s, sizeof(v));
  return largest_of(v);
}
template <typename T, typename Larger>
FD_DEVICE uint32_t largest_halves(const Share<T>& s, Larger larger_halves) {
  uint32_t w[kPerLane / 2];
  memcpy(w, &s, sizeof(w));
  return larger_halves(larger_halves(w[0], w[1]), larger_halves(w[2], w[3]));
}
FD_DEVICE float largest_of(const Share<BFloat16>& s) {
  const uint32_t w = largest_halves(s, larger_bfloat16s);
  return larger_or_nan(float_of(w << 16), float_of(w & 0xffff0000u));
}
FD_DEVICE float largest_of(const Share<Float16>& s) {
  const uint32_t w = largest_halves(s, larger_float16s);
  return larger_or_nan(half_to_float(uint16_t(w)), half_to_float(uint16_t(w >> 16)));
}
// The same of every block of a batch, without what is excluded.
template <typename T, int kBlocks>
FD_DEVICE void largest_of_lane(const Row<T>& r, const Batch<T, kBlocks>& batch,
                               float (&m)[kBlocks]) {
#pragma unroll
  for (int u = 0; u < kBlocks; ++u) m[u] = largest_of(batch.share[u]);
  if (r.masked() || batch.edited != 0) {
#pragma unroll
    for (int u = 0; u < kBlocks; ++u) m[u] = largest_of(batch.values(r, u));
  }
}

// One token; -0 reads as +0.
template <typename T>
FD_DEVICE float value_at(const Row<T>& r, int64_t id) {
  if (id >= r.cols() || !token_allowed(r, id)) return r.pad();
  float x = to_float(r.x.load(id)) + 0.0f;
  if constexpr (kEdited<T>) {
    const int b = int(id / kBlock), place = int(id % kBlock);
    if (edited_blocks(b, 1)) {
      const BlockEdits edits = edits_of_block(b, r.blocks);
      if (edits.has(place)) x = edits.value(place);
    }
    if (!below(Ceiling{ceiling_in_force(), ceiling_first()}, x, id)) x = r.pad();
  }
  return x;
}

// The maximum of every noise block and its spread: how many times the weight of the maximum the
// block weighs at most, 8 to 255, where 255 stands for all of 256. In shared memory or, maxima as
// FarMax<T>, in the workspace.
FD_DEVICE Shared<float> near_maxima() {
  FD_SHARED(float, maxima, kSharedBlocks);
  return maxima;
}
FD_DEVICE Shared<uint8_t> near_spreads() {
  FD_SHARED(uint8_t, spreads, kSharedBlocks);
  return spreads;
}
template <typename T>
struct Maxima {
  bool is_near;
  int from;  // the first block that the shared memory holds
  __device__ static Global<FarMax<T>> far() {
    return Global<FarMax<T>>(reinterpret_cast<FarMax<T>*>(board().word(kWordFarMaxima)));
  }
  __device__ static Global<uint8_t> far_spreads() {
    return Global<uint8_t>(reinterpret_cast<uint8_t*>(board().word(kWordFarSpreads)));
  }
  __device__ float load(int b) const {
    return is_near ? near_maxima().load(b - from) : to_float(far().load(b));
  }
  __device__ float spread(int b) const {
    const uint8_t s = is_near ? near_spreads().load(b - from) : far_spreads().load(b);
    return s == 255 ? float(kBlock) : float(s);
  }
  __device__ void store(int b, float max, uint8_t spread) const {
    if (is_near) {
      near_maxima().store(b - from, max);
      near_spreads().store(b - from, spread);
      return;
    }
    FarMax<T> v;
    narrow(max, v);
    far().store(b, v);
    far_spreads().store(b, spread);
  }
};

}  // namespace fusedraw::cuda
