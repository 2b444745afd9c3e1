// SPDX-License-Identifier: Apache-2.0
// Short lists of candidates (value, id), ids ascending: gathering, exact selection, the race on a
// list.
//
// Ids are 32-bit here: rows of 2^32 tokens and more take the counting paths of select.inl instead.
#pragma once

namespace fusedraw {
namespace {

constexpr int64_t kListCapacity = 65536;

struct List {
  float* x = nullptr;
  uint32_t* id = nullptr;
  int64_t n = 0, capacity = 0;
};

// Room for `capacity` candidates and the overhang of compress() and of whole-block readers.
List make_list(Scratch& scratch, Scratch::Slot slot, int64_t capacity) {
  const size_t padded = size_t(capacity) + kBlock + V::kLanes;
  List l;
  l.x = scratch.array<float>(slot, 2 * padded);
  l.id = reinterpret_cast<uint32_t*>(l.x + padded);
  l.capacity = capacity;
  return l;
}

// Gathers the tokens with lo <= x <= hi of blocks that are added one by one, ids ascending. A batch
// of blocks becomes bits first, so that no branch depends on where the few hits are. The bits of
// x - lo, read as an unsigned integer, are no more than those of hi - lo where x lies in the zone,
// since rounding is monotone and a negative difference has the highest bit set: one comparison, and
// a closer look at the hits.
template <typename T>
class ZoneGatherer {
 public:
  ZoneGatherer(List& l, float lo, float hi)
      : l_(l),
        lo_(lo),
        hi_(hi),
        base_(V::set(lo == 0.0f ? -0.0f : lo)),  // no x - base_ is -0
        width_(V::as_int(V::sub(V::set(hi), base_))) {}

  // Where the block that is added next may lie: it is read later.
  T* room() { return room_ + n_ * kBlock; }
  // Ids count up from first_id. False when the list is full (it is then incomplete, and n at most
  // its capacity).
  bool add(const T* x, uint32_t first_id) {
    for (int w = 0; w < kWords; ++w) {
      uint64_t word = 0;
      for (int j = 0; j < kPerWord; ++j) {
        const V::F v = V::load(x + (w * kPerWord + j) * V::kLanes);
        const V::M near = V::at_most(V::as_int(V::sub(v, base_)), width_);
        word |= uint64_t(V::bits(near)) << (j * V::kLanes);
      }
      const int k = n_ * kWords + w;
      words_[k] = word;
      open_ |= uint64_t(word != 0) << k;
    }
    blocks_[n_] = x;
    ids_[n_++] = first_id;
    return n_ < kBatch || finish();
  }
  bool finish() {
    bool fits = true;
    for (; fits && open_ != 0; open_ &= open_ - 1) {
      const int k = __builtin_ctzll(open_), at = k % kWords * 64;
      fits = append(blocks_[k / kWords] + at, ids_[k / kWords] + uint32_t(at), words_[k]);
    }
    open_ = 0;
    n_ = 0;
    return fits;
  }

 private:
  static constexpr int kWords = kBlock / 64, kPerWord = 64 / V::kLanes, kBatch = 8;

  bool append(const T* x, uint32_t first_id, uint64_t word) {
    constexpr int kFew = 12;
    const int hits = __builtin_popcountll(word);
    if (l_.n + hits + V::kLanes > l_.capacity) return false;
    if (hits <= kFew) {  // one by one: a branch for each vector would be mispredicted at each hit
      for (; word != 0; word &= word - 1) {
        const int i = __builtin_ctzll(word);
        const float v = widen(x[i]);
        l_.x[l_.n] = v;
        l_.id[l_.n] = first_id + uint32_t(i);
        l_.n += v >= lo_ && v <= hi_;
      }
      return true;
    }
    const V::F lo = V::set(lo_), hi = V::set(hi_);
    for (int j = 0; j < kPerWord; ++j) {
      const V::F v = V::load(x + j * V::kLanes);
      l_.n += V::compress(l_.x + l_.n, l_.id + l_.n, V::both(V::ge(v, lo), V::ge(hi, v)), v,
                          V::iadd(V::iset(first_id + uint32_t(j * V::kLanes)), V::iota()));
    }
    return true;
  }

