// SPDX-License-Identifier: Apache-2.0
// Weights in vector lanes, and their exact integer sums.
//
// A float y in [0, 2) becomes the integer RNE(2^43 y) in five operations and no conversion. Adding
// 6 leaves a multiple of 2^-21 in the low mantissa bits of s; (6 + 1.5 * 2^-20) - s is exact, and
// adding y to it leaves 1.5 * 2^-20 plus the rest, rounded to a multiple of 2^-43. The bit patterns
// are summed as integers and the constants taken off at the end.
#pragma once

namespace fusedraw {
namespace {

constexpr float kHighMagic = 6.0f, kLowMagic = 0x1.8p-20f, kBothMagic = 6.0f + 0x1.8p-20f;
constexpr int kHighShift = 22;  // 2^-21 in units of 2^-43

// In loops over a row: a call inside would put every vector into memory and take it out again.
#define FD_IN_LOOP __attribute__((always_inline)) inline

// Vectors that go through a computation step by step together: each step's results are needed only
// a few instructions later, so the processor's scheduler does not fill up with waiting ones.
constexpr int kGroup = 4;
static_assert(kVecs % kGroup == 0, "a block is a whole number of groups");
// Named members, not an array: they must stay in registers.
struct Group {
  V::F a, b, c, d;
};
struct GroupMask {
  V::M a, b, c, d;
};
Group zeros() {
  const V::F zero = V::set(0.0f);
  return {zero, zero, zero, zero};
}
template <typename Fn>
Group map(const Group& x, Fn fn) {
  return {fn(x.a), fn(x.b), fn(x.c), fn(x.d)};
}
template <typename Fn>
Group map(const Group& x, const Group& y, Fn fn) {
  return {fn(x.a, y.a), fn(x.b, y.b), fn(x.c, y.c), fn(x.d, y.d)};
}
Group add(const Group& x, V::F y) {
  return map(x, [&](V::F v) { return V::add(v, y); });
}
Group add(const Group& x, const Group& y) {
  return map(x, y, [](V::F v, V::F w) { return V::add(v, w); });
}
Group from(V::F y, const Group& x) {  // y - x
  return map(x, [&](V::F v) { return V::sub(y, v); });
}
Group fma(const Group& x, const Group& y, V::F z) {
  return map(x, y, [&](V::F v, V::F w) { return V::fma(v, w, z); });
}
GroupMask at_least(const Group& x, V::F y) {
  return {V::ge(x.a, y), V::ge(x.b, y), V::ge(x.c, y), V::ge(x.d, y)};
}
GroupMask above(const Group& x, V::F y) {
  return {V::gt(x.a, y), V::gt(x.b, y), V::gt(x.c, y), V::gt(x.d, y)};
}
Group add_where(const Group& x, const GroupMask& m, const Group& y) {
  return {V::add_where(x.a, m.a, y.a), V::add_where(x.b, m.b, y.b), V::add_where(x.c, m.c, y.c),
          V::add_where(x.d, m.d, y.d)};
}
Group add_unless(const Group& x, const GroupMask& m, const Group& y) {
  return {V::add_unless(x.a, m.a, y.a), V::add_unless(x.b, m.b, y.b), V::add_unless(x.c, m.c, y.c),
          V::add_unless(x.d, m.d, y.d)};
}
Group keep_product(const GroupMask& m, const Group& x, const Group& y) {
  return {V::keep_product(m.a, x.a, y.a), V::keep_product(m.b, x.b, y.b),
          V::keep_product(m.c, x.c, y.c), V::keep_product(m.d, x.d, y.d)};
}
V::I bit_sum(const Group& x) {
  return V::iadd(V::iadd(V::as_int(x.a), V::as_int(x.b)), V::iadd(V::as_int(x.c), V::as_int(x.d)));
}

struct FixedSum {
  V::I hi, lo;

  // Written out: an implicit constructor would not belong to the target region.
  FixedSum() : hi(V::zero()), lo(V::zero()) {}

  void add(const Group& y) {
    const Group s = add_high(y);
    add_parts(s, fusedraw::add(y, from(V::set(kBothMagic), s)));
  }
  // Adds -y.
  void subtract(const Group& y) {
    const Group s = from(V::set(kHighMagic), y), u = from(V::set(kBothMagic), s);
    add_parts(s, map(u, y, [](V::F v, V::F w) { return V::sub(v, w); }));
  }
  static Group add_high(const Group& y) { return fusedraw::add(y, V::set(kHighMagic)); }
  void add_parts(const Group& s, const Group& r) {
    hi = V::iadd(hi, bit_sum(s));
    lo = V::iadd(lo, bit_sum(r));
  }
  // y <= 2^-22: the high part is zero.
  void add_small(const Group& y) { lo = V::iadd(lo, bit_sum(fusedraw::add(y, V::set(kLowMagic)))); }

