// SPDX-License-Identifier: Apache-2.0
// S to within a proven error, in half the time of the exact sum: where every S in that range gives
// the same cut, the exact one is not needed. The weight of a row's head is known exactly, so only
// what lies below it is uncertain.
//
// 2^f by a polynomial of degree 3 or, at an eighth more time, 4 (relative errors 7.5e-5 and 2.6e-6
// on [0, 1], Lawson fits), t by one FMA, sums in float32. Against the integer weights / 2^43, each
// relative to a weight, with u = 2^-24:
//   polynomial and its evaluation 7.52e-5 or 2.7e-6; the law's own rounding of t, 44 * 2 u * ln 2 =
//   3.7e-6; the FMA's, 44 u ln 2 = 1.9e-6; m * c rounded, |m c| u ln 2; exp2p itself 8.7e-8.
// Of the whole sum: the float32 additions of a run of blocks, for the row and for its head each.
// Rounding to integers, what lies below t = -44 and the padding: 2^-43 each.
#pragma once

namespace fusedraw {
namespace {

constexpr float kRoughPoly[4] = {0x1.3f96a4p-4f, 0x1.cefc4cp-3f, 0x1.64444cp-1f, 0x1.fff632p-1f};
constexpr float kFinePoly[5] = {0x1.bb7cd4p-7f, 0x1.aa13f2p-5f, 0x1.ee798ap-3f, 0x1.62d166p-1f,
                                0x1.00002cp+0f};
constexpr double kRoughError = 8.2e-5;  // of each weight
constexpr double kFineError = 8.5e-6;
constexpr double kRoughSumError = 2 * kRoughAdditions * 0x1p-24 * 1.001;

template <bool kFine>
struct RoughLanes {
  V::F c, shift;
  RoughLanes(V::F scale, V::F minus_mc) : c(scale), shift(minus_mc) {}
  Group operator()(const Group& x) const {
    Group t = map(x, [&](V::F v) { return V::fma(v, c, shift); });
    if (!V::kFracTakesInfinity) t = clamped(t);
    const Group f = map(t, [](V::F v) { return V::frac_exact(v); });
    constexpr const float* k = kFine ? kFinePoly : kRoughPoly;
    Group p = map(f, [](V::F v) { return V::fma(V::set(k[0]), v, V::set(k[1])); });
    p = fma(p, f, V::set(k[2]));
    p = fma(p, f, V::set(k[3]));
    if constexpr (kFine) p = fma(p, f, V::set(k[4]));
    return map(p, t, [](V::F v, V::F w) { return V::scale2(v, w); });
  }
};

// x + y; where there are registers for it, half by the multipliers, which have less to do here than
// the adders. The rounding is the same.
Group add_both_ways(const Group& x, const Group& y) {
  if constexpr (!kSumsLate) return add(x, y);
  const V::F one = V::set(1.0f);
  return {V::add(x.a, y.a), V::fma(y.b, one, x.b), V::add(x.c, y.c), V::fma(y.d, one, x.d)};
}

template <bool kFine, typename T>
void add_rough(const RoughLanes<kFine>& lanes, const T* x, Group& sum) {
  Group s = sum;
#pragma GCC unroll 4
  for (int j = 0; j < kVecs; j += kGroup) s = add_both_ways(s, lanes(load_any_order(x, j)));
  sum = s;
}

struct RoughTask {
  const Row* row;
  Cut base;
  const float* block_weight;
  float mc;
  Parts parts;
  double part[kMaxParts];

  template <bool kFine>
  static void run(void* argument, int64_t i) {
    RoughTask& t = *static_cast<RoughTask*>(argument);
    t.part[i] = with_blocks(*t.row, t.base, [&](auto blocks) { return sum<kFine>(t, i, blocks); });
  }
  template <bool kFine, typename Blocks>
  static double sum(const RoughTask& t, int64_t i, const Blocks& blocks) {
    const Row& r = *t.row;
    const int64_t begin = i * t.parts.per;
    const int64_t end = begin + t.parts.per < r.blocks ? begin + t.parts.per : r.blocks;
    const RoughLanes<kFine> lanes(V::set(r.rule.c), V::set(-t.mc));
    alignas(64) typename Blocks::Value room[kBlock];
    LaneDoubles weight;
    for (int64_t b = begin; b < end;) {
      Group sum = zeros();
      for (int n = 0; n < kRoughRun && b < end; ++b) {
        if (t.block_weight[b] <= kNoWeight || !block_alive(r, t.base, b)) continue;
        add_rough(lanes, blocks(b, room), sum);
        ++n;
      }
      weight.add(total(sum));
    }
    return weight.total();
  }
};

// The same sum over a list.
template <bool kFine>
double rough_list_sum(const RoughLanes<kFine>& lanes, const List& l) {
  if (l.n == 0) return 0.0;
  for (int i = 0; i < kBlock; ++i) l.x[l.n + i] = -inf32();  // whole blocks are read
  LaneDoubles sum;
  for (int64_t i = 0; i < l.n; i += kBlock) {
    Group s = zeros();
    add_rough(lanes, l.x + i, s);
    sum.add(total(s));
  }
  return sum.total();
}

// Between what S lies; {}: nothing known. `head` is the weight of `list`, tokens of the row.
template <bool kFine>
Estimate estimate_sum(const Row& r, const Cut& base, const List& list, u128 head, const Pool& pool,
                      Scratch& scratch) {
  RoughTask task;
  task.row = &r;
  task.base = base;
  task.mc = r.rule.m * r.rule.c;
  const float size = task.mc < 0.0f ? -task.mc : task.mc;
  if (r.rule.kind != WeightKind::kLogits || !(size < 4096.0f)) return {};
  task.block_weight = block_weights(r, r.rule, scratch);
  task.parts = split_blocks(r.blocks, pool);
  run_parts(task.parts, pool, RoughTask::run<kFine>, &task);
  double s = 0.0;
  for (int i = 0; i < task.parts.n; ++i) s += task.part[i];
  const double tail =
      s - rough_list_sum(RoughLanes<kFine>(V::set(r.rule.c), V::set(-task.mc)), list);
  const double error =
      (tail > 0.0 ? tail : 0.0) * ((kFine ? kFineError : kRoughError) + double(size) * 0x1p-24) +
      s * kRoughSumError + double(r.blocks * kBlock) * 0x1p-43;
  const double least = (tail - error) * 0x1p43;
  return {head + (least > 0.0 ? u128(least) : 0), head + u128((tail + error) * 0x1p43) + 1};
}

}  // namespace
}  // namespace fusedraw
