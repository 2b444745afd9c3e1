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

enum Pass : int { kScan, kWeights, kMoments, kSides, kLook, kRough };

// Fields that a pass does not fill stay zero.
struct Result {
  uint64_t s, g;  // sums in units of 2^-43
  double above, below;
  int64_t inside;  // tokens of the zone
  float max;
  int32_t nan;
};

struct Input {
  const float* x;
  int64_t n;
  WeightRule rule;
  float lo, hi;               // of the zone; hi is the pivot
  const float* block_weight;  // e at the maximum of every block
  float* block_max;
  List zone;
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

void sides(const Input& in, Result& out) {
  SideSums<float> sums(in.rule, in.hi);
  for (int64_t b = 0; b < in.n / kBlock; ++b)
    sums.add(in.x + b * kBlock, in.block_weight[b], in.block_max[b]);
  sums.finish(out.above, out.below);
}

int64_t look(const Input& in) {
  List found = in.zone;
  ZoneGatherer<float> zone(found, in.lo, in.hi);
  for (int64_t b = 0; b < in.n / kBlock; ++b)
    if (!zone.add(in.x + b * kBlock, uint32_t(b * kBlock))) return -1;
  return zone.finish() ? found.n : -1;
}

double rough_sum(const Input& in) {
  const RoughLanes<false> lanes(V::set(in.rule.c), V::set(-in.rule.m * in.rule.c));
  LaneDoubles sum;
  for (int64_t b = 0; b < in.n / kBlock;) {
    Group s = zeros();
    for (int i = 0; i < kRoughRun && b < in.n / kBlock; ++i, ++b)
      add_rough(lanes, in.x + b * kBlock, s);
    sum.add(total(s));
  }
  return sum.total();
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
    case kSides:
      sides(in, out);
      break;
    case kLook:
      out.inside = look(in);
      break;
    case kRough:
      out.above = rough_sum(in);
  }
  return out;
}

}  // namespace
}  // namespace fusedraw

// `iterations` times the pass; returns the seconds that they took. `room`: two floats a block, then
// two a token and 64.
extern "C" double limits_run(int pass, const float* x, int64_t n, float temperature, float lo,
                             float hi, float* room, fusedraw::Result* out, int64_t iterations) {
  using namespace fusedraw;
  const int64_t blocks = n / kBlock;
  float* list = room + 2 * blocks;
  const List zone{list, reinterpret_cast<uint32_t*>(list + n + 32), 0, n + 32};
  Input in{x, n, {}, lo, hi, room + blocks, room, zone};
  in.rule = weight_rule(scan(in).max + 0.0f, temperature, false);
  for (int64_t b = 0; b < blocks; ++b) room[blocks + b] = relative_weight(in.rule, room[b]);
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < iterations; ++i) {
    *out = run(Pass(pass), in);
    asm volatile("" ::: "memory");
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}
