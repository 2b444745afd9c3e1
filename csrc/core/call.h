// SPDX-License-Identifier: Apache-2.0
// What an engine is asked: plain views of the caller's memory, checked before by the ops layer.
#pragma once

#include "dtype.h"
#include "late_rules.h"
#include "noise.h"

namespace fusedraw {

// Rows of V values, element stride 1, row stride in elements (0 allowed).
struct RowsView {
  const void* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t rows = 0, cols = 0, row_stride = 0;
};

// True / set bit = allowed. row_stride in elements of the mask, 0 broadcasts.
struct MaskView {
  enum class Kind : uint8_t { kNone, kBool, kBits } kind = Kind::kNone;
  const void* data = nullptr;
  int64_t row_stride = 0;
};

FD_FN bool mask_allows(const MaskView& m, int64_t row, int64_t id) {
  if (m.kind == MaskView::Kind::kNone) return true;
  if (m.kind == MaskView::Kind::kBool)
    return static_cast<const uint8_t*>(m.data)[row * m.row_stride + id] != 0;
  const uint32_t word = static_cast<const uint32_t*>(m.data)[row * m.row_stride + (id >> 5)];
  return word >> (id & 31) & 1u;
}

// float64 [1 or B, columns], of which there are at most kMost; row_stride 0 broadcasts. A CUDA call
// may bring the one row of all by value instead (data null); CPU engines read `data` alone.
template <int kMost>
struct NumbersView {
  const double* data = nullptr;
  int64_t row_stride = 0;
  double row[kMost] = {};
};
using ParamsView = NumbersView<kParamColumns>;
using RulesView = NumbersView<kRuleColumns>;

// uint64 [B, 2] = (seed, offset).
struct KeysView {
  const uint64_t* data = nullptr;
  int64_t row_stride = 2;
};

FD_FN Noise row_noise(const KeysView& k, int64_t row, uint32_t domain, const ForcedNoise* forced,
                      int64_t n_forced) {
  const uint64_t* p = k.data + row * k.row_stride;
  return {p[0], p[1], domain, forced, n_forced};
}

// Receives a row's kept ids: returns room for n int32. Called at most once a row, from any thread.
struct KeptSink {
  void* context = nullptr;
  int32_t* (*reserve)(void* context, int64_t row, int64_t n) = nullptr;
};

// Arrays of B; null where not asked for.
struct SampleOutputs {
  int64_t* ids = nullptr;
  uint8_t* status = nullptr;
  float *logp = nullptr, *logp_full = nullptr, *logp_raw = nullptr, *entropy = nullptr,
        *varentropy = nullptr, *margin = nullptr, *kept_mass = nullptr;
  int64_t *n_kept = nullptr, *rank = nullptr;
  bool* explored = nullptr;
  int64_t* top_ids = nullptr;  // [B, top_n]
  float* top_logps = nullptr;
  int64_t top_n = 0;
  KeptSink kept;
};

// Whether anything is asked for beyond ids, status and explored.
FD_FN bool wants_more(const SampleOutputs& o) {
  return o.logp || o.logp_full || o.logp_raw || o.entropy || o.varentropy || o.margin ||
         o.kept_mass || o.n_kept || o.rank || o.top_n > 0 || o.kept.reserve;
}

struct SampleCall {
  RowsView x;
  MaskView mask;
  ParamsView params;
  bool ruled = false;  // `edits` and `rules` count
  EditsView edits;
  RulesView rules;
  KeysView keys;
  Options options;
  SampleOutputs out;
  const ForcedNoise* forced = nullptr;
  int64_t n_forced = 0;
};

struct SoftmaxCall {
  RowsView x;
  MaskView mask;
  const double* temperature = nullptr;  // null (CUDA only): temperature_value for all rows
  int64_t temperature_stride = 0;
  double temperature_value = 1.0;
  bool log = false;
  float* out = nullptr;  // [B, V], contiguous
  uint8_t* status = nullptr;
};

struct FilterCall {
  RowsView x;
  MaskView mask;
  ParamsView params;
  Options options;
  bool renorm = false;
  void* out = nullptr;  // [B, V], contiguous; type of x, or float32 if renorm
  uint8_t* status = nullptr;
};

struct MultinomialCall {
  RowsView x;
  KeysView keys;
  int64_t num_samples = 1;
  bool replacement = false;
  int64_t* ids = nullptr;  // [B, num_samples]
  uint8_t* status = nullptr;
  const ForcedNoise* forced = nullptr;
  int64_t n_forced = 0;
};

// One row's answer, before it is stored.
struct RowResult {
  uint8_t status = kOk;
  bool explored = false;
  int64_t id = -1, n_kept = 0, rank = 0;
  float logp = 0, logp_full = 0, logp_raw = 0, entropy = 0, varentropy = 0, margin = 0,
        kept_mass = 0;
};

FD_FN void store_row(const SampleOutputs& out, int64_t row, const RowResult& r) {
  const bool ok = r.status == kOk;
  const float bad = nan32();
  out.ids[row] = ok ? r.id : -1;
  if (out.status) out.status[row] = r.status;
  if (out.logp) out.logp[row] = ok ? r.logp : bad;
  if (out.logp_full) out.logp_full[row] = ok ? r.logp_full : bad;
  if (out.logp_raw) out.logp_raw[row] = ok ? r.logp_raw : bad;
  if (out.entropy) out.entropy[row] = ok ? r.entropy : bad;
  if (out.varentropy) out.varentropy[row] = ok ? r.varentropy : bad;
  if (out.margin) out.margin[row] = ok ? r.margin : bad;
  if (out.kept_mass) out.kept_mass[row] = ok ? r.kept_mass : bad;
  if (out.n_kept) out.n_kept[row] = ok ? r.n_kept : 0;
  if (out.rank) out.rank[row] = ok ? r.rank : 0;
  if (out.explored) out.explored[row] = ok && r.explored;
  if (!ok)
    for (int64_t j = 0; j < out.top_n; ++j) {
      out.top_ids[row * out.top_n + j] = -1;
      out.top_logps[row * out.top_n + j] = bad;
    }
}

}  // namespace fusedraw
