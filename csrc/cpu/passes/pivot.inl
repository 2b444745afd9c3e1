// SPDX-License-Identifier: Apache-2.0
// The exact weight at or above a value and that below it, in one pass over the kept tokens; what
// float32 sums in its place are off at most.
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
    alignas(64) float buffer[kBlock];
    PivotAdder sums(r.rule, t.pivot);
    for (int64_t b = begin; b < end; ++b) {
      const float m = r.block_max[b], e_max = t.block_weight[b];
      if (e_max <= kNoWeight || !block_alive(r, t.base, b)) continue;
      sums.add(kept_block(r, t.base, b, buffer), e_max, m);
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
    const Group t = this->t(x);
    return exp2(Lanes::frac(t), t);
  }
  FD_IN_LOOP static Group exp2(const Group& f, const Group& t) {
    Group p = map(f, [](V::F v) { return V::fma(V::set(kNearPoly[0]), v, V::set(kNearPoly[1])); });
    p = fma(p, f, V::set(kNearPoly[2]));
    p = fma(p, f, V::set(kNearPoly[3]));
    p = fma(p, f, V::set(kNearPoly[4]));
    p = fma(p, f, V::set(kNearPoly[5]));
    return map(p, t, [](V::F v, V::F w) { return V::scale2(v, w); });
  }
};
template <typename Lanes>
constexpr bool kInSteps = false;  // whether frac() and exp2() can be called apart
template <typename Lanes>
constexpr bool kInSteps<NearLanes<Lanes>> = true;

template <typename Fn>
auto with_near_lanes(const WeightRule& r, float e_max, Fn fn) {
  if (r.kind != WeightKind::kLogits) return with_lanes(r, fn);
  return e_max <= 0.5f ? fn(NearLanes<LowLogitLanes>(r)) : fn(NearLanes<LogitLanes>(r));
}

// The float32 additions that a value goes through, u = 2^-24 each, the first one to zero exact: in
// a lane of a run of blocks, and of its chains; then what its weight is off. The last factor is for
// their products and for float64, in which runs are added up. Integer weights are off 2^43 e by at
// most 1/2 each.
constexpr int kRoughRun = V::kLanes == 16 ? 3 : 2;
constexpr int kRoughAdditions = (kRoughRun * kVecs / kGroup - 1) + 2;
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

// A float64 sum of float32 vectors.
struct LaneDoubles {
  alignas(64) double lane[V::kLanes] = {};

  void add(V::F v) {
    alignas(64) float x[V::kLanes];
    V::store(x, v);
    for (int i = 0; i < V::kLanes; ++i) lane[i] += double(x[i]);
  }
  double total() const {
    double sum = 0.0;
    for (double x : lane) sum += x;
    return sum;
  }
};

V::F total(const Group& s) { return V::add(V::add(s.a, s.b), V::add(s.c, s.d)); }

}  // namespace
}  // namespace fusedraw
