// SPDX-License-Identifier: Apache-2.0
// A sample of a row's values with their weights, to guess where a mass lies. Guesses cost time
// where they are wrong, never the result.
#pragma once

namespace fusedraw {
namespace {

constexpr int64_t kFewBlocks = 8, kMaxSampleBlocks = 64;

// Places between two values: for logits, whose weight is exponential in them, the values
// themselves, else their float keys.
struct Places {
  bool linear;
  double of(float x) const { return linear ? double(x) : double(order_key(x)); }
  float value(double place) const {
    return linear ? float(place) : from_order_key(uint32_t(place));
  }
};

struct Sample {
  float *x = nullptr, *e = nullptr;
  int64_t n = 0;  // a whole number of blocks
  float total = 0, total_square = 0;
  // Where the sample is of whole blocks: the first, how far apart they are, where they end.
  int64_t first = 0, stride = 1, end = 0;
  // The next block from b on that it holds; `end` where none is left.
  int64_t next_held(int64_t b) const {
    if (b <= first) return first < end ? first : end;
    const int64_t next = first + (b - first + stride - 1) / stride * stride;
    return next < end ? next : end;
  }

  // Masses at or above several pivots in one go, by every step-th vector; `scale`: what of those
  // stands for all.
  static constexpr int kPivots = 8;
  void masses_at_least(const float* pivots, float* masses, int step = 1, float scale = 1.0f) const {
    V::F p[kPivots], s[kPivots];
    for (int k = 0; k < kPivots; ++k) p[k] = V::set(pivots[k]), s[k] = V::set(0.0f);
    for (int64_t i = 0; i < n; i += step * V::kLanes) {
      const V::F v = V::load(x + i), w = V::load(e + i);
#pragma GCC unroll 8
      for (int k = 0; k < kPivots; ++k) s[k] = V::add_where(s[k], V::ge(v, p[k]), w);
    }
    for (int k = 0; k < kPivots; ++k) masses[k] = V::reduce_add(s[k]) * scale;
  }
  float scale_of(int step) const {
    V::F sum = V::set(0.0f);
    for (int64_t i = 0; i < n; i += step * V::kLanes) sum = V::add(sum, V::load(e + i));
    const float some = V::reduce_add(sum);
    return some > 0.0f ? total / some : float(step);
  }

