// SPDX-License-Identifier: Apache-2.0
// The race: argmin over blocks of E(BLOCK, b) / S_b, then over the winning block's tokens.
//
// Only blocks whose lower bound can still win are summed. Two bounds, both from the first pass: 256
// times the weight of the block's maximum, then 256 / kLanes times the sum of the weights of its
// lane maxima. A block is skipped only when a bound is strictly above the best exact value, so the
// result is that of the full race, to the bit.
#pragma once

namespace fusedraw {
namespace {

struct Winner {
  double value = 0.0;
  int64_t id = -1;
  bool better(double v, int64_t i) const { return id < 0 || v < value || (v == value && i < id); }
};

// What runs: the kept tokens by weight, or the support by number (exploring).
struct Field {
  const Row* row;
  Cut cut;
  bool explore;
};

// Exact mass of block b in the field; x receives the block with dropped tokens as padding.
uint64_t field_mass(const Field& f, int64_t b, const float* x) {
  const Row& r = *f.row;
  if (!f.explore) return block_sum(r.rule, x, top_weight(r.rule, r.block_max[b]));
  const V::F valid = V::set(smallest_valid(r));
  uint64_t n = 0;
  for (int j = 0; j < kVecs; ++j)
    n += uint64_t(__builtin_popcount(V::bits(V::ge(V::load(x + j * V::kLanes), valid))));
  return n;
}

// bounds[b] <= 2^43 E_b / S_b for every block (exploring: <= E_b / count); +inf where the block has
// no mass. Returns the block with the smallest one, -1 if none is alive.
int64_t block_bounds(const Field& f, const Noise& noise, float* bounds, uint32_t* words) {
  const Row& r = *f.row;
  noise_words(noise, kPurposeBlock, 0, r.blocks, words);
  const V::F lo = V::set(f.cut.lo), dead = V::set(inf32());
  const V::F width = V::set(float(kBlock) * kGrow);
  V::F best = dead;
  with_lanes(r.rule, [&](auto lanes) {
    for (int64_t b = 0; b < r.blocks; b += V::kLanes) {
      const V::F m = V::load(r.block_max + b);
      V::F mass = V::set(0x1p43f);  // exploring counts tokens, here in units of 2^43
      V::M alive = V::ge(m, lo);
      if (!f.explore) {
        const V::F e = lanes(m);
        alive = V::both(alive, V::gt(e, V::set(kNoWeight)));
        // w <= 2^43 e + 1/2
        mass = V::add(V::mul(e, V::set(0x1p43f)), V::set(0.5f));
      }
      V::F bound =
          V::div(V::mul(noise_floor(V::iload(words + b)), V::set(0x1p43f)), V::mul(mass, width));
      bound = V::select(alive, bound, dead);
      V::store(bounds + b, bound);
      best = V::select(V::gt(best, bound), bound, best);
    }
    return 0;
  });
  const float least = -V::reduce_max(V::sub(V::set(0.0f), best));
  if (!(least < inf32())) return -1;
  for (int64_t b = 0;; ++b)
    if (bounds[b] == least) return b;
}

// The second bound of a block, from its lane maxima.
float lane_bound(const Field& f, int64_t b, uint32_t word) {
  const Row& r = *f.row;
  return with_lanes(r.rule, [&](auto lanes) {
    const V::F m = V::load(r.group_max + b * V::kLanes);
    V::F e = V::add(lanes(m), V::set(kNoWeight));
    e = V::keep(V::ge(m, V::set(f.cut.lo)), e);
    const float sum = V::reduce_add(e) * float(kBlock / V::kLanes) * kGrow;
    return float(word) * (0x1p-32f * kShrink) / sum;
  });
}

// The winning block, or -1 when the field has no mass.
int64_t race_blocks(const Field& f, const Noise& noise, Scratch& scratch) {
  const Row& r = *f.row;
  const size_t padded = size_t(r.blocks + 2 * V::kLanes);
  float* bounds = scratch.array<float>(Scratch::kBound, padded);
  uint32_t* words = scratch.array<uint32_t>(Scratch::kNoiseWords, padded);
  const int64_t start = block_bounds(f, noise, bounds, words);
  Winner best;
  if (start < 0) return -1;
  alignas(64) float buffer[kBlock];
  const double unit = f.explore ? 1.0 : 0x1p43;  // of the bounds
  float limit = inf32();                         // best.value in that unit, rounded up
  const auto examine = [&](int64_t b) {
    const uint64_t mass = field_mass(f, b, kept_block(r, f.cut, b, buffer));
    if (mass == 0) return;
    const uint64_t r64 = noise_r64(noise, kPurposeBlock, b);
    const double d = to_double(mass);
    // E >= v; the factor covers the roundings of both.
    if (best.id >= 0 && uniform_open(r64) * (1.0 - 0x1p-48) / d > best.value) return;
    const double value = exponential(r64) / d;
    if (!best.better(value, b)) return;
    best.value = value;
    best.id = b;
    limit = float(value * unit) * kGrow;
  };
  examine(start);
  for (int64_t b = 0; b < r.blocks; b += V::kLanes) {
    uint32_t open = V::bits(V::ge(V::set(limit), V::load(bounds + b)));
    for (; open != 0; open &= open - 1) {
      const int64_t i = b + __builtin_ctz(open);
      if (i >= r.blocks || i == start || !(bounds[i] <= limit) || bounds[i] == inf32()) continue;
      if (!f.explore && lane_bound(f, i, words[i]) > limit) continue;
      examine(i);
    }
  }
  return best.id;
}

// The race within block b.
int64_t race_tokens(const Field& f, const Noise& noise, int64_t b) {
  const Row& r = *f.row;
  alignas(64) float buffer[kBlock], bounds[kBlock];
  alignas(64) uint32_t words[kBlock + 2 * V::kLanes];
  const float* x = kept_block(r, f.cut, b, buffer);
  // The padding of a last block needs no noise.
  const int64_t rest = r.cols - b * kBlock, padded = (rest + V::kLanes - 1) / V::kLanes * V::kLanes;
  const int n = int(padded < kBlock ? padded : kBlock);
  noise_words(noise, kPurposeToken, b * kBlock, n, words);
  const V::F dead = V::set(inf32()), valid = V::set(smallest_valid(r));
  V::F best_bound = dead;
  with_lanes(r.rule, [&](auto lanes) {
    for (int j = 0; j < n; j += V::kLanes) {
      const V::F v = V::load(x + j);
      V::F mass = V::set(0x1p43f);
      V::M alive = V::ge(v, valid);
      if (!f.explore) {
        const V::F e = lanes(v);
        alive = V::both(alive, V::gt(e, V::set(kNoWeight)));
        mass = V::mul(V::add(V::mul(e, V::set(0x1p43f)), V::set(0.5f)), V::set(kGrow));
      }
      V::F bound = V::div(V::mul(noise_floor(V::iload(words + j)), V::set(0x1p43f)), mass);
      bound = V::select(alive, bound, dead);
      V::store(bounds + j, bound);
      best_bound = V::select(V::gt(best_bound, bound), bound, best_bound);
    }
    return 0;
  });
  const float least = -V::reduce_max(V::sub(V::set(0.0f), best_bound));
  Winner best;
  float limit = least;
  // First the token with the least bound, then every other that can still win.
  for (int pass = 0; pass < 2; ++pass) {
    for (int j = 0; j < n; j += V::kLanes) {
      uint32_t open = V::bits(V::ge(V::set(limit), V::load(bounds + j)));
      for (; open != 0; open &= open - 1) {
        const int i = j + __builtin_ctz(open);
        if (!(bounds[i] <= limit) || bounds[i] == inf32()) continue;
        const int64_t id = b * kBlock + i;
        const uint64_t w = f.explore ? 1 : weight_of(r.rule, x[i]);
        const double value = exponential(noise_r64(noise, kPurposeToken, id)) / to_double(w);
        if (!best.better(value, id)) continue;
        best.value = value;
        best.id = id;
      }
    }
    // In the units of the bounds: 2^43 E / w, or E itself when exploring.
    limit = float(best.value * (f.explore ? 1.0 : 0x1p43)) * kGrow;
  }
  return best.id;
}

int64_t race_row(const Field& f, const Noise& noise, Scratch& scratch) {
  const int64_t b = race_blocks(f, noise, scratch);
  return b < 0 ? -1 : race_tokens(f, noise, b);
}

}  // namespace
}  // namespace fusedraw
