// SPDX-License-Identifier: Apache-2.0
// Exact integer sums of weights, a block at a time, in 32-bit lanes.
//
// A float y in [0, 2) becomes the integer RNE(2^43 y) in five operations and no conversion. Adding 6
// leaves a multiple of 2^-21 in the low mantissa bits of s; (6 + 1.5 * 2^-20) - s is exact, and adding
// y to it leaves 1.5 * 2^-20 plus the rest, rounded to a multiple of 2^-43. The bit patterns are summed
// as integers and the constants taken off at the end.
#pragma once

namespace fusedraw {
namespace {

constexpr float kHighMagic = 6.0f, kLowMagic = 0x1.8p-20f, kBothMagic = 6.0f + 0x1.8p-20f;
constexpr int kHighShift = 22;  // 2^-21 in units of 2^-43

struct FixedSum {
  V::I hi, lo;

  // Written out: an implicit constructor would not belong to the target region.
  FixedSum() : hi(V::zero()), lo(V::zero()) {}

  void add(V::F y) {
    const V::F s = V::add(y, V::set(kHighMagic));
    hi = V::iadd(hi, V::as_int(s));
    lo = V::iadd(lo, V::as_int(V::add(y, V::sub(V::set(kBothMagic), s))));
  }
  // Adds y here, and where the mask is set to `other`.
  void add_and_masked(V::F y, V::M m, FixedSum& other) {
    const V::F s = V::add(y, V::set(kHighMagic));
    const V::I high = V::as_int(s), low = V::as_int(V::add(y, V::sub(V::set(kBothMagic), s)));
    hi = V::iadd(hi, high);
    lo = V::iadd(lo, low);
    other.hi = V::masked_iadd(other.hi, m, high);
    other.lo = V::masked_iadd(other.lo, m, low);
  }
  // The same of -y.
  void subtract(V::F y) {
    const V::F s = V::sub(V::set(kHighMagic), y);
    hi = V::iadd(hi, V::as_int(s));
    lo = V::iadd(lo, V::as_int(V::sub(V::sub(V::set(kBothMagic), s), y)));
  }
  // y <= 2^-22: the high part is zero.
  void add_small(V::F y) { lo = V::iadd(lo, V::as_int(V::add(y, V::set(kLowMagic)))); }

