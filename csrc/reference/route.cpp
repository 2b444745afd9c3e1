// SPDX-License-Identifier: Apache-2.0
#include "route.h"

#include "sorted_row.h"

namespace fusedraw::reference {
namespace {

// Scores of all experts at T = 1, 0 where there is no logit.
std::vector<float> scores(const SortedRow& row, int64_t experts, bool sigmoid) {
  std::vector<float> s(size_t(experts), 0.0f);
  const WeightRule at_one = weight_rule(row.tokens[0].x, 1.0f, false);
  const double d = to_double(sum_weights(row.tokens, row.tokens.size()));
  for (const Token& t : row.tokens)
    s[size_t(t.id)] = sigmoid ? sigmoid_score(t.x) : softmax_of(softmax_numerator(at_one, t.x), d);
  return s;
}

std::vector<int64_t> choose(const RouteCall& call, const RouteParams& p, const SortedRow& row,
                            const Noise& noise, bool explored) {
  const bool race = explored || (call.options.noise == RouteNoise::kGumbel && p.temperature > 0);
  WeightRule rule = weight_rule(row.tokens[0].x, race ? p.temperature : 1.0f, false);
  if (explored) rule.kind = WeightKind::kUniform;
  std::vector<float> s;
  if (call.bias != nullptr) s = scores(row, call.x.cols, call.options.sigmoid);
  std::vector<std::pair<uint64_t, int64_t>> keys;
  for (const Token& t : row.tokens) {
    uint64_t key;
    if (race)
      key = arrival_key(noise_r64(noise, kPurposeRoute, t.id), scaled_gap(rule, t.x), t.x);
    else if (call.options.noise == RouteNoise::kJitter)
      key =
          score_key(jittered(t.x, uint32_t(noise_r64(noise, kPurposeRoute, t.id) >> 32), p.jitter));
    else
      key = score_key(call.bias != nullptr ? s[size_t(t.id)] + call.bias[t.id] : t.x);
    keys.emplace_back(key, t.id);
  }
  std::sort(keys.begin(), keys.end());
  std::vector<int64_t> ids;
  for (int64_t j = 0; j < call.k; ++j) ids.push_back(keys[size_t(j)].second);
  return ids;
}

// Shares e_j / sum of the integers of e.
void store_shares(const std::vector<float>& e, float* out, bool drop_weightless) {
  u128 s = 0;
  for (float y : e) s += fixed43(y);
  for (size_t j = 0; j < e.size(); ++j)
    out[j] = drop_weightless && fixed43(e[j]) == 0 ? 0.0f : softmax_of(e[j], to_double(s));
}

void store_weights(const RouteCall& call, int64_t row, const SortedRow& sorted,
                   const int64_t* ids) {
  float* out = call.weights + row * call.k;
  if (!call.options.renormalise) {
    const std::vector<float> s = scores(sorted, call.x.cols, call.options.sigmoid);
    for (int64_t j = 0; j < call.k; ++j) out[j] = s[size_t(ids[j])];
    return;
  }
  std::vector<float> x, e;
  for (int64_t j = 0; j < call.k; ++j) x.push_back(value_at(call.x, row, ids[j]));
  const float m = *std::max_element(x.begin(), x.end());
  const WeightRule rule = weight_rule(m, 1.0f, false);
  for (float v : x) {
    if (v == -inf32())
      e.push_back(0.0f);
    else if (call.options.sigmoid)
      e.push_back(sigmoid_score(v) / sigmoid_score(m));
    else
      e.push_back(softmax_numerator(rule, v));
  }
  store_shares(e, out, call.options.sigmoid);
}

}  // namespace

void route_row(const RouteCall& call, int64_t row, const Pool&) {
  RouteParams p;
  SortedRow sorted;
  bool ok = read_route_params(call.params.data + row * call.params.row_stride, p), explored = false;
  int64_t* ids = call.ids + row * call.k;
  const int64_t* replay = call.replay == nullptr ? nullptr : call.replay + row * call.k;
  for (int64_t i = 0; call.bias != nullptr && i < call.x.cols; ++i) ok &= is_finite(call.bias[i]);
  for (int64_t j = 0; replay != nullptr && j < call.k; ++j)
    ok &= replay[j] >= 0 && replay[j] < call.x.cols;
  if (!ok)
    sorted.status = kBadParam;
  else
    sorted = read_row(call.x, MaskView{}, row, 1.0f, false);
  if (sorted.status == kOk && replay == nullptr && int64_t(sorted.tokens.size()) < call.k)
    sorted.status = kEmpty;
  if (sorted.status == kOk && replay != nullptr &&
      std::none_of(replay, replay + call.k,
                   [&](int64_t i) { return value_at(call.x, row, i) > -inf32(); }))
    sorted.status = kEmpty;
  call.status[row] = sorted.status;
  if (sorted.status != kOk) {
    std::fill_n(ids, call.k, int64_t{-1});
    std::fill_n(call.weights + row * call.k, call.k, nan32());
  } else {
    if (replay != nullptr) {
      std::copy_n(replay, call.k, ids);
    } else {
      Noise noise;
      if (call.keys.data != nullptr) {
        noise = row_noise(call.keys, row, 0, call.forced, call.n_forced);
        explored = coin_fires(noise_r64(noise, kPurposeCoin, 0), p.mix_eps);
      }
      const std::vector<int64_t> chosen = choose(call, p, sorted, noise, explored);
      std::copy(chosen.begin(), chosen.end(), ids);
    }
    store_weights(call, row, sorted, ids);
  }
  call.explored[row] = explored;
}

}  // namespace fusedraw::reference
