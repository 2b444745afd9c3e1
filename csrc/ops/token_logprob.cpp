// SPDX-License-Identifier: Apache-2.0
#include "token_logprob.h"

#include <torch/csrc/stable/ops.h>

namespace fusedraw {
namespace {

// A vector of one value per row, contiguous.
Tensor checked_column(const char* op, const char* name, const Tensor& t, int64_t rows,
                      ScalarType dtype, const Device& device) {
  check_device(op, name, t, device);
  FUSEDRAW_CHECK(t.scalar_type() == dtype && t.dim() == 1 && t.size(0) == rows, op, ": ", name,
                 " must be ", torch::headeronly::toString(dtype), " [", rows, "], got ",
                 shape_text(t));
  return t.is_contiguous() ? t : torch::stable::contiguous(t);
}

}  // namespace

const int64_t* checked_ids(const char* op, const Tensor& ids, int64_t rows, const Device& device,
                           Tensor& hold) {
  hold = checked_column(op, "ids", ids, rows, ScalarType::Long, device);
  return static_cast<const int64_t*>(hold.const_data_ptr());
}

KeptSetsView checked_kept(const char* op, const OptionalTensor& kept_ids,
                          const OptionalTensor& kept_offsets, int64_t rows, const Device& device,
                          Tensor& hold_ids, Tensor& hold_offsets) {
  KeptSetsView kept;
  FUSEDRAW_CHECK(kept_ids.has_value() == kept_offsets.has_value(), op,
                 ": kept must be ids and offsets, got one of them");
  if (!kept_ids) return kept;
  FUSEDRAW_CHECK(kept_ids->dim() == 1, op, ": kept ids must be Int [K], got ",
                 shape_text(*kept_ids));
  hold_ids = checked_column(op, "kept ids", *kept_ids, kept_ids->size(0), ScalarType::Int, device);
  hold_offsets =
      checked_column(op, "kept offsets", *kept_offsets, rows + 1, ScalarType::Long, device);
  kept.ids = static_cast<const int32_t*>(hold_ids.const_data_ptr());
  kept.offsets = static_cast<const int64_t*>(hold_offsets.const_data_ptr());
  kept.size = kept_ids->size(0);
  return kept;
}

void check_scored(const char* op, const int64_t* ids, const KeptSetsView& kept, int64_t rows,
                  int64_t cols) {
  for (int64_t r = 0; r < rows; ++r) {
    FUSEDRAW_CHECK(ids[r] >= 0 && ids[r] < cols, op, ": ids must lie in [0, ", cols, "), got ",
                   ids[r], " in row ", r);
    if (kept.offsets == nullptr) continue;
    const KeptIds row = kept_ids_of(kept, r);
    FUSEDRAW_CHECK(row.n >= 0, op, ": kept offsets must ascend from 0 to ", kept.size, ", got ",
                   kept.offsets[r], " and ", kept.offsets[r + 1], " for row ", r);
    for (int64_t j = 0; j < row.n; ++j)
      FUSEDRAW_CHECK(row.ids[j] >= (j > 0 ? row.ids[j - 1] + int64_t{1} : 0) && row.ids[j] < cols,
                     op, ": kept ids must ascend within a row and lie in [0, ", cols, "), got ",
                     row.ids[j], j > 0 ? " after " + std::to_string(row.ids[j - 1]) : "",
                     " in row ", r);
  }
}

TokenLogprobTensors::TokenLogprobTensors(const Tensor& logits, const Tensor& token_ids,
                                         const Tensor& params, const OptionalTensor& mask,
                                         const OptionalTensor& kept_ids,
                                         const OptionalTensor& kept_offsets, const Mode& mode,
                                         bool wants_entropy)
    : x(checked_rows(op, "logits", logits)),
      device(x.device()),
      logp(x),
      entropy(x),
      status(x),
      saved(x),
      ids_(x),
      params_(x),
      mask_(x),
      kept_ids_(x),
      kept_offsets_(x) {
  FUSEDRAW_CHECK(!mode.options.probs && !mode.options.keep_zero, op,
                 ": mode bits out of range: rows are logits");
  call.x = rows_view(x);
  const int64_t rows = call.x.rows;
  call.options = mode.options;
  call.ids = checked_ids(op, token_ids, rows, device, ids_);
  call.params = checked_params(op, params, rows, device, params_);
  call.mask = checked_mask(op, mask, call.x, device, mask_);
  call.kept = checked_kept(op, kept_ids, kept_offsets, rows, device, kept_ids_, kept_offsets_);
  logp = new_tensor({rows}, ScalarType::Float, device);
  entropy = new_tensor({wants_entropy ? rows : 0}, ScalarType::Float, device);
  status = new_tensor({rows}, ScalarType::Byte, device);
  saved = new_tensor({rows, kSavedColumns}, ScalarType::Double, device);
  call.logp = data<float>(logp);
  if (wants_entropy) call.entropy = data<float>(entropy);
  call.status = data<uint8_t>(status);
  call.saved = data<double>(saved);
}

TokenLogprobGradTensors::TokenLogprobGradTensors(
    const Tensor& grad_logp, const OptionalTensor& grad_entropy, const Tensor& logits,
    const Tensor& token_ids, const OptionalTensor& mask, const OptionalTensor& kept_ids,
    const OptionalTensor& kept_offsets, const Tensor& saved)
    : x(checked_rows(op, "logits", logits)),
      device(x.device()),
      grad(x),
      grad_logp_(x),
      grad_entropy_(x),
      ids_(x),
      saved_(x),
      mask_(x),
      kept_ids_(x),
      kept_offsets_(x) {
  call.x = rows_view(x);
  const int64_t rows = call.x.rows;
  call.ids = checked_ids(op, token_ids, rows, device, ids_);
  call.mask = checked_mask(op, mask, call.x, device, mask_);
  call.kept = checked_kept(op, kept_ids, kept_offsets, rows, device, kept_ids_, kept_offsets_);
  grad_logp_ = checked_column(op, "grad_logp", grad_logp, rows, ScalarType::Float, device);
  call.grad_logp = static_cast<const float*>(grad_logp_.const_data_ptr());
  if (grad_entropy) {
    grad_entropy_ =
        checked_column(op, "grad_entropy", *grad_entropy, rows, ScalarType::Float, device);
    call.grad_entropy = static_cast<const float*>(grad_entropy_.const_data_ptr());
  }
  check_device(op, "saved", saved, device);
  FUSEDRAW_CHECK(saved.scalar_type() == ScalarType::Double && saved.dim() == 2 &&
                     saved.size(0) == rows && saved.size(1) == kSavedColumns,
                 op, ": saved must be Double [", rows, ", ", int(kSavedColumns), "], got ",
                 shape_text(saved));
  saved_ = saved.is_contiguous() ? saved : torch::stable::contiguous(saved);
  call.saved = static_cast<const double*>(saved_.const_data_ptr());
  grad = new_tensor({rows, call.x.cols}, x.scalar_type(), device);
  call.grad = grad.mutable_data_ptr();
}

}  // namespace fusedraw
