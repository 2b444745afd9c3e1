// SPDX-License-Identifier: Apache-2.0
// Where top-k and top-p cut a row. Fast paths gather a short list of candidates that provably holds
// the cut; where no list is short enough, a bisection over float values by exact counts or masses
// finds it in at most 32 passes. Guesses only decide how long the list is, never the result.
#pragma once

namespace fusedraw {
namespace {

// The largest value with at least k of a[0, n) at or above it, or a lower one (with at most ~2 k
// at or above it where values are distinct). n a multiple of kLanes or padded with -inf.
float lower_bound_of_kth(const float* a, int64_t n, int64_t k, float top) {
  uint32_t low = order_key(-kFltMax), high = order_key(top);  // count(>= low) >= k assumed
  // Values lie close below the top: start a few steps down and widen by doubling.
  float step = top < 0 ? -top * 0.01f + 0.5f : top * 0.01f + 0.5f;
  for (int i = 0; i < 48 && low < high; ++i) {
    uint32_t middle = low + (high - low) / 2;
    if (step > 0) {
      const float guess = top - step;
      if (guess > -kFltMax && order_key(guess) > low && order_key(guess) < high)
        middle = order_key(guess);
      else
        step = 0;
    }
    const V::F pivot = V::set(from_order_key(middle));
    int64_t count = 0;
    for (int64_t j = 0; j < n; j += V::kLanes)
      count += __builtin_popcount(V::bits(V::ge(V::load(a + j), pivot)));
    if (count >= k) {
      low = middle;
      if (count <= k + k / 4) break;
      step = 0;
    } else {
      high = middle;
      step *= 2;
    }
  }
  return from_order_key(low);
}

// Exact count of kept tokens at or above x.
int64_t count_at_least(const Row& r, const Cut& cut, float x) {
  return count_kept(r, stricter(cut, Cut{x, kAllTies}));
}
u128 mass_at_least(const Row& r, const Cut& cut, float x) {
  return kept_sum(r, stricter(cut, Cut{x, kAllTies}));
}

// The id of the n-th kept token (n >= 1, ascending ids) whose value is x.
int64_t nth_tie(const Row& r, const Cut& cut, float x, u128 n) {
  alignas(64) float buffer[kBlock], cut_buffer[kBlock];
  for (int64_t b = 0; b < r.blocks; ++b) {
    if (r.block_max[b] < x || !block_alive(r, cut, b)) continue;
    const float* v = cut_block(r, cut, b, r.fetch(r, b, buffer), cut_buffer);
    for (int i = 0; i < kBlock; ++i)
      if (v[i] == x && --n == 0) return b * kBlock + i;
  }
  return kAllTies;
}

// Largest key in [low, high] for which reached(value) holds, given that it holds at low.
template <typename Reached>
float bisect_value(float low_value, float high_value, Reached reached) {
  uint32_t low = order_key(low_value), high = order_key(high_value);
  while (low < high) {
    const uint32_t middle = low + (high - low + 1) / 2;
    if (reached(from_order_key(middle)))
      low = middle;
    else
      high = middle - 1;
  }
  return from_order_key(low);
}

Cut top_k_by_counting(const Row& r, const Cut& all, int64_t k, bool ties_all) {
  const float x = bisect_value(smallest_valid(r), r.rule.m,
                               [&](float v) { return count_at_least(r, all, v) >= k; });
  if (ties_all) return {x, kAllTies};
  const int64_t above = x == r.rule.m ? 0 : count_at_least(r, all, next_up(x));
  return {x, nth_tie(r, all, x, u128(uint64_t(k - above)))};
}

// The first k valid tokens. `list`, when it comes back with n > 0, holds all of them (and maybe more).
Cut top_k_cut(const Row& r, int64_t k, bool ties_all, List& list, Scratch& scratch) {
  const Cut all{smallest_valid(r), kAllTies};
  list.n = 0;
  if (k >= r.cols) return all;
  if (k > kListCapacity / 2 && count_at_least(r, all, all.lo) <= k) return all;
  const int64_t groups = r.blocks * V::kLanes;
  if (k <= kListCapacity / 2 && k * 2 <= groups) {
    // k blocks, or k groups, have a maximum at or above lo: so have k tokens.
    const float lo = k * 2 <= r.blocks ? lower_bound_of_kth(r.block_max, r.blocks, k, r.rule.m)
                                       : lower_bound_of_kth(r.group_max, groups, k, r.rule.m);
    if (gather_row(list, r, all, lo)) {
      if (list.n < k) return all;  // fewer than k valid tokens in the row
      return list_top_k(list, k, ties_all, scratch);
    }
  } else if (r.cols <= kListCapacity / 2 && gather_row(list, r, all, all.lo)) {
    if (list.n <= k) return all;
    return list_top_k(list, k, ties_all, scratch);
  }
  list.n = 0;
  if (count_at_least(r, all, all.lo) <= k) return all;
  return top_k_by_counting(r, all, k, ties_all);
}

Cut top_p_by_counting(const Row& r, const Cut& base, u128 target, bool ties_all) {
  const float x = bisect_value(base.lo, r.rule.m,
                               [&](float v) { return mass_at_least(r, base, v) >= target; });
  if (ties_all) return {x, base.lo == x ? base.last : kAllTies};
  const u128 above = x == r.rule.m ? 0 : mass_at_least(r, base, next_up(x));
  const uint64_t w = weight_of(r.rule, x);
  const u128 need = w == 0 || target <= above ? 1 : (target - above + w - 1) / w;
  return {x, nth_tie(r, base, x, need)};
}

// A stretch of values in which the cut of top-p lies: the tokens with value above it weigh `above`.
struct Zone {
  float lo, hi;
  u128 above = 0;
};

struct ZoneSums {
  u128 total = 0, above = 0;
};

// One block of the zone pass: adds the block's weight, the weight above hi, gathers [lo, hi].
template <typename Lanes>
bool zone_block(const Lanes& lanes, const float* x, V::I ids, const Zone& z, List& out,
                ZoneSums& sums) {
  FixedSum all, above;
  int n_above = 0;
  const V::F lo = V::set(z.lo), hi = V::set(z.hi);
  for (int j = 0; j < kVecs; ++j) {
    const V::F v = V::load(x + j * V::kLanes), e = lanes(v);
    const V::F s = V::add(e, V::set(kHighMagic));
    const V::F rest = V::sub(e, V::sub(s, V::set(kHighMagic)));
    const V::I high = V::as_int(s), low = V::as_int(V::add(rest, V::set(kLowMagic)));
    all.hi = V::iadd(all.hi, high);
    all.lo = V::iadd(all.lo, low);
    const V::M over = V::gt(v, hi), in = V::but_not(V::ge(v, lo), over);
    above.hi = V::masked_iadd(above.hi, over, high);
    above.lo = V::masked_iadd(above.lo, over, low);
    n_above += __builtin_popcount(V::bits(over));
    if (V::any(in)) {
      if (out.n + V::kLanes > out.capacity) return false;
      out.n += V::compress(out.x + out.n, out.id + out.n, in, v,
                           V::iadd(ids, V::iset(uint32_t(j * V::kLanes))));
    }
  }
  sums.total += all.total(kVecs);
  const uint32_t high_bias = uint32_t(n_above) * bits_of(kHighMagic);
  const uint32_t low_bias = uint32_t(n_above) * bits_of(kLowMagic);
  const int32_t h = int32_t(uint32_t(V::reduce_iadd(above.hi)) - high_bias);
  const int32_t l = int32_t(uint32_t(V::reduce_iadd(above.lo)) - low_bias);
  sums.above += (uint64_t(int64_t(h)) << 23) + uint64_t(int64_t(l));
  return true;
}

// The zone pass over a row: with want_total over every block, else only over those that matter.
bool zone_pass(const Row& r, const Cut& base, const Zone& z, bool want_total, List& out,
               ZoneSums& sums) {
  alignas(64) float buffer[kBlock], cut_buffer[kBlock];
  for (int64_t b = 0; b < r.blocks; ++b) {
    const float m = r.block_max[b];
    const bool matters = m >= z.lo;
    if (!(matters || want_total) || !block_alive(r, base, b)) continue;
    const float e_max = top_weight(r.rule, m);
    if (e_max <= kNoWeight && !matters) continue;
    const float* x = cut_block(r, base, b, r.fetch(r, b, buffer), cut_buffer);
    if (!matters) {
      sums.total += block_sum(r.rule, x, e_max);
      continue;
    }
    const V::I ids = V::iadd(V::iset(uint32_t(b * kBlock)), V::iota());
    if (!with_lanes(r.rule,
                    [&](auto lanes) { return zone_block(lanes, x, ids, z, out, sums); }))
      return false;
  }
  return true;
}

// A sample of values below a ceiling with their weights, to guess where a mass lies.
struct Sample {
  float *x, *e;
  int64_t n = 0;
  float total = 0, total_square = 0;