  // Two values with `mass` of the sample at or above some value between them, and what lies at or
  // above each: closer by a factor of seven a round, or moved where the mass is not between them.
  struct Between {
    double low, high;  // places
    float at_low, at_high;
  };
  void narrow(Between& b, float mass, const Between& all, Places places, int step = 1,
              float scale = 1.0f) const {
    float pivots[kPivots], masses[kPivots];
    const double low = b.low, part = (b.high - low) / (kPivots - 1);
    for (int k = 0; k < kPivots; ++k) pivots[k] = places.value(low + part * k);
    masses_at_least(pivots, masses, step, scale);
    int k = 0;
    while (k < kPivots && masses[k] >= mass) ++k;
    b = all;
    if (k > 0) b.low = low + part * (k - 1), b.at_low = masses[k - 1];
    if (k < kPivots) b.high = low + part * k, b.at_high = masses[k];
  }
  float mass_at_least(float pivot) const {
    V::F sum = V::set(0.0f);
    const V::F p = V::set(pivot);
    for (int64_t i = 0; i < n; i += V::kLanes)
      sum = V::add_where(sum, V::ge(V::load(x + i), p), V::load(e + i));
    return V::reduce_add(sum);
  }
  int64_t count_at_least(float pivot) const {
    int64_t count = 0;
    const V::F p = V::set(pivot);
    for (int64_t i = 0; i < n; i += V::kLanes)
      count += __builtin_popcount(V::bits(V::ge(V::load(x + i), p)));
    return count;
  }
  // About the value with `mass` of the sample at or above it, and how far apart places are there
  // for a unit of mass in between. A few of the values tell where to look, then all of them; until
  // so little lies in between that a straight line through it will do.
  struct Guess {
    float value;
    double per_mass;
  };
  Guess value_of_mass(float mass, float low, float high, Places places) const {
    constexpr int kStep = 8, kRounds = 6;
    const float rest = total - mass, little = 0.25f * (mass < rest ? mass : rest);
    const float scale = scale_of(kStep);
    const Between all{places.of(low), places.of(high), total, 0.0f};
    Between b = all;
    for (int i = 0; i < kRounds && b.at_low - b.at_high > little; ++i)
      narrow(b, mass, all, places, kStep, scale);
    const double width = 2.0 * (b.high - b.low);
    b = {b.low - width > all.low ? b.low - width : all.low,
         b.high + width < all.high ? b.high + width : all.high, total, 0.0f};
    for (int i = 0; i < kRounds && b.at_low - b.at_high > little; ++i) narrow(b, mass, all, places);
    const double gap = double(b.at_low - b.at_high), apart = b.high - b.low;
    if (!(gap > 0.0)) return {places.value(b.low), apart / double(total)};
    const double share = double(b.at_low - mass) / gap;
    return {places.value(b.low + apart * (share < 0.0   ? 0.0
                                          : share > 1.0 ? 1.0
                                                        : share)),
            apart / gap};
  }
};

// Adds a block's values below `ceiling` to the sample; no e in it exceeds e_max.
void sample_block(Sample& s, const WeightRule& rule, const float* x, float e_max, float ceiling,
                  float pad) {
  const V::F top = V::set(ceiling), nothing = V::set(pad);
  const bool all = !(ceiling < inf32());
  float *to_x = s.x + s.n, *to_e = s.e + s.n;
  Group sum = zeros(), square = sum;
  with_block_lanes(rule, e_max, [&](auto lanes) {
    for (int j = 0; j < kVecs; j += kGroup) {
      Group v = load_group(x, j);
      if (!all) v = map(v, [&](V::F y) { return V::select(V::gt(top, y), y, nothing); });
      const Group e = lanes(v);
      store_group(to_x, j, v);
      store_group(to_e, j, e);
      sum = add(sum, e);
      square = {V::fma(e.a, e.a, square.a), V::fma(e.b, e.b, square.b), V::fma(e.c, e.c, square.c),
                V::fma(e.d, e.d, square.d)};
    }
    return 0;
  });
  s.n += kBlock;
  s.total += V::reduce_add(total(sum));
  s.total_square += V::reduce_add(total(square));
}

Sample new_sample(Scratch& scratch) {
  Sample s;
  s.x = scratch.array<float>(Scratch::kSample, 2 * kMaxSampleBlocks * kBlock);
  s.e = s.x + kMaxSampleBlocks * kBlock;
  return s;
}

// The lane maxima of a row from `low` to below `ceiling`. Near the top of a row nearly every token
// is the largest of its lane, so they tell what lies there without a look at the row.
Sample sample_maxima(const Row& r, float low, float ceiling, Scratch& scratch) {
  Sample s = new_sample(scratch);
  List found = make_list(scratch, Scratch::kListB, kMaxSampleBlocks * kBlock);
  ZoneGatherer<float> zone(found, low, next_down(ceiling));
  const int64_t n = r.blocks * V::kLanes;
  for (int64_t i = 0; i < n; i += kBlock) {
    const float* x = r.group_max + i;
    if (i + kBlock > n) {
      float* room = zone.room();
      for (int j = 0; j < kBlock; ++j) room[j] = i + j < n ? x[j] : r.pad;
      x = room;
    }
    if (!zone.add(x, 0)) return s;
  }
  if (!zone.finish()) return s;
  for (int i = 0; i < kBlock; ++i) found.x[found.n + i] = r.pad;  // whole blocks are read
  for (int64_t i = 0; i < found.n; i += kBlock)
    sample_block(s, r.rule, found.x + i, 1.0f, inf32(), r.pad);
  return s;
}

// A sample of `wanted` blocks of a row, evenly spread, without the values from `ceiling` up.
// `scale`: the row's mass over the sample's.
Sample sample_row(const Row& r, const Cut& base, float ceiling, int64_t wanted, float& scale,
                  Scratch& scratch) {
  Sample s = new_sample(scratch);
  const int64_t stride = r.blocks / wanted > 0 ? r.blocks / wanted : 1;
  alignas(64) float buffer[kBlock];
  int64_t sampled = 0;
  int64_t b = stride / 2;
  for (; b < r.blocks && sampled < wanted; b += stride, ++sampled)
    sample_block(s, r.rule, kept_block(r, base, b, buffer),
                 scaled_gap(r.rule, r.block_max[b]) <= -1.0f ? 0.5f : 1.0f, ceiling, r.pad);
  if (!(ceiling < inf32())) s.first = stride / 2, s.stride = stride, s.end = b;
  scale = float(r.blocks) / float(sampled);
  return s;
}

}  // namespace
}  // namespace fusedraw
