// SPDX-License-Identifier: Apache-2.0
// Routing, a warp a token: the k experts with the smallest keys, and their weights.
//
// As on the CPU (cpu/passes/route.inl): scores, or bounds of them, of all experts; a score that k
// experts reach, from the lanes' best ones; exact keys of the few that may be chosen; their places
// by counting. Two words of shared memory an expert, no barrier of the thread block.
#pragma once

#include "../core/route.h"
#include "../core/stats.h"
#include "launch.h"
#include "plan.cuh"

namespace fusedraw::cuda {

// Shared memory of a warp: first the experts' scores by id, then keys of candidates; and
// candidates.
constexpr int kRouteWords = 2;
constexpr int kRouteMemory = 48 * 1024;  // of a thread block, where it is more than one warp

FD_DEVICE float widened_value(float x) { return x; }
FD_DEVICE float widened_value(BFloat16 x) { return float_of(uint32_t(x.bits) << 16); }
FD_DEVICE float widened_value(Float16 x) { return half_to_float(x.bits); }

template <typename T>
struct Token {
  const RouteCall& call;
  int64_t row;
  Global<const T> x;
  int experts, k;
  Shared<uint64_t> keys, found;
  RouteParams params;
  Noise noise;
  float m;  // the largest logit
  __device__ float logit(int id) const { return widened_value(x.load(id)) + 0.0f; }
};

FD_DEVICE uint32_t place_in(uint32_t mask) {
  return uint32_t(__popc(mask & ((1u << lane_id()) - 1)));
}

// The status of a row as a token of `least` experts; finds m.
template <typename T>
FD_DEVICE uint8_t judge_token(Token<T>& t, int least) {
  uint32_t best = 0, valid = 0;
  bool nan = false, finite = true;
#pragma unroll 1
  for (int id = lane_id(); id < t.experts; id += kLanes) {
    const float x = t.logit(id);
    nan |= x != x;
    valid += x > -inf32();
    const uint32_t key = order_key(x);
    best = key > best ? key : best;
    if (t.call.bias != nullptr) finite &= is_finite(load_global(t.call.bias + id));
  }
  t.m = from_order_key(warp_max(best));
  if (!__all_sync(kFullWarp, finite)) return kBadParam;
  if (__any_sync(kFullWarp, nan)) return kNan;
  if (t.m == inf32()) return kPosInf;
  return int(warp_sum(valid)) < least ? kEmpty : kOk;
}

template <typename T>
FD_DEVICE uint8_t judge_replay(const Token<T>& t, const int64_t* ids) {
  bool inside = true, valid = false;
#pragma unroll 1
  for (int j = lane_id(); j < t.k; j += kLanes) {
    const int64_t id = load_global(ids + j);
    if (id < 0 || id >= t.experts)
      inside = false;
    else
      valid |= t.logit(int(id)) > -inf32();
  }
  if (!__all_sync(kFullWarp, inside)) return kBadParam;
  return __any_sync(kFullWarp, valid) ? kOk : kEmpty;
}

FD_DEVICE bool load_route_params(const ParamsView& view, int64_t row, RouteParams& out) {
  double p[kRouteColumns];
#pragma unroll
  for (int i = 0; i < kRouteColumns; ++i) p[i] = number_at(view, row, i);
  return read_route_params(p, out);
}

// r64 of ids 2 pair and 2 pair + 1, which share a Philox block.
struct PairNoise {
  uint64_t even, odd;
};
FD_DEVICE PairNoise pair_noise(const Noise& noise, int pair) {
  if (noise.n_forced != 0)
    return {noise_r64(noise, kPurposeRoute, 2 * pair),
            noise_r64(noise, kPurposeRoute, 2 * pair + 1)};
  const Philox4 o = noise_block(noise, kPurposeRoute, uint32_t(pair));
  return {uint64_t(o.o1) << 32 | o.o0, uint64_t(o.o3) << 32 | o.o2};
}

// Bounds of w / E (core/route.h).
struct Bounds {
  float lower, upper;
};
FD_DEVICE Bounds bound_arrival(float t, uint32_t word) {
  const float e = exp2p(t > kBoundFloor ? t : kBoundFloor);
  const float least = float(word) * (0x1p-32f * kRouteShrink);
  const float most = (float(word) + 2.0f) * (0x1p-32f * kRouteGrow);
  const float upper = e * (2.0f - least) / (least * (2.0f * kRouteShrink));
  if (!(most < 1.0f) || t <= kBoundFloor) return {0.0f, upper};
  const float rest = 6.0f * (1.0f - most);
  const float above = e * (2.0f - most) * (rest * kRouteShrink);
  return {above / (most * (rest + rest + most * most * kRouteGrow)), upper};
}

// The sum of a row's weights at T = 1.
template <typename T>
FD_DEVICE uint64_t sum_of_weights(const Token<T>& t) {
  const WeightRule rule = weight_rule(t.m, 1.0f, false);
  uint64_t s = 0;
#pragma unroll 1
  for (int id = lane_id(); id < t.experts; id += kLanes) {
    const float x = t.logit(id);
    if (x > -inf32()) s += weight_of(rule, x);
  }
  return warp_sum(s);
}

// Scores of all experts, or upper bounds, to shared memory; -inf where there is no logit. Returns
// the lane's best score, or lower bound.
template <typename T>
FD_DEVICE float race_scores(const Token<T>& t, const WeightRule& rule) {
  float best = 0.0f;
#pragma unroll 1
  for (int pair = lane_id(); 2 * pair < t.experts; pair += kLanes) {
    const PairNoise r = pair_noise(t.noise, pair);
#pragma unroll 1
    for (int half = 0; half < 2 && 2 * pair + half < t.experts; ++half) {
      const int id = 2 * pair + half;
      const float x = t.logit(id);
      Bounds b{0.0f, -inf32()};
      if (x > -inf32())
        b = bound_arrival(scaled_gap(rule, x), uint32_t((half ? r.odd : r.even) >> 32));
      best = larger(best, b.lower);
      t.keys.store(id, bits_of(b.upper));
    }
  }
  return best;
}
template <typename T>
FD_DEVICE float plain_scores(const Token<T>& t) {
  const RouteOptions& o = t.call.options;
  const WeightRule rule = weight_rule(t.m, 1.0f, false);
  const bool biased = t.call.bias != nullptr;
  const double d = biased && !o.sigmoid ? to_double(sum_of_weights(t)) : 1.0;
  float best = -inf32();
#pragma unroll 1
  for (int id = lane_id(); id < t.experts; id += kLanes) {
    float s = t.logit(id);
    if (s > -inf32()) {
      if (o.noise == RouteNoise::kJitter) {
        s = jittered(s, uint32_t(noise_r64(t.noise, kPurposeRoute, id) >> 32), t.params.jitter);
      } else if (biased) {
        s = o.sigmoid ? sigmoid_score(s) : softmax_of(softmax_numerator(rule, s), d);
        s += load_global(t.call.bias + id);
      }
    }
    best = larger(best, s);
    t.keys.store(id, bits_of(s));
  }
  return best;
}

// A score that at least k experts reach: the k-th largest of the lanes' best, or below all.
FD_DEVICE float reached_by(float best, int k) {
  uint32_t as_large = 0;
#pragma unroll 1
  for (int lane = 0; lane < kLanes; ++lane) as_large += from_lane(best, lane) >= best;
  const uint32_t key = warp_max(as_large >= uint32_t(k) ? order_key(best) : 0);
  const uint32_t least = order_key(-kFltMax);
  return from_order_key(key > least ? key : least);
}

// Candidates, ids ascending, with their scores; returns how many.
template <typename T>
FD_DEVICE int gather_candidates(const Token<T>& t, float least) {
  int n = 0;
#pragma unroll 1
  for (int first = 0; first < t.experts; first += kLanes) {
    const int id = first + lane_id();
    const float s = id < t.experts ? float_of(uint32_t(t.keys.load(id))) : -inf32();
    const uint32_t chosen = __ballot_sync(kFullWarp, s >= least);
    if (s >= least)
      t.found.store(n + int(place_in(chosen)), uint64_t(bits_of(s)) << 32 | uint32_t(id));
    n += __popc(chosen);
  }
  return n;
}

FD_DEVICE void count_choice(int64_t* counts, int id) {
  atomic_add(reinterpret_cast<uint64_t*>(counts + id), uint64_t{1});
}

// Chooses, stores and counts the ids; leaves the chosen logits in `keys`. Returns whether the token
// explored.
template <typename T>
FD_DEVICE bool choose_experts(const Token<T>& t, int64_t* counts) {
  const RouteOptions& o = t.call.options;
  const bool explored = t.call.keys.data != nullptr && t.params.mix_eps > 0.0f &&
                        coin_fires(noise_r64(t.noise, kPurposeCoin, 0), t.params.mix_eps);
  const bool race = explored || (o.noise == RouteNoise::kGumbel && t.params.temperature > 0.0f);
  WeightRule rule = weight_rule(t.m, race ? t.params.temperature : 1.0f, false);
  if (explored) rule.kind = WeightKind::kUniform;
  const float best = race ? race_scores(t, rule) : plain_scores(t);
  __syncwarp();
  const int n = gather_candidates(t, reached_by(best, t.k));
  __syncwarp();
#pragma unroll 1
  for (int c = lane_id(); c < n; c += kLanes) {
    const uint64_t entry = t.found.load(c);
    uint64_t key = score_key(float_of(uint32_t(entry >> 32)));
    if (race) {
      const int id = int(uint32_t(entry));
      const float x = t.logit(id);
      key = arrival_key(noise_r64(t.noise, kPurposeRoute, id), scaled_gap(rule, x), x);
    }
    t.keys.store(c, key);
  }
  __syncwarp();
#pragma unroll 1
  for (int c = lane_id(); c < n; c += kLanes) {
    const uint64_t key = t.keys.load(c);
    uint32_t place = 0;
#pragma unroll 1
    for (int j = 0; j < n; ++j) {
      const uint64_t other = t.keys.load(j);
      place += other < key || (other == key && j < c);
    }
    t.found.store(c, uint64_t(place) << 32 | uint32_t(t.found.load(c)));
  }
  __syncwarp();
#pragma unroll 1
  for (int c = lane_id(); c < n; c += kLanes) {
    const uint64_t entry = t.found.load(c);
    const int place = int(entry >> 32), id = int(uint32_t(entry));
    if (place >= t.k) continue;
    store_global(t.call.ids + t.row * t.k + place, int64_t(id));
    count_choice(counts, id);
    t.keys.store(place, bits_of(t.logit(id)));
  }
  return explored;
}

template <typename T>
FD_DEVICE void replay_experts(const Token<T>& t, const int64_t* ids, int64_t* counts) {
#pragma unroll 1
  for (int j = lane_id(); j < t.k; j += kLanes) {
    const int id = int(load_global(ids + j));
    store_global(t.call.ids + t.row * t.k + j, int64_t(id));
    count_choice(counts, id);
    t.keys.store(j, bits_of(t.logit(id)));
  }
}

// Weights of the chosen logits, each lane those that it finds at its own places of `keys`.
template <typename T>
FD_DEVICE void store_route_weights(const Token<T>& t) {
  const RouteOptions& o = t.call.options;
  float* out = t.call.weights + t.row * t.k;
  float m = t.m;
  if (o.renormalise) {
    uint32_t best = 0;
#pragma unroll 1
    for (int j = lane_id(); j < t.k; j += kLanes) {
      const uint32_t key = order_key(float_of(uint32_t(t.keys.load(j))));
      best = key > best ? key : best;
    }
    m = from_order_key(warp_max(best));
  }
  const WeightRule rule = weight_rule(m, 1.0f, false);
  const float largest = o.sigmoid && o.renormalise ? sigmoid_score(m) : 1.0f;
  uint64_t s = 0;
#pragma unroll 1
  for (int j = lane_id(); j < t.k; j += kLanes) {
    const float x = float_of(uint32_t(t.keys.load(j)));
    float e = 0.0f;
    if (x > -inf32()) e = o.sigmoid ? sigmoid_score(x) / largest : softmax_numerator(rule, x);
    const uint64_t w = fixed43(e);
    if (o.sigmoid && o.renormalise && w == 0) e = 0.0f;  // as in a renormalised row
    s += w;
    t.keys.store(j, bits_of(e));
  }
  s = o.renormalise ? warp_sum(s) : o.sigmoid ? 0 : sum_of_weights(t);
  const double d = to_double(s);
#pragma unroll 1
  for (int j = lane_id(); j < t.k; j += kLanes) {
    const float e = float_of(uint32_t(t.keys.load(j)));
    store_global(out + j, o.sigmoid && !o.renormalise ? e : softmax_of(e, d));
  }
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kResident)
    route_kernel(RouteCall call, int64_t* counts) {
  FD_DYNAMIC_SHARED(uint64_t, words);
  const int warps = int(blockDim.x) / kLanes, experts = int(call.x.cols);
  const int64_t row = int64_t(blockIdx.x) * warps + warp_id();
  if (row >= call.x.rows) return;
  const Shared<uint64_t> own = words.at(warp_id() * experts * kRouteWords);
  const Global<const T> x(static_cast<const T*>(call.x.data) + row * call.x.row_stride);
  Token<T> t{call, row, x, experts, int(call.k), own, own.at(experts), {}, {}, 0.0f};
  const int64_t* replay = call.replay == nullptr ? nullptr : call.replay + row * call.k;
  uint8_t status = kBadParam;
  if (load_route_params(call.params, row, t.params))
    status = judge_token(t, replay == nullptr ? t.k : 0);
  if (replay != nullptr && status != kBadParam) {
    const uint8_t replayed = judge_replay(t, replay);
    if (status == kOk || replayed == kBadParam) status = replayed;
  }
  bool explored = false;
  if (status == kOk) {
    if (call.keys.data != nullptr) {
      const Global<const uint64_t> key(call.keys.data + row * call.keys.row_stride);
      t.noise = {key.load(0), key.load(1), 0, call.forced, call.n_forced};
    }
    if (replay != nullptr)
      replay_experts(t, replay, counts);
    else
      explored = choose_experts(t, counts);
    __syncwarp();
    store_route_weights(t);
  } else {
#pragma unroll 1
    for (int j = lane_id(); j < t.k; j += kLanes) {
      store_global(call.ids + row * t.k + j, int64_t{-1});
      store_global(call.weights + row * t.k + j, nan32());
    }
  }
  if (lane_id() == 0) {
    store_global(call.status + row, status);
    store_global(call.explored + row, explored);
  }
}

template <typename T>
const char* launch_route_of(const RouteCall& call, int64_t* counts, Stream stream) {
  const int64_t bytes = call.x.cols * kRouteWords * int64_t(sizeof(uint64_t));
  int64_t warps = kRouteMemory / bytes;
  warps = warps < 1 ? 1 : warps > kWarps ? kWarps : warps;
  const int64_t blocks = (call.x.rows + warps - 1) / warps;
  const dim3 grid(blocks <= INT32_MAX ? unsigned(blocks) : ~0u);
  return launch(route_kernel<T>, grid, int(warps) * kLanes, size_t(warps * bytes), stream, call,
                counts);
}

}  // namespace fusedraw::cuda
