// SPDX-License-Identifier: Apache-2.0
//
// What the law's arithmetic takes at least: bare loops over one row of float32 logits, made of the
// engine's own verbs and loops, without anything around them; for AVX-512, the same instructions
// also without their order. Compiled by limits.py for one instruction set (LIMITS_AVX512, else
// AVX2). n: a multiple of 256.
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

enum Pass : int {
  kScan,
  kWeights,
  kMoments,
  kSides,
  kLook,
  kRough,
  kWeightsFree,
  kMomentsFree,
  kSidesFree
};

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

#ifdef LIMITS_AVX512
// The instructions of a pass over a vector, none of which waits for another: no order of them, and
// no compiler, does better. What they compute is of no use. zmm30 holds 0.5, zmm31 1, k1 all lanes.
#define FD_GAP "vmovups (%[x]), %%zmm0\n\t vsubps %%zmm31, %%zmm0, %%zmm1\n\t"
#define FD_FMA(to) "vfmadd213ps %%zmm31, %%zmm30, %%zmm" #to "\n\t"
#define FD_ADD(to) "vaddps %%zmm31, %%zmm30, %%zmm" #to "\n\t"
#define FD_IADD(to) "vpaddd %%zmm31, %%zmm" #to ", %%zmm" #to "\n\t"
#define FD_EXP2                                                                            \
  FD_GAP "vmulps %%zmm31, %%zmm30, %%zmm2\n\t vreduceps $9, %%zmm31, %%zmm3\n\t" FD_FMA(4) \
      FD_FMA(5) FD_FMA(6) "vscalefps %%zmm31, %%zmm30, %%zmm7\n\t" FD_FMA(8) FD_FMA(9)
#define FD_SUM(to) FD_ADD(to##1) FD_IADD(to##2) FD_ADD(to##3) FD_ADD(to##4) FD_IADD(to##5)
#define FD_WEIGHTS FD_EXP2 FD_SUM(1) FD_FMA(10)
#define FD_KEPT_PRODUCT \
  "vcmpps $14, %%zmm31, %%zmm30, %%k2\n\t vmulps %%zmm31, %%zmm30, %%zmm16%{%%k1%}%{z%}\n\t"
#define FD_MOMENTS FD_WEIGHTS FD_KEPT_PRODUCT FD_SUM(2)
#define FD_SIDES                                                                        \
  FD_EXP2                                                                               \
  "vcmpps $13, %%zmm31, %%zmm30, %%k2\n\t vaddps %%zmm31, %%zmm17, %%zmm17%{%%k1%}\n\t" \
  "knotw %%k1, %%k3\n\t vaddps %%zmm31, %%zmm18, %%zmm18%{%%k1%}\n\t"
#define FD_PASS(body)                                                                           \
  asm volatile(                                                                                 \
      "vbroadcastss %[half], %%zmm30\n\t vbroadcastss %[one], %%zmm31\n\t"                      \
      "kxnorw %%k1, %%k1, %%k1\n\t 1:\n\t" body                                                 \
      "add $64, %[x]\n\t cmp %[x], %[end]\n\t jne 1b\n\t"                                       \
      : [x] "+r"(x)                                                                             \
      : [end] "r"(end), [half] "m"(half), [one] "m"(one)                                        \
      : "cc", "k1", "k2", "k3", "zmm0", "zmm1", "zmm2", "zmm3", "zmm4", "zmm5", "zmm6", "zmm7", \
        "zmm8", "zmm9", "zmm10", "zmm11", "zmm12", "zmm13", "zmm14", "zmm15", "zmm16", "zmm17", \
        "zmm18", "zmm21", "zmm22", "zmm23", "zmm24", "zmm25", "zmm30", "zmm31")

void without_order(Pass pass, const Input& in) {
  const float *x = in.x, *end = x + in.n;
  const float half = 0.5f, one = 1.0f;
  if (pass == kWeightsFree)
    FD_PASS(FD_WEIGHTS);
  else if (pass == kMomentsFree)
    FD_PASS(FD_MOMENTS);
  else
    FD_PASS(FD_SIDES);
}
#else
void without_order(Pass, const Input&) {}
#endif

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
      break;
    default:
      without_order(pass, in);
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
