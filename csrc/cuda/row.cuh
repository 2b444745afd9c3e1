// SPDX-License-Identifier: Apache-2.0
// A row in global memory, read by warps in noise blocks of 256 tokens, 8 a lane.
//
// Only this file knows dtypes, alignment, masks and the partial last block: what is excluded or
// past the end reads as `pad` (-inf for logits, 0 for probabilities), which never changes a draw.
#pragma once

#include "../core/call.h"
#include "reduce.cuh"

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
  Global<const T> x;
  int blocks;      // at most 2^25
  int run_blocks;  // the first of them are read in 16-byte pieces
  bool probs;
  MaskView::Kind mask;  // what it says lies at the board's kWordMask
  __device__ float pad() const { return probs ? 0.0f : -inf32(); }
  __device__ float smallest_valid() const { return probs ? float_of(1u) : -kFltMax; }
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
                        T* far_maxima, uint8_t* far_spreads) {
  if (threadIdx.x == 0) {
    const T* x = static_cast<const T*>(v.data) + row * v.row_stride;
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
  const Global<const T> x(reinterpret_cast<const T*>(board().word(kWordRowData)));
  const int64_t cols = int64_t(board().word(kWordCols));
  const uint32_t kind = uint32_t(board().word(kWordRowKind));
  return {x, int((cols + kBlock - 1) / kBlock), x.aligned16() ? int(cols / kBlock) : 0,
          (kind & 1) != 0, MaskView::Kind(kind >> 8)};
}

// A lane's share of a noise block, as stored.
template <typename T>
struct alignas(16) Share {
  T e[kPerLane];
};

// The same, but what was computed from it before is computed again: packed, it takes half of the
// registers or less.
template <typename T>
FD_DEVICE Share<T> as_stored(const Share<T>& s) {
  constexpr int kWords = int(sizeof(Share<T>)) / 4;
  uint32_t w[kWords];
  memcpy(w, &s, sizeof(w));
#pragma unroll
  for (int i = 0; i < kWords; ++i) w[i] = opaque(w[i]);
  Share<T> again;
  memcpy(&again, w, sizeof(w));
  return again;
}

// A number from which nothing is computed ahead of its use: what can be computed anew in an
// instruction or two should not be kept.
FD_DEVICE int in_register(int v) { return int(opaque(uint32_t(v))); }

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
  if (r.mask == MaskView::Kind::kNone) return true;
  if (r.mask == MaskView::Kind::kBool) return r.mask_bytes().load(id) != 0;
  return r.mask_words().load(id >> 5) >> (id & 31) & 1u;
}

// Nothing: padding throughout.
template <typename T>
FD_DEVICE Share<T> padding(const Row<T>& r) {
  Share<T> s;
  T nothing{};
  if (!r.probs) set_neg_inf(nothing);
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) s.e[j] = nothing;
  return s;
}

template <typename T>
FD_DEVICE Share<T> fetch(const Row<T>& r, int b, int lane) {
  constexpr int kRun = 16 / int(sizeof(T));
  const Global<const T> block = r.x.at(int64_t(b) * kBlock);
  if (in_runs(r, b)) {
    Share<T> s;
#pragma unroll
    for (int g = 0; g < kPerLane / kRun; ++g) {
      const Vec16 v = block.load16((g * kLanes + lane) * kRun);
      memcpy(s.e + g * kRun, &v, 16);
    }
    return s;
  }
  // Half of the tokens at a time: unrolled, this path would cost more registers than the other.
  Share<T> s = padding(r);
  const T nothing = s.e[0];
  const int64_t rest = r.cols() - int64_t(b) * kBlock;
  const int end = rest < kBlock ? int(rest) : kBlock;
#pragma unroll 1
  for (int place = in_register(lane); place < kBlock; place += kBlock / 2) {
#pragma unroll
    for (int j = 0; j < kPerLane / 2; ++j) {
      s.e[j] = s.e[j + kPerLane / 2];
      const int at = place + j * kLanes;
      s.e[j + kPerLane / 2] = at < end ? block.load(at) : nothing;
    }
  }
  return s;
}

// Bit j: the lane's j-th token is allowed. Tokens past the end are padding anyway.
template <typename T>
FD_DEVICE uint32_t allowed_bits(const Row<T>& r, int b, int lane) {
  constexpr int kRun = 16 / int(sizeof(T));
  uint32_t bits = 0;
  if (r.mask == MaskView::Kind::kBits && in_runs(r, b)) {
    const Global<const uint32_t> words = r.mask_words().at(int64_t(b) * (kBlock / 32));
#pragma unroll
    for (int g = 0; g < kPerLane / kRun; ++g) {
      const int place = (g * kLanes + lane) * kRun;
      bits |= (words.load(place >> 5) >> (place & 31) & ((1u << kRun) - 1)) << (g * kRun);
    }
    return bits;
  }
  const bool runs = in_runs(r, b);
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

template <typename T>
FD_DEVICE Values widened(const Row<T>& r, const Share<T>& s, uint32_t allowed) {
  Values v;
#pragma unroll
  for (int j = 0; j < kPerLane; ++j) v.x[j] = to_float(s.e[j]);
  if (r.mask != MaskView::Kind::kNone) {
#pragma unroll
    for (int j = 0; j < kPerLane; ++j)
      if (!(allowed >> j & 1u)) v.x[j] = r.pad();
  }
  return v;
}

template <typename T>
FD_DEVICE Values fetch_values(const Row<T>& r, int b, int lane) {
  const Share<T> s = fetch(r, b, lane);
  return widened(r, s, r.mask == MaskView::Kind::kNone ? 0 : allowed_bits(r, b, lane));
}

// What a warp works on at a time: blocks b to b + kBatch - 1. Those not `wanted` are not read and
// hold padding.
template <typename T>
struct Batch {
  Share<T> share[kBatch<T>];
  uint32_t allowed = 0;  // 8 bits a block
  __device__ uint32_t bits(int u) const { return allowed >> (u * kPerLane) & 0xffu; }
};

template <typename T, typename Wanted>
FD_DEVICE Batch<T> fetch_batch(const Row<T>& r, int b, int lane, Wanted wanted) {
  Batch<T> batch;
#pragma unroll
  for (int u = 0; u < kBatch<T>; ++u)
    batch.share[u] = wanted(u) ? fetch(r, b + u, lane) : padding(r);
  if (r.mask != MaskView::Kind::kNone) {
#pragma unroll 1
    for (int u = 0; u < kBatch<T>; ++u)
      if (wanted(u)) batch.allowed |= allowed_bits(r, b + u, lane) << (u * kPerLane);
  }
  return batch;
}

// One token; -0 reads as +0.
template <typename T>
FD_DEVICE float value_at(const Row<T>& r, int64_t id) {
  if (id >= r.cols() || !token_allowed(r, id)) return r.pad();
  return to_float(r.x.load(id)) + 0.0f;
}

// The maximum of every noise block and its spread: how many times the weight of the maximum the
// block weighs at most, 8 to 255, where 255 stands for all of 256. In shared memory or, maxima in
// the row's own type, in the workspace.
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
  __device__ static Global<T> far() {
    return Global<T>(reinterpret_cast<T*>(board().word(kWordFarMaxima)));
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
    T v;
    narrow(max, v);
    far().store(b, v);
    far_spreads().store(b, spread);
  }
};

}  // namespace fusedraw::cuda
