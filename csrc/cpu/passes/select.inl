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

// The first k valid tokens. `list`, when it comes back with n > 0, holds all of them (and maybe
// more).
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

struct PivotSums {
  u128 total = 0, above = 0;
};

// The weight of blocks, and that of their values >= pivot.
class PivotAdder {
 public:
  PivotAdder(const WeightRule& rule, float pivot) : rule_(rule), pivot_(pivot) {}

  void add(const float* x, float e_max, float block_max) {
    with_block_lanes(rule_, e_max, [&](auto lanes) {
      if (block_max < pivot_)
        add_weights(lanes, x, sum_.all);
      else
        add_above(lanes, x);
      return 0;
    });
    if (++run_ == RowSums::kRun) fold();
  }
  PivotSums finish() {
    fold();
    return sums_;
  }

 private:
  template <typename Lanes>
  void add_above(const Lanes& lanes, const float* x) {
    const V::F p = V::set(pivot_);
    SplitSum sum = sum_;  // in registers, as in add_weights()
    for (int j = 0; j < kVecs; j += kGroup) {
      const Group v = load_group(x, j);
      sum.add(lanes(v), at_least(v, p));
    }
    sum_ = sum;
  }
  void fold() {
    sums_.total += sum_.all.total(run_ * kVecs);
    sums_.above += sum_.total_chosen();
    sum_ = SplitSum();
    run_ = 0;
  }
  const WeightRule rule_;
  const float pivot_;
  SplitSum sum_;
  int run_ = 0;
  PivotSums sums_;
};

// S and the weight at or above a pivot, in one pass over the kept tokens.
struct PivotTask {
  const Row* row;
  Cut base;
  float pivot;
  const float* block_weight;
  Parts parts;
  PivotSums part[kMaxParts];

  static void run(void* argument, int64_t i) {
    PivotTask& t = *static_cast<PivotTask*>(argument);
    const Row& r = *t.row;
    const int64_t begin = i * t.parts.per;
    const int64_t end = begin + t.parts.per < r.blocks ? begin + t.parts.per : r.blocks;
    alignas(64) float buffer[kBlock], cut_buffer[kBlock];
    PivotAdder sums(r.rule, t.pivot);
    for (int64_t b = begin; b < end; ++b) {
      const float m = r.block_max[b], e_max = t.block_weight[b];
      if (e_max <= kNoWeight || !block_alive(r, t.base, b)) continue;
      sums.add(cut_block(r, t.base, b, r.fetch(r, b, buffer), cut_buffer), e_max, m);
    }
    t.part[i] = sums.finish();
  }
};

PivotSums pivot_sums(const Row& r, const Cut& base, float pivot, const Pool& pool,
                     Scratch& scratch) {
  PivotTask task;
  task.row = &r;
  task.base = base;
  task.pivot = pivot;
  task.block_weight = block_weights(r, r.rule, scratch);
  task.parts = split_blocks(r.blocks, pool);
  run_parts(task.parts, pool, PivotTask::run, &task);
  PivotSums sums;
  for (int i = 0; i < task.parts.n; ++i) {
    sums.total += task.part[i].total;
    sums.above += task.part[i].above;
  }
  return sums;
}

// A sample of values below a ceiling with their weights, to guess where a mass lies.
struct Sample {
  float *x, *e;
  int64_t n = 0;
  float total = 0, total_square = 0;

