// SPDX-License-Identifier: Apache-2.0
// Speculative decoding: what an engine is asked, and the decisions that all of them share
// (docs/law.md, "Speculative decoding").
//
// With w, S the weights and the sum of the target's kept set and v, Q those of the draft's, the
// ratio p/q of a token is w Q / (v S) and its residual (w Q - v S) / (S Q). Both products are below
// 2^120, the residuals of a block below 2^127: nothing is rounded before a race divides by them.
#pragma once

#include "call.h"
#include "stats.h"

namespace fusedraw {

FD_FN int64_t size_of(DType t) { return t == DType::kFloat32 ? 4 : 2; }

// Logits [rows, positions, cols], element stride 1, the others in elements (0 allowed).
struct PositionsView {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t rows = 0, positions = 0, cols = 0, row_stride = 0, position_stride = 0;
};
// One position as row 0 of a call.
FD_FN RowsView row_at(const PositionsView& v, int64_t row, int64_t position) {
  RowsView r;
  r.data = static_cast<const uint8_t*>(v.data) +
           (row * v.row_stride + position * v.position_stride) * size_of(v.dtype);
  r.dtype = v.dtype;
  r.rows = 1;
  r.cols = v.cols;
  return r;
}

struct PositionsMask {
  MaskView mask;  // of row 0 and position 0; its row_stride 0 broadcasts
  int64_t position_stride = 0;
};
FD_FN MaskView mask_at(const PositionsMask& m, int64_t row, int64_t position) {
  MaskView at = m.mask;
  const int64_t skip = row * m.mask.row_stride + position * m.position_stride;
  if (m.mask.kind == MaskView::Kind::kBool) at.data = static_cast<const uint8_t*>(at.data) + skip;
  if (m.mask.kind == MaskView::Kind::kBits) at.data = static_cast<const uint32_t*>(at.data) + skip;
  at.row_stride = 0;
  return at;
}

// One of the two models: its logits, and what its law is made of.
struct VerifySide {
  PositionsView x;
  PositionsMask mask;
  ParamsView params;  // mix_eps must be 0
  Options options;
};

struct VerifyCall {
  RowsView x;  // the shape of a position of every row: rows B, cols V
  VerifySide target, draft;
  const int64_t* draft_ids = nullptr;  // [B, G], contiguous
  const int64_t* n_draft = nullptr;    // [B], or null: G in each row
  int64_t drafts = 0;                  // G
  KeysView keys;
  int64_t* ids = nullptr;         // [B, G + 1]
  int64_t* n_accepted = nullptr;  // [B]
  uint8_t* status = nullptr;
  float* logp = nullptr;  // [B, G + 1] or null
  const ForcedNoise* forced = nullptr;
  int64_t n_forced = 0;
};

enum NoiseDomain : uint32_t { kTarget = 0, kDraft = 1, kAccept = 2, kRecovery = 3 };

// Of position j: the key of the row with its offset j further.
FD_FN Noise position_noise(uint64_t seed, uint64_t offset, int64_t position, uint32_t domain,
                           const ForcedNoise* forced, int64_t n_forced) {
  return {seed, offset + uint64_t(position), domain, forced, n_forced};
}
FD_FN Noise position_noise(const VerifyCall& c, int64_t row, int64_t position, uint32_t domain) {
  const uint64_t* key = c.keys.data + row * c.keys.row_stride;
  return position_noise(key[0], key[1], position, domain, c.forced, c.n_forced);
}

// A law on its kept set, as far as a verification needs it.
struct KeptLaw {
  WeightRule rule;
  Cut cut;
  u128 sum = 0;  // over the kept set, at most 2^76
};
FD_FN uint64_t kept_weight(const KeptLaw& law, float x, int64_t id) {
  return keeps(law.cut, x, id) ? weight_of(law.rule, x) : 0;
}

// Whether a draft of weight w under the target and v > 0 under its own law is accepted:
// r64 / 2^64 < w Q / (v S), decided in 192 bits.
FD_FN bool accepts(uint64_t r64, uint64_t w, u128 target_sum, uint64_t v, u128 draft_sum) {
  const u128 a = u128(w) * draft_sum, b = u128(v) * target_sum;
  const u128 low = u128(r64) * uint64_t(b);
  return a > u128(r64) * uint64_t(b >> 64) + (low >> 64);
}

// What the target gives a token beyond the draft, in units of 1 / (S Q).
FD_FN u128 residual(uint64_t w, u128 target_sum, uint64_t v, u128 draft_sum) {
  const u128 a = u128(w) * draft_sum, b = u128(v) * target_sum;
  return a > b ? a - b : 0;
}

// Parameters of one side; a verification mixes nothing.
FD_FN bool read_side(const double* p, RowParams& out) {
  return read_params(p, out) && out.mix_eps == 0.0f;
}

FD_FN float kept_log_prob(const KeptLaw& law, uint64_t w) {
  return mixture_log_prob(w, law.sum, 0.0f, 0);
}

// A row that is bad, or its end: nothing is emitted from position `from` on.
FD_FN void store_nothing(const VerifyCall& c, int64_t row, int64_t from) {
  const int64_t at = row * (c.drafts + 1);
  for (int64_t j = from; j <= c.drafts; ++j) {
    c.ids[at + j] = -1;
    if (c.logp) c.logp[at + j] = nan32();
  }
}
FD_FN void store_verdict(const VerifyCall& c, int64_t row, uint8_t status, int64_t accepted) {
  c.status[row] = status;
  c.n_accepted[row] = status == kOk ? accepted : 0;
  store_nothing(c, row, status == kOk ? accepted + 1 : 0);
}

// The number of drafts of a row; -1: not one that can be.
FD_FN int64_t drafts_of(const VerifyCall& c, int64_t row) {
  if (c.n_draft == nullptr) return c.drafts;
  const int64_t n = c.n_draft[row];
  return n >= 0 && n <= c.drafts ? n : -1;
}

}  // namespace fusedraw
