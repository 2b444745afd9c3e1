// SPDX-License-Identifier: Apache-2.0
// S to within a proven error, in half the time of the exact sum: where every S in that range gives
// the same cut, the exact one is not needed. The weight of a row's head is known exactly, so only
// what lies below it is uncertain.
//
// 2^f by a polynomial of degree 3 (relative error 7.5e-5 on [0, 1], a Lawson fit), t by one FMA,
// sums in float32. Against the integer weights / 2^43, each relative to a weight, with u = 2^-24:
//   polynomial and its evaluation 7.52e-5; the law's own rounding of t, 44 * 2 u * ln 2 = 3.7e-6;
//   the FMA's, 44 u ln 2 = 1.9e-6; m * c rounded, |m c| u ln 2; exp2p itself 8.7e-8.
// Of the whole sum: at most 70 float32 additions in a row, 4.2e-6, for the row and for its head
// each. Rounding to integers and what lies below t = -44: V * 2^-43.
#pragma once

namespace fusedraw {
namespace {

constexpr float kRoughPoly[4] = {0x1.3f96a4p-4f, 0x1.cefc4cp-3f, 0x1.64444cp-1f, 0x1.fff632p-1f};
constexpr double kRoughError = 8.2e-5;  // of each weight
constexpr double kRoughSumError = 8.5e-6;

struct RoughLanes {
  V::F c, shift;
  RoughLanes(V::F scale, V::F minus_mc) : c(scale), shift(minus_mc) {}
  Group operator()(const Group& x) const {
    Group t = map(x, [&](V::F v) { return V::fma(v, c, shift); });
    if (!V::kFracTakesInfinity) t = clamped(t);
    const Group f = map(t, [](V::F v) { return V::frac_exact(v); });
    Group p =
        map(f, [](V::F v) { return V::fma(V::set(kRoughPoly[0]), v, V::set(kRoughPoly[1])); });
    p = fma(p, f, V::set(kRoughPoly[2]));
    p = fma(p, f, V::set(kRoughPoly[3]));
    return map(p, t, [](V::F v, V::F w) { return V::scale2(v, w); });
  }
};

void add_rough(const RoughLanes& lanes, const float* x, Group& sum) {
  Group s = sum;
#pragma GCC unroll 4
  for (int j = 0; j < kVecs; j += kGroup) s = add(s, lanes(load_group(x, j)));
  sum = s;
}

struct RoughTask {
  const Row* row;
  Cut base;
  const float* block_weight;
  float mc;
  Parts parts;
  double part[kMaxParts];

  static void run(void* argument, int64_t i) {
    RoughTask& t = *static_cast<RoughTask*>(argument);
    const Row& r = *t.row;
    const int64_t begin = i * t.parts.per;
    const int64_t end = begin + t.parts.per < r.blocks ? begin + t.parts.per : r.blocks;
    const RoughLanes lanes(V::set(r.rule.c), V::set(-t.mc));
    alignas(64) float buffer[kBlock], cut_buffer[kBlock];
    double weight = 0.0;
    for (int64_t b = begin; b < end;) {
      Group sum = zeros();
      for (int n = 0; n < RowSums::kRun && b < end; ++b) {
        if (t.block_weight[b] <= kNoWeight || !block_alive(r, t.base, b)) continue;
        add_rough(lanes, cut_block(r, t.base, b, r.fetch(r, b, buffer), cut_buffer), sum);
        ++n;
      }
      weight += double(V::reduce_add(total(sum)));
    }
    t.part[i] = weight;
  }
};

// The same sum over a list.
double rough_list_sum(const RoughLanes& lanes, const List& l) {
  if (l.n == 0) return 0.0;
  for (int i = 0; i < kBlock; ++i) l.x[l.n + i] = -inf32();  // whole blocks are read
  double sum = 0.0;
  for (int64_t i = 0; i < l.n; i += kBlock) {
    Group s = zeros();
    add_rough(lanes, l.x + i, s);
    sum += double(V::reduce_add(total(s)));
  }
  return sum;
}

// Between what S lies; {}: nothing known. `head` is the weight of `list`, tokens of the row.
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
  run_parts(task.parts, pool, RoughTask::run, &task);
  double s = 0.0;
  for (int i = 0; i < task.parts.n; ++i) s += task.part[i];
  const double tail = s - rough_list_sum(RoughLanes(V::set(r.rule.c), V::set(-task.mc)), list);
  const double error = (tail > 0.0 ? tail : 0.0) * (kRoughError + double(size) * 0x1p-24) +
                       s * kRoughSumError + double(r.cols) * 0x1p-43;
  const double least = (tail - error) * 0x1p43;
  return {head + (least > 0.0 ? u128(least) : 0), head + u128((tail + error) * 0x1p43) + 1};
}

}  // namespace
}  // namespace fusedraw
