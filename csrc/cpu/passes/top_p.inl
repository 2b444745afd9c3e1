// SPDX-License-Identifier: Apache-2.0
// Where top-p cuts a row: by its head, by a zone of values that a sample points to, or by counting.
#pragma once

namespace fusedraw {
namespace {

Cut top_p_by_counting(const Row& r, const Cut& base, u128 target, bool ties_all) {
  const float x =
      bisect_value(base.lo, r.rule.m, [&](float v) { return mass_at_least(r, base, v) >= target; });
  if (ties_all) return {x, base.lo == x ? base.last : kAllTies};
  const u128 above = x == r.rule.m ? 0 : mass_at_least(r, base, next_up(x));
  const uint64_t w = weight_of(r.rule, x);
  const u128 need = w == 0 || target <= above ? 1 : (target - above + w - 1) / w;
  return {x, nth_tie(r, base, x, need)};
}

// A stretch of values, lo <= x <= hi, in which the cut of top-p lies: the kept tokens with a value
// above it weigh `above`.
struct Zone {
  float lo, hi;
  u128 above = 0;
};

// The lowest value that can weigh anything: bisections need not look below.
float lightest_value(const Row& r, float low) {
  if (r.rule.kind != WeightKind::kLogits) return low;
  const float least = r.rule.m - 45.0f / r.rule.c;
  return least > low ? least : low;
}

// How far to reach, in what a sample says, for a mass of `mass`: three standard errors more, where
// one token weighs about e.
float reach(float mass, float e) { return mass + 3.0f * __builtin_sqrtf(mass * e) + 3.0f * e; }

// Finishes within a list of every kept token of the zone: narrows it by a sample until it is short
// enough to rank, then ranks. `before` receives the weight before the last token of the cut.
Cut top_p_in_list(List list, const Row& r, Zone zone, u128 target, bool ties_all, Scratch& scratch,
                  u128& before) {
  constexpr int64_t kShort = 256, kMiddle = 8192;
  constexpr int kRounds = 2;
  if (list.n > kShort) {
    // Weight at or above evenly spaced sample values gives a shorter zone, exactly.
    for (int i = 0; i < kBlock; ++i) list.x[list.n + i] = r.pad;  // whole blocks are read
    const int64_t blocks = (list.n + kBlock - 1) / kBlock;
    Sample s = new_sample(scratch);
    const int64_t stride = (blocks + kMaxSampleBlocks - 1) / kMaxSampleBlocks;
    for (int64_t b = 0; b < blocks; b += stride)
      sample_block(s, r.rule, list.x + b * kBlock, 1.0f, inf32(), r.pad);
    const float scale = float(blocks) / float(s.n / kBlock);
    const float mass = float(to_double(target - zone.above) * 0x1p-43) / scale;
    // Of the whole list, only the float32 sums are uncertain; of a sample, the sample.
    const float slack = stride == 1 ? 1e-5f * s.total : 3.0f * __builtin_sqrtf(s.total_square);
    const Places places{r.rule.kind == WeightKind::kLogits};
    Zone z = zone;
    const Sample::Between all{places.of(lightest_value(r, zone.lo)), places.of(zone.hi), s.total,
                              0.0f};
    Sample::Between b = all;
    for (int i = 0; i < kRounds; ++i) s.narrow(b, mass + slack, all, places);
    if (mass + slack < s.total) z.lo = places.value(b.low);
    b = all;
    for (int i = 0; i < kRounds; ++i) s.narrow(b, mass - slack, all, places);
    if (mass > slack) z.hi = places.value(b.high);
    List to = make_list(scratch, Scratch::kListB, kMiddle);
    PivotAdder adder(r.rule, next_up(z.hi));
    ZoneGatherer<float> gatherer(to, z.lo, z.hi);
    bool fits = z.hi >= z.lo;
    for (int64_t b = 0; fits && b < blocks; ++b) {
      const float* x = list.x + b * kBlock;
      if (z.hi < zone.hi) adder.add(x, 1.0f, inf32());
      fits = gatherer.add(x, uint32_t(b * kBlock));  // ids here are places in the list
    }
    fits = fits && gatherer.finish();
    z.above = zone.above + adder.finish().above;
    if (fits && to.n > 0 && z.above < target && z.above + list_sum(to, r.rule) >= target) {
      for (int64_t i = 0; i < to.n; ++i) to.id[i] = list.id[to.id[i]];
      list = to;
      zone = z;
    }
  }
  return list_top_p(list, r.rule, zone.above, target, ties_all, scratch, &before);
}

// What the cut asks for beyond the tokens at or above a pivot: p S less their weight, rounded up;
// negative where they are more than enough. It lies between the two.
using i128 = __int128;
struct Need {
  i128 least, most;
};
Need need_beyond(float p, const PivotSums& s) {
  const i128 need = i128(ceil_mul(p, s.total)) - i128(s.above);
  return {need, need};
}
// p (above + below) - above falls as `above` grows: an error of both counts less than one of S.
Need need_beyond(float p, const RoughPivot& s) {
  const Estimate &a = s.above, &b = s.below;
  return {i128(ceil_mul(p, a.most + b.least)) - i128(a.most),
          i128(ceil_mul(p, a.least + b.most)) - i128(a.least)};
}

// A value near the cut, as a sample has it.
struct Pivot {
  float value;
  float ceiling;    // the sample was of values below it
  double per_mass;  // how far apart places are there, for a unit of the row's mass between them
};

// The cut lies at or above the pivot, or below it: gathers a stretch next to the pivot, wide enough
// by the sample, and ranks that. Guessed wrong, takes more, at last the whole side. `need` may
// leave more than one cut, or the stretch be too long a list.
enum class Found : uint8_t { kCut, kUnsure, kTooLong };
Found cut_beside_pivot(const Row& r, const Cut& base, const Pivot& pivot, const Need& need,
                       bool ties_all, Cut& cut, Scratch& scratch) {
  constexpr int kAttempts = 8;
  const bool upwards = need.most <= 0;
  if (!upwards && need.least <= 0) return Found::kUnsure;
  const Places places{r.rule.kind == WeightKind::kLogits};
  const i128 gap = upwards ? -need.least : need.most;
  const float mass = float(to_double(u128(gap)) * 0x1p-43);
  const double from = places.of(pivot.value), ceiling = places.of(pivot.ceiling);
  // The heaviest of the tokens there stand for their spread.
  const double far = from + double(mass) * pivot.per_mass;
  const float heaviest = upwards ? places.value(far < ceiling ? far : ceiling) : pivot.value;
  const float e = relative_weight(r.rule, heaviest > base.lo ? heaviest : base.lo);
  double width = double(reach(mass, e)) * pivot.per_mass;
  // Where the sample knew no better (equal values), a small part of all there is.
  const double least_width = (ceiling - places.of(lightest_value(r, base.lo))) * 0x1p-16;
  if (!(width > least_width)) width = least_width;
  for (int attempt = 0;; ++attempt) {
    Zone zone = upwards ? Zone{pivot.value, r.rule.m} : Zone{base.lo, next_down(pivot.value)};
    const double edge = upwards ? from + width : from - width;
    const bool all =
        attempt == kAttempts || (upwards ? !(edge < ceiling) : !(edge > places.of(base.lo)));
    if (!all) (upwards ? zone.hi : zone.lo) = places.value(edge);
    List list = make_list(scratch, Scratch::kListA, kListCapacity);
    if (!gather_zone(list, r, base, zone.lo, zone.hi)) return Found::kTooLong;
    // What of the zone is needed, from its top.
    const i128 inside = list.n > 0 ? i128(list_sum(list, r.rule)) : 0, extra = upwards ? inside : 0;
    const i128 least = need.least + extra, most = need.most + extra;
    if (least > 0 && most <= inside) {
      u128 before;
      cut = top_p_in_list(list, r, zone, u128(most), ties_all, scratch, before);
      // So it is for every need in between if for the least.
      return u128(least) > before ? Found::kCut : Found::kUnsure;
    }
    if (all) return Found::kUnsure;
    // As much wider as the zone was too light, and a half more; not beyond a factor of 4,
    // which ties would make too long a list.
    const double factor = 1.5 * double(gap) / (double(inside) + 1.0);
    width *= factor < 2.0 ? 2.0 : factor > 4.0 ? 4.0 : factor;
  }
}

// What p asks for beyond the mass of the tokens from a ceiling up, where all others weigh `rest`.
float mass_beyond(float p, float above, float rest) { return p * (above + rest) - above; }

// How many blocks give a mass to about 2 %, by what a few of them show.
int64_t blocks_to_sample(const Sample& few) {
  constexpr float kError = 0.02f;
  const float one = few.total_square / (few.total * few.total + 1e-30f) * float(kFewBlocks);
  const float wanted = one / (kError * kError);
  if (wanted > float(kMaxSampleBlocks)) return kMaxSampleBlocks;
  return wanted > float(kFewBlocks) ? int64_t(wanted) : kFewBlocks;
}

// A pivot where the sample, which stands for `scale` as much, has `mass` above it.
Pivot pivot_at(const Row& r, const Cut& base, const Sample& s, float mass, double scale,
               float ceiling) {
  const Places places{r.rule.kind == WeightKind::kLogits};
  const float top = ceiling <= r.rule.m ? ceiling : r.rule.m, low = lightest_value(r, base.lo);
  if (!(mass > 0.0f)) return {top, top, places.of(top) - places.of(low)};
  const Sample::Guess guess = s.value_of_mass(mass, low, top, places);
  return {guess.value, top, guess.per_mass / scale};
}

// A pivot at the head of a row, for a cut that a mass of `mass` lies above, in a zone that the lane
// maxima show; false where they hold too little down to `low`.
bool pivot_beneath(const Row& r, float head_lo, float low, float mass, Pivot& pivot,
                   Scratch& scratch) {
  const Sample s = sample_maxima(r, low, head_lo, scratch);
  if (!(mass < s.total)) return false;
  const Places places{r.rule.kind == WeightKind::kLogits};
  // Some tokens are missing, hidden by larger ones: hence a little more.
  const float e = relative_weight(r.rule, head_lo), more = 1.1f * mass + 2.0f * e;
  const float end = more < s.total ? s.value_of_mass(more, low, head_lo, places).value : low;
  pivot = {head_lo, head_lo, (places.of(head_lo) - places.of(end)) / double(reach(mass, e))};
  return true;
}

// The cut where the head of a row weighs at least p S, or lacks no more than what lies beneath it
// down to `low` (head_lo: the head is thought to do). S is known roughly: each S that may be must
// give the same cut; else exactly. False: not found here. `list`: the tokens of the head; if it
// has any when this returns true, all that is kept and more.
bool top_p_near_head(const Row& r, const Cut& base, float p, List& list, float head_lo, u128 head,
                     float low, bool ties_all, Cut& cut, const Pool& pool, Scratch& scratch) {
  const bool beneath = low < head_lo;
  const Zone zone{head_lo, r.rule.m};
  const auto in_head = [&](u128 least, u128 most) {
    u128 before;
    cut = top_p_in_list(list, r, zone, most, ties_all, scratch, before);
    return least > before;
  };
  const auto below_head = [&](u128 least, u128 most) {
    Pivot pivot;
    const float mass = float(to_double(most - head) * 0x1p-43);
    if (!beneath || !pivot_beneath(r, head_lo, low, mass, pivot, scratch)) return false;
    list.n = 0;
    const Need need{i128(least) - i128(head), i128(most) - i128(head)};
    return cut_beside_pivot(r, base, pivot, need, ties_all, cut, scratch) == Found::kCut;
  };
  const Estimate rough = beneath ? estimate_sum<true>(r, base, list, head, pool, scratch)
                                 : estimate_sum<false>(r, base, list, head, pool, scratch);
  if (rough.most > 0) {
    const u128 most = ceil_mul(p, rough.most), least = ceil_mul(p, rough.least);
    if (head < least) return below_head(least, most);
    if (head >= most && in_head(least, most)) return true;
  }
  const u128 target = ceil_mul(p, pivot_sums(r, base, inf32(), pool, scratch).total);
  return head < target ? below_head(target, target) : in_head(target, target);
}

// How far to look beneath a head that lacks about `beyond`: down to twice that mass, by a few
// blocks of what lies below. `low` is head_lo where nothing is lacking. False: too many tokens lie
// there.
bool look_beneath(const Row& r, const Cut& base, const Sample& few, float scale, float head_lo,
                  float beyond, float& low) {
  constexpr float kMostTokens = 4096.0f;
  low = head_lo;
  if (beyond <= 0.0f) return true;
  const float least = lightest_value(r, base.lo), mass = 2.0f * beyond / scale;
  if (!(mass < few.total)) return false;
  const Places places{r.rule.kind == WeightKind::kLogits};
  low = few.value_of_mass(mass, least, head_lo, places).value;
  return low < head_lo && float(few.count_at_least(low)) * scale <= kMostTokens;
}

// The next pivot, after the sums around one have shown what the sample's mass on either side of it
// stands for: the cut is far from there, or lies among very many light tokens.
Pivot corrected(const Row& r, const Cut& base, const Sample& s, const Pivot& pivot,
                const RoughPivot& sums, const Need& need, float above, float ceiling) {
  const double at = double(s.mass_at_least(pivot.value)), rest = double(s.total) - at;
  const double sum_above = to_double(sums.above.most) * 0x1p-43 - double(above);
  const double sum_below = to_double(sums.below.most) * 0x1p-43;
  const bool upwards = need.most <= 0;
  const double scale = (upwards ? sum_above / at : sum_below / rest) + 1e-30;
  const double size = to_double(u128(upwards ? -need.most : need.most)) * 0x1p-43 / scale;
  return pivot_at(r, base, s, float(upwards ? at - size : at + size), scale, ceiling);
}

// The cut somewhere below a ceiling (or, where that turns out wrong, above it); the tokens above
// weigh about `above`. A sample of so many blocks tells where to look.
Cut top_p_beyond(const Row& r, const Cut& base, float p, float ceiling, float above, int64_t blocks,
                 bool ties_all, const Pool& pool, Scratch& scratch) {
  constexpr int kPivots = 3;
  float scale;
  const Sample s = sample_row(r, base, ceiling, blocks, scale, scratch);
  const float mass = mass_beyond(p, above, scale * s.total) / scale;
  Pivot pivot = pivot_at(r, base, s, mass, double(scale), ceiling);
  Cut cut;
  for (int i = 0; i < kPivots; ++i) {
    const RoughPivot rough = rough_pivot_sums(r, base, pivot.value, s, pool, scratch);
    const Need need = need_beyond(p, rough);
    const Found found = cut_beside_pivot(r, base, pivot, need, ties_all, cut, scratch);
    if (found == Found::kCut) return cut;
    if (found == Found::kUnsure) break;
    pivot = corrected(r, base, s, pivot, rough, need, above, ceiling);
  }
  const PivotSums sums = pivot_sums(r, base, pivot.value, pool, scratch);
  const Found found =
      cut_beside_pivot(r, base, pivot, need_beyond(p, sums), ties_all, cut, scratch);
  return found == Found::kCut ? cut : top_p_by_counting(r, base, ceil_mul(p, sums.total), ties_all);
}

// The shortest prefix of the tokens that `base` keeps whose weight reaches ceil(p * S), S their
// sum. `list`, when it comes back with n > 0, holds all of them (and maybe more).
Cut top_p_cut(const Row& r, const Cut& base, float p, bool ties_all, List& list, const Pool& pool,
              Scratch& scratch) {
  list.n = 0;
  // The head: every token at or above the maximum of some of the blocks. It carries most of the
  // mass of a peaked row, and would be missed by a sample.
  const int64_t head_blocks = r.blocks / 2 < 128 ? (r.blocks + 1) / 2 : 128;
  float head_lo = lower_bound_of_kth(r.block_max, r.blocks, head_blocks, r.rule.m);
  if (r.blocks <= 4 || head_lo < base.lo) head_lo = base.lo;
  // A few blocks tell whether it may do.
  float scale = 1.0f;
  Sample s;
  if (head_lo > base.lo) s = sample_row(r, base, head_lo, kFewBlocks, scale, scratch);
  const int64_t blocks = blocks_to_sample(s);
  float ceiling = inf32(), head_mass = 0.0f;
  // Its tokens weigh at most 1 each, and are hardly more than its blocks: beside the rest of a flat
  // row that is nothing.
  if (p * scale * s.total <= 2.0f * float(head_blocks)) {
    if (!gather_row(list, r, base, head_lo)) {  // very many ties, or a row beyond 2^32 tokens
      list.n = 0;
      const u128 all = pivot_sums(r, base, inf32(), pool, scratch).total;
      return top_p_by_counting(r, base, ceil_mul(p, all), ties_all);
    }
    const u128 head = list_sum(list, r.rule);
    if (head_lo <= base.lo)  // the head is all there is
      return list_top_p(list, r.rule, 0, ceil_mul(p, head), ties_all, scratch);
    ceiling = head_lo;
    head_mass = float(to_double(head) * 0x1p-43);
    const float beyond = mass_beyond(p, head_mass, scale * s.total);
    float low;
    Cut cut;
    if (look_beneath(r, base, s, scale, head_lo, beyond, low) &&
        top_p_near_head(r, base, p, list, head_lo, head, low, ties_all, cut, pool, scratch))
      return cut;
    list.n = 0;
  }
  return top_p_beyond(r, base, p, ceiling, head_mass, blocks, ties_all, pool, scratch);
}

}  // namespace
}  // namespace fusedraw