  // n values a lane, or `count` values in all, were added.
  uint64_t total(int n) const { return total_of(uint32_t(n) * uint32_t(V::kLanes)); }
  uint64_t total_of(uint32_t count) const {
    const int32_t h = int32_t(uint32_t(V::reduce_iadd(hi)) - count * bits_of(kHighMagic));
    return (uint64_t(int64_t(h)) << kHighShift) + total_small(count);
  }
  uint64_t total_small(uint32_t count) const {
    return uint64_t(int64_t(int32_t(uint32_t(V::reduce_iadd(lo)) - count * bits_of(kLowMagic))));
  }
};

// t clamped from below: at -45 the weight rounds to 0, as the law asks for t <= -44.
constexpr float kClampT = -45.0f;
// Weights are 0 exactly where e <= 2^-44.
constexpr float kNoWeight = 0x1p-44f;
constexpr float kSmallWeight = 0x1p-22f;

// The relative weight e of lanes of x, for one kind of rule.
V::F exp2_of(V::F f, V::F t) {
  V::F p = V::fma(V::set(kExp2Poly[0]), f, V::set(kExp2Poly[1]));
  p = V::fma(p, f, V::set(kExp2Poly[2]));
  p = V::fma(p, f, V::set(kExp2Poly[3]));
  p = V::fma(p, f, V::set(kExp2Poly[4]));
  p = V::fma(p, f, V::set(kExp2Poly[5]));
  p = V::fma(p, f, V::set(1.0f));
  return V::scale2(p, t);
}

struct LogitLanes {
  V::F m, c;
  explicit LogitLanes(const WeightRule& r) : m(V::set(r.m)), c(V::set(r.c)) {}
  V::F t(V::F x) const {
    return V::max(V::mul(V::sub(x, m), c), V::set(kClampT));
  }
  static V::F exp2(V::F t) { return exp2_of(V::frac(t), t); }
  V::F operator()(V::F x) const { return exp2(t(x)); }
};
// For blocks that hold nothing above t = -1: cheaper where the processor has an instruction for it.
struct LowLogitLanes {
  V::F m, c;
  explicit LowLogitLanes(const WeightRule& r) : m(V::set(r.m)), c(V::set(r.c)) {}
  V::F t(V::F x) const {
    const V::F t = V::mul(V::sub(x, m), c);
    return V::kFracTakesInfinity ? t : V::max(t, V::set(kClampT));
  }
  static V::F exp2(V::F t) { return exp2_of(V::frac_exact(t), t); }
  V::F operator()(V::F x) const { return exp2(t(x)); }
};
struct UniformLanes {
  explicit UniformLanes(const WeightRule&) {}
  V::F t(V::F) const { return V::set(0.0f); }
  V::F operator()(V::F x) const {
    return V::keep(V::gt(x, V::set(-inf32())), V::set(1.0f));
  }
};
struct ProbLanes {
  V::F m;
  explicit ProbLanes(const WeightRule& r) : m(V::set(r.m)) {}
  V::F operator()(V::F x) const { return V::div(x, m); }
};

// Calls fn with the lanes of the rule: the kind is decided once a block, not once a token.
template <typename Fn>
auto with_lanes(const WeightRule& r, Fn fn) {
  switch (r.kind) {
    case WeightKind::kUniform:
      return fn(UniformLanes(r));
    case WeightKind::kProbs:
      return fn(ProbLanes(r));
    default:
      return fn(LogitLanes(r));
  }
}

// The same for a block in which no e exceeds e_max.
template <typename Fn>
auto with_block_lanes(const WeightRule& r, float e_max, Fn fn) {
  if (r.kind == WeightKind::kLogits && e_max <= 0.5f) return fn(LowLogitLanes(r));
  return with_lanes(r, fn);
}

// The rule's e at the largest value of a block: tells what the block can weigh.
float top_weight(const WeightRule& r, float block_max) { return relative_weight(r, block_max); }

// Sum of the weights of 256 values, excluded ones being padding. `e_max` >= every e in the block.
uint64_t block_sum(const WeightRule& rule, const float* x, float e_max) {
  if (e_max <= kNoWeight) return 0;
  return with_block_lanes(rule, e_max, [&](auto lanes) {
    FixedSum s;
    if (e_max <= kSmallWeight) {
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; ++j) s.add_small(lanes(V::load(x + j * V::kLanes)));
      return s.total_small(kBlock);
    }
#pragma GCC unroll 4
    for (int j = 0; j < kVecs; ++j) s.add(lanes(V::load(x + j * V::kLanes)));
    return s.total(kVecs);
  });
}

struct BlockStats {
  uint64_t s = 0, g = 0, h = 0;
};

template <typename Lanes>
void add_block_stats(const Lanes& lanes, const float* x, BlockStats& r) {
  FixedSum s, g, h;
#pragma GCC unroll 2
  for (int j = 0; j < kVecs; ++j) {
    const V::F t = lanes.t(V::load(x + j * V::kLanes)), e = Lanes::exp2(t);
    const V::M weighs = V::gt(e, V::set(kNoWeight));
    const V::F y = V::keep_product(weighs, t, e);  // = -(-t e)
    s.add(e);
    g.subtract(y);
    h.add(V::keep_product(weighs, y, t));
  }
  r.s = s.total(kVecs);
  r.g = g.total(kVecs);
  r.h = h.total(kVecs);
}

// The sums behind entropy and varentropy as well.
BlockStats block_stats(const WeightRule& rule, const float* x, float e_max) {
  BlockStats r;
  if (e_max <= kNoWeight) return r;
  if (rule.kind != WeightKind::kLogits) {  // t = 0 throughout
    r.s = block_sum(rule, x, e_max);
    return r;
  }
  if (e_max <= 0.5f)
    add_block_stats(LowLogitLanes(rule), x, r);
  else
    add_block_stats(LogitLanes(rule), x, r);
  return r;
}

// Sums over all valid tokens of the row under a rule. `block_sums` receives S_b where not null.
struct SumTask {
  const Row* row;
  WeightRule rule;
  Parts parts;
  bool stats;
  uint64_t* block_sums;
  Sums part[kMaxParts];