  // n values a lane were added, n * 2^21 * 1.2 < 2^31.
  uint64_t total(int n) const {
    return (uint64_t(lane_total(hi, uint32_t(n) * bits_of(kHighMagic))) << kHighShift) +
           uint64_t(lane_total(lo, uint32_t(n) * bits_of(kLowMagic)));
  }
  // One block was added: the sum of the lanes fits 32 bits.
  uint64_t total_of_block() const {
    const int32_t h = int32_t(uint32_t(V::reduce_iadd(hi)) - kBlock * bits_of(kHighMagic));
    const int32_t l = int32_t(uint32_t(V::reduce_iadd(lo)) - kBlock * bits_of(kLowMagic));
    return (uint64_t(int64_t(h)) << kHighShift) + uint64_t(int64_t(l));
  }
  // One block of small values was added.
  uint64_t total_of_small() const {
    return uint64_t(int64_t(int32_t(uint32_t(V::reduce_iadd(lo)) - kBlock * bits_of(kLowMagic))));
  }

 private:
  static int64_t lane_total(V::I sums, uint32_t bias) {
    uint32_t lanes[V::kLanes];
    V::istore(lanes, sums);
    int64_t total = 0;
    for (uint32_t lane : lanes) total += int32_t(lane - bias);
    return total;
  }
};

// A sum of all values and one of those that a mask chooses.
struct SplitSum {
  FixedSum all, chosen;
  V::I n_chosen;

  SplitSum() : n_chosen(V::zero()) {}

  void add(const Group& y, const GroupMask& m) {
    const Group s = FixedSum::add_high(y);
    const Group r = fusedraw::add(y, from(V::set(kBothMagic), s));
    all.add_parts(s, r);
    choose(m.a, s.a, r.a);
    choose(m.b, s.b, r.b);
    choose(m.c, s.c, r.c);
    choose(m.d, s.d, r.d);
  }
  uint64_t total_chosen() const {
    uint32_t h[V::kLanes], l[V::kLanes], n[V::kLanes];
    V::istore(h, chosen.hi);
    V::istore(l, chosen.lo);
    V::istore(n, n_chosen);
    int64_t high = 0, low = 0;
    for (int i = 0; i < V::kLanes; ++i) {
      high += int32_t(h[i] - n[i] * bits_of(kHighMagic));
      low += int32_t(l[i] - n[i] * bits_of(kLowMagic));
    }
    return (uint64_t(high) << kHighShift) + uint64_t(low);
  }

 private:
  void choose(V::M m, V::F s, V::F r) {
    chosen.hi = V::masked_iadd(chosen.hi, m, V::as_int(s));
    chosen.lo = V::masked_iadd(chosen.lo, m, V::as_int(r));
    n_chosen = V::masked_iadd(n_chosen, m, V::iset(1));
  }
};

// t clamped from below: at -45 the weight rounds to 0, as the law asks for t <= -44.
constexpr float kClampT = -45.0f;
// Weights are 0 exactly where e <= 2^-44.
constexpr float kNoWeight = 0x1p-44f;
constexpr float kSmallWeight = 0x1p-22f;

// The relative weight e of lanes of x, for one kind of rule; of a group too, step by step.
V::F exp2_of(V::F f, V::F t) {
  V::F p = V::fma(V::set(kExp2Poly[0]), f, V::set(kExp2Poly[1]));
  p = V::fma(p, f, V::set(kExp2Poly[2]));
  p = V::fma(p, f, V::set(kExp2Poly[3]));
  p = V::fma(p, f, V::set(kExp2Poly[4]));
  p = V::fma(p, f, V::set(kExp2Poly[5]));
  p = V::fma(p, f, V::set(1.0f));
  return V::scale2(p, t);
}
FD_IN_LOOP Group exp2_of(const Group& f, const Group& t) {
  Group p = map(f, [](V::F v) { return V::fma(V::set(kExp2Poly[0]), v, V::set(kExp2Poly[1])); });
  p = fma(p, f, V::set(kExp2Poly[2]));
  p = fma(p, f, V::set(kExp2Poly[3]));
  p = fma(p, f, V::set(kExp2Poly[4]));
  p = fma(p, f, V::set(kExp2Poly[5]));
  p = fma(p, f, V::set(1.0f));
  return map(p, t, [](V::F v, V::F w) { return V::scale2(v, w); });
}
Group scaled_gaps(const Group& x, V::F m, V::F c) {
  const Group gap = map(x, [&](V::F v) { return V::sub(v, m); });
  return map(gap, [&](V::F v) { return V::mul(v, c); });
}
Group clamped(const Group& t) {
  return map(t, [](V::F v) { return V::max(v, V::set(kClampT)); });
}

struct LogitLanes {
  V::F m, c;
  explicit LogitLanes(const WeightRule& r) : m(V::set(r.m)), c(V::set(r.c)) {}
  V::F t(V::F x) const { return V::max(V::mul(V::sub(x, m), c), V::set(kClampT)); }
  static V::F exp2(V::F t) { return exp2_of(V::frac(t), t); }
  V::F operator()(V::F x) const { return exp2(t(x)); }

