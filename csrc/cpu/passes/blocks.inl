// SPDX-License-Identifier: Apache-2.0
// The blocks of a row as a pass reads them, what a cut drops being padding.
#pragma once

namespace fusedraw {
namespace {

// Replaces what a cut drops by padding. Most blocks need one comparison a lane; the block in which
// the last kept tie lies is decided id by id.
const float* cut_block(const Row& r, const Cut& cut, int64_t b, const float* x, float* out) {
  const int64_t first = b * kBlock;
  if (cut.lo <= smallest_valid(r) && cut.last == kAllTies) return x;
  if (cut.last >= first && cut.last < first + kBlock) {
    for (int i = 0; i < kBlock; ++i) out[i] = keeps(cut, x[i], first + i) ? x[i] : r.pad;
    return out;
  }
  const V::F lo = V::set(cut.last < first ? next_up(cut.lo) : cut.lo), pad = V::set(r.pad);
  for (int j = 0; j < kVecs; ++j) {
    const V::F v = V::load(x + j * V::kLanes);
    V::store(out + j * V::kLanes, V::select(V::ge(v, lo), v, pad));
  }
  return out;
}

// Block b with what the cut drops as padding; the row itself where nothing has to be done.
FD_IN_LOOP const float* kept_block(const Row& r, const Cut& cut, int64_t b, float* room) {
  const bool whole = cut.lo <= smallest_valid(r) && cut.last == kAllTies;
  if (whole && r.fetch == fetch_block<float, false>) return block_data<float>(r, b);
  return cut_block(r, cut, b, r.fetch(r, b, room), room);
}

// Whether the cut can keep anything of a block with this maximum.
bool block_alive(const Row& r, const Cut& cut, int64_t b) {
  const float m = r.block_max[b];
  return m > cut.lo || (m == cut.lo && cut.last >= b * kBlock && m >= smallest_valid(r));
}

// Readers of blocks: value type, and the block itself, in `room` if it had to be made. A row of
// which nothing is masked, edited or cut is read where it lies, in its own type.
template <typename T>
struct PlainBlocks {
  using Value = T;
  const Row* row;
  FD_IN_LOOP const T* operator()(int64_t b, T*) const { return block_data<T>(*row, b); }
};
struct KeptBlocks {
  using Value = float;
  const Row* row;
  Cut cut;
  const float* operator()(int64_t b, float* room) const { return kept_block(*row, cut, b, room); }
};

// Calls fn with the reader that suits the row: the kind is decided once a pass, not once a block.
template <typename Fn>
auto with_blocks(const Row& r, const Cut& cut, Fn fn) {
  if (cut.lo <= smallest_valid(r) && cut.last == kAllTies) {
    if (r.fetch == fetch_block<float, false>) return fn(PlainBlocks<float>{&r});
    if (r.fetch == fetch_block<BFloat16, false>) return fn(PlainBlocks<BFloat16>{&r});
    if (r.fetch == fetch_block<Float16, false>) return fn(PlainBlocks<Float16>{&r});
  }
  return fn(KeptBlocks{&r, cut});
}

}  // namespace
}  // namespace fusedraw
