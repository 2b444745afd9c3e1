// SPDX-License-Identifier: Apache-2.0
#include "verify_call.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>

namespace fusedraw {
namespace {

constexpr const char* kOp = VerifyTensors::op;

// [B, positions, V] with unit stride along V, copied if it has none.
PositionsView checked_positions(const char* name, const Tensor& x, int64_t rows, int64_t positions,
                                int64_t cols, const Device& device, Tensor& hold) {
  const ScalarType t = x.scalar_type();
  check_device(kOp, name, x, device);
  FUSEDRAW_CHECK(t == ScalarType::Float || t == ScalarType::BFloat16 || t == ScalarType::Half, kOp,
                 ": ", name, " must be float32, bfloat16 or float16, got ", shape_text(x));
  FUSEDRAW_CHECK(x.dim() == 3 && x.size(0) == rows && x.size(1) == positions && x.size(2) == cols,
                 kOp, ": ", name, " must be [", rows, ", ", positions, ", ", cols, "], got ",
                 shape_text(x));
  FUSEDRAW_CHECK(cols > 0 && cols <= kMaxVocab, kOp, ": ", name,
                 " must have between 1 and 2^33 columns, got ", shape_text(x));
  hold = cols > 1 && x.numel() > 0 && x.stride(2) != 1 ? torch::stable::contiguous(x) : x;
  PositionsView v;
  v.data = hold.const_data_ptr();
  v.dtype = t == ScalarType::Float      ? DType::kFloat32
            : t == ScalarType::BFloat16 ? DType::kBFloat16
                                        : DType::kFloat16;
  v.rows = rows;
  v.positions = positions;
  v.cols = cols;
  v.row_stride = hold.stride(0);
  v.position_stride = hold.stride(1);
  return v;
}

// bool or int32 words: [V'], [1 or B, V'] or [1 or B, 1 or positions, V'].
PositionsMask checked_positions_mask(const char* name, const OptionalTensor& mask,
                                     const PositionsView& x, const Device& device, Tensor& hold) {
  PositionsMask m;
  if (!mask.has_value()) return m;
  const Tensor& t = *mask;
  check_device(kOp, name, t, device);
  const bool bits = t.scalar_type() == ScalarType::Int;
  FUSEDRAW_CHECK(bits || t.scalar_type() == ScalarType::Bool, kOp, ": ", name,
                 " must be bool (True = allowed) or int32 words (bit set = allowed), got ",
                 shape_text(t));
  const int64_t width = bits ? (x.cols + 31) / 32 : x.cols, dim = t.dim();
  const bool fits = dim >= 1 && dim <= 3 && t.size(dim - 1) == width &&
                    (dim == 1 || t.size(0) == 1 || t.size(0) == x.rows) &&
                    (dim < 3 || t.size(1) == 1 || t.size(1) == x.positions);
  FUSEDRAW_CHECK(fits, kOp, ": ", name, " must be [", width, "], [", x.rows, ", ", width, "] or [",
                 x.rows, ", ", x.positions, ", ", width, "], got ", shape_text(t));
  hold = t.stride(dim - 1) == 1 || width == 1 ? t : torch::stable::contiguous(t);
  m.mask.kind = bits ? MaskView::Kind::kBits : MaskView::Kind::kBool;
  m.mask.data = hold.const_data_ptr();
  m.mask.row_stride = dim > 1 && t.size(0) > 1 ? hold.stride(0) : 0;
  m.position_stride = dim == 3 && t.size(1) > 1 ? hold.stride(1) : 0;
  return m;
}

// mode: bits 0-1 and 2 order and ties of the target, 3-4 and 5 those of the draft.
Options options_of(int64_t bits, int64_t mode) {
  FUSEDRAW_CHECK((bits & 3) != 3, kOp, ": mode bits out of range: ", mode);
  Options o;
  o.order = FilterOrder(bits & 3);
  o.ties_all = bits & 4;
  return o;
}

}  // namespace

VerifyTensors::VerifyTensors(const Tensor& draft_ids, const Tensor& draft_logits,
                             const Tensor& target_logits, const Tensor& draft_params,
                             const Tensor& params, const Tensor& keys,
                             const OptionalTensor& draft_mask, const OptionalTensor& mask,
                             const OptionalTensor& n_draft, int64_t mode, bool wants_logp)
    : raise(mode & 128),
      device(target_logits.device()),
      ids(keys),
      n_accepted(keys),
      status(keys),
      logp(keys),
      target_logits_(keys),
      draft_logits_(keys),
      draft_ids_(keys),
      n_draft_(keys),
      draft_params_(keys),
      params_(keys),
      keys_(keys),
      draft_mask_(keys),
      mask_(keys) {
  FUSEDRAW_CHECK((mode & ~int64_t{0xbf}) == 0, op, ": mode bits out of range: ", mode);
  FUSEDRAW_CHECK(target_logits.dim() == 3 && target_logits.size(1) > 0, op,
                 ": target_logits must be [B, G + 1, V], got ", shape_text(target_logits));
  const int64_t rows = target_logits.size(0), drafts = target_logits.size(1) - 1,
                cols = target_logits.size(2);
  VerifySide &target = call.target, &draft = call.draft;
  target.x = checked_positions("target_logits", target_logits, rows, drafts + 1, cols, device,
                               target_logits_);
  draft.x =
      checked_positions("draft_logits", draft_logits, rows, drafts, cols, device, draft_logits_);
  target.mask = checked_positions_mask("mask", mask, target.x, device, mask_);
  draft.mask = checked_positions_mask("draft_mask", draft_mask, draft.x, device, draft_mask_);
  target.params = checked_params(op, params, rows, device, params_);
  draft.params = checked_params(op, draft_params, rows, device, draft_params_);
  target.options = options_of(mode & 7, mode);
  draft.options = options_of(mode >> 3 & 7, mode);
  call.x.rows = rows;
  call.x.cols = cols;
  call.drafts = drafts;
  call.keys = checked_keys(op, keys, rows, device, keys_);
  check_device(op, "draft_ids", draft_ids, device);
  FUSEDRAW_CHECK(draft_ids.scalar_type() == ScalarType::Long && draft_ids.dim() == 2 &&
                     draft_ids.size(0) == rows && draft_ids.size(1) == drafts,
                 op, ": draft_ids must be int64 [", rows, ", ", drafts, "], got ",
                 shape_text(draft_ids));
  draft_ids_ = torch::stable::contiguous(draft_ids);
  call.draft_ids = static_cast<const int64_t*>(draft_ids_.const_data_ptr());
  if (n_draft) {
    check_device(op, "n_draft", *n_draft, device);
    FUSEDRAW_CHECK(n_draft->scalar_type() == ScalarType::Long && n_draft->dim() == 1 &&
                       n_draft->size(0) == rows,
                   op, ": n_draft must be int64 [", rows, "], got ", shape_text(*n_draft));
    n_draft_ = torch::stable::contiguous(*n_draft);
    call.n_draft = static_cast<const int64_t*>(n_draft_.const_data_ptr());
  }
  ids = new_tensor({rows, drafts + 1}, ScalarType::Long, device);
  n_accepted = new_tensor({rows}, ScalarType::Long, device);
  status = new_tensor({rows}, ScalarType::Byte, device);
  logp = new_tensor({wants_logp ? rows : 0, drafts + 1}, ScalarType::Float, device);
  call.ids = data<int64_t>(ids);
  call.n_accepted = data<int64_t>(n_accepted);
  call.status = data<uint8_t>(status);
  if (wants_logp) call.logp = data<float>(logp);
}

// BAD_PARAM says more here than elsewhere.
void raise_bad_verdicts(const uint8_t* status, int64_t rows) {
  const uint8_t* bad = std::find_if(status, status + rows, [](uint8_t s) { return s != kOk; });
  FUSEDRAW_CHECK(bad == status + rows || *bad != kBadParam, "fusedraw-bad-row: ", kOp, ": row ",
                 bad - status,
                 " has status BAD_PARAM: a parameter is NaN or outside its range, n_draft is not "
                 "between 0 and G, or a draft is no token that the draft's law can give");
  raise_bad_rows(kOp, status, rows);
}

}  // namespace fusedraw
