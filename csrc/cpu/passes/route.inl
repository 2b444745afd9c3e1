// SPDX-License-Identifier: Apache-2.0
// Routing: the k experts of a token, a row at a time.
//
// Every expert gets two floats between which its score lies (equal, but for arrivals). The k-th
// largest of the maxima of some groups of lower scores is reached by at least k experts, so the
// choice is among those whose upper score reaches it too: a few more than k. These alone get their
// exact key, and are contenders by it.
#pragma once

namespace fusedraw {
namespace {

struct Contender {
  uint64_t key;
  uint32_t id;
  bool operator<(const Contender& o) const { return key < o.key || (key == o.key && id < o.id); }
};

// A row and what is known of its experts, padded to whole blocks and vectors.
struct Experts {
  int64_t n;
  int vecs;
  float m;  // the largest logit
  alignas(64) float x[kMaxExperts + kBlock];
  alignas(64) float upper[kMaxExperts + kBlock];  // score or its bounds; -inf: no expert
  alignas(64) float lower[kMaxExperts + kBlock];
  alignas(64) uint32_t high[kMaxExperts + kBlock];  // words of r64
  alignas(64) uint32_t low[kMaxExperts + kBlock];
  alignas(64) float found_score[kMaxExperts + kBlock];  // candidates
  alignas(64) uint32_t found[kMaxExperts + kBlock];
  Contender contenders[kMaxExperts];
};

// Widens the row; returns its status as a row of `least` experts.
template <typename T>
uint8_t read_experts(const T* p, int64_t least, Experts& r) {
  const int64_t whole = r.n / V::kLanes, padded = (r.n + kBlock - 1) / kBlock * kBlock;
  V::F all = V::set(-inf32());
  V::M ordered = V::all();
  int64_t valid = 0;
  const auto take = [&](V::F x) {
    all = V::max(x, all);
    ordered = V::still_ordered(ordered, x, x);
    valid += __builtin_popcount(V::bits(V::gt(x, V::set(-inf32()))));
  };
  for (int64_t i = 0; i < whole; ++i) {
    const V::F x = V::load(p + i * V::kLanes);
    V::store(r.x + i * V::kLanes, x);
    take(x);
  }
  for (int64_t i = whole * V::kLanes; i < r.n; ++i) r.x[i] = widen(p[i]);
  for (int64_t i = r.n; i < padded; ++i) r.x[i] = -inf32();
  r.vecs = int((r.n + V::kLanes - 1) / V::kLanes);
  if (whole < r.vecs) take(V::load(r.x + whole * V::kLanes));
  r.m = V::reduce_max(all) + 0.0f;
  if (V::bits(ordered) != V::bits(V::all())) return kNan;
  if (r.m == inf32()) return kPosInf;
  return valid < least ? kEmpty : kOk;
}

uint8_t open_experts(const RowsView& v, int64_t row, int64_t least, Experts& r) {
  const int64_t offset = row * v.row_stride;
  r.n = v.cols;
  switch (v.dtype) {
    case DType::kBFloat16:
      return read_experts(static_cast<const BFloat16*>(v.data) + offset, least, r);
    case DType::kFloat16:
      return read_experts(static_cast<const Float16*>(v.data) + offset, least, r);
    default:
      return read_experts(static_cast<const float*>(v.data) + offset, least, r);
  }
}

// A score that at least k experts reach; below every score if no good one is cheap to find.
float reached_by(const float* scores, int vecs, int64_t k, float* maxima) {
  constexpr int64_t kCounted = 64;  // groups; more are sorted
  const int64_t sets = (2 * k + V::kLanes - 1) / V::kLanes, groups = sets * V::kLanes;
  if (2 * sets > vecs) return -kFltMax;
  for (int64_t s = 0; s < sets; ++s) {
    V::F m = V::load(scores + s * V::kLanes);
    for (int64_t j = s + sets; j < vecs; j += sets) m = V::max(m, V::load(scores + j * V::kLanes));
    V::store(maxima + s * V::kLanes, m);
  }
  float reached = -kFltMax;
  if (groups > kCounted) {
    std::nth_element(maxima, maxima + k - 1, maxima + groups,
                     [](float a, float b) { return a > b; });
    return maxima[k - 1] > reached ? maxima[k - 1] : reached;
  }
  for (int64_t g = 0; g < groups; ++g) {
    const V::F own = V::set(maxima[g]);
    int64_t as_large = 0;
    for (int64_t s = 0; s < sets; ++s)
      as_large += __builtin_popcount(V::bits(V::ge(V::load(maxima + s * V::kLanes), own)));
    if (as_large >= k && maxima[g] > reached) reached = maxima[g];
  }
  return reached;
}

// Gathers the experts whose upper score reaches `least`, ids ascending; returns how many.
int gather_experts(Experts& r, const float* upper, float least) {
  const V::F lo = V::set(least);
  int n = 0;
  for (int j = 0; j < r.vecs; ++j) {
    const V::F x = V::load(upper + j * V::kLanes);
    const V::I ids = V::iadd(V::iota(), V::iset(uint32_t(j * V::kLanes)));
    n += V::compress(r.found_score + n, r.found + n, V::ge(x, lo), x, ids);
  }
  return n;
}

// The ids of the first k of n candidates.
void store_first(Contender* all, int n, int64_t k, int64_t* ids) {
  constexpr int kCounted = 64;  // places are counted without a branch; more are sorted
  if (n > kCounted) {
    if (k < n) std::nth_element(all, all + k, all + n);
    std::sort(all, all + k);
    for (int64_t j = 0; j < k; ++j) ids[j] = all[j].id;
    return;
  }
  int place[kCounted] = {};
  for (int i = 1; i < n; ++i)
    for (int j = 0; j < i; ++j) {
      const int later = all[j].key <= all[i].key;  // of equal ones, the lower id comes first
      place[i] += later;
      place[j] += 1 - later;
    }
  for (int i = 0; i < n; ++i)
    if (place[i] < k) ids[place[i]] = all[i].id;
}

// Weights and scores

V::F race_exponent(const Experts& r, int j, const WeightRule& rule) {
  if (rule.kind == WeightKind::kUniform) return V::set(0.0f);
  return V::mul(V::sub(V::load(r.x + j), V::set(rule.m)), V::set(rule.c));
}

// Bounds of w / E, from which the exact arrivals to compute are told (core/route.h).
void bound_arrivals(Experts& r, const WeightRule& rule) {
  const V::F one = V::set(1.0f), two = V::set(2.0f), none = V::set(-inf32());
  for (int i = 0; i < r.vecs * V::kLanes; i += V::kLanes) {
    const V::M valid = V::gt(V::load(r.x + i), none);
    const V::F exact = race_exponent(r, i, rule), t = V::max(exact, V::set(kBoundFloor));
    const V::F e = exp2_of(V::frac(t), t), word = V::to_float(V::iload(r.high + i));
    const V::F least = V::mul(word, V::set(0x1p-32f * kRouteShrink));
    V::F most = V::mul(V::add(word, two), V::set(0x1p-32f * kRouteGrow));
    const V::M short_of_one = V::gt(one, most);
    most = V::keep(short_of_one, most);
    const V::F upper =
        V::div(V::mul(e, V::sub(two, least)), V::mul(least, V::set(2.0f * kRouteShrink)));
    // w / E >= e (2 - v) / (2 v) * 12 (1 - v) / (12 (1 - v) + v^2)
    const V::F rest = V::mul(V::set(6.0f), V::sub(one, most));
    const V::F above = V::mul(V::mul(e, V::sub(two, most)), V::mul(rest, V::set(kRouteShrink)));
    const V::F below =
        V::mul(most, V::add(V::add(rest, rest), V::mul(most, V::mul(most, V::set(kRouteGrow)))));
    const V::M weighs = V::both(V::both(valid, short_of_one), V::gt(exact, V::set(kBoundFloor)));
    V::store(r.upper + i, V::select(valid, upper, none));
    V::store(r.lower + i, V::keep(weighs, V::div(above, below)));
  }
}

void jitter_experts(Experts& r, float jitter) {
  const V::F none = V::set(-inf32()), one = V::set(1.0f);
  for (int i = 0; i < r.vecs * V::kLanes; i += V::kLanes) {
    const V::F x = V::load(r.x + i);
    const V::F d = V::mul(V::signed_to_float(V::ixor(V::iload(r.high + i), V::iset(0x80000000u))),
                          V::set(0x1p-31f));
    const V::F y = V::mul(x, V::fma(V::set(jitter), d, one));
    // A NaN, of -inf * 0, is no expert's.
    V::store(r.upper + i, V::select(V::gt(x, none), V::max(y, V::set(-kFltMax)), none));
  }
}

u128 row_sum(const Experts& r, const WeightRule& rule) {
  u128 s = 0;
  for (int64_t b = 0; b < r.n; b += kBlock) s += block_sum(rule, r.x + b, 1.0f);
  return s;
}

void bias_experts(Experts& r, const float* bias, bool sigmoid) {
  const WeightRule rule = weight_rule(r.m, 1.0f, false);
  const double d = sigmoid ? 1.0 : to_double(row_sum(r, rule));
  for (int64_t i = 0; i < r.n; ++i) {
    const float x = r.x[i],
                s = sigmoid ? sigmoid_score(x) : softmax_of(softmax_numerator(rule, x), d);
    r.upper[i] = x > -inf32() ? s + bias[i] : -inf32();
  }
  for (int64_t i = r.n; i < r.vecs * V::kLanes; ++i) r.upper[i] = -inf32();
}

void store_expert_weights(const RouteCall& call, const Experts& r, const int64_t* ids, float* out) {
  const bool sigmoid = call.options.sigmoid;
  const int64_t k = call.k;
  float m = r.m;
  if (call.options.renormalise) {
    m = -inf32();
    for (int64_t j = 0; j < k; ++j) m = r.x[ids[j]] > m ? r.x[ids[j]] : m;
  }
  const WeightRule rule = weight_rule(m, 1.0f, false);
  if (sigmoid) {
    for (int64_t j = 0; j < k; ++j)
      out[j] = r.x[ids[j]] > -inf32() ? sigmoid_score(r.x[ids[j]]) : 0.0f;
    if (!call.options.renormalise) return;
    const float largest = sigmoid_score(m);
    for (int64_t j = 0; j < k; ++j) {
      out[j] = out[j] / largest;
      if (fixed43(out[j]) == 0) out[j] = 0.0f;  // as in a renormalised row of probabilities
    }
  } else {
    for (int64_t j = 0; j < k; ++j)
      out[j] = r.x[ids[j]] > -inf32() ? softmax_numerator(rule, r.x[ids[j]]) : 0.0f;
  }
  u128 s = 0;
  if (call.options.renormalise)
    for (int64_t j = 0; j < k; ++j) s += fixed43(out[j]);
  else
    s = row_sum(r, rule);
  const double d = to_double(s);
  for (int64_t j = 0; j < k; ++j) out[j] = softmax_of(out[j], d);
}

// Chooses k ids of an open row; returns whether it explored.
bool choose_experts(const RouteCall& call, int64_t row, const RouteParams& p, Experts& r,
                    int64_t* ids) {
  Noise noise;
  bool explored = false;
  if (call.keys.data != nullptr) {
    noise = row_noise(call.keys, row, 0, call.forced, call.n_forced);
    explored = p.mix_eps > 0.0f && coin_fires(noise_r64(noise, kPurposeCoin, 0), p.mix_eps);
  }
  const RouteNoise kind = call.options.noise;
  const bool race = explored || (kind == RouteNoise::kGumbel && p.temperature > 0.0f);
  WeightRule rule;
  const float *upper = r.upper, *lower = r.upper;
  if (race) {
    rule = weight_rule(r.m, p.temperature, false);
    if (explored) rule.kind = WeightKind::kUniform;
    noise_words(noise, kPurposeRoute, 0, r.n, r.high, r.low);
    bound_arrivals(r, rule);
    lower = r.lower;
  } else if (kind == RouteNoise::kJitter) {
    noise_words(noise, kPurposeRoute, 0, r.n, r.high);
    jitter_experts(r, p.jitter);
  } else if (call.bias != nullptr) {
    bias_experts(r, call.bias, call.options.sigmoid);
  } else {
    upper = lower = r.x;
  }
  const int n = gather_experts(r, upper, reached_by(lower, r.vecs, call.k, r.found_score));
  for (int i = 0; i < n; ++i) {
    const uint32_t id = r.found[i];
    const uint64_t r64 = uint64_t(r.high[id]) << 32 | r.low[id];
    r.contenders[i] = {
        race ? arrival_key(r64, scaled_gap(rule, r.x[id]), r.x[id]) : score_key(r.found_score[i]),
        id};
  }
  store_first(r.contenders, n, call.k, ids);
  return explored;
}

// BAD_PARAM, as far as it can be told without the row.
bool route_arguments_ok(const RouteCall& call, const int64_t* replay) {
  bool ok = true;
  for (int64_t i = 0; call.bias != nullptr && i < call.x.cols; ++i) ok &= is_finite(call.bias[i]);
  for (int64_t j = 0; replay != nullptr && j < call.k; ++j)
    ok &= uint64_t(replay[j]) < uint64_t(call.x.cols);
  return ok;
}

void route_row(const RouteCall& call, int64_t row, const Pool&) {
  Scratch& scratch = Scratch::of_this_thread();
  Experts& r = *scratch.array<Experts>(Scratch::kWide, 1);
  RouteParams p;
  int64_t* ids = call.ids + row * call.k;
  float* weights = call.weights + row * call.k;
  const int64_t* replay = call.replay == nullptr ? nullptr : call.replay + row * call.k;
  bool explored = false;
  uint8_t status = kBadParam;
  if (read_route_params(call.params.data + row * call.params.row_stride, p) &&
      route_arguments_ok(call, replay))
    status = open_experts(call.x, row, replay == nullptr ? call.k : 0, r);
  if (status == kOk && replay != nullptr) {
    status = kEmpty;
    for (int64_t j = 0; j < call.k; ++j)
      if (r.x[replay[j]] > -inf32()) status = kOk;
  }
  if (status == kOk) {
    if (replay != nullptr)
      memcpy(ids, replay, size_t(call.k) * sizeof(int64_t));
    else
      explored = choose_experts(call, row, p, r, ids);
    store_expert_weights(call, r, ids, weights);
  } else {
    for (int64_t j = 0; j < call.k; ++j) {
      ids[j] = -1;
      weights[j] = nan32();
    }
  }
  call.status[row] = status;
  call.explored[row] = explored;
  scratch.trim();
}

}  // namespace
}  // namespace fusedraw
