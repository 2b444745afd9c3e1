// SPDX-License-Identifier: Apache-2.0
// The extents of everything that a call points to.
#include "declare.h"

#include <algorithm>

namespace fusedraw::simt {

namespace {

constexpr unsigned kOutput = kRead | kWrite | kUninitialised;

// `rows` rows of `bytes`, `stride` bytes apart; stride 0: one for all.
void declare_rows(Buffers& b, const void* p, int64_t rows, int64_t bytes, int64_t stride,
                  unsigned flags, const std::string& name) {
  if (!p) return;
  if (stride == 0 && rows > 0) return b.declare(p, size_t(bytes), flags, name);
  for (int64_t r = 0; r < rows; ++r)
    b.declare(static_cast<const char*>(p) + r * stride, size_t(bytes), flags,
              name + " row " + std::to_string(r));
}

template <typename T>
void declare_output(Buffers& b, T* p, int64_t n, const char* name) {
  if (p) b.declare(p, size_t(n) * sizeof(T), kOutput, name);
}

int64_t width(DType t) { return t == DType::kFloat32 ? 4 : 2; }

void declare(Buffers& b, const ParamsView& p, int64_t rows, int columns = kParamColumns) {
  declare_rows(b, p.data, rows, columns * 8, p.row_stride * 8, kRead, "params");
}

void declare(Buffers& b, const KeysView& k, int64_t rows) {
  declare_rows(b, k.data, rows, 16, k.row_stride * 8, kRead, "keys");
}

void declare(Buffers& b, const KeptSetsView& kept, int64_t rows) {
  if (!kept.offsets) return;
  b.declare(kept.ids, size_t(kept.size) * sizeof(int32_t), kRead, "kept ids");
  b.declare(kept.offsets, size_t(rows + 1) * sizeof(int64_t), kRead, "kept offsets");
}

void declare(Buffers& b, const IdLists& l, int64_t rows, const std::string& name) {
  if (!l.ids) return;
  const int64_t width = l.wide ? 8 : 4;
  if (!l.offsets)
    return declare_rows(b, l.ids, rows, l.length * width, l.row_stride * width, kRead, name);
  b.declare(l.ids, size_t(l.total * width), kRead, name);
  b.declare(l.offsets, size_t(l.offsets_stride ? rows + 1 : 2) * 8, kRead, name + " offsets");
}

void declare(Buffers& b, const EditsView& e, int64_t rows) {
  declare(b, e.history, rows, "history");
  declare(b, e.prompt, rows, "prompt");
  declare(b, e.suppress, rows, "suppress");
  declare(b, e.bias, rows, "bias");
  if (e.bias.ids) b.declare(e.values, size_t(e.bias.total) * 4, kRead, "bias values");
}

void declare_forced(Buffers& b, const ForcedNoise* forced, int64_t n) {
  if (forced) b.declare(forced, size_t(n) * sizeof(ForcedNoise), kRead, "forced");
}

}  // namespace

void declare(Buffers& b, const RowsView& x, const char* name) {
  declare_rows(b, x.data, x.rows, x.cols * width(x.dtype), x.row_stride * width(x.dtype), kRead,
               name);
}

void declare(Buffers& b, const MaskView& m, int64_t rows, int64_t cols) {
  if (m.kind == MaskView::Kind::kBool)
    declare_rows(b, m.data, rows, cols, m.row_stride, kRead, "mask");
  if (m.kind == MaskView::Kind::kBits)
    declare_rows(b, m.data, rows, (cols + 31) / 32 * 4, m.row_stride * 4, kRead, "mask");
}

namespace {

void declare(Buffers& b, const SampleOutputs& o, int64_t n) {
  declare_output(b, o.ids, n, "ids");
  declare_output(b, o.status, n, "status");
  declare_output(b, o.logp, n, "logp");
  declare_output(b, o.logp_full, n, "logp_full");
  declare_output(b, o.logp_raw, n, "logp_raw");
  declare_output(b, o.entropy, n, "entropy");
  declare_output(b, o.varentropy, n, "varentropy");
  declare_output(b, o.margin, n, "margin");
  declare_output(b, o.kept_mass, n, "kept_mass");
  declare_output(b, o.n_kept, n, "n_kept");
  declare_output(b, o.rank, n, "rank");
  declare_output(b, o.explored, n, "explored");
  declare_rows(b, o.top_ids, n, o.top_n * 8, o.top_n * 8, kOutput, "top_ids");
  declare_rows(b, o.top_logps, n, o.top_n * 4, o.top_n * 4, kOutput, "top_logps");
}

}  // namespace

void declare(Buffers& b, const SampleCall& c) {
  const int64_t n = c.x.rows;
  declare(b, c.x, "x");
  declare(b, c.mask, n, c.x.cols);
  declare(b, c.params, n);
  declare(b, c.edits, n);
  declare_rows(b, c.rules.data, n, kRuleColumns * 8, c.rules.row_stride * 8, kRead, "rules");
  declare(b, c.keys, n);
  declare_forced(b, c.forced, c.n_forced);
  declare(b, c.out, n);
}

void declare(Buffers& b, const MixtureCall& c) {
  const int64_t n = c.x.rows;
  for (int m = 0; m < c.members; ++m)  // one tensor may be several members
    if (std::none_of(c.member, c.member + m,
                     [&](const RowsView& x) { return x.data == c.member[m].data; }))
      declare(b, c.member[m], "member");
  declare(b, c.mask, n, c.x.cols);
  declare(b, c.params, n);
  declare_rows(b, c.weights.data, n, weight_columns(c.how, c.members) * 8, c.weights.row_stride * 8,
               kRead, "weights");
  declare(b, c.keys, n);
  declare_forced(b, c.forced, c.n_forced);
  declare(b, c.out, n);
  declare_output(b, c.member_logp, c.members * n, "member_logp");
  declare_output(b, c.member_entropy, c.members * n, "member_entropy");
  declare_output(b, c.mean_entropy, n, "mean_entropy");
  declare_output(b, c.mutual_information, n, "mutual_information");
}

void declare(Buffers& b, const SoftmaxCall& c) {
  declare(b, c.x, "x");
  declare(b, c.mask, c.x.rows, c.x.cols);
  declare_rows(b, c.temperature, c.x.rows, 8, c.temperature_stride * 8, kRead, "temperature");
  declare_rows(b, c.out, c.x.rows, c.x.cols * 4, c.x.cols * 4, kOutput, "out");
  declare_output(b, c.status, c.x.rows, "status");
}

void declare(Buffers& b, const FilterCall& c) {
  declare(b, c.x, "x");
  declare(b, c.mask, c.x.rows, c.x.cols);
  declare(b, c.params, c.x.rows);
  const int64_t bytes = c.x.cols * (c.renorm ? 4 : width(c.x.dtype));
  declare_rows(b, c.out, c.x.rows, bytes, bytes, kOutput, "out");
  declare_output(b, c.status, c.x.rows, "status");
}

void declare(Buffers& b, const MultinomialCall& c) {
  declare(b, c.x, "x");
  declare(b, c.keys, c.x.rows);
  declare_forced(b, c.forced, c.n_forced);
  declare_rows(b, c.ids, c.x.rows, c.num_samples * 8, c.num_samples * 8, kOutput, "ids");
  declare_output(b, c.status, c.x.rows, "status");
}

void declare(Buffers& b, const TokenLogprobCall& c) {
  const int64_t n = c.x.rows;
  declare(b, c.x, "x");
  declare(b, c.mask, n, c.x.cols);
  declare(b, c.params, n);
  declare(b, c.kept, n);
  b.declare(c.ids, size_t(n) * sizeof(int64_t), kRead, "ids");
  declare_output(b, c.logp, n, "logp");
  declare_output(b, c.entropy, n, "entropy");
  declare_output(b, c.status, n, "status");
  declare_output(b, c.saved, n * kSavedColumns, "saved");
}

void declare(Buffers& b, const TokenLogprobGradCall& c) {
  const int64_t n = c.x.rows, bytes = c.x.cols * width(c.x.dtype);
  declare(b, c.x, "x");
  declare(b, c.mask, n, c.x.cols);
  declare(b, c.kept, n);
  b.declare(c.ids, size_t(n) * sizeof(int64_t), kRead, "ids");
  b.declare(c.saved, size_t(n * kSavedColumns) * sizeof(double), kRead, "saved");
  b.declare(c.grad_logp, size_t(n) * sizeof(float), kRead, "grad_logp");
  if (c.grad_entropy) b.declare(c.grad_entropy, size_t(n) * sizeof(float), kRead, "grad_entropy");
  declare_rows(b, c.grad, n, bytes, bytes, kOutput, "grad");
}

void declare(Buffers& b, const RouteCall& c) {
  const int64_t n = c.x.rows, k = c.k;
  declare(b, c.x, "x");
  declare(b, c.params, n, kRouteColumns);
  declare(b, c.keys, n);
  declare_rows(b, c.bias, 1, c.x.cols * 4, 0, kRead, "bias");
  declare_rows(b, c.replay, n, k * 8, k * 8, kRead, "replay");
  declare_forced(b, c.forced, c.n_forced);
  declare_rows(b, c.ids, n, k * 8, k * 8, kOutput, "ids");
  declare_rows(b, c.weights, n, k * 4, k * 4, kOutput, "weights");
  declare_output(b, c.status, n, "status");
  declare_output(b, c.explored, n, "explored");
}

namespace {

void declare(Buffers& b, const VerifySide& side) {
  const int64_t positions = side.x.positions;
  for (int64_t r = 0; r < side.x.rows; ++r)
    for (int64_t j = 0; j < positions; ++j) {
      declare(b, row_at(side.x, r, j), "logits");
      declare(b, mask_at(side.mask, r, j), 1, side.x.cols);
    }
  declare(b, side.params, side.x.rows);
}

}  // namespace

void declare(Buffers& b, const VerifyCall& c) {
  const int64_t n = c.x.rows, positions = c.drafts + 1;
  declare(b, c.draft);
  declare(b, c.target);
  declare_rows(b, c.draft_ids, n, c.drafts * 8, c.drafts * 8, kRead, "draft ids");
  declare_rows(b, c.n_draft, n, 8, 8, kRead, "n_draft");
  declare(b, c.keys, n);
  declare_forced(b, c.forced, c.n_forced);
  declare_rows(b, c.ids, n, positions * 8, positions * 8, kOutput, "ids");
  declare_rows(b, c.logp, n, positions * 4, positions * 4, kOutput, "logp");
  declare_output(b, c.n_accepted, n, "n_accepted");
  declare_output(b, c.status, n, "status");
}

}  // namespace fusedraw::simt
