// SPDX-License-Identifier: Apache-2.0
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "token_logprob.h"

namespace fusedraw {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

struct Term {
  double x, w;
  int64_t id;
};

// A row of float64: its valid tokens in the order, weighed relative to the first.
struct DoubleRow {
  uint8_t status = kOk;
  double slope = 0.0;  // 1 / T, 0 where nothing moves with the logits
  std::vector<Term> terms;

  double sum(size_t n) const {
    double s = 0.0;
    for (size_t i = n; i-- > 0;) s += terms[i].w;
    return s;
  }
};

template <typename Allowed>
DoubleRow read_double(const double* x, int64_t cols, float temperature, Allowed allowed) {
  DoubleRow r;
  bool nan = false, pos_inf = false;
  for (int64_t i = 0; i < cols; ++i) {
    if (!allowed(i)) continue;
    nan |= x[i] != x[i];
    pos_inf |= x[i] == kInfinity;
    if (x[i] > -kInfinity) r.terms.push_back({x[i], 0.0, i});
  }
  r.status = nan ? kNan : pos_inf ? kPosInf : r.terms.empty() ? kEmpty : kOk;
  if (r.status != kOk) return r;
  std::sort(r.terms.begin(), r.terms.end(),
            [](const Term& a, const Term& b) { return a.x > b.x || (a.x == b.x && a.id < b.id); });
  r.slope = temperature_slope(temperature);
  for (size_t i = 0; i < r.terms.size(); ++i)
    r.terms[i].w =
        temperature == 0.0f ? double(i == 0) : std::exp((r.terms[i].x - r.terms[0].x) * r.slope);
  return r;
}

// The filters of docs/law.md on real weights.
void keep_double(DoubleRow& r, const RowParams& p, const Options& o) {
  std::vector<Term>& t = r.terms;
  if (p.temperature == 0.0f) {
    t.resize(1);
    return;
  }
  const auto drop_lighter = [&](double least) {
    while (t.back().w < least) t.pop_back();
  };
  const auto with_ties = [&](size_t n) {
    while (o.ties_all && n > 0 && n < t.size() && t[n].x == t[n - 1].x) ++n;
    return n;
  };
  if (o.order == FilterOrder::kMinPFirst) drop_lighter(p.min_p);
  size_t n = t.size();
  if (p.top_k > 0 && uint64_t(p.top_k) < n) n = with_ties(size_t(p.top_k));
  if (p.top_p < 1.0f) {
    const double target = double(p.top_p) * r.sum(o.order == FilterOrder::kJoint ? t.size() : n);
    size_t m = 1;
    for (double s = t[0].w; s < target && m < n; ++m) s += t[m].w;
    n = std::min(n, with_ties(m));
  }
  t.resize(n);
  drop_lighter(p.min_p);
}

const Term* find(const DoubleRow& r, int64_t id) {
  for (const Term& t : r.terms)
    if (t.id == id) return &t;
  return nullptr;
}

struct DoubleCall {
  TokenLogprobCall call;  // `x`, `logp` and `entropy` unused
  const double* x;
  double *logp, *entropy;
};

void score_double(const DoubleCall& c, int64_t row) {
  const TokenLogprobCall& call = c.call;
  const double* x = c.x + row * call.x.cols;
  double* saved = call.saved + row * kSavedColumns;
  std::fill(saved, saved + kSavedColumns, 0.0);
  c.logp[row] = std::numeric_limits<double>::quiet_NaN();
  if (c.entropy) c.entropy[row] = c.logp[row];
  call.status[row] = kBadParam;
  RowParams p;
  const KeptIds listed = call.kept.offsets ? kept_ids_of(call.kept, row) : KeptIds{nullptr, 0};
  const int64_t id = call.ids[row];
  if (!read_params(call.params.data + row * call.params.row_stride, p) || id < 0 ||
      id >= call.x.cols || listed.n < 0)
    return;
  for (int64_t j = 0; j < listed.n; ++j)
    if (listed.ids[j] < (j > 0 ? listed.ids[j - 1] + int64_t{1} : 0) ||
        listed.ids[j] >= call.x.cols)
      return;
  const auto allowed = [&](int64_t i) { return mask_allows(call.mask, row, i); };
  const DoubleRow whole = read_double(x, call.x.cols, p.temperature, allowed);
  DoubleRow kept = whole;
  if (call.kept.offsets) {
    kept = read_double(x, call.x.cols, p.temperature, [&](int64_t i) {
      return allowed(i) && std::binary_search(listed.ids, listed.ids + listed.n, int32_t(i));
    });
  }
  call.status[row] = whole.status != kOk && scores_whole_row(call, p) ? whole.status : kept.status;
  if (call.status[row] != kOk) return;
  if (!call.kept.offsets) keep_double(kept, p, call.options);

  const Term* token = find(kept, id);
  const DoubleRow& support = call.options.mix_valid ? whole : kept;
  const double eps = double(p.mix_eps), total = kept.sum(kept.terms.size());
  const double first = token ? (1.0 - eps) * (token->w / total) : 0.0;
  const double mu = first + (find(support, id) ? eps / double(support.terms.size()) : 0.0);
  c.logp[row] = std::log(mu);
  if (first > 0.0) {
    const double rate = first / mu * kept.slope;
    saved[kSavedOwn] = rate * ((total - token->w) / total);
    saved[kSavedEach] = rate / total;
  }
  if (c.entropy) {
    const double s = whole.sum(whole.terms.size());
    double mean = 0.0;
    for (const Term& t : whole.terms) mean += t.w * (whole.terms[0].x - t.x) * whole.slope;
    mean /= s;
    c.entropy[row] = std::log(s) + mean;
    saved[kSavedSpread] = whole.slope / s;
    saved[kSavedMean] = mean;
  }
  if (whole.status == kOk) saved[kSavedMax] = whole.terms[0].x;
  saved[kSavedKeptMax] = kept.terms[0].x;
  saved[kSavedScale] = kept.slope;
  saved[kSavedCutValue] = kept.terms.back().x;
  saved[kSavedCutLast] = double(kept.terms.back().id);
}

void grad_double(const TokenLogprobGradCall& call, const double* x, int64_t row, double g, double h,
                 double* out) {
  const double* saved = call.saved + row * kSavedColumns;
  const double own = saved[kSavedOwn] == 0.0 ? 0.0 : g * saved[kSavedOwn];
  const double each = saved[kSavedEach] == 0.0 ? 0.0 : g * saved[kSavedEach];
  const double spread = saved[kSavedSpread] == 0.0 ? 0.0 : h * saved[kSavedSpread];
  KeptIds listed{nullptr, 0};
  if (call.kept.offsets) listed = kept_ids_of(call.kept, row);
  for (int64_t i = 0; i < call.x.cols; ++i) {
    out[i] = 0.0;
    if (!mask_allows(call.mask, row, i) || !(x[i] > -kInfinity)) continue;
    const double lo = saved[kSavedCutValue];
    const bool kept = call.kept.offsets
                          ? std::binary_search(listed.ids, listed.ids + listed.n, int32_t(i))
                          : x[i] > lo || (x[i] == lo && double(i) <= saved[kSavedCutLast]);
    if (each != 0.0 && kept)
      out[i] = i == call.ids[row]
                   ? own
                   : -each * std::exp((x[i] - saved[kSavedKeptMax]) * saved[kSavedScale]);
    if (spread != 0.0) {
      const double t = (x[i] - saved[kSavedMax]) * saved[kSavedScale];
      out[i] -= spread * std::exp(t) * (t + saved[kSavedMean]);
    }
  }
}

RowsView double_view(const char* op, const Tensor& x) {
  FUSEDRAW_CHECK(x.dim() == 2 && x.size(1) > 0, op, ": logits must be [B, V], V >= 1, got ",
                 shape_text(x));
  RowsView v;
  v.rows = x.size(0);
  v.cols = x.size(1);
  return v;
}

}  // namespace

