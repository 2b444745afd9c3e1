// SPDX-License-Identifier: Apache-2.0
#include "checks.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>

namespace fusedraw {
namespace {

using torch::headeronly::ScalarType;

const char* dtype_text(ScalarType t) { return torch::headeronly::toString(t); }

std::string device_text(const Device& d) {
  const auto index = [&] { return d.index() < 0 ? "" : ":" + std::to_string(d.index()); };
  if (d.type() == torch::headeronly::DeviceType::CPU) return "cpu";
  if (d.type() == torch::headeronly::DeviceType::CUDA) return "cuda" + index();
  return "device type " + std::to_string(int(d.type())) + index();
}

const char* status_text(uint8_t s) {
  switch (s) {
    case kBadParam:
      return "BAD_PARAM: a parameter is NaN or outside its range, a probability is negative, or a "
             "listed id lies outside the row or twice in a bias";
    case kNan:
      return "NAN: an allowed value is NaN";
    case kPosInf:
      return "POS_INF: an allowed value is +inf";
    default:
      return "EMPTY: nothing is left to draw from";
  }
}

}  // namespace

Mode parse_mode(int64_t mode, bool processed) {
  FUSEDRAW_CHECK(mode >= 0 && mode < (processed ? 1024 : 512) && (mode & 3) != 3,
                 "fusedraw: mode bits out of range: ", mode);
  Mode m;
  m.options.order = FilterOrder(mode & 3);
  m.options.ties_all = mode & 4;
  m.options.mix_valid = mode & 8;
  m.options.domain = uint32_t(mode >> 4 & 3);
  m.options.probs = mode & 64;
  m.raise = mode & 128;
  m.options.keep_zero = mode & 256;
  m.options.temperature_last = mode & 512;
  return m;
}

Mode parse_softmax_mode(int64_t mode) {
  FUSEDRAW_CHECK((mode & ~int64_t{129}) == 0, "softmax: mode bits out of range: ", mode);
  Mode m;
  m.log = mode & 1;
  m.raise = mode & 128;
  return m;
}

std::string shape_text(const Tensor& t) {
  std::string s = dtype_text(t.scalar_type());
  s += " [";
  for (int64_t d = 0; d < t.dim(); ++d) s += (d ? ", " : "") + std::to_string(t.size(d));
  return s + "]";
}

void check_device(const char* op, const char* name, const Tensor& t, const Device& device) {
  const Device own = t.device();
  FUSEDRAW_CHECK(own == device, op, ": ", name, " must be on ", device_text(device),
                 " like the rest, got ", device_text(own));
}

Tensor checked_rows(const char* op, const char* name, const Tensor& x) {
  const ScalarType t = x.scalar_type();
  FUSEDRAW_CHECK(t == ScalarType::Float || t == ScalarType::BFloat16 || t == ScalarType::Half, op,
                 ": ", name, " must be float32, bfloat16 or float16, got ", shape_text(x));
  FUSEDRAW_CHECK(x.dim() == 2, op, ": ", name, " must be [B, V], got ", shape_text(x));
  FUSEDRAW_CHECK(x.size(1) > 0 && x.size(1) <= kMaxVocab, op, ": ", name,
                 " must have between 1 and 2^33 columns, got ", shape_text(x));
  if (x.size(1) > 1 && x.size(0) > 0 && x.stride(1) != 1) return torch::stable::contiguous(x);
  return x;
}

RowsView rows_view(const Tensor& x) {
  RowsView v;
  v.data = x.const_data_ptr();
  const ScalarType t = x.scalar_type();
  v.dtype = t == ScalarType::Float      ? DType::kFloat32
            : t == ScalarType::BFloat16 ? DType::kBFloat16
                                        : DType::kFloat16;
  v.rows = x.size(0);
  v.cols = x.size(1);
  v.row_stride = x.stride(0);
  return v;
}

MaskView checked_mask(const char* op, const std::optional<Tensor>& mask, const RowsView& x,
                      const Device& device, Tensor& hold) {
  MaskView m;
  if (!mask.has_value()) return m;
  const Tensor& t = *mask;
  check_device(op, "mask", t, device);
  const bool bits = t.scalar_type() == ScalarType::Int;
  FUSEDRAW_CHECK(bits || t.scalar_type() == ScalarType::Bool, op,
                 ": mask must be bool (True = allowed) or int32 words (bit set = allowed), got ",
                 shape_text(t));
  const int64_t width = bits ? (x.cols + 31) / 32 : x.cols;
  const int64_t dim = t.dim();
  const bool fits = (dim == 1 || (dim == 2 && (t.size(0) == 1 || t.size(0) == x.rows))) &&
                    t.size(dim - 1) == width;
  FUSEDRAW_CHECK(fits, op, ": mask must be [", width, "] or [", x.rows, ", ", width, "], got ",
                 shape_text(t));
  hold = t.stride(dim - 1) == 1 || width == 1 ? t : torch::stable::contiguous(t);
  m.kind = bits ? MaskView::Kind::kBits : MaskView::Kind::kBool;
  m.data = hold.const_data_ptr();
  m.row_stride = dim == 2 && t.size(0) > 1 ? hold.stride(0) : 0;
  return m;
}

const double* checked_numbers(const char* op, const char* name, const Tensor& t, int64_t rows,
                              int columns, const Device& device, Tensor& hold, double* by_value,
                              int64_t& row_stride) {
  FUSEDRAW_CHECK(t.scalar_type() == ScalarType::Double && t.dim() == 2 &&
                     (t.size(0) == 1 || t.size(0) == rows) && t.size(1) == columns,
                 op, ": ", name, " must be float64 [1 or ", rows, ", ", columns, "], got ",
                 shape_text(t));
  hold = t.is_contiguous() ? t : torch::stable::contiguous(t);
  const double* data = static_cast<const double*>(hold.const_data_ptr());
  row_stride = t.size(0) == 1 ? 0 : columns;
  if (row_stride == 0 && t.is_cpu()) {
    std::copy_n(data, columns, by_value);
    if (device != t.device()) return nullptr;
  }
  check_device(op, name, t, device);
  return data;
}

IdLists checked_ids(const char* op, const char* name, const std::optional<Tensor>& ids,
                    const std::optional<Tensor>& offsets, int64_t rows, const Device& device,
                    Tensor& hold, Tensor& hold_offsets) {
  IdLists l;
  if (!ids.has_value()) {
    FUSEDRAW_CHECK(!offsets.has_value(), op, ": ", name, " has offsets but no ids");
    return l;
  }
  check_device(op, name, *ids, device);
  l.wide = ids->scalar_type() == ScalarType::Long;
  FUSEDRAW_CHECK(l.wide || ids->scalar_type() == ScalarType::Int, op, ": ", name,
                 " must be int32 or int64, got ", shape_text(*ids));
  if (!offsets.has_value()) {
    FUSEDRAW_CHECK(ids->dim() == 2 && (ids->size(0) == 1 || ids->size(0) == rows), op, ": ", name,
                   " must be [", rows, ", L] without offsets, got ", shape_text(*ids));
    hold = ids->stride(1) == 1 || ids->size(1) <= 1 ? *ids : torch::stable::contiguous(*ids);
    l.length = ids->size(1);
    l.row_stride = ids->size(0) == 1 ? 0 : hold.stride(0);
  } else {
    FUSEDRAW_CHECK(ids->dim() == 1, op, ": ", name, " must be [N] beside offsets, got ",
                   shape_text(*ids));
    check_device(op, name, *offsets, device);
    const bool one = offsets->dim() == 1 && offsets->size(0) == 2;
    FUSEDRAW_CHECK(offsets->scalar_type() == ScalarType::Long && offsets->dim() == 1 &&
                       (one || offsets->size(0) == rows + 1),
                   op, ": offsets of ", name, " must be int64 [", rows + 1, "] or [2], got ",
                   shape_text(*offsets));
    hold = torch::stable::contiguous(*ids);
    hold_offsets = torch::stable::contiguous(*offsets);
    l.offsets = static_cast<const int64_t*>(hold_offsets.const_data_ptr());
    l.offsets_stride = one ? 0 : 1;
    l.total = ids->size(0);
    if (device.is_cpu()) {
      const int64_t n = offsets->size(0);
      bool fits = l.offsets[0] == 0 && l.offsets[n - 1] == l.total;
      for (int64_t i = 1; i < n; ++i) fits = fits && l.offsets[i - 1] <= l.offsets[i];
      FUSEDRAW_CHECK(fits, op, ": offsets of ", name, " must rise from 0 to the ", l.total,
                     " ids there are");
    }
  }
  l.ids = hold.const_data_ptr();
  // No list at all, so that rows without edits stay on the shorter road.
  if ((l.offsets == nullptr ? l.length : l.total) == 0) return {};
  return l;
}

KeysView checked_keys(const char* op, const Tensor& keys, int64_t rows, const Device& device,
                      Tensor& hold) {
  check_device(op, "keys", keys, device);
  FUSEDRAW_CHECK(
      (keys.scalar_type() == ScalarType::Long || keys.scalar_type() == ScalarType::UInt64) &&
          keys.dim() == 2 && keys.size(0) == rows && keys.size(1) == 2,
      op, ": keys must be int64 or uint64 [", rows, ", 2], got ", shape_text(keys));
  hold = keys.is_contiguous() ? keys : torch::stable::contiguous(keys);
  KeysView v;
  v.data = static_cast<const uint64_t*>(hold.const_data_ptr());
  return v;
}

int64_t checked_vector(const char* op, const char* name, const Tensor& t, int64_t rows,
                       ScalarType dtype) {
  FUSEDRAW_CHECK(t.scalar_type() == dtype && t.dim() == 1 && (t.size(0) == 1 || t.size(0) == rows),
                 op, ": ", name, " must be ", dtype_text(dtype), " of length 1 or ", rows, ", got ",
                 shape_text(t));
  return t.size(0) == 1 ? 0 : t.stride(0);
}

void raise_bad_rows(const char* op, const uint8_t* status, int64_t rows) {
  for (int64_t i = 0; i < rows; ++i)
    FUSEDRAW_CHECK(status[i] == kOk, "fusedraw-bad-row: ", op, ": row ", i, " has status ",
                   status_text(status[i]));
}

}  // namespace fusedraw