  List& l_;
  const float lo_, hi_;
  const V::F base_;
  const V::I width_;
  int n_ = 0;
  uint64_t open_ = 0;  // which words have bits set
  uint64_t words_[kBatch * kWords];
  const T* blocks_[kBatch];
  uint32_t ids_[kBatch];
  alignas(64) T room_[kBatch * kBlock];
};

// Gathers the kept tokens of [lo, hi]. False when there are too many.
bool gather_zone(List& l, const Row& r, const Cut& cut, float lo, float hi) {
  if (r.cols >= int64_t{1} << 32) return false;
  return with_blocks(r, cut, [&](auto blocks) {
    ZoneGatherer<typename decltype(blocks)::Value> zone(l, lo, hi);
    for (int64_t b = 0; b < r.blocks; ++b) {
      if (r.block_max[b] < lo || !block_alive(r, cut, b)) continue;
      if (!zone.add(blocks(b, zone.room()), uint32_t(b * kBlock))) return false;
    }
    return zone.finish();
  });
}

// All kept tokens with x >= lo.
bool gather_row(List& l, const Row& r, const Cut& cut, float lo) {
  return gather_zone(l, r, cut, lo > smallest_valid(r) ? lo : smallest_valid(r), kFltMax);
}

// Keeps of a list what a cut keeps.
void cut_list(List& l, const Cut& cut) {
  int64_t n = 0;
  for (int64_t i = 0; i < l.n; ++i) {
    if (!keeps(cut, l.x[i], l.id[i])) continue;
    l.x[n] = l.x[i];
    l.id[n++] = l.id[i];
  }
  l.n = n;
}

// A token as one integer that sorts by the order of the law, largest first. Of a type of this
// namespace, so that library algorithms instantiated on it stay inside the instruction set.
struct Ranked {
  uint64_t key;
  uint64_t w;
  bool operator<(const Ranked& o) const { return key > o.key; }
  float x() const { return from_order_key(uint32_t(key >> 32)); }
  uint32_t id() const { return ~uint32_t(key); }
};
Ranked ranked(float x, uint32_t id, uint64_t w) {
  return {uint64_t(order_key(x)) << 32 | uint32_t(~id), w};
}

// The weights of a list. Whole vectors are read and written past its end.
uint64_t* list_weights(const List& l, const WeightRule& rule, Scratch& scratch) {
  uint64_t* w = scratch.array<uint64_t>(Scratch::kListWeights, size_t(l.n + V::kLanes));
  const float pad = rule.kind == WeightKind::kProbs ? 0.0f : -inf32();
  for (int i = 0; i < V::kLanes; ++i) l.x[l.n + i] = pad;
  with_lanes(rule, [&](auto lanes) {
    for (int64_t i = 0; i < l.n; i += V::kLanes) V::store_fixed43(w + i, lanes(V::load(l.x + i)));
    return 0;
  });
  return w;
}

Ranked* rank_list(const List& l, Scratch& scratch) {
  Ranked* t = scratch.array<Ranked>(Scratch::kKeys, size_t(l.n));
  for (int64_t i = 0; i < l.n; ++i) t[i] = ranked(l.x[i], l.id[i], 0);
  return t;
}
Ranked* rank_weights(const List& l, const WeightRule& rule, Scratch& scratch) {
  const uint64_t* w = list_weights(l, rule, scratch);
  Ranked* t = scratch.array<Ranked>(Scratch::kKeys, size_t(l.n));
  for (int64_t i = 0; i < l.n; ++i) t[i] = ranked(l.x[i], l.id[i], w[i]);
  return t;
}

// The cut after the first k of a list, k <= n.
Cut cut_after(const Ranked& last, bool ties_all) {
  return {last.x(), ties_all ? kAllTies : int64_t(last.id())};
}
Cut list_top_k(const List& l, int64_t k, bool ties_all, Scratch& scratch) {
  Ranked* t = rank_list(l, scratch);
  std::nth_element(t, t + (k - 1), t + l.n);
  return cut_after(t[k - 1], ties_all);
}

// The last of the shortest prefix of n > 0 ranked tokens, sorted by key, whose weight after `above`
// reaches target; of all if none does. Halves around the median, so linear in n. `before`, where
// not null, receives the weight before that token.
const Ranked* mass_end(Ranked* t, int64_t n, u128 above, u128 target, u128* before = nullptr) {
  int64_t begin = 0, end = n;
  while (end - begin > 1) {
    const int64_t middle = begin + (end - begin) / 2;  // prefix [begin, middle) is not empty
    std::nth_element(t + begin, t + middle, t + end);
    u128 upper = above;
    for (int64_t i = begin; i < middle; ++i) upper += t[i].w;
    if (upper >= target) {
      end = middle;
    } else {
      above = upper;
      begin = middle;
    }
  }
  if (before != nullptr) *before = above;
  return t + begin;
}

// The cut after that prefix of a list.
Cut list_top_p(const List& l, const WeightRule& rule, u128 above, u128 target, bool ties_all,
               Scratch& scratch, u128* before = nullptr) {
  return cut_after(*mass_end(rank_weights(l, rule, scratch), l.n, above, target, before), ties_all);
}

// Whole blocks are read, so the list is padded first.
u128 list_sum(const List& l, const WeightRule& rule) {
  const float pad = rule.kind == WeightKind::kProbs ? 0.0f : -inf32();
  for (int i = 0; i < kBlock; ++i) l.x[l.n + i] = pad;
  u128 s = 0;
  for (int64_t i = 0; i < l.n; i += kBlock) s += block_sum(rule, l.x + i, 1.0f);
  return s;
}

// The race over a list of kept tokens.
int64_t race_list(const List& l, const WeightRule& rule, bool explore, const Noise& noise,
                  Scratch& scratch) {
  uint64_t* w = list_weights(l, rule, scratch);
  if (explore)
    for (int64_t i = 0; i < l.n; ++i) w[i] = 1;
  Winner best;
  int64_t winner_begin = 0, winner_end = 0;
  for (int64_t i = 0; i < l.n;) {
    const int64_t block = l.id[i] / kBlock, begin = i;
    uint64_t mass = 0;
    for (; i < l.n && l.id[i] / kBlock == block; ++i) mass += w[i];
    if (mass == 0) continue;
    const uint64_t r64 = noise_r64(noise, kPurposeBlock, block);
    const double d = to_double(mass);
    if (best.id >= 0 && uniform_open(r64) * (1.0 - 0x1p-48) / d > best.value) continue;
    const double value = exponential(r64) / d;
    if (!best.better(value, block)) continue;
    best.value = value;
    best.id = block;
    winner_begin = begin;
    winner_end = i;
  }
  best = Winner{};
  for (int64_t i = winner_begin; i < winner_end; ++i) {
    if (w[i] == 0) continue;
    const uint64_t r64 = noise_r64(noise, kPurposeToken, l.id[i]);
    const double d = to_double(w[i]);
    if (best.id >= 0 && uniform_open(r64) * (1.0 - 0x1p-48) / d > best.value) continue;
    const double value = exponential(r64) / d;
    if (!best.better(value, l.id[i])) continue;
    best.value = value;
    best.id = l.id[i];
  }
  return best.id;
}

}  // namespace
}  // namespace fusedraw
