// SPDX-License-Identifier: Apache-2.0
// Edited rows. The first pass reads the row as it is; then only blocks whose largest values were
// edited get their maxima anew, and later passes see a block with its edits in place.
//
// Marks are gathered in a hash table by id; their values then lie together by block.
#pragma once

namespace fusedraw {
namespace {

struct Edit {
  int32_t place;  // within its block
  float value;
};

struct MarkedToken {
  int64_t id;
  Mark mark;
};

class MarkTable {
 public:
  MarkTable(int64_t most, int64_t blocks, Scratch& scratch) {
    while (int64_t{1} << bits_ < 2 * most) ++bits_;
    const size_t slots = size_t{1} << bits_;
    starts_ = scratch.array<int32_t>(Scratch::kEditSlots, size_t(blocks) + 1 + slots);
    slots_ = starts_ + blocks + 1;
    memset(starts_, 0, size_t(blocks + 1) * sizeof(int32_t));
    memset(slots_, 0xff, slots * sizeof(int32_t));
    tokens_ = scratch.array<MarkedToken>(Scratch::kMarks, size_t(most));
  }

  Mark& of(int64_t id) {
    const uint64_t mixed = uint64_t(id) * 0x9e3779b97f4a7c15ull;
    const uint64_t mask = (uint64_t{1} << bits_) - 1;
    for (uint64_t at = mixed >> (64 - bits_);; at = (at + 1) & mask) {
      const int32_t i = slots_[at];
      if (i >= 0 && tokens_[i].id != id) continue;
      if (i >= 0) return tokens_[i].mark;
      slots_[at] = n_;
      ++starts_[id / kBlock];  // how many a block has, at first
      tokens_[n_] = {id, Mark{}};
      return tokens_[n_++].mark;
    }
  }

  int32_t size() const { return n_; }
  const MarkedToken* tokens() const { return tokens_; }
  // Where the edits of each block end: the last call before they are laid out backwards.
  int32_t* ends(int64_t blocks) {
    for (int64_t b = 1; b <= blocks; ++b) starts_[b] += starts_[b - 1];
    return starts_;
  }