  float mass_at_least(float pivot) const {
    const V::F p = V::set(pivot);
    V::F s[4] = {V::set(0.0f), V::set(0.0f), V::set(0.0f), V::set(0.0f)};
    for (int64_t j = 0; j < n; j += 4 * V::kLanes)  // n is a whole number of blocks
#pragma GCC unroll 4
      for (int k = 0; k < 4; ++k) {
        const int64_t i = j + k * V::kLanes;
        s[k] = V::add(s[k], V::keep(V::ge(V::load(x + i), p), V::load(e + i)));
      }
    return V::reduce_add(V::add(V::add(s[0], s[1]), V::add(s[2], s[3])));
  }
  // Brackets the value with `mass` of the sample at or above it: at `lo` there is at least as much,
  // at `hi` less. Halves values for logits, whose weight is exponential in them, else float keys.
  struct Bracket {
    float lo, hi;
  };
  Bracket bracket(float mass, float low, float high, bool linear) const {
    for (int i = 0; i < 16; ++i) {
      const uint32_t low_key = order_key(low), high_key = order_key(high);
      if (high_key - low_key < 2) break;
      float middle = linear ? 0.5f * low + 0.5f * high : low;
      if (!(middle > low && middle < high))
        middle = from_order_key(low_key + (high_key - low_key) / 2);
      if (mass_at_least(middle) >= mass)
        low = middle;
      else
        high = middle;
    }
    return {low, high};
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

// The lowest value that can weigh anything: bisections need not look below.
float lightest_value(const Row& r, float low) {
  if (r.rule.kind != WeightKind::kLogits) return low;
  const float least = r.rule.m - 45.0f / r.rule.c;
  return least > low ? least : low;
}

// How far to reach, in sampled mass, for a true mass of `mass`: three standard errors more, where
// one token weighs about e.
float reach(float mass, float e) { return mass + 3.0f * __builtin_sqrtf(mass * e) + 3.0f * e; }

// Finishes within a list of every kept token of the zone: narrows it by a sample until it is short
// enough to rank, then ranks.
Cut top_p_in_list(List list, const Row& r, Zone zone, u128 target, bool ties_all,
                  Scratch& scratch) {
  constexpr int64_t kShort = 48, kMiddle = 8192, kWholeBlocks = 16;
  if (list.n > kShort) {
    // Weight at or above evenly spaced sample values gives a shorter zone, exactly.
    for (int i = 0; i < kBlock; ++i) list.x[list.n + i] = r.pad;  // whole blocks are read
    const int64_t blocks = (list.n + kBlock - 1) / kBlock;
    Sample s = new_sample(scratch);
    const int64_t stride = (blocks + kWholeBlocks - 1) / kWholeBlocks;
    for (int64_t b = 0; b < blocks; b += stride)
      sample_block(s, r.rule, list.x + b * kBlock, inf32(), r.pad);
    const float scale = float(blocks) / float(s.n / kBlock);
    const float mass = float(to_double(target - zone.above) * 0x1p-43) / scale;
    // Of the whole list, only the float32 sums are uncertain; of a sample, the sample.
    const float slack = stride == 1 ? 1e-5f * s.total : 3.0f * __builtin_sqrtf(s.total_square);
    Zone z = zone;
    const bool linear = r.rule.kind == WeightKind::kLogits;
    const float least = lightest_value(r, zone.lo);  // halving from -FLT_MAX would not arrive
    if (mass + slack < s.total) z.lo = s.bracket(mass + slack, least, zone.hi, linear).lo;
    if (mass - slack > 0.0f) z.hi = s.bracket(mass - slack, zone.lo, zone.hi, linear).hi;
    List to = make_list(scratch, Scratch::kListB, kMiddle);
    PivotAdder adder(r.rule, next_up(z.hi));
    bool fits = z.hi >= z.lo;
    for (int64_t b = 0; fits && b < blocks; ++b) {
      const float* x = list.x + b * kBlock;
      if (z.hi < zone.hi) adder.add(x, 1.0f, inf32());
      // Ids here are places in the list.
      fits = gather_block(to, x, uint32_t(b * kBlock), z.lo, z.hi);
    }
    z.above = zone.above + adder.finish().above;
    if (fits && to.n > 0 && z.above < target && z.above + list_sum(to, r.rule) >= target) {
      for (int64_t i = 0; i < to.n; ++i) to.id[i] = list.id[to.id[i]];
      list = to;
      zone = z;
    }
  }
  return list_top_p(list, r.rule, zone.above, target, ties_all, scratch);
}

// The cut lies at or above the pivot, whose sums are known (or below it): gathers a stretch next to
// the pivot, wide enough by the sample, and finishes there. Guessed wrong, takes the whole side.
Cut top_p_beside_pivot(const Row& r, const Cut& base, float pivot, const PivotSums& sums,
                       u128 target, const Sample& s, float scale, bool ties_all, Scratch& scratch) {
  const bool upwards = sums.above >= target;
  const float low = lightest_value(r, base.lo), high = r.rule.m;
  const bool linear = r.rule.kind == WeightKind::kLogits;
  const u128 gap = upwards ? sums.above - target : target - sums.above;
  const float e = relative_weight(r.rule, pivot > base.lo ? pivot : base.lo);
  const float at_pivot = s.mass_at_least(pivot);
  float want = reach(float(to_double(gap) * 0x1p-43) / scale, e);
  // The last attempt takes the whole side.
  for (int attempt = 0; attempt < 4; ++attempt, want *= 4.0f) {
    Zone zone{base.lo, next_down(pivot), sums.above};
    if (upwards) zone = {pivot, high, 0};
    if (attempt < 3 && upwards && at_pivot > want)
      zone.hi = s.bracket(at_pivot - want, pivot, high, linear).hi;
    if (attempt < 3 && !upwards && at_pivot + want < s.total)
      zone.lo = s.bracket(at_pivot + want, low, pivot, linear).lo;
    List list = make_list(scratch, Scratch::kListA, kListCapacity);
    if (!gather_zone(list, r, base, zone.lo, zone.hi)) break;
    const u128 inside = list.n > 0 ? list_sum(list, r.rule) : 0;
    if (upwards) zone.above = sums.above - inside;
    if (zone.above < target && zone.above + inside >= target)
      return top_p_in_list(list, r, zone, target, ties_all, scratch);
  }
  return top_p_by_counting(r, base, target, ties_all);
}

// The shortest prefix of the tokens that `base` keeps whose weight reaches ceil(p * S), S their
// sum. `list`, when it comes back with n > 0, holds all of them (and maybe more).
Cut top_p_cut(const Row& r, const Cut& base, float p, bool ties_all, List& list, const Pool& pool,
              Scratch& scratch) {
  list.n = 0;
  // The head: every token at or above the maximum of some of the blocks. It carries most of the
  // mass of a peaked row, and would be missed by a sample.
  const int64_t head_blocks = r.blocks / 4 < 128 ? (r.blocks + 3) / 4 : 128;
  float head_lo = lower_bound_of_kth(r.block_max, r.blocks, head_blocks, r.rule.m);
  if (r.blocks <= 4 || head_lo < base.lo) head_lo = base.lo;
  if (!gather_row(list, r, base, head_lo)) {  // very many ties, or a row beyond 2^32 tokens
    list.n = 0;
    const u128 s = pivot_sums(r, base, inf32(), pool, scratch).total;
    return top_p_by_counting(r, base, ceil_mul(p, s), ties_all);
  }
  const u128 head = list_sum(list, r.rule);
  if (head_lo <= base.lo)  // the head is all there is
    return list_top_p(list, r.rule, 0, ceil_mul(p, head), ties_all, scratch);

  const int64_t share = r.blocks / 20;  // 5 % of the row, at most 64 blocks
  const int64_t wanted = share < 8 ? 8 : share > kMaxSampleBlocks ? kMaxSampleBlocks : share;
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
  // Where the head should do, its lower end is the pivot; else a guess within the tail.
  float pivot = head_lo;
  if (tail_target > 0.0f && s.total > 0.0f)
    pivot = s.bracket(tail_target / scale, lightest_value(r, base.lo), head_lo,
                      r.rule.kind == WeightKind::kLogits)
                .lo;
  PivotSums sums;
  if (pivot == head_lo) {
    const Estimate rough = estimate_sum(r, base, pool, scratch);
    const u128 most = ceil_mul(p, rough.most);
    if (rough.most > 0 && head >= most) {
      u128 before;
      const Cut cut = list_top_p(list, r.rule, 0, most, ties_all, scratch, &before);
      if (ceil_mul(p, rough.least) > before) return cut;  // as it is for every S in between
    }
    sums.total = pivot_sums(r, base, inf32(), pool, scratch).total;
    sums.above = head;
  } else {
    sums = pivot_sums(r, base, pivot, pool, scratch);
  }
  const u128 target = ceil_mul(p, sums.total);
  if (head >= target) return list_top_p(list, r.rule, 0, target, ties_all, scratch);
  list.n = 0;
  return top_p_beside_pivot(r, base, pivot, sums, target, s, scale, ties_all, scratch);
}

}  // namespace
}  // namespace fusedraw