  static void run(void* argument, int64_t i) {
    SumTask& t = *static_cast<SumTask*>(argument);
    const Row& r = *t.row;
    const int64_t begin = i * t.parts.per;
    const int64_t end = begin + t.parts.per < r.blocks ? begin + t.parts.per : r.blocks;
    alignas(64) float buffer[kBlock];
    Sums sums;
    for (int64_t b = begin; b < end; ++b) {
      const float e_max = top_weight(t.rule, r.block_max[b]);
      BlockStats s;
      if (e_max > kNoWeight) {
        const float* x = r.fetch(r, b, buffer);
        if (t.stats)
          s = block_stats(t.rule, x, e_max);
        else
          s.s = block_sum(t.rule, x, e_max);
      }
      if (t.block_sums != nullptr) t.block_sums[b] = s.s;
      sums.s += s.s;
      sums.g += s.g;
      sums.h += s.h;
    }
    t.part[i] = sums;
  }
};

Sums row_sums(const Row& r, const WeightRule& rule, bool stats, uint64_t* block_sums,
              const Pool& pool) {
  SumTask task;
  task.row = &r;
  task.rule = rule;
  task.parts = split_blocks(r.blocks, pool);
  task.stats = stats;
  task.block_sums = block_sums;
  run_parts(task.parts, pool, SumTask::run, &task);
  Sums sums;
  for (int i = 0; i < task.parts.n; ++i) {
    sums.s += task.part[i].s;
    sums.g += task.part[i].g;
    sums.h += task.part[i].h;
  }
  return sums;
}

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

// Whether the cut can keep anything of a block with this maximum.
bool block_alive(const Row& r, const Cut& cut, int64_t b) {
  const float m = r.block_max[b];
  return m > cut.lo || (m == cut.lo && cut.last >= b * kBlock && m >= smallest_valid(r));
}

// Number of kept tokens, weightless ones included.
int64_t count_kept(const Row& r, const Cut& cut) {
  alignas(64) float buffer[kBlock], cut_buffer[kBlock];
  int64_t n = 0;
  const V::F valid = V::set(smallest_valid(r));
  for (int64_t b = 0; b < r.blocks; ++b) {
    if (!block_alive(r, cut, b)) continue;
    const float* x = cut_block(r, cut, b, r.fetch(r, b, buffer), cut_buffer);
    for (int j = 0; j < kVecs; ++j)
      n += __builtin_popcount(V::bits(V::ge(V::load(x + j * V::kLanes), valid)));
  }
  return n;
}

// Weight of the kept tokens.
u128 kept_sum(const Row& r, const Cut& cut) {
  alignas(64) float buffer[kBlock], cut_buffer[kBlock];
  u128 s = 0;
  for (int64_t b = 0; b < r.blocks; ++b) {
    if (!block_alive(r, cut, b)) continue;
    const float* x = cut_block(r, cut, b, r.fetch(r, b, buffer), cut_buffer);
    s += block_sum(r.rule, x, top_weight(r.rule, r.block_max[b]));
  }
  return s;
}

// Number of valid tokens before (x, id) in the order.
int64_t count_before(const Row& r, float x, int64_t id) {
  return count_kept(r, Cut{x, id}) - 1;
}

}  // namespace
}  // namespace fusedraw