 private:
  int bits_ = 4;
  int32_t n_ = 0;
  int32_t *starts_, *slots_;
  MarkedToken* tokens_;
};

// Whether lowering a value leaves the maxima of its block as they are: it is none of them.
bool below_maxima(const float* group_max, const float* block_max, int64_t b, float x) {
  if (group_max == nullptr) return x < block_max[b];
  return V::bits(V::eq(V::load(group_max + b * V::kLanes), V::set(x))) == 0;
}

// After the first pass: the values that the marks ask for, by block (`ends` become starts), and
// which blocks then have other maxima.
template <typename T, bool kMasked>
void edit_values(const Row& r, const MarkedToken* tokens, int32_t* ends, Edit* to, uint8_t* stale) {
  // Copies: for all the compiler knows, a store to `stale` changes the row.
  const T* data = static_cast<const T*>(r.data);
  const uint32_t* mask = r.mask;
  const float pad = r.pad, *group_max = r.group_max, *block_max = r.block_max;
  const Penalties p = r.penalties;
  const MarkedToken* end = tokens + r.n_edits;
  for (const MarkedToken* t = tokens; t != end; ++t) {
    const int64_t id = t->id, b = id / kBlock;
    const bool seen = !kMasked || (mask[id / 32] >> (id % 32) & 1u);
    const float x = seen ? widen(data[id]) + 0.0f : pad;
    const float y = edited_value(x, t->mark, p);
    to[--ends[b]] = {int32_t(id % kBlock), y};
    stale[b] |= !(y < x && below_maxima(group_max, block_max, b, x)) & !(y == x);
  }
}

const float* fetch_edited(const Row& r, int64_t b, float* out) {
  const float* x = r.fetch_plain(r, b, out);
  const Edit *e = r.edits + r.edit_starts[b], *end = r.edits + r.edit_starts[b + 1];
  if (e == end) return x;
  if (x != out) memcpy(out, x, kBlock * sizeof(float));
  for (; e != end; ++e) out[e->place] = e->value;
  return out;
}

template <typename Fn>
bool each_listed(const IdLists& list, int64_t row, int64_t cols, Fn fn) {
  const IdRange range = ids_of(list, row);
  bool ok = true;
  for (int64_t i = range.begin; i < range.end; ++i) {
    const int64_t id = id_at(list, i);
    if (id >= cols) ok = false;
    if (id >= 0 && id < cols) fn(id, i);
  }
  return ok;
}

// Reads a row's lists; the first pass then edits it. False: BAD_PARAM.
bool edit_row(Row& r, const EditsView& v, int64_t row, const Penalties& p, Scratch& scratch) {
  int64_t most = 0;
  for (const IdLists* l : {&v.history, &v.prompt, &v.suppress, &v.bias}) {
    const IdRange range = ids_of(*l, row);
    if (range.end > range.begin) most += range.end - range.begin;
  }
  if (most == 0) return true;
  MarkTable table(most, r.blocks, scratch);
  bool ok = each_listed(v.history, row, r.cols, [&](int64_t id, int64_t) {
    Mark& m = table.of(id);
    m.flags |= kSeen;
    ++m.count;
  });
  ok &=
      each_listed(v.prompt, row, r.cols, [&](int64_t id, int64_t) { table.of(id).flags |= kSeen; });
  ok &= each_listed(v.suppress, row, r.cols,
                    [&](int64_t id, int64_t) { table.of(id).flags |= kSuppressed; });
  ok &= each_listed(v.bias, row, r.cols,
                    [&](int64_t id, int64_t i) { ok &= mark_bias(table.of(id), v.values[i]); });
  if (!ok) return false;
  r.penalties = p;
  r.n_edits = table.size();
  r.marks = table.tokens();
  r.edit_starts = table.ends(r.blocks);
  r.edits = scratch.array<Edit>(Scratch::kEdits, size_t(r.n_edits));
  r.stale = scratch.array<uint8_t>(Scratch::kStale, size_t(r.blocks));
  return true;
}

struct EditRange {
  const Edit *first, *last;
  const Edit* begin() const { return first; }
  const Edit* end() const { return last; }
};
EditRange edits_of(const Row& r, int64_t b) {
  return {r.edits + r.edit_starts[b], r.edits + r.edit_starts[b + 1]};
}

// The maxima of a block with edits: the untouched tokens as vectors, the edited ones one by one (a
// vector read of a block just patched would wait for each patch).
void refresh_block(Row& r, int64_t b) {
  alignas(64) float buffer[kBlock], lanes[V::kLanes];
  constexpr int kPerWord = 32 / V::kLanes;
  uint32_t untouched[kBlock / 32];
  memset(untouched, 0xff, sizeof(untouched));
  float edited = -inf32();
  for (const Edit& e : edits_of(r, b)) {
    untouched[e.place / 32] &= ~(1u << e.place % 32);
    edited = e.value > edited ? e.value : edited;
  }
  const float* x = r.fetch_plain(r, b, buffer);
  const V::F none = V::set(-inf32());
  V::F max = none;
  for (int j = 0; j < kVecs; ++j) {
    const V::M here = V::from_bits(untouched[j / kPerWord] >> (j % kPerWord * V::kLanes));
    max = V::max(V::select(here, V::load(x + j * V::kLanes), none), max);
  }
  const float rest = V::reduce_max(max);
  r.block_max[b] = rest > edited ? rest : edited;
  if (r.group_max == nullptr) return;
  V::store(lanes, max);
  for (const Edit& e : edits_of(r, b)) {
    float& lane = lanes[e.place % V::kLanes];
    lane = e.value > lane ? e.value : lane;
  }
  memcpy(r.group_max + b * V::kLanes, lanes, sizeof(lanes));
}

// After a first pass over the row as it is: its edits, and the maxima that they change. Later
// passes see the edited row. Gives its largest value.
float apply_edits(Row& r) {
  memset(r.stale, 0, size_t(r.blocks));
  r.edit(r, r.marks, r.edit_starts, r.edits, r.stale);
  r.fetch_plain = r.fetch;
  r.fetch = fetch_edited;
  for (int64_t b = 0; b < r.blocks; ++b)
    if (r.stale[b]) refresh_block(r, b);
  V::F m = V::set(-inf32());
  for (int64_t b = 0; b < r.blocks; b += V::kLanes) m = V::max(V::load(r.block_max + b), m);
  return V::reduce_max(m);
}

// Whether the edited row holds NaN: the first pass also saw those that edits removed.
bool holds_nan(const Row& r) {
  alignas(64) float buffer[kBlock];
  for (int64_t b = 0; b < r.blocks; ++b) {
    const float* x = r.fetch(r, b, buffer);
    for (int i = 0; i < kBlock; ++i)
      if (x[i] != x[i]) return true;
  }
  return false;
}

}  // namespace
}  // namespace fusedraw
