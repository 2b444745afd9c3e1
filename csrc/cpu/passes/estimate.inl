// SPDX-License-Identifier: Apache-2.0
// S to within a proven relative error, in half the time of the exact sum: where every S in that
// range gives the same cut, the exact one is not needed.
//
// 2^f by a polynomial of degree 4 (relative error 2.7e-6 on [0, 1], a Lawson fit), t by one FMA,
// sums in float32. Against the integer weights / 2^43, relative to S, with u = 2^-24:
//   polynomial and its evaluation 2.9e-6; the law's own rounding of t, 44 * 2 u * ln 2 = 3.7e-6;
//   the FMA's, 44 u ln 2 = 1.9e-6; m * c rounded, |m c| u ln 2; exp2p itself 8.7e-8; at most 70
//   float32 additions in a row, 4.2e-6; rounding to integers and what lies below t = -44, V *
//   2^-43.
#pragma once

namespace fusedraw {
namespace {

constexpr float kRoughPoly[5] = {0x1.bb7ca4p-7f, 0x1.aa1402p-5f, 0x1.ee7988p-3f, 0x1.62d166p-1f,
                                 0x1.00002cp+0f};
constexpr double kRoughError = 1.6e-5;

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
    p = fma(p, f, V::set(kRoughPoly[4]));
    return map(p, t, [](V::F v, V::F w) { return V::scale2(v, w); });
  }
};

void add_rough(const RoughLanes& lanes, const float* x, Group& sum) {
  Group s = sum;
#pragma GCC unroll 2
  for (int j = 0; j < kVecs; j += kGroup) s = add(s, lanes(load_group(x, j)));
  sum = s;
}

struct Estimate {
  u128 least = 0, most = 0;  // S lies between; 0, 0: nothing known
};

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
    const V::F zero = V::set(0.0f);
    alignas(64) float buffer[kBlock], cut_buffer[kBlock];
    double total = 0.0;
    for (int64_t b = begin; b < end;) {
      Group sum{zero, zero, zero, zero};
      for (int n = 0; n < RowSums::kRun && b < end; ++b) {
        if (t.block_weight[b] <= kNoWeight || !block_alive(r, t.base, b)) continue;
        add_rough(lanes, cut_block(r, t.base, b, r.fetch(r, b, buffer), cut_buffer), sum);
        ++n;
      }
      total += double(V::reduce_add(V::add(V::add(sum.a, sum.b), V::add(sum.c, sum.d))));
    }
    t.part[i] = total;
  }
};

Estimate estimate_sum(const Row& r, const Cut& base, const Pool& pool, Scratch& scratch) {
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
  const double error = kRoughError + double(size) * 0x1p-24 + double(r.cols) * 0x1p-43;
  Estimate e;
  e.least = u128(s * (1.0 - error) * 0x1p43);
  e.most = u128(s * (1.0 + error) * 0x1p43) + 1;
  return e;
}

}  // namespace
}  // namespace fusedraw
