// SPDX-License-Identifier: Apache-2.0
#include "reference.h"

#include <map>

#include "late_rules.h"
#include "route.h"
#include "token_logprob.h"
#include "verify.h"

namespace fusedraw {
namespace {

using namespace reference;

// The race over given integer weights: the block first, then the token within it.
int64_t race(const Noise& noise, const std::vector<Token>& tokens) {
  std::map<int64_t, u128> block_sums;
  for (const Token& t : tokens)
    if (t.w > 0) block_sums[t.id / kBlock] += t.w;
  int64_t best_block = -1;
  double best = 0;
  for (const auto& [block, sum] : block_sums) {
    const double e = exponential(noise_r64(noise, kPurposeBlock, block)) / to_double(sum);
    if (best_block < 0 || e < best) best = e, best_block = block;
  }
  int64_t winner = -1;
  for (const Token& t : tokens) {
    if (t.w == 0 || t.id / kBlock != best_block) continue;
    const double e = exponential(noise_r64(noise, kPurposeToken, t.id)) / to_double(t.w);
    if (winner < 0 || e < best || (e == best && t.id < winner)) best = e, winner = t.id;
  }
  return winner;
}

void top_logps(const SampleOutputs& out, int64_t row, const SortedRow& at_one, double ls) {
  for (int64_t j = 0; j < out.top_n; ++j) {
    const bool have = size_t(j) < at_one.tokens.size();
    const int64_t i = row * out.top_n + j;
    out.top_ids[i] = have ? at_one.tokens[size_t(j)].id : -1;
    out.top_logps[i] =
        have ? log_prob(scaled_gap(at_one.rule, at_one.tokens[size_t(j)].x), ls) : -inf32();
  }
}

std::vector<Token> choose_kept(const SortedRow& row, const Plan& plan, const Options& options,
                               const LateRules& rules, const Noise& noise) {
  if (plan.greedy) return kept_set(row, plan);
  SortedRow seen = row;  // by the filters
  if (options.temperature_last) weigh(seen, 1.0f, false);
  const size_t n = has_sigma(rules) ? sigma_prefix(seen, rules.top_n_sigma) : seen.tokens.size();
  std::vector<Token> kept = kept_set(seen, plan, n);
  narrow_late(kept, seen.rule, rules, noise);
  if (options.temperature_last) {
    for (Token& t : kept) t.w = weight_of(row.rule, t.x);
    kept.erase(std::remove_if(kept.begin(), kept.end(), [](const Token& t) { return t.w == 0; }),
               kept.end());
  }
  return kept;
}

RowResult draw_row(const SampleCall& call, int64_t row) {
  RowResult r;
  RowParams params;
  LateRules rules;
  SortedRow sorted;
  std::map<int64_t, Mark> marks;
  const Edit edit = [&](int64_t id, float x) {
    const auto mark = marks.find(id);
    return mark == marks.end() ? x : edited_value(x, mark->second, rules.penalties);
  };
  bool ok = read_params(call.params.data + row * call.params.row_stride, params);
  if (call.ruled)
    ok = ok && read_rules(call.rules.data + row * call.rules.row_stride, rules) &&
         read_marks(call.edits, row, call.x.cols, marks);
  if (!ok) {
    r.status = kBadParam;
  } else {
    sorted = read_row(call.x, call.mask, row, params.temperature, call.options.probs, edit);
    r.status = sorted.status;
  }
  if (r.status != kOk) return r;
  const Plan plan = make_plan(params, call.options);
  const Noise noise = row_noise(call.keys, row, call.options.domain, call.forced, call.n_forced);
  const std::vector<Token> kept = choose_kept(sorted, plan, call.options, rules, noise);
  if (kept.empty()) {  // temperature_last: what is left weighs nothing at T
    r.status = kEmpty;
    return r;
  }
  const std::vector<Token>& support = call.options.mix_valid ? sorted.tokens : kept;

  r.explored = coin_fires(noise_r64(noise, kPurposeCoin, 0), params.mix_eps);
  std::vector<Token> runners = r.explored ? support : kept;
  if (r.explored)
    for (Token& t : runners) t.w = 1;
  r.id = race(noise, runners);

  const auto has_id = [&r](const Token& t) { return t.id == r.id; };
  const size_t place = size_t(std::find_if(sorted.tokens.begin(), sorted.tokens.end(), has_id) -
                              sorted.tokens.begin());
  const Token drawn = sorted.tokens[place];
  const bool in_kept = std::any_of(kept.begin(), kept.end(), has_id);
  const u128 s_kept = sum_weights(kept, kept.size());
  r.rank = int64_t(place);
  r.n_kept = int64_t(kept.size());
  r.margin = sorted.tokens.size() > 1 ? sorted.tokens[0].x - sorted.tokens[1].x : inf32();
  const bool in_support = call.options.mix_valid || in_kept;
  r.logp = mixture_log_prob(in_kept ? drawn.w : 0, s_kept, params.mix_eps,
                            in_support ? int64_t(support.size()) : 0);
  const Sums sums = entropy_sums(sorted, plan.greedy);
  r.kept_mass = float(to_double(s_kept) / to_double(sums.s));
  if (!call.options.probs) {
    r.entropy = entropy_of(sums);
    r.varentropy = varentropy_of(sums);
    if (plan.greedy)
      r.logp_full = place == 0 ? 0.0f : -inf32();
    else
      r.logp_full = log_prob(scaled_gap(sorted.rule, drawn.x), log_sum(sums.s));
    const SortedRow at_one = read_row(call.x, call.mask, row, 1.0f, false, edit);
    const double ls = log_sum(sum_weights(at_one.tokens, at_one.tokens.size()));
    r.logp_raw = log_prob(scaled_gap(at_one.rule, drawn.x), ls);
    top_logps(call.out, row, at_one, ls);
  }
  if (call.out.kept.reserve) {
    int32_t* ids = call.out.kept.reserve(call.out.kept.context, row, r.n_kept);
    for (size_t i = 0; i < kept.size(); ++i) ids[i] = int32_t(kept[i].id);
    std::sort(ids, ids + r.n_kept);
  }
  return r;
}

void sample_row(const SampleCall& call, int64_t row, const Pool&) {
  store_row(call.out, row, draw_row(call, row));
}

void softmax_row(const SoftmaxCall& call, int64_t row, const Pool&) {
  const float temperature = float(call.temperature[row * call.temperature_stride]);
  float* out = call.out + row * call.x.cols;
  SortedRow sorted;
  sorted.status = temperature >= 0.0f ? kOk : kBadParam;
  if (sorted.status == kOk) sorted = read_row(call.x, call.mask, row, temperature, false);
  call.status[row] = sorted.status;
  const bool ok = sorted.status == kOk;
  std::fill(out, out + call.x.cols, ok ? (call.log ? -inf32() : 0.0f) : nan32());
  if (!ok) return;
  if (temperature == 0.0f) {
    out[sorted.tokens[0].id] = call.log ? 0.0f : 1.0f;
    return;
  }
  const u128 s = sum_weights(sorted.tokens, sorted.tokens.size());
  const double ls = log_sum(s), d = to_double(s);
  for (const Token& k : sorted.tokens) {
    const float t = scaled_gap(sorted.rule, k.x);
    out[k.id] = call.log ? log_prob(t, ls) : softmax_of(t < -126.0f ? 0.0f : exp2p(t), d);
  }
}

template <typename T>
void copy_kept(const FilterCall& call, int64_t row, bool bad, const std::vector<Token>& kept) {
  const T* from = static_cast<const T*>(call.x.data) + row * call.x.row_stride;
  T* to = static_cast<T*>(call.out) + row * call.x.cols;
  for (int64_t i = 0; i < call.x.cols; ++i) bad ? set_nan(to[i]) : set_neg_inf(to[i]);
  for (const Token& t : kept) to[t.id] = from[t.id];
}

void renorm_kept(const FilterCall& call, int64_t row, const SortedRow& sorted,
                 const std::vector<Token>& kept, bool greedy) {
  float* out = static_cast<float*>(call.out) + row * call.x.cols;
  std::fill(out, out + call.x.cols, sorted.status == kOk ? 0.0f : nan32());
  const double d = to_double(sum_weights(kept, kept.size()));
  for (const Token& t : kept)
    out[t.id] = greedy ? 1.0f : softmax_of(relative_weight(sorted.rule, t.x), d);
}

void filter_row(const FilterCall& call, int64_t row, const Pool&) {
  RowParams params;
  SortedRow sorted;
  Plan plan;  // of a row that is not bad
  if (!read_params(call.params.data + row * call.params.row_stride, params)) {
    sorted.status = kBadParam;
  } else {
    sorted = read_row(call.x, call.mask, row, params.temperature, call.options.probs);
    plan = make_plan(params, call.options);
  }
  call.status[row] = sorted.status;
  const bool bad = sorted.status != kOk;
  std::vector<Token> kept;
  if (!bad) kept = kept_set(sorted, plan);
  if (call.renorm)
    renorm_kept(call, row, sorted, kept, plan.greedy);
  else if (call.x.dtype == DType::kFloat32)
    copy_kept<float>(call, row, bad, kept);
  else if (call.x.dtype == DType::kBFloat16)
    copy_kept<BFloat16>(call, row, bad, kept);
  else
    copy_kept<Float16>(call, row, bad, kept);
}

void draw_many(const MultinomialCall& call, int64_t row, const Noise& noise,
               std::vector<Token>& tokens) {
  std::sort(tokens.begin(), tokens.end(),
            [](const Token& a, const Token& b) { return a.id < b.id; });
  const u128 s = sum_weights(tokens, tokens.size());
  for (int64_t j = 0; j < call.num_samples; ++j) {
    const u128 point = scale_uniform(noise_r128(noise, kPurposeMany, j), s);
    u128 running = 0;
    for (const Token& t : tokens) {
      running += t.w;
      if (running > point) {
        call.ids[row * call.num_samples + j] = t.id;
        break;
      }
    }
  }
}

// Returns how many of num_samples were found.
int64_t draw_distinct(const MultinomialCall& call, int64_t row, const Noise& noise,
                      const std::vector<Token>& tokens) {
  std::vector<std::pair<double, int64_t>> order;
  for (const Token& t : tokens)
    if (t.w > 0)
      order.emplace_back(exponential(noise_r64(noise, kPurposeOrder, t.id)) / to_double(t.w), t.id);
  std::sort(order.begin(), order.end());
  const int64_t n = std::min<int64_t>(call.num_samples, int64_t(order.size()));
  for (int64_t j = 0; j < n; ++j) call.ids[row * call.num_samples + j] = order[size_t(j)].second;
  return n;
}

void multinomial_row(const MultinomialCall& call, int64_t row, const Pool&) {
  int64_t* ids = call.ids + row * call.num_samples;
  std::fill(ids, ids + call.num_samples, int64_t{-1});
  SortedRow sorted = read_row(call.x, MaskView{}, row, 1.0f, true);
  call.status[row] = sorted.status;
  if (sorted.status != kOk) return;
  const Noise noise = row_noise(call.keys, row, 0, call.forced, call.n_forced);
  if (call.num_samples == 1)
    ids[0] = race(noise, sorted.tokens);
  else if (call.replacement)
    draw_many(call, row, noise, sorted.tokens);
  else if (draw_distinct(call, row, noise, sorted.tokens) < call.num_samples)
    call.status[row] = kEmpty;
}

uint64_t weight_hash(uint32_t begin, uint32_t end) {
  uint64_t h = kHashSeed;
  for (uint32_t u = begin; u < end; ++u) {
    const float t = float_of(u);
    h = hash_step(h, t <= kWeightFloor ? 0 : fixed43(exp2p(t)));
  }
  return h;
}

bool always() { return true; }

}  // namespace

RowResult reference_draw(const SampleCall& call, int64_t row) { return draw_row(call, row); }

const Engine& reference_engine() {
  static const Engine engine = {"reference",
                                always,
                                sample_row,
                                softmax_row,
                                filter_row,
                                multinomial_row,
                                token_logprob_row,
                                token_logprob_grad_row,
                                reference_mixture_row,
                                reference::route_row,
                                reference::verify_row,
                                weight_hash};
  return engine;
}

}  // namespace fusedraw