  float mass_at_least(float pivot) const {
    const V::F p = V::set(pivot);
    V::F s = V::set(0.0f);
    for (int64_t j = 0; j < n; j += V::kLanes)
      s = V::add(s, V::keep(V::ge(V::load(x + j), p), V::load(e + j)));
    return V::reduce_add(s);
  }
  // A value with about `mass` of the sample at or above it.
  float value_of(float mass, float low_value, float high_value) const {
    uint32_t low = order_key(low_value), high = order_key(high_value);
    for (int i = 0; i < 22 && high - low > 1; ++i) {  // 22 of 32 bits: close enough for a guess
      const uint32_t middle = low + (high - low) / 2;
      if (mass_at_least(from_order_key(middle)) >= mass)
        low = middle;
      else
        high = middle;
    }
    return from_order_key(low);
  }
};

constexpr int64_t kMaxSampleBlocks = 64;

// Adds a block's values below `ceiling` to the sample.
void sample_block(Sample& s, const WeightRule& rule, const float* x, float ceiling, float pad) {
  const V::F top = V::set(ceiling), nothing = V::set(pad);
  V::F total = V::set(0.0f), square = V::set(0.0f);
  with_lanes(rule, [&](auto lanes) {
    for (int j = 0; j < kVecs; ++j) {
      V::F v = V::load(x + j * V::kLanes);
      v = V::select(V::gt(top, v), v, nothing);
      V::F e = lanes(v);
      e = V::keep(V::gt(e, V::set(kNoWeight)), e);
      V::store(s.x + s.n, v);
      V::store(s.e + s.n, e);
      s.n += V::kLanes;
      total = V::add(total, e);
      square = V::fma(e, e, square);
    }
    return 0;
  });
  s.total += V::reduce_add(total);
  s.total_square += V::reduce_add(square);
}

Sample new_sample(Scratch& scratch) {
  Sample s;
  s.x = scratch.array<float>(Scratch::kSample, 2 * kMaxSampleBlocks * kBlock);
  s.e = s.x + kMaxSampleBlocks * kBlock;
  return s;
}

// Guesses a zone in which `mass` of `total` sampled weight ends, three standard errors wide.
Zone guess_zone(const Sample& s, float mass, float low, float high) {
  const float share = mass / s.total;
  const float spread = share * (1.0f - share) * s.total_square;
  const float slack = 3.0f * __builtin_sqrtf(spread > 0 ? spread : 0) + s.total * 1e-5f;
  Zone z{low, high};
  if (mass + slack < s.total) z.lo = s.value_of(mass + slack, low, high);
  if (mass - slack > 0) z.hi = s.value_of(mass - slack, low, high);
  if (z.hi < z.lo) z.hi = z.lo;
  return z;
}

// Finishes within a list that holds every token of the zone: narrows it by sampling until it is short
// enough to rank, then ranks.
Cut top_p_in_list(const List& list, const WeightRule& rule, float pad, Zone zone, u128 target,
                  bool ties_all, Scratch& scratch) {
  constexpr int64_t kShort = 384;
  List from = list;
  const Scratch::Slot slots[2] = {Scratch::kListB, Scratch::kListC};
  for (int level = 0; level < 2 && from.n > kShort; ++level) {
    for (int i = 0; i < kBlock; ++i) from.x[from.n + i] = pad;  // whole blocks are read
    const int64_t blocks = (from.n + kBlock - 1) / kBlock;
    const int64_t wanted = blocks < 8 ? (blocks + 1) / 2 : 8, stride = blocks / wanted;
    Sample s = new_sample(scratch);
    int64_t sampled = 0;
    for (int64_t b = 0; b < blocks && sampled < wanted; b += stride, ++sampled)
      sample_block(s, rule, from.x + b * kBlock, inf32(), pad);
    if (!(s.total > 0.0f)) break;
    const float scale = float(from.n) / float(sampled * kBlock);
    const float mass = float(to_double(target - zone.above) * 0x1p-43) / scale;
    Zone z = guess_zone(s, mass, zone.lo, zone.hi);
    List to = make_list(scratch, slots[level], level == 0 ? 8192 : 1024);
    ZoneSums sums;
    bool fits = true;
    for (int64_t b = 0; fits && b < blocks; ++b)
      fits = with_lanes(rule, [&](auto lanes) {
        // Ids here are places in `from`.
        return zone_block(lanes, from.x + b * kBlock,
                          V::iadd(V::iset(uint32_t(b * kBlock)), V::iota()), z, to, sums);
      });
    if (!fits) break;
    for (int64_t i = 0; i < to.n; ++i) to.id[i] = from.id[to.id[i]];
    z.above = zone.above + sums.above;
    if (z.above >= target || z.above + list_sum(to, rule) < target) break;  // guessed wrong
    from = to;
    zone = z;
  }
  return list_top_p(from, rule, zone.above, target, ties_all, scratch);
}

// The zone pass after a guess missed: everything on the side where the cut must be.
Cut top_p_after_miss(const Row& r, const Cut& base, const Zone& zone, u128 target, bool ties_all,
                     Scratch& scratch) {
  List list = make_list(scratch, Scratch::kListA, kListCapacity);
  ZoneSums sums;
  if (r.cols < int64_t{1} << 32 && zone_pass(r, base, zone, false, list, sums))
    return top_p_in_list(list, r.rule, r.pad, zone, target, ties_all, scratch);
  return top_p_by_counting(r, base, target, ties_all);
}

// The shortest prefix of the tokens that `base` keeps whose weight reaches ceil(p * S), S their sum.
// `list`, when it comes back with n > 0, holds all of them (and maybe more).
Cut top_p_cut(const Row& r, const Cut& base, float p, bool ties_all, List& list, const Pool& pool,
              Scratch& scratch) {
  const bool whole = base.lo <= smallest_valid(r) && base.last == kAllTies;
  list.n = 0;
  // The head: every token at or above the maximum of some of the blocks. It carries most of the mass
  // of a peaked row, and would be missed by a sample.
  const int64_t head_blocks = r.blocks / 4 < 128 ? (r.blocks + 3) / 4 : 128;
  float head_lo = lower_bound_of_kth(r.block_max, r.blocks, head_blocks, r.rule.m);
  if (r.blocks <= 4 || head_lo < base.lo) head_lo = base.lo;
  const bool listed = gather_row(list, r, base, head_lo);
  if (!listed) {  // an enormous number of ties or a row beyond 2^32 tokens
    list.n = 0;
    const u128 s = whole ? row_sums(r, r.rule, false, nullptr, pool).s : kept_sum(r, base);
    return top_p_by_counting(r, base, ceil_mul(p, s), ties_all);
  }
  const u128 head = list_sum(list, r.rule);
  if (head_lo <= base.lo)  // the head is all there is
    return list_top_p(list, r.rule, 0, ceil_mul(p, head), ties_all, scratch);

  const int64_t wanted = r.blocks >= 4096 ? 64 : r.blocks / 64 < 8 ? 8 : r.blocks / 64;
  const int64_t stride = r.blocks / wanted > 0 ? r.blocks / wanted : 1;
  Sample s = new_sample(scratch);
  alignas(64) float buffer[kBlock], cut_buffer[kBlock];
  int64_t sampled = 0;
  for (int64_t b = stride / 2; b < r.blocks && sampled < wanted; b += stride, ++sampled)
    sample_block(s, r.rule, cut_block(r, base, b, r.fetch(r, b, buffer), cut_buffer), head_lo,
                 r.pad);
  const float scale = float(r.blocks) / float(sampled);
  const float head_mass = float(to_double(head) * 0x1p-43);
  const float tail_target = p * (head_mass + scale * s.total) - head_mass;
  u128 target;
  if (tail_target <= -0.01f * head_mass) {
    // The head should do: only S is needed.
    const u128 total = whole ? row_sums(r, r.rule, false, nullptr, pool).s : kept_sum(r, base);
    target = ceil_mul(p, total);
    if (head >= target) return list_top_p(list, r.rule, 0, target, ties_all, scratch);
    list.n = 0;
    return top_p_after_miss(r, base, Zone{base.lo, next_down(head_lo), head},
                            target, ties_all, scratch);
  }
  list.n = 0;
  Zone zone{base.lo, head_lo};
  if (s.total > 0.0f && tail_target > 0.0f)
    zone = guess_zone(s, tail_target / scale, base.lo, head_lo);
  else
    zone = Zone{head_lo, r.rule.m};
  List candidates = make_list(scratch, Scratch::kListA, kListCapacity);
  ZoneSums sums;
  if (!zone_pass(r, base, zone, true, candidates, sums)) {
    const u128 total = whole ? row_sums(r, r.rule, false, nullptr, pool).s : kept_sum(r, base);
    return top_p_by_counting(r, base, ceil_mul(p, total), ties_all);
  }
  target = ceil_mul(p, sums.total);
  zone.above = sums.above;
  if (sums.above >= target && sums.above > 0)
    return top_p_after_miss(r, base, Zone{next_up(zone.hi), r.rule.m}, target, ties_all, scratch);
  const u128 reached = sums.above + list_sum(candidates, r.rule);
  if (reached < target && zone.lo > base.lo)
    return top_p_after_miss(r, base,
                            Zone{base.lo, next_down(zone.lo), reached}, target,
                            ties_all, scratch);
  return top_p_in_list(candidates, r.rule, r.pad, zone, target, ties_all, scratch);
}

}  // namespace
}  // namespace fusedraw
