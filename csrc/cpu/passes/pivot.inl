// SPDX-License-Identifier: Apache-2.0
// The weight at or above a value and that below it, in one pass over the kept tokens: exact, or in
// float32 to within a proven relative error.
#pragma once

namespace fusedraw {
namespace {

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

// The relative weight to within 2.4e-7 of the law's, itself rounded: 2^f by a polynomial of degree
// 5, one step less (7.5e-8 on [0, 1), a Lawson fit; 1.5e-7 in float32; exp2p is off 8.7e-8).
constexpr float kNearPoly[6] = {0x1.ec320ap-10f, 0x1.26900cp-7f, 0x1.c95446p-5f,
                                0x1.ebd5a8p-3f,  0x1.62e4f6p-1f, 0x1.fffffep-1f};
template <typename Lanes>
struct NearLanes : Lanes {
  explicit NearLanes(const WeightRule& r) : Lanes(r) {}
  FD_IN_LOOP Group operator()(const Group& x) const {
    const Group t = this->t(x), f = Lanes::frac(t);
    Group p = map(f, [](V::F v) { return V::fma(V::set(kNearPoly[0]), v, V::set(kNearPoly[1])); });
    p = fma(p, f, V::set(kNearPoly[2]));
    p = fma(p, f, V::set(kNearPoly[3]));
    p = fma(p, f, V::set(kNearPoly[4]));
    p = fma(p, f, V::set(kNearPoly[5]));
    return map(p, t, [](V::F v, V::F w) { return V::scale2(v, w); });
  }
};
template <typename Fn>
auto with_near_lanes(const WeightRule& r, float e_max, Fn fn) {
  if (r.kind != WeightKind::kLogits) return with_lanes(r, fn);
  return e_max <= 0.5f ? fn(NearLanes<LowLogitLanes>(r)) : fn(NearLanes<LogitLanes>(r));
}

// The float32 additions that a value goes through, u = 2^-24 each, the first ones to zero exact:
// within a lane of a block, of its chains, of blocks, of lanes (by halves where there are 16; one
// by one in `scalar`); then what its weight is off. The last factor is for their products and for
// float64. Integer weights are off 2^43 e by at most 1/2 each.
constexpr int kRoughRun = 4;
constexpr int kRoughAdditions =
    (kVecs / kGroup - 1) + 2 + (kRoughRun - 1) + (V::kLanes == 16 ? 4 : V::kLanes - 1);
constexpr double kRoughPivotError = (kRoughAdditions * 0x1p-24 + 2.4e-7) * 1.001;

// A sum that lies between the two.
struct Estimate {
  u128 least = 0, most = 0;
};
Estimate range_of(double sum, int64_t tokens) {
  const double half = 0.5 * double(tokens) + 2.0;
  const double least = sum * (1.0 - kRoughPivotError) * 0x1p43 - half;
  return {least > 0.0 ? u128(least) : 0, u128(sum * (1.0 + kRoughPivotError) * 0x1p43 + half)};
}

V::F total(const Group& s) { return V::add(V::add(s.a, s.b), V::add(s.c, s.d)); }

template <typename Lanes>
void add_sides(const Lanes& lanes, const float* x, V::F pivot, V::F& above, V::F& below) {
  Group a = zeros(), b = a;
#pragma GCC unroll 4
  for (int j = 0; j < kVecs; j += kGroup) {
    const Group v = load_group(x, j), e = lanes(v);
    const GroupMask m = at_least(v, pivot);
    a = add_where(a, m, e);
    b = add_unless(b, m, e);
  }
  above = V::add(above, total(a));
  below = V::add(below, total(b));
}

template <typename Lanes>
void add_floats(const Lanes& lanes, const float* x, V::F& sum) {
  Group s = zeros();
#pragma GCC unroll 4
  for (int j = 0; j < kVecs; j += kGroup) s = add(s, lanes(load_group(x, j)));
  sum = V::add(sum, total(s));
}

struct RoughPivotTask {
  const Row* row;
  Cut base;
  float pivot;
  const float* block_weight;
  Parts parts;
  double above[kMaxParts], below[kMaxParts];

  static void run(void* argument, int64_t i) {
    RoughPivotTask& t = *static_cast<RoughPivotTask*>(argument);
    const Row& r = *t.row;
    const int64_t begin = i * t.parts.per;
    const int64_t end = begin + t.parts.per < r.blocks ? begin + t.parts.per : r.blocks;
    alignas(64) float buffer[kBlock], cut_buffer[kBlock];
    const V::F pivot = V::set(t.pivot);
    t.above[i] = t.below[i] = 0.0;
    for (int64_t b = begin; b < end;) {
      V::F above = V::set(0.0f), below = V::set(0.0f);
      for (int n = 0; n < kRoughRun && b < end; ++b) {
        const float e_max = t.block_weight[b];
        if (e_max <= kNoWeight || !block_alive(r, t.base, b)) continue;
        const float* x = cut_block(r, t.base, b, r.fetch(r, b, buffer), cut_buffer);
        ++n;
        with_near_lanes(r.rule, e_max, [&](auto lanes) {
          if (r.block_max[b] < t.pivot)
            add_floats(lanes, x, below);
          else
            add_sides(lanes, x, pivot, above, below);
        });
      }
      t.above[i] += double(V::reduce_add(above));
      t.below[i] += double(V::reduce_add(below));
    }
  }
};

struct RoughPivot {
  Estimate above, below;
};
RoughPivot rough_pivot_sums(const Row& r, const Cut& base, float pivot, const Pool& pool,
                            Scratch& scratch) {
  RoughPivotTask task;
  task.row = &r;
  task.base = base;
  task.pivot = pivot;
  task.block_weight = block_weights(r, r.rule, scratch);
  task.parts = split_blocks(r.blocks, pool);
  run_parts(task.parts, pool, RoughPivotTask::run, &task);
  double above = 0.0, below = 0.0;
  for (int i = 0; i < task.parts.n; ++i) {
    above += task.above[i];
    below += task.below[i];
  }
  return {range_of(above, r.cols), range_of(below, r.cols)};
}

}  // namespace
}  // namespace fusedraw