std::tuple<Tensor, Tensor, Tensor, Tensor> token_logprob_double(
    const Tensor& logits, const Tensor& token_ids, const Tensor& params, const OptionalTensor& mask,
    const OptionalTensor& kept_ids, const OptionalTensor& kept_offsets, const Mode& mode,
    bool wants_entropy) {
  const char* op = TokenLogprobTensors::op;
  DoubleCall c;
  TokenLogprobCall& call = c.call;
  call.x = double_view(op, logits);
  const int64_t rows = call.x.rows;
  const Tensor x = torch::stable::contiguous(logits);
  const Device device = x.device();
  Tensor hold[5] = {x, x, x, x, x};
  call.options = mode.options;
  call.ids = checked_ids(op, token_ids, rows, device, hold[0]);
  call.params = checked_params(op, params, rows, device, hold[1]);
  call.mask = checked_mask(op, mask, call.x, device, hold[2]);
  call.kept = checked_kept(op, kept_ids, kept_offsets, rows, device, hold[3], hold[4]);
  if (mode.raise) check_scored(op, call.ids, call.kept, rows, call.x.cols);
  Tensor logp = new_tensor({rows}, ScalarType::Double, device);
  Tensor entropy = new_tensor({wants_entropy ? rows : 0}, ScalarType::Double, device);
  Tensor status = new_tensor({rows}, ScalarType::Byte, device);
  Tensor saved = new_tensor({rows, kSavedColumns}, ScalarType::Double, device);
  float asked = 0.0f;
  call.entropy = wants_entropy ? &asked : nullptr;  // only whether it is
  call.status = data<uint8_t>(status);
  call.saved = data<double>(saved);
  c.x = static_cast<const double*>(x.const_data_ptr());
  c.logp = data<double>(logp);
  c.entropy = wants_entropy ? data<double>(entropy) : nullptr;
  for (int64_t r = 0; r < rows; ++r) score_double(c, r);
  if (mode.raise) raise_bad_rows(op, call.status, rows);
  return {logp, entropy, status, saved};
}

