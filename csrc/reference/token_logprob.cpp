// SPDX-License-Identifier: Apache-2.0
#include "token_logprob.h"

#include "sorted_row.h"

namespace fusedraw::reference {
namespace {

bool well_formed(const KeptIds& kept, int64_t cols) {
  for (int64_t j = 0; j < kept.n; ++j)
    if (kept.ids[j] < 0 || kept.ids[j] >= cols || (j > 0 && kept.ids[j] <= kept.ids[j - 1]))
      return false;
  return kept.n >= 0;
}

// The valid tokens of a row among some ids: a copy of the row, the rest -inf, read as any other.
SortedRow read_listed(const RowsView& v, const MaskView& mask, int64_t row, const KeptIds& kept,
                      float temperature) {
  std::vector<float> x(size_t(v.cols), -inf32());
  for (int64_t j = 0; j < kept.n; ++j)
    if (mask_allows(mask, row, kept.ids[j])) x[size_t(kept.ids[j])] = value_at(v, row, kept.ids[j]);
  return read_row(RowsView{x.data(), DType::kFloat32, 1, v.cols, v.cols}, MaskView{}, 0,
                  temperature, false);
}

const Token* find(const std::vector<Token>& tokens, int64_t id) {
  for (const Token& t : tokens)
    if (t.id == id) return &t;
  return nullptr;
}

void score(const TokenLogprobCall& call, int64_t row, RowScore& s) {
  RowParams params;
  const int64_t id = call.ids[row];
  const bool replays = call.kept.offsets != nullptr;
  const KeptIds recorded = replays ? kept_ids_of(call.kept, row) : KeptIds{nullptr, 0};
  s.status = kBadParam;
  if (!read_params(call.params.data + row * call.params.row_stride, params) || id < 0 ||
      id >= call.x.cols || !well_formed(recorded, call.x.cols))
    return;
  const Plan plan = make_plan(params, call.options);
  SortedRow whole, listed;
  s.status = kOk;
  if (scores_whole_row(call, params)) {
    whole = read_row(call.x, call.mask, row, params.temperature, false);
    s.status = whole.status;
  }
  if (s.status == kOk && replays) {
    listed = read_listed(call.x, call.mask, row, recorded, params.temperature);
    s.status = listed.status;
  }
  if (s.status != kOk) return;
  const std::vector<Token> kept = replays ? listed.tokens : kept_set(whole, plan);
  const std::vector<Token>& support = call.options.mix_valid ? whole.tokens : kept;
  const Token* token = find(kept, id);
  score_token(s, params, token ? token->w : 0, sum_weights(kept, kept.size()),
              find(support, id) ? int64_t(support.size()) : 0);
  if (call.entropy) {
    Sums sums;
    for (const Token& k : whole.tokens) {
      sums.s += k.w;
      if (plan.greedy || k.w == 0) continue;
      const float t = scaled_gap(whole.rule, k.x);
      sums.g += fixed43(-t * exp2p(t));
    }
    score_entropy(s, params, sums);
  }
  const float kept_max = kept[0].x;
  score_rule(s, params, whole.tokens.empty() ? kept_max : whole.tokens[0].x, kept_max,
             Cut{kept.back().x, kept.back().id});
}

// The tokens that `logp` moves: those of the recorded set, or of the cut that the forward left.
bool in_kept(const TokenLogprobGradCall& call, int64_t row, const Cut& cut, float x, int64_t id) {
  if (!call.kept.offsets) return keeps(cut, x, id);
  const KeptIds kept = kept_ids_of(call.kept, row);
  return std::find(kept.ids, kept.ids + kept.n, int32_t(id)) != kept.ids + kept.n;
}

template <typename T>
void write_grad(const TokenLogprobGradCall& call, int64_t row) {
  const RowSlopes s = row_slopes(call, row);
  T* out = static_cast<T*>(call.grad) + row * call.x.cols;
  for (int64_t i = 0; i < call.x.cols; ++i) {
    const float x = mask_allows(call.mask, row, i) ? value_at(call.x, row, i) : -inf32();
    float grad = 0.0f;
    if (x > -inf32() && (s.own != 0.0f || s.each != 0.0f || s.spread != 0.0f)) {
      if (s.each != 0.0f && in_kept(call, row, s.cut, x, i))
        grad = i == call.ids[row] ? s.own : kept_slope(s, x);
      grad -= entropy_slope(s, x);
    }
    round_to(grad, out[i]);
  }
}

}  // namespace

void token_logprob_row(const TokenLogprobCall& call, int64_t row, const Pool&) {
  RowScore s;
  score(call, row, s);
  store_score(call, row, s);
}

void token_logprob_grad_row(const TokenLogprobGradCall& call, int64_t row, const Pool&) {
  switch (call.x.dtype) {
    case DType::kBFloat16:
      return write_grad<BFloat16>(call, row);
    case DType::kFloat16:
      return write_grad<Float16>(call, row);
    default:
      return write_grad<float>(call, row);
  }
}

}  // namespace fusedraw::reference
