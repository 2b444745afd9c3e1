// SPDX-License-Identifier: Apache-2.0
// The score of a given token: the passes of `sample` without the draw, or a recorded kept set in
// the place of the filters, of which only its own tokens are read.
#pragma once

namespace fusedraw {
namespace {

// Weight, kept sum and size of the support, from the filters.
void score_filtered(const TokenLogprobCall& call, const Row& r, const Plan& plan,
                    const RowParams& params, int64_t id, const Pool& pool, Scratch& scratch,
                    RowScore& score) {
  Kept k = choose_kept(r, plan, pool, scratch);
  const bool have_sums = !plan.greedy && (call.entropy || k.whole);
  Sums sums;
  const Moments moments = call.entropy ? Moments::kFirst : Moments::kNone;
  if (have_sums) sums = row_sums(r, r.rule, moments, pool, scratch);
  if (!plan.greedy && plan.post_weight == 1) {
    const bool whole = k.whole;
    narrow(k, r, Cut{smallest_with_weight(r.rule, 1), kAllTies});
    k.whole = whole;  // what was dropped weighs nothing
  }
  const float x = value_of(r, id);
  const bool in_kept = keeps(k.cut, x, id), over_valid = call.options.mix_valid;
  int64_t support = 0;
  if (params.mix_eps > 0.0f && (over_valid ? x >= smallest_valid(r) : in_kept))
    support = over_valid ? count_kept(r, Cut{smallest_valid(r), kAllTies}) : size_of_kept(r, k);
  const uint64_t w = in_kept ? kept_weight_of(r, plan, x) : 0;
  score_token(score, params, w, weight_of_kept(r, plan, k, sums, have_sums), support);
  if (call.entropy) score_entropy(score, params, sums);
  score_rule(score, params, r.rule.m, r.rule.m, k.cut);
}

template <typename T>
float listed_value(const TokenLogprobCall& call, int64_t row, int64_t id) {
  if (!mask_allows(call.mask, row, id)) return -inf32();
  return widen(static_cast<const T*>(call.x.data)[row * call.x.row_stride + id]) + 0.0f;
}

// Gathers the valid tokens of a recorded kept set. BAD_PARAM: it is malformed.
template <typename T>
uint8_t gather_listed(const TokenLogprobCall& call, int64_t row, List& l, Scratch& scratch) {
  const KeptIds kept = kept_ids_of(call.kept, row);
  if (kept.n < 0) return kBadParam;
  l = make_list(scratch, Scratch::kListA, kept.n);
  bool nan = false, pos_inf = false;
  for (int64_t j = 0; j < kept.n; ++j) {
    const int64_t id = kept.ids[j];
    if (id < 0 || id >= call.x.cols || (j > 0 && id <= kept.ids[j - 1])) return kBadParam;
    const float x = listed_value<T>(call, row, id);
    nan |= x != x;
    pos_inf |= x == inf32();
    if (!(x > -inf32())) continue;
    l.x[l.n] = x;
    l.id[l.n++] = uint32_t(id);
  }
  return nan ? kNan : pos_inf ? kPosInf : l.n == 0 ? kEmpty : kOk;
}
uint8_t gather_by_type(const TokenLogprobCall& call, int64_t row, List& l, Scratch& scratch) {
  switch (call.x.dtype) {
    case DType::kBFloat16:
      return gather_listed<BFloat16>(call, row, l, scratch);
    case DType::kFloat16:
      return gather_listed<Float16>(call, row, l, scratch);
    default:
      return gather_listed<float>(call, row, l, scratch);
  }
}

// The same from a list; its largest value is m.
void score_listed(const TokenLogprobCall& call, const List& l, const Row* whole, const Plan& plan,
                  const RowParams& params, int64_t id, RowScore& score) {
  int64_t best = 0, place = -1;
  for (int64_t i = 0; i < l.n; ++i) {
    if (l.x[i] > l.x[best]) best = i;
    if (l.id[i] == id) place = i;
  }
  const WeightRule rule = weight_rule(l.x[best], plan.greedy ? 1.0f : params.temperature, false);
  const u128 one = u128(1) << kWeightBits;
  uint64_t w = 0;
  if (place >= 0) w = !plan.greedy ? weight_of(rule, l.x[place]) : place == best ? one : 0;
  int64_t support = 0;
  if (params.mix_eps > 0.0f && !call.options.mix_valid && place >= 0) support = l.n;
  if (params.mix_eps > 0.0f && call.options.mix_valid && value_of(*whole, id) > -inf32())
    support = count_kept(*whole, Cut{smallest_valid(*whole), kAllTies});
  score_token(score, params, w, plan.greedy ? one : list_sum(l, rule), support);
  score_rule(score, params, whole != nullptr ? whole->rule.m : rule.m, rule.m, Cut{0.0f, 0});
}

void score_checked(const TokenLogprobCall& call, int64_t row, const RowParams& params,
                   const Pool& pool, Scratch& scratch, RowScore& score) {
  const int64_t id = call.ids[row];
  const Plan plan = make_plan(params, call.options);
  const bool replays = call.kept.offsets != nullptr;
  const float temperature = plan.greedy ? 1.0f : params.temperature;
  List list;
  uint8_t listed = kOk;
  if (replays) listed = gather_by_type(call, row, list, scratch);
  if (listed == kBadParam) {
    score.status = kBadParam;
    return;
  }
  Row r;
  const bool whole = scores_whole_row(call, params);
  if (whole) {
    r = open_row(call.x, call.mask, row, false, scratch, !replays && !plan.greedy);
    if (pool.threads == 1) look_ahead(r, call.x, row);
    score.status = scan_row(r, pool);
    if (score.status != kOk) return;
    r.rule = weight_rule(r.rule.m, temperature, false);
  }
  if (!replays) {
    score_filtered(call, r, plan, params, id, pool, scratch, score);
    return;
  }
  score.status = listed;
  if (listed != kOk) return;
  score_listed(call, list, whole ? &r : nullptr, plan, params, id, score);
  if (call.entropy) {
    Sums sums;
    if (!plan.greedy) sums = row_sums(r, r.rule, Moments::kFirst, pool, scratch);
    score_entropy(score, params, sums);
  }
}

void token_logprob_row(const TokenLogprobCall& call, int64_t row, const Pool& pool) {
  RowScore score;
  RowParams params;
  const bool ok = read_params(call.params.data + row * call.params.row_stride, params);
  if (!ok || call.ids[row] < 0 || call.ids[row] >= call.x.cols) {
    score.status = kBadParam;
  } else {
    Scratch& scratch = Scratch::of_this_thread();
    score_checked(call, row, params, pool, scratch, score);
    scratch.trim();
  }
  store_score(call, row, score);
}

}  // namespace
}  // namespace fusedraw
