// SPDX-License-Identifier: Apache-2.0
// The filtering rules, in integers: parameters of a row -> a Plan that every kernel carries out.
//
// Kernels know three kinds of cut only: a count (top-k), a mass (top-p) and a weight (min-p). A
// rule that can be said in these is added here and in no kernel.
#pragma once

#include "status.h"
#include "weight.h"

namespace fusedraw {

enum class FilterOrder : uint8_t { kSequential = 0, kJoint = 1, kMinPFirst = 2 };

struct Options {
  FilterOrder order = FilterOrder::kSequential;
  bool ties_all = false;          // extend each prefix over equal x
  bool mix_valid = false;         // explore over every valid token instead of the kept ones
  bool probs = false;             // rows hold probabilities
  bool keep_zero = false;         // K also holds tokens of weight 0 (top_k_mask)
  bool temperature_last = false;  // filters see T = 1
  uint32_t domain = 0;
};

struct RowParams {
  float temperature = 1.0f, top_p = 1.0f, min_p = 0.0f, mix_eps = 0.0f;
  int64_t top_k = 0;
};

// Columns of a packed parameter row.
enum ParamColumn { kTemperature = 0, kTopP, kMinP, kMixEps, kTopK, kParamColumns };

// Rounds a packed row to the law's types. False: BAD_PARAM.
FD_FN bool read_params(const double* p, RowParams& out) {
  out.temperature = float(p[kTemperature]);
  out.top_p = float(p[kTopP]);
  out.min_p = float(p[kMinP]);
  out.mix_eps = float(p[kMixEps]);
  const double k = p[kTopK];
  const bool ok = out.temperature >= 0.0f && out.top_p >= 0.0f && out.top_p <= 1.0f &&
                  out.min_p >= 0.0f && out.min_p <= 1.0f && out.mix_eps >= 0.0f &&
                  out.mix_eps <= 1.0f && k >= -1.0;
  out.top_k = !ok || k <= 0.0 ? 0 : k >= 0x1p62 ? int64_t{1} << 62 : int64_t(k);
  return ok;
}

// ceil(p * n) for a float32 p in [0, 1], exactly. n < 2^100.
FD_FN u128 ceil_mul(float p, u128 n) {
  if (p == 0.0f || n == 0) return 0;
  const uint32_t u = bits_of(p), exponent = u >> 23 & 255u;
  const uint32_t mantissa = exponent ? (u & 0x7fffffu) | 0x800000u : u & 0x7fffffu;
  const int shift = 150 - int(exponent ? exponent : 1);  // p = mantissa * 2^-shift, shift >= 23
  const u128 product = n * mantissa;
  if (shift >= 128) return 1;
  return (product >> shift) + ((product & ((u128(1) << shift) - 1)) != 0 ? 1 : 0);
}

// What a row keeps, as cuts on the order.
struct Plan {
  bool greedy = false;      // T = 0: the first token alone
  uint64_t pre_weight = 0;  // drop lighter tokens before top-k and top-p (min_p_first)
  int64_t top_k = 0;        // 0: off
  bool has_top_p = false;
  float top_p = 1.0f;
  bool joint = false;  // both prefixes of the same set, the shorter counts
  bool ties_all = false;
  uint64_t post_weight = 1;  // finally K keeps w >= this; 0 keeps weightless tokens too
};

FD_FN Plan make_plan(const RowParams& p, const Options& o) {
  Plan plan;
  plan.greedy = !o.probs && p.temperature == 0.0f;
  const uint64_t min_weight = uint64_t(ceil_mul(p.min_p, u128(1) << kWeightBits));
  if (o.order == FilterOrder::kMinPFirst)
    plan.pre_weight = min_weight;
  else if (min_weight > 1)
    plan.post_weight = min_weight;
  if (o.keep_zero && min_weight == 0) plan.post_weight = 0;
  plan.top_k = p.top_k;
  plan.has_top_p = p.top_p < 1.0f;
  plan.top_p = p.top_p;
  plan.joint = o.order == FilterOrder::kJoint;
  plan.ties_all = o.ties_all;
  return plan;
}

// A cut in the order: keeps x > lo, and of x == lo the ids up to last.
struct Cut {
  float lo;
  int64_t last;
};
constexpr int64_t kAllTies = INT64_MAX;

// The stricter of two cuts of the same row.
FD_FN Cut stricter(Cut a, Cut b) {
  if (a.lo != b.lo) return a.lo > b.lo ? a : b;
  return a.last < b.last ? a : b;
}

FD_FN bool keeps(const Cut& cut, float x, int64_t id) {
  return x > cut.lo || (x == cut.lo && id <= cut.last);
}

// Whether the coin of a row fires: r64 < ceil(mix_eps * 2^64), a 65-bit comparison.
FD_FN bool coin_fires(uint64_t r64, float mix_eps) {
  return u128(r64) < ceil_mul(mix_eps, u128(1) << 64);
}

}  // namespace fusedraw
