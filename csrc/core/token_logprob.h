// SPDX-License-Identifier: Apache-2.0
// token_logprob: what an engine is asked, and what a row's score and gradient are made of
// (docs/law.md, section 15).
//
// The forward leaves kSavedColumns float64 values a row; with them the backward needs neither the
// parameters nor the filters, and writes the gradient in one pass.
#pragma once

#include "call.h"
#include "stats.h"

namespace fusedraw {

// Kept sets as `sample` records them: ids of row r are ids[offsets[r]] to ids[offsets[r + 1] - 1].
struct KeptSetsView {
  const int32_t* ids = nullptr;
  const int64_t* offsets = nullptr;  // [B + 1]; null: none are given, the filters decide
  int64_t size = 0;                  // of ids
};
struct KeptIds {
  const int32_t* ids;
  int64_t n;  // -1: malformed
};

// A row's list, as far as reading it is safe.
FD_FN KeptIds kept_ids_between(const KeptSetsView& kept, int64_t begin, int64_t end) {
  if (begin < 0 || begin > end || end > kept.size) return {nullptr, -1};
  return {kept.ids + begin, end - begin};
}
FD_FN KeptIds kept_ids_of(const KeptSetsView& kept, int64_t row) {
  return kept_ids_between(kept, kept.offsets[row], kept.offsets[row + 1]);
}

enum SavedColumn {
  kSavedMax,       // m of the row, of K where it is replayed and of the whole row
  kSavedKeptMax,   //
  kSavedScale,     // c
  kSavedOwn,       // d logp / d x of the scored token, ...
  kSavedEach,      // and of another kept one, per e
  kSavedSpread,    // d entropy / d x per e * (t + mean)
  kSavedMean,      // mean of -t
  kSavedCutValue,  // where K ends in the order
  kSavedCutLast,
  kSavedColumns
};

struct TokenLogprobCall {
  RowsView x;
  MaskView mask;
  ParamsView params;
  Options options;
  const int64_t* ids = nullptr;
  KeptSetsView kept;
  float* logp = nullptr;     // [B]
  float* entropy = nullptr;  // [B] or null
  uint8_t* status = nullptr;
  double* saved = nullptr;  // [B, kSavedColumns]
};

struct TokenLogprobGradCall {
  RowsView x;
  MaskView mask;
  const int64_t* ids = nullptr;
  KeptSetsView kept;
  const double* saved = nullptr;
  const float* grad_logp = nullptr;     // [B]
  const float* grad_entropy = nullptr;  // [B] or null
  void* grad = nullptr;                 // [B, V], contiguous, type of x
};

// Whether a replayed row is read as a whole all the same.
FD_FN bool scores_whole_row(const TokenLogprobCall& call, const RowParams& params) {
  return call.kept.offsets == nullptr || call.entropy != nullptr ||
         (call.options.mix_valid && params.mix_eps > 0.0f);
}

// One row's answer, before it is stored.
struct RowScore {
  uint8_t status = kOk;
  float logp = 0.0f, entropy = 0.0f;
  double saved[kSavedColumns] = {};
};

// 1 / T, or 0 where nothing moves with the logits.
FD_FN double temperature_slope(float temperature) {
  if (temperature == 0.0f || temperature > 0x1p64f) return 0.0;
  const double slope = 1.0 / double(temperature);
  return slope < double(kFltMax) ? slope : double(kFltMax);
}

// w: the token's weight if it is kept; support: the size of U if the token lies in it, else 0.
FD_FN void score_token(RowScore& score, const RowParams& params, uint64_t w, u128 s_kept,
                       int64_t support) {
  score.logp = mixture_log_prob(w, s_kept, params.mix_eps, support);
  if (w == 0) return;
  const double total = to_double(s_kept), own = to_double(w);
  const double mu = mixture_prob(w, s_kept, params.mix_eps, support);
  if (!(mu > 0.0)) return;
  const double share = (1.0 - double(params.mix_eps)) * (own / total) / mu;
  const double rate = share * temperature_slope(params.temperature);
  score.saved[kSavedOwn] = rate * ((total - own) / total);
  score.saved[kSavedEach] = rate * (0x1p43 / total);
}

FD_FN void score_entropy(RowScore& score, const RowParams& params, const Sums& sums) {
  if (params.temperature == 0.0f) return;  // of one token: 0, and so it stays
  score.entropy = entropy_of(sums);
  score.saved[kSavedSpread] =
      temperature_slope(params.temperature) * kLn2 * (0x1p43 / to_double(sums.s));
  score.saved[kSavedMean] = to_double(sums.g) / to_double(sums.s);
}

FD_FN void score_rule(RowScore& score, const RowParams& params, float max, float kept_max,
                      const Cut& cut) {
  score.saved[kSavedMax] = double(max);
  score.saved[kSavedKeptMax] = double(kept_max);
  score.saved[kSavedScale] =
      params.temperature > 0.0f ? double(temperature_scale(params.temperature)) : 0.0;
  score.saved[kSavedCutValue] = double(cut.lo);
  score.saved[kSavedCutLast] = double(cut.last < kMaxVocab ? cut.last : kMaxVocab);
}

FD_FN void store_score(const TokenLogprobCall& call, int64_t row, const RowScore& score) {
  const bool ok = score.status == kOk;
  call.status[row] = score.status;
  call.logp[row] = ok ? score.logp : nan32();
  if (call.entropy) call.entropy[row] = ok ? score.entropy : nan32();
  for (int i = 0; i < kSavedColumns; ++i)
    call.saved[row * kSavedColumns + i] = ok ? score.saved[i] : 0.0;
}

// What the gradient of a row is made of. A token moves logp by `own` if it is the scored one, by
// -each * e if K holds it, and the entropy by -spread * e * (t + mean).
struct RowSlopes {
  WeightRule rule, kept_rule;  // e and t of the row; e of K
  Cut cut;
  float own = 0.0f, each = 0.0f, spread = 0.0f, mean = 0.0f;
};

// What does not move stays put, whatever the gradient that arrives.
FD_FN float slope_times(float grad, double slope) {
  return slope == 0.0 ? 0.0f : float(double(grad) * slope) + 0.0f;
}

FD_FN RowSlopes row_slopes(const double* saved, float grad_logp, float grad_entropy) {
  RowSlopes s;
  s.rule.m = float(saved[kSavedMax]);
  s.kept_rule.m = float(saved[kSavedKeptMax]);
  s.rule.c = s.kept_rule.c = float(saved[kSavedScale]);
  s.cut.lo = float(saved[kSavedCutValue]);
  s.cut.last = saved[kSavedCutLast] >= double(kMaxVocab) ? kAllTies : int64_t(saved[kSavedCutLast]);
  s.own = slope_times(grad_logp, saved[kSavedOwn]);
  s.each = slope_times(grad_logp, saved[kSavedEach]);
  s.spread = slope_times(grad_entropy, saved[kSavedSpread]);
  s.mean = float(saved[kSavedMean]);
  return s;
}
FD_FN RowSlopes row_slopes(const TokenLogprobGradCall& call, int64_t row) {
  const float h = call.grad_entropy != nullptr ? call.grad_entropy[row] : 0.0f;
  return row_slopes(call.saved + row * kSavedColumns, call.grad_logp[row], h);
}

// A token's weight e, 0 where w is.
FD_FN float weighing(const WeightRule& rule, float x) {
  const float e = relative_weight(rule, x);
  return e > 0x1p-44f ? e : 0.0f;
}
FD_FN float kept_slope(const RowSlopes& s, float x) {
  const float e = weighing(s.kept_rule, x);
  return e == 0.0f ? 0.0f : 0.0f - s.each * e;
}
FD_FN float entropy_slope(const RowSlopes& s, float x) {
  const float e = weighing(s.rule, x);
  if (e == 0.0f || s.spread == 0.0f) return 0.0f;
  return s.spread * (e * (scaled_gap(s.rule, x) + s.mean));
}

}  // namespace fusedraw
