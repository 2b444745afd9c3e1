// SPDX-License-Identifier: Apache-2.0
// Routing: the k experts of a token and their weights (docs/law.md, "Routing"). What an engine is
// asked, and the decisions that all of them share: parameters, scores, jitter, keys of the order.
//
// A selection is the k experts with the smallest (key, id). Keys are 64-bit integers: of a score,
// larger scores first; of an arrival, the bits of a non-negative double.
#pragma once

#include "call.h"

namespace fusedraw {

// Rows are short: a warp, or the stack of a thread, holds one.
constexpr int kMaxExperts = 4096;

enum class RouteNoise : uint8_t { kNone = 0, kGumbel = 1, kJitter = 2 };

struct RouteOptions {
  RouteNoise noise = RouteNoise::kNone;
  bool sigmoid = false;      // scores are sigmoids of the logits, not their softmax
  bool renormalise = false;  // weights of a token sum to 1
};

// Columns of a packed parameter row.
enum RouteColumn { kRouteTemperature = 0, kRouteJitter, kRouteMixEps, kRouteColumns };
static_assert(int(kRouteColumns) <= int(kParamColumns), "a row of them fits a ParamsView");

struct RouteParams {
  float temperature = 1.0f, jitter = 0.0f, mix_eps = 0.0f;
};

struct RouteCall {
  RowsView x;  // [T, E]
  ParamsView params;
  KeysView keys;                    // data null: nothing is drawn
  const float* bias = nullptr;      // [E], or null
  const int64_t* replay = nullptr;  // [T, k], contiguous, or null
  int64_t k = 1;
  RouteOptions options;
  int64_t* ids = nullptr;    // [T, k]
  float* weights = nullptr;  // [T, k]
  uint8_t* status = nullptr;
  bool* explored = nullptr;
  const ForcedNoise* forced = nullptr;
  int64_t n_forced = 0;
};

// Rounds a row of parameters to the law's types. False: BAD_PARAM.
FD_FN bool read_route_params(const double* p, RouteParams& out) {
  out.temperature = float(p[kRouteTemperature]);
  out.jitter = float(p[kRouteJitter]);
  out.mix_eps = float(p[kRouteMixEps]);
  return out.temperature >= 0.0f && out.jitter >= 0.0f && out.jitter <= 1.0f &&
         out.mix_eps >= 0.0f && out.mix_eps <= 1.0f;
}

FD_FN bool is_finite(float x) { return x - x == 0.0f; }

// Keys.

FD_FN uint64_t score_key(float score) { return uint32_t(~order_key(score)); }

// At t below this a weight is no double's; such experts arrive last, in the order of the row.
constexpr float kRaceFloor = -1000.0f;
// 2^t for t in [kRaceFloor, 0]: unlike the weights of a draw, not cut off 44 bits below the best,
// since all choices after the first are made of what the best leaves.
FD_FN double race_weight(float t) {
  int n;
  const double p = double(exp2_significand(t, n));
  return p * double_of(uint64_t(n + 1023) << 52);
}
FD_FN uint64_t arrival_key(uint64_t r64, float t, float x) {
  if (t < kRaceFloor) return bits_of(double(inf32())) + score_key(x);
  return bits_of(exponential(r64) / race_weight(t));
}

// Bounds of w / E, the inverse of an arrival, from e = 2^t and the high word of r64. With v the
// uniform of r64 and s = v / (2 - v), E = 2 atanh(s) lies between 2 s and 2 s (1 + s^2 / (3 (1 -
// s^2))), and v between word * 2^-32 and (word + 1) * 2^-32. kRouteShrink and kRouteGrow cover all
// roundings, of the word to a float (by one unit at most) too.
constexpr float kRouteShrink = 1.0f - 0x1p-18f, kRouteGrow = 1.0f + 0x1p-18f;
// Weights below 2^this bound from above as if they were that, and from below as 0.
constexpr float kBoundFloor = -100.0f;

// Scores.

// 1 / (1 + 2^-|t|) and its complement; never 0, so that weights can always be renormalised.
FD_FN float sigmoid_score(float x) {
  const float c = temperature_scale(1.0f);
  const float t = (x < 0.0f ? x : -x) * c;
  const float e = exp2p(t > -126.0f ? t : -126.0f);
  return (x < 0.0f ? e : 1.0f) / (1.0f + e);
}

// The factor of jitter: 1 + a d, d uniform on [-1, 1], from the high word of r64.
FD_FN float jitter_factor(uint32_t word, float jitter) {
  return fma32(jitter, float(int32_t(word ^ 0x80000000u)) * 0x1p-31f, 1.0f);
}
FD_FN float jittered(float x, uint32_t word, float jitter) {
  const float y = x * jitter_factor(word, jitter);
  return y > -kFltMax ? y : -kFltMax;
}

// exp2p below its range is 0, as for a softmax.
FD_FN float softmax_numerator(const WeightRule& rule, float x) {
  const float t = scaled_gap(rule, x);
  return t < -126.0f ? 0.0f : exp2p(t);
}

}  // namespace fusedraw