Tensor token_logprob_backward_double(const Tensor& grad_logp, const OptionalTensor& grad_entropy,
                                     const Tensor& logits, const Tensor& token_ids,
                                     const OptionalTensor& mask, const OptionalTensor& kept_ids,
                                     const OptionalTensor& kept_offsets, const Tensor& saved) {
  const char* op = TokenLogprobGradTensors::op;
  TokenLogprobGradCall call;
  call.x = double_view(op, logits);
  const int64_t rows = call.x.rows;
  const Tensor x = torch::stable::contiguous(logits);
  const Device device = x.device();
  Tensor hold[4] = {x, x, x, x};
  call.ids = checked_ids(op, token_ids, rows, device, hold[0]);
  call.mask = checked_mask(op, mask, call.x, device, hold[1]);
  call.kept = checked_kept(op, kept_ids, kept_offsets, rows, device, hold[2], hold[3]);
  const Tensor kept_saved = torch::stable::contiguous(saved);
  call.saved = static_cast<const double*>(kept_saved.const_data_ptr());
  const Tensor g = torch::stable::contiguous(grad_logp);
  OptionalTensor h;
  if (grad_entropy) h = torch::stable::contiguous(*grad_entropy);
  Tensor grad = new_tensor({rows, call.x.cols}, ScalarType::Double, device);
  for (int64_t r = 0; r < rows; ++r)
    grad_double(call, static_cast<const double*>(x.const_data_ptr()) + r * call.x.cols, r,
                static_cast<const double*>(g.const_data_ptr())[r],
                h ? static_cast<const double*>(h->const_data_ptr())[r] : 0.0,
                data<double>(grad) + r * call.x.cols);
  return grad;
}

}  // namespace fusedraw
