// SPDX-License-Identifier: Apache-2.0
//
// What the law's arithmetic takes at least: bare loops over one row of float32 logits, made of the
// engine's own verbs and loops, without anything around them. Compiled by limits.py for one
// instruction set (LIMITS_AVX512, else AVX2). n: a multiple of 256.
#include <immintrin.h>

#include <chrono>

#define FUSEDRAW_HAVE_FMA 1
#include "engine_headers.h"
// The order matters from here on: each file uses those before it.
#include "../core/engine.h"
#include "../core/stats.h"
#ifdef LIMITS_AVX512
#include "simd_avx512.h"
#else
#include "simd_avx2.h"
#endif
#include "passes/engine.inl"

namespace fusedraw {
namespace {

enum Pass : int { kScan, kWeights, kMoments, kSplit, kRough };

// Fields that a pass does not fill stay zero.
struct Result {
  uint64_t s, g;  // sums in units of 2^-43
  double above, below;
  int64_t inside;
  float max;
  int32_t nan;
};

struct Input {
  const float* x;
  int64_t n;
  WeightRule rule;
  float lo, hi;
  const float* block_weight;  // e at the maximum of every block
  float* block_max;
};

ScanPart scan(const Input& in) {
  Row r;
  r.data = in.x;
  r.cols = in.n;
  r.blocks = in.n / kBlock;
  r.block_max = in.block_max;
  ScanPart part;
  scan_blocks<float, false, false>(r, 0, r.blocks, part);
  return part;
}

Sums exact_sums(const Input& in, Moments moments) {
  RowSums sums(in.rule, moments);
  for (int64_t b = 0; b < in.n / kBlock; ++b) sums.add(in.x + b * kBlock, in.block_weight[b]);
  return sums.finish();
}

Group zeros() {
  const V::F zero = V::set(0.0f);
  return {zero, zero, zero, zero};
}
double total_of(const Group& s) {
  return double(V::reduce_add(V::add(V::add(s.a, s.b), V::add(s.c, s.d))));
}

V::F add_chosen(V::F sum, V::M m, V::F e) {
#ifdef LIMITS_AVX512
  return _mm512_mask_add_ps(sum, m, sum, e);
#else
  return V::add(sum, V::keep(m, e));
#endif
}
Group add_chosen(const Group& sum, const GroupMask& m, const Group& e) {
  return {add_chosen(sum.a, m.a, e.a), add_chosen(sum.b, m.b, e.b), add_chosen(sum.c, m.c, e.c),
          add_chosen(sum.d, m.d, e.d)};
}
uint64_t bits_of_either(const GroupMask& m, const GroupMask& n) {
  const uint64_t a = V::bits(V::either(m.a, n.a)), b = V::bits(V::either(m.b, n.b));
  const uint64_t c = V::bits(V::either(m.c, n.c)), d = V::bits(V::either(m.d, n.d));
  return a | b << V::kLanes | c << 2 * V::kLanes | d << 3 * V::kLanes;
}

// float32 sums above `hi` and below `lo`, and a bit for every token between.
template <typename Lanes>
int64_t split_block(const Lanes& lanes, const float* x, V::F lo, V::F hi, Group& above_hi,
                    Group& below_lo) {
  Group over = above_hi, under = below_lo;
  uint64_t words[kBlock / 64];
#pragma GCC unroll 4
  for (int w = 0; w < kBlock / 64; ++w) {
    uint64_t outside = 0;
#pragma GCC unroll 2
    for (int j = 0; j < 64 / V::kLanes; j += kGroup) {
      const Group v = load_group(x, w * (64 / V::kLanes) + j), e = lanes(v);
      const GroupMask high = above(v, hi);
      const GroupMask low{V::gt(lo, v.a), V::gt(lo, v.b), V::gt(lo, v.c), V::gt(lo, v.d)};
      over = add_chosen(over, high, e);
      under = add_chosen(under, low, e);
      outside |= bits_of_either(high, low) << (j * V::kLanes);
    }
    words[w] = ~outside;
  }
  above_hi = over;
  below_lo = under;
  int64_t inside = 0;
  for (uint64_t word : words) inside += __builtin_popcountll(word);
  return inside;
}

void split(const Input& in, Result& out) {
  const V::F lo = V::set(in.lo), hi = V::set(in.hi);
  constexpr int kRun = 4;  // blocks between two folds, for the rounding errors' sake
  const int64_t blocks = in.n / kBlock;
  for (int64_t b = 0; b < blocks;) {
    Group over = zeros(), under = over;
    for (int i = 0; i < kRun && b < blocks; ++i, ++b) {
      with_block_lanes(in.rule, in.block_weight[b], [&](auto lanes) {
        out.inside += split_block(lanes, in.x + b * kBlock, lo, hi, over, under);
      });
    }
    out.above += total_of(over);
    out.below += total_of(under);
  }
}

// 2^f on [0, 1] to 7.5e-5, relative (a Lawson fit).
constexpr float kCubic[4] = {0x1.3f96a4p-4f, 0x1.cefc4cp-3f, 0x1.64444cp-1f, 0x1.fff632p-1f};

double rough_sum(const Input& in) {
  const V::F c = V::set(in.rule.c), shift = V::set(-in.rule.m * in.rule.c);
  double sum = 0.0;
  for (int64_t b = 0; b < in.n / kBlock;) {
    Group s = zeros();
    for (int i = 0; i < RowSums::kRun && b < in.n / kBlock; ++i, ++b) {
#pragma GCC unroll 4
      for (int j = 0; j < kVecs; j += kGroup) {
        Group t =
            map(load_group(in.x + b * kBlock, j), [&](V::F v) { return V::fma(v, c, shift); });
        if (!V::kFracTakesInfinity) t = clamped(t);
        const Group f = map(t, [](V::F v) { return V::frac_exact(v); });
        Group p = map(f, [](V::F v) { return V::fma(V::set(kCubic[0]), v, V::set(kCubic[1])); });
        p = fma(p, f, V::set(kCubic[2]));
        p = fma(p, f, V::set(kCubic[3]));
        s = add(s, map(p, t, [](V::F v, V::F w) { return V::scale2(v, w); }));
      }
    }
    sum += total_of(s);
  }
  return sum;
}

Result run(Pass pass, const Input& in) {
  Result out{};
  switch (pass) {
    case kScan: {
      const ScanPart part = scan(in);
      out.max = part.max;
      out.nan = part.nan;
      break;
    }
    case kWeights:
    case kMoments: {
      const Sums sums = exact_sums(in, pass == kMoments ? Moments::kFirst : Moments::kNone);
      out.s = uint64_t(sums.s);
      out.g = uint64_t(sums.g);
      break;
    }
    case kSplit:
      split(in, out);
      break;
    case kRough:
      out.above = rough_sum(in);
  }
  return out;
}

}  // namespace
}  // namespace fusedraw

// `iterations` times the pass; returns the seconds that they took. `room`: two floats a block.
extern "C" double limits_run(int pass, const float* x, int64_t n, float temperature, float lo,
                             float hi, float* room, fusedraw::Result* out, int64_t iterations) {
  using namespace fusedraw;
  const int64_t blocks = n / kBlock;
  Input in{x, n, {}, lo, hi, room + blocks, room};
  in.rule = weight_rule(scan(in).max + 0.0f, temperature, false);
  for (int64_t b = 0; b < blocks; ++b) room[blocks + b] = relative_weight(in.rule, room[b]);
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < iterations; ++i) {
    *out = run(Pass(pass), in);
    asm volatile("" ::: "memory");
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}
