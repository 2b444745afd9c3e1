// SPDX-License-Identifier: Apache-2.0
// Top-n-sigma before the prefixes; typical, epsilon, eta and XTC after them: passes over what K
// holds by then. A ceiling (a cut from above) is a row whose blocks come without what lies above
// it, so that everything that reads K works as before; maxima of blocks stay upper bounds.
#pragma once

namespace fusedraw {
namespace {

// Blocks without what lies above the ceiling.
const float* fetch_below(const Row& r, int64_t b, float* out) {
  const float* x = r.fetch_below(r, b, out);
  const Ceiling& c = r.ceiling;
  const int64_t first = b * kBlock;
  if (c.first > first && c.first < first + kBlock) {
    for (int i = 0; i < kBlock; ++i) out[i] = below(c, x[i], first + i) ? x[i] : r.pad;
    return out;
  }
  const V::F hi = V::set(c.first <= first ? c.hi : next_down(c.hi)), pad = V::set(r.pad);
  for (int j = 0; j < kVecs; ++j) {
    const V::F v = V::load(x + j * V::kLanes);
    V::store(out + j * V::kLanes, V::select(V::ge(hi, v), v, pad));
  }
  return out;
}

// The row without what lies above a ceiling.
Row cut_from_above(const Row& r, const Ceiling& c) {
  Row lower = r;
  lower.ceiling = c;
  if (r.fetch != fetch_below) {
    lower.fetch_below = r.fetch;
    lower.fetch = fetch_below;
  }
  return lower;
}

GapSums gap_sums(const Row& r) {
  alignas(64) float buffer[kBlock];
  const float least = smallest_valid(r), m = r.rule.m;
  GapSums g;
  for (int64_t b = 0; b < r.blocks; ++b) {
    if (r.block_max[b] < least) continue;
    const float* x = r.fetch(r, b, buffer);
    uint64_t n = 0, q_sum = 0, qq_sum = 0;  // below 2^53 a block
    for (int i = 0; i < kBlock; ++i) {
      const bool valid = x[i] >= least;
      const uint64_t q = valid ? fixed_gap(m, x[i]) : 0;
      n += valid;
      q_sum += q;
      qq_sum += q * q;
    }
    g.n += n;
    g.q += q_sum;
    g.qq += qq_sum;
  }
  return g;
}

uint64_t first_weight(const Row& r, const Cut& cut) {
  float best = -inf32();
  for_kept(r, cut, [&](float x, int64_t) { best = x > best ? x : best; });
  return weight_of(r.rule, best);
}

// The least distance from the center within which K has `share` of its weight.
float typical_reach(const Row& r, const Cut& cut, float center, u128 target, Scratch& scratch) {
  const int64_t n = count_kept(r, cut);
  Ranked* t = scratch.array<Ranked>(Scratch::kWide, size_t(n));
  Ranked* end = t;
  for_kept(r, cut, [&](float x, int64_t) {
    const uint32_t distance = bits_of(typical_distance(r.rule, center, x));
    *end++ = {uint64_t(~distance), weight_of(r.rule, x)};
  });
  return float_of(~uint32_t(mass_end(t, n, 0, target)->key));
}

// Narrows K of a row by the rules that come after min-p; gives the row that K is cut from.
Row narrow_late(Kept& k, Row r, const LateRules& rules, const Noise& noise, Scratch& scratch) {
  k.listed = false;  // these rules read the row
  narrow(k, r, Cut{smallest_with_weight(r.rule, 1), kAllTies});
  if (rules.typical_p < 1.0f) {
    const Sums sums = kept_sums(r, k.cut, Moments::kFirst);
    const float center = typical_center(sums);
    const u128 target = ceil_mul(rules.typical_p, sums.s);
    const float reach = typical_reach(r, k.cut, center, target, scratch);
    const ValueRange range = typical_range(r.rule, center, reach);
    narrow(k, r, Cut{range.lo, kAllTies});
    if (range.hi < r.rule.m) r = cut_from_above(r, Ceiling{range.hi, 0});
  }
  if (rules.epsilon_cutoff > 0.0f) {
    const u128 s = kept_sum(r, k.cut);
    const uint64_t least = epsilon_weight(rules.epsilon_cutoff, s, first_weight(r, k.cut));
    narrow(k, r, Cut{smallest_with_weight(r.rule, least), kAllTies});
  }
  if (rules.eta_cutoff > 0.0f) {
    const Sums sums = kept_sums(r, k.cut, Moments::kFirst);
    const uint64_t least = eta_weight(rules.eta_cutoff, sums, first_weight(r, k.cut));
    narrow(k, r, Cut{smallest_with_weight(r.rule, least), kAllTies});
  }
  if (coin_fires(noise_r64(noise, kPurposeXtc, 0), rules.xtc_probability)) {
    const uint64_t least = xtc_weight(rules.xtc_threshold, kept_sum(r, k.cut));
    // The last of the top choices in the order takes the lead.
    Ceiling last{inf32(), 0};
    if (least <= uint64_t{1} << kWeightBits) {
      const float lo = smallest_with_weight(r.rule, least);
      for_kept(r, stricter(k.cut, Cut{lo, kAllTies}), [&](float x, int64_t id) {
        if (x <= last.hi) last = {x, id};  // ids come ascending
      });
    }
    if (last.hi < inf32()) r = cut_from_above(r, last);
  }
  return r;
}

}  // namespace
}  // namespace fusedraw