  Group t(const Group& x) const { return clamped(scaled_gaps(x, m, c)); }
  static Group frac(const Group& t) {
    return map(t, [](V::F v) { return V::frac(v); });
  }
  FD_IN_LOOP static Group exp2(const Group& t) { return exp2_of(frac(t), t); }
  FD_IN_LOOP Group operator()(const Group& x) const { return exp2(t(x)); }
};
// For blocks that hold nothing above t = -1: cheaper where the processor has an instruction for it.
struct LowLogitLanes {
  V::F m, c;
  explicit LowLogitLanes(const WeightRule& r) : m(V::set(r.m)), c(V::set(r.c)) {}
  Group t(const Group& x) const {
    const Group t = scaled_gaps(x, m, c);
    return V::kFracTakesInfinity ? t : clamped(t);
  }
  static Group frac(const Group& t) {
    return map(t, [](V::F v) { return V::frac_exact(v); });
  }
  FD_IN_LOOP static Group exp2(const Group& t) { return exp2_of(frac(t), t); }
  FD_IN_LOOP Group operator()(const Group& x) const { return exp2(t(x)); }
};
struct UniformLanes {
  explicit UniformLanes(const WeightRule&) {}
  V::F t(V::F) const { return V::set(0.0f); }
  V::F operator()(V::F x) const { return V::keep(V::gt(x, V::set(-inf32())), V::set(1.0f)); }
  Group operator()(const Group& x) const {
    return map(x, [&](V::F v) { return (*this)(v); });
  }
};
struct ProbLanes {
  V::F m;
  explicit ProbLanes(const WeightRule& r) : m(V::set(r.m)) {}
  V::F operator()(V::F x) const { return V::div(x, m); }
  Group operator()(const Group& x) const {
    return map(x, [&](V::F v) { return (*this)(v); });
  }
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

Group load_group(const float* x, int j) {
  const float* p = x + j * V::kLanes;
  return {V::load(p), V::load(p + V::kLanes), V::load(p + 2 * V::kLanes),
          V::load(p + 3 * V::kLanes)};
}

void store_group(float* x, int j, const Group& v) {
  float* p = x + j * V::kLanes;
  V::store(p, v.a);
  V::store(p + V::kLanes, v.b);
  V::store(p + 2 * V::kLanes, v.c);
  V::store(p + 3 * V::kLanes, v.d);
}

// For sums, which know no order: the same values, anywhere in the group.
template <typename T>
Group load_any_order(const T* x, int j) {
  const T* p = x + j * V::kLanes;
  Group v;
  V::load_any_order(p, v.a, v.b);
  V::load_any_order(p + 2 * V::kLanes, v.c, v.d);
  return v;
}

// Adds a block's weights to `sum`. The sums are kept in registers meanwhile: a store to them might,
// for all the compiler knows, change x.
template <typename Lanes, typename T>
void add_weights(const Lanes& lanes, const T* x, FixedSum& sum) {
  FixedSum s = sum;
#pragma GCC unroll 4
  for (int j = 0; j < kVecs; j += kGroup) s.add(lanes(load_any_order(x, j)));
  sum = s;
}
// What is summed beside the weights: -t*e for the entropy, t*t*e for the varentropy too.
enum class Moments : uint8_t { kNone, kFirst, kSecond };

// Where there are registers for it, two neighbouring groups are worked on at a time: the weights of
// one, mostly multiplications, and the sums of the one before, all additions. A group of zeros
// comes before the first.
constexpr bool kSumsLate = V::kLanes == 16;  // AVX-512 has 32 registers
constexpr int kLateVecs = kSumsLate ? kGroup : 0;

// Sums of n blocks and of kLateVecs zeros; those that `kMoments` does not ask for stay 0. x[n] is
// any block.
template <Moments kMoments, typename Lanes, typename T>
void sum_blocks(const Lanes& lanes, const T* const* x, int n, FixedSum& sum, FixedSum& sum_g,
                FixedSum& sum_h) {
  constexpr bool kFirst = kMoments != Moments::kNone, kSecond = kMoments == Moments::kSecond;
  FixedSum s, g, h;
  if constexpr (kSumsLate) {
    Group e = zeros(), y = e, z = e;  // of the group before: e, t e, t t e
    Group t = lanes.t(load_any_order(x[0], 0)), f = Lanes::frac(t);
#pragma GCC unroll 2
    for (int j = 0; j < n * kVecs; j += kGroup) {
      const Group next = exp2_of(f, t), before = e;
      if (kFirst) s.add(before);
      if (kFirst) g.subtract(y);  // -(-t e)
      if (kSecond) h.add(z);
      e = next;
      const GroupMask weighs = above(e, V::set(kNoWeight));
      if (kFirst) y = keep_product(weighs, t, e);
      if (kSecond) z = keep_product(weighs, y, t);
      t = lanes.t(load_any_order(x[(j + kGroup) / kVecs], (j + kGroup) % kVecs));
      if (!kFirst) s.add(before);  // here the adders would wait otherwise
      f = Lanes::frac(t);
    }
    s.add(e);
    if (kFirst) g.subtract(y);
    if (kSecond) h.add(z);
  } else if constexpr (!kFirst) {
    for (int i = 0; i < n; ++i) add_weights(lanes, x[i], s);
  } else {
    // The registers do not hold all of it: what is to be summed goes through memory.
    alignas(64) float weights[kBlock], products[kBlock], squares[kSecond ? kBlock : 1];
    for (int i = 0; i < n; ++i) {
      for (int j = 0; j < kVecs; j += kGroup) {
        const Group t = lanes.t(load_any_order(x[i], j)), e = Lanes::exp2(t);
        const GroupMask weighs = above(e, V::set(kNoWeight));
        const Group y = keep_product(weighs, t, e);
        store_group(weights, j, e);
        store_group(products, j, y);
        if constexpr (kSecond) store_group(squares, j, keep_product(weighs, y, t));
      }
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; j += kGroup) s.add(load_group(weights, j));
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; j += kGroup) g.subtract(load_group(products, j));
      if constexpr (kSecond)
        for (int j = 0; j < kVecs; j += kGroup) h.add(load_group(squares, j));
    }
  }
  sum = s;
  sum_g = g;
  sum_h = h;
}

// log2p of normal values; anything finite of others.
Group log2_of(const Group& y) {
  Group z, k;
  V::split_log(y.a, z.a, k.a);
  V::split_log(y.b, z.b, k.b);
  V::split_log(y.c, z.c, k.c);
  V::split_log(y.d, z.d, k.d);
  const Group s = map(z, [](V::F v) { return V::sub(v, V::set(1.0f)); });
  Group q = map(s, [](V::F v) { return V::fma(V::set(kLog2Poly[0]), v, V::set(kLog2Poly[1])); });
  q = fma(q, s, V::set(kLog2Poly[2]));
  q = fma(q, s, V::set(kLog2Poly[3]));
  q = fma(q, s, V::set(kLog2Poly[4]));
  q = fma(q, s, V::set(kLog2Poly[5]));
  q = fma(q, s, V::set(kLog2Poly[6]));
  q = fma(q, s, V::set(kLog2Poly[7]));
  q = fma(q, s, V::set(kLog2Poly[8]));
  return {V::fma(s.a, q.a, k.a), V::fma(s.b, q.b, k.b), V::fma(s.c, q.c, k.c),
          V::fma(s.d, q.d, k.d)};
}

// Sum of the weights of 256 values, excluded ones being padding. `e_max` >= every e in the block.
uint64_t block_sum(const WeightRule& rule, const float* x, float e_max) {
  if (e_max <= kNoWeight) return 0;
  return with_block_lanes(rule, e_max, [&](auto lanes) {
    FixedSum s;
    if (e_max <= kSmallWeight) {
      for (int j = 0; j < kVecs; j += kGroup) s.add_small(lanes(load_group(x, j)));
      return s.total_of_small();
    }
    add_weights(lanes, x, s);
    return s.total_of_block();
  });
}

}  // namespace
}  // namespace fusedraw
