// SPDX-License-Identifier: Apache-2.0
// One row of `sample`: scan, cut, draw, by-products. Each step runs only where something asks for
// it.
#pragma once

namespace fusedraw {
namespace {

void cut_top_p(Kept& k, const Row& r, const Plan& plan, const Pool& pool, Scratch& scratch) {
  if (plan.top_p == 0.0f) {
    narrow(k, r, Cut{r.rule.m, plan.ties_all ? kAllTies : first_token(r)});
    return;
  }
  Cut cut;
  if (k.listed && !plan.joint) {
    const u128 target = ceil_mul(plan.top_p, list_sum(k.list, r.rule));
    cut = list_top_p(k.list, r.rule, 0, target, plan.ties_all, scratch);
  } else {
    cut =
        top_p_cut(r, plan.joint ? k.base : k.cut, plan.top_p, plan.ties_all, k.list, pool, scratch);
    k.listed = k.list.n > 0;
  }
  narrow(k, r, cut);
}

// `base`: what there is to choose from.
Kept choose_kept(const Row& r, const Plan& plan, const Cut& base, const Pool& pool,
                 Scratch& scratch) {
  Kept k;
  k.cut = k.base = base;
  k.whole = keeps_all(r, base);
  if (plan.greedy) {
    k.cut = {r.rule.m, first_token(r)};
    k.whole = false;
    return k;
  }
  const bool top_k = plan.top_k > 0 && plan.top_k < r.cols;
  if (top_k || plan.has_top_p) {
    const int64_t padded = r.blocks * kBlock;
    k.list = make_list(scratch, Scratch::kListA,
                       padded < kListCapacity ? padded + V::kLanes : kListCapacity);
  }
  if (plan.pre_weight > 0)
    narrow(k, r, Cut{smallest_with_weight(r.rule, plan.pre_weight), kAllTies});
  if (top_k) {
    const Cut cut = top_k_cut(r, plan.top_k, plan.ties_all, k.list, scratch);
    k.listed = k.list.n > 0;
    if (k.listed) cut_list(k.list, k.cut);
    narrow(k, r, cut);
  }
  if (plan.has_top_p) cut_top_p(k, r, plan, pool, scratch);
  if (plan.post_weight > 1)
    narrow(k, r, Cut{smallest_with_weight(r.rule, plan.post_weight), kAllTies});
  return k;
}

Kept choose_kept(const Row& r, const Plan& plan, const Pool& pool, Scratch& scratch) {
  return choose_kept(r, plan, Cut{smallest_valid(r), kAllTies}, pool, scratch);
}

// K where rules beyond the plan's count. Leaves the row that K is cut from in `r`.
Kept choose_by_rules(Row& r, const Options& options, const Plan& plan, const LateRules& rules,
                     const Noise& noise, const Pool& pool, Scratch& scratch) {
  const WeightRule own = r.rule;
  if (options.temperature_last) r.rule = weight_rule(r.rule.m, 1.0f, false);
  Cut base{smallest_valid(r), kAllTies};
  if (has_sigma(rules))
    base = stricter(
        base, Cut{sigma_value(r.rule.m, sigma_reach(gap_sums(r), rules.top_n_sigma)), kAllTies});
  Kept k = choose_kept(r, plan, base, pool, scratch);
  if (has_late(rules)) r = narrow_late(k, r, rules, noise, scratch);
  if (options.temperature_last) {
    narrow(k, r, Cut{smallest_with_weight(r.rule, 1), kAllTies});
    r.rule = own;
    narrow(k, r, Cut{smallest_with_weight(r.rule, 1), kAllTies});
  }
  if (r.ceiling.hi < inf32()) k.whole = false;
  return k;
}

int64_t size_of_kept(const Row& r, const Kept& k) {
  return k.listed ? k.list.n : count_kept(r, k.cut);
}

// S_K; `sums` are those of the row, where `have_sums`.
u128 weight_of_kept(const Row& r, const Plan& plan, const Kept& k, const Sums& sums,
                    bool have_sums) {
  if (plan.greedy) return u128(1) << kWeightBits;
  if (k.listed) return list_sum(k.list, r.rule);
  return k.whole && have_sums ? sums.s : kept_sum(r, k.cut);
}
// The weight of a kept token.
uint64_t kept_weight_of(const Row& r, const Plan& plan, float x) {
  return plan.greedy ? uint64_t{1} << kWeightBits : weight_of(r.rule, x);
}

float value_of(const Row& r, int64_t id) {
  alignas(64) float buffer[kBlock];
  return r.fetch(r, id / kBlock, buffer)[id % kBlock] + 0.0f;
}

// The largest value apart from the first token's; -inf when there is none.
float second_value(const Row& r) {
  const int64_t first = first_token(r);
  alignas(64) float buffer[kBlock];
  const float* x = r.fetch(r, first / kBlock, buffer);
  float second = -inf32();
  for (int i = 0; i < kBlock; ++i)
    if (i != first % kBlock && x[i] > second) second = x[i];
  for (int64_t b = 0; b < r.blocks; ++b)
    if (b != first / kBlock && r.block_max[b] > second) second = r.block_max[b];
  return second;
}

void store_kept(const SampleCall& call, int64_t row, const Row& r, const Kept& k, int64_t n) {
  int32_t* out = call.out.kept.reserve(call.out.kept.context, row, n);
  if (k.listed) {
    for (int64_t i = 0; i < n; ++i) out[i] = int32_t(k.list.id[i]);
    return;
  }
  for_kept(r, k.cut, [&out](float, int64_t id) { *out++ = int32_t(id); });
}

// The first top_n of the order, from a list or, where none is short enough, from the whole row.
void store_top(const SampleCall& call, int64_t row, const Row& r, const WeightRule& at_one,
               double ls, Scratch& scratch) {
  int64_t n = call.out.top_n;
  int64_t* ids = call.out.top_ids + row * n;
  float* logps = call.out.top_logps + row * n;
  for (int64_t j = 0; j < n; ++j) ids[j] = -1, logps[j] = -inf32();
  List list = make_list(scratch, Scratch::kListA, kListCapacity);
  Cut cut = top_k_cut(r, n, false, list, scratch);
  if (list.n > 0) {
    cut_list(list, cut);
  } else {
    list = make_list(scratch, Scratch::kWide, r.blocks * kBlock + V::kLanes);
    gather_row(list, r, cut, cut.lo);
  }
  Ranked* t = rank_list(list, scratch);
  std::sort(t, t + list.n);
  if (n > list.n) n = list.n;
  for (int64_t j = 0; j < n; ++j) {
    ids[j] = int64_t(t[j].id());
    logps[j] = log_prob(scaled_gap(at_one, t[j].x()), ls);
  }
}

// By-products that need a pass of their own or sums over the row. K is cut from `from`, which is
// the row or, after some rules, the row cut from above.
void by_products(const SampleCall& call, int64_t row, const Row& r, const Row& from,
                 const Plan& plan, const RowParams& params, Kept& k, const Sums& sums,
                 bool have_sums, const Pool& pool, Scratch& scratch, RowResult& res) {
  const SampleOutputs& out = call.out;
  const float x = value_of(r, res.id);
  const bool in_kept = keeps(k.cut, x, res.id) && below(from.ceiling, x, res.id);
  if (out.rank) res.rank = count_before(r, x, res.id);
  if (out.margin) {
    const float second = second_value(r), least = smallest_valid(r);
    res.margin = second >= least ? r.rule.m - second : inf32();
  }
  const bool mixing = params.mix_eps > 0.0f;
  int64_t support = 0;
  if (out.n_kept || out.kept.reserve || (out.logp && mixing && !call.options.mix_valid))
    support = res.n_kept = size_of_kept(from, k);
  if (out.logp && mixing && call.options.mix_valid)
    support = count_kept(r, Cut{smallest_valid(r), kAllTies});
  if (out.kept.reserve) store_kept(call, row, from, k, res.n_kept);
  if (out.logp || out.kept_mass) {
    const u128 s_kept = weight_of_kept(from, plan, k, sums, have_sums);
    if (out.kept_mass) res.kept_mass = float(to_double(s_kept) / to_double(sums.s));
    const uint64_t w = in_kept ? kept_weight_of(r, plan, x) : 0;
    const bool in_support = call.options.mix_valid || (in_kept && w > 0);
    res.logp = mixture_log_prob(w, s_kept, params.mix_eps, in_support ? support : 0);
  }
  if (out.logp_full) {
    if (plan.greedy)
      res.logp_full = in_kept ? 0.0f : -inf32();
    else
      res.logp_full = log_prob(scaled_gap(r.rule, x), log_sum(sums.s));
  }
  if (out.entropy) res.entropy = entropy_of(sums);
  if (out.varentropy) res.varentropy = varentropy_of(sums);
  if (out.logp_raw || out.top_n > 0) {
    const WeightRule at_one = weight_rule(r.rule.m, 1.0f, false);
    const bool same =
        have_sums && !plan.greedy && r.rule.kind == WeightKind::kLogits && r.rule.c == at_one.c;
    const double ls = log_sum(same ? sums.s : row_sums(r, at_one, Moments::kNone, pool, scratch).s);
    res.logp_raw = log_prob(scaled_gap(at_one, x), ls);
    if (out.top_n > 0) store_top(call, row, r, at_one, ls, scratch);
  }
}

int64_t draw(const Row& r, const Row& from, const Plan& plan, const Kept& k, bool explore,
             bool over_valid, const Noise& noise, Scratch& scratch) {
  if (explore && over_valid)
    return race_row(Field{&r, Cut{smallest_valid(r), kAllTies}, true}, noise, scratch);
  if (plan.greedy) return k.cut.last;
  if (k.listed) return race_list(k.list, r.rule, explore, noise, scratch);
  return race_row(Field{&from, k.cut, explore}, noise, scratch);
}

void sample_checked(const SampleCall& call, int64_t row, const RowParams& params,
                    const LateRules& rules, const Pool& pool, Scratch& scratch, RowResult& res) {
  const SampleOutputs& out = call.out;
  const Plan plan = make_plan(params, call.options);
  const bool groups = !plan.greedy || params.mix_eps > 0.0f || out.top_n > 0;
  Row r = open_row(call.x, call.mask, row, call.options.probs, scratch, groups);
  if (call.ruled && !edit_row(r, call.edits, row, rules.penalties, scratch)) {
    res.status = kBadParam;
    return;
  }
  res.status = scan_row(r, pool);
  if (res.status != kOk) return;
  const Noise noise = row_noise(call.keys, row, call.options.domain, call.forced, call.n_forced);
  r.rule = weight_rule(r.rule.m, plan.greedy ? 1.0f : params.temperature, call.options.probs);
  Row from = r;
  Kept k;
  if (call.ruled && !plan.greedy) {
    k = choose_by_rules(from, call.options, plan, rules, noise, pool, scratch);
    if (call.options.temperature_last && has_late(rules) && count_kept(from, k.cut) == 0) {
      res.status = kEmpty;  // what the rules left weighs nothing at T
      return;
    }
  } else {
    k = choose_kept(r, plan, pool, scratch);
  }

  res.explored =
      params.mix_eps > 0.0f && coin_fires(noise_r64(noise, kPurposeCoin, 0), params.mix_eps);

  const Moments moments = out.varentropy ? Moments::kSecond
                          : out.entropy  ? Moments::kFirst
                                         : Moments::kNone;
  const bool have_sums =
      moments != Moments::kNone || out.logp_full || out.kept_mass || (out.logp && k.whole);
  Sums sums;
  if (plan.greedy) {
    sums.s = u128(1) << kWeightBits;
  } else if (have_sums) {
    sums = row_sums(r, r.rule, moments, pool, scratch);
  }
  // Number of kept tokens counts only those with weight; sums need no such care.
  const bool counts =
      out.n_kept || out.kept.reserve ||
      (params.mix_eps > 0.0f && !call.options.mix_valid && (res.explored || out.logp));
  if (counts && !plan.greedy && plan.post_weight == 1) {
    const bool whole = k.whole;
    narrow(k, r, Cut{smallest_with_weight(r.rule, 1), kAllTies});
    k.whole = whole;  // what was dropped weighs nothing
  }
  res.id = draw(r, from, plan, k, res.explored, call.options.mix_valid, noise, scratch);
  if (wants_more(out))
    by_products(call, row, r, from, plan, params, k, sums, have_sums, pool, scratch, res);
}

void sample_row(const SampleCall& call, int64_t row, const Pool& pool) {
  RowResult res;
  RowParams params;
  LateRules rules;
  bool ok = read_params(call.params.data + row * call.params.row_stride, params);
  if (call.ruled) ok = ok && read_rules(call.rules.data + row * call.rules.row_stride, rules);
  if (!ok) {
    res.status = kBadParam;
  } else {
    Scratch& scratch = Scratch::of_this_thread();
    sample_checked(call, row, params, rules, pool, scratch, res);
    scratch.trim();
  }
  store_row(call.out, row, res);
}

}  // namespace
}  // namespace fusedraw
