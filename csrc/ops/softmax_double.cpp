// SPDX-License-Identifier: Apache-2.0
#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "calls.h"

namespace fusedraw {
namespace {

void softmax_double_row(const double* x, const MaskView& mask, int64_t row, int64_t cols,
                        double temperature, bool log, double* out, uint8_t& status) {
  const double inf = std::numeric_limits<double>::infinity();
  double m = -inf;
  int64_t first = -1;
  bool nan = false;
  for (int64_t i = 0; i < cols; ++i) {
    if (!mask_allows(mask, row, i)) continue;
    nan |= x[i] != x[i];
    if (x[i] > m) m = x[i], first = i;
  }
  status = !(temperature >= 0) ? kBadParam
           : nan               ? kNan
           : m == inf          ? kPosInf
           : m == -inf         ? kEmpty
                               : kOk;
  if (status != kOk) {
    std::fill(out, out + cols, std::numeric_limits<double>::quiet_NaN());
    return;
  }
  double s = 0;
  for (int64_t i = 0; i < cols; ++i) {
    const bool valid = mask_allows(mask, row, i) && x[i] > -inf;
    const double t = !valid                 ? -inf
                     : temperature == 0     ? (i == first ? 0 : -inf)
                     : temperature > 0x1p64 ? 0
                                            : (x[i] - m) / temperature;
    out[i] = t;
    s += std::exp(t);
  }
  const double ls = std::log(s);
  for (int64_t i = 0; i < cols; ++i) out[i] = log ? out[i] - ls : std::exp(out[i]) / s;
}

}  // namespace

std::tuple<Tensor, Tensor> softmax_double(const Tensor& logits, const Tensor& temperature,
                                          const OptionalTensor& mask, const Mode& mode) {
  FUSEDRAW_CHECK(logits.dim() == 2 && logits.size(1) > 0,
                 "softmax: logits must be [B, V], V >= 1, got ", shape_text(logits));
  const Tensor x = torch::stable::contiguous(logits);
  RowsView view;
  view.rows = x.size(0);
  view.cols = x.size(1);
  Tensor hold = x;
  const MaskView m = checked_mask("softmax", mask, view, x.device(), hold);
  const int64_t stride =
      checked_vector("softmax", "temperature", temperature, view.rows, ScalarType::Double);
  Tensor out = new_tensor({view.rows, view.cols}, ScalarType::Double, x.device());
  Tensor status = new_tensor({view.rows}, ScalarType::Byte, x.device());
  for (int64_t r = 0; r < view.rows; ++r)
    softmax_double_row(static_cast<const double*>(x.const_data_ptr()) + r * view.cols, m, r,
                       view.cols,
                       // Parameters are float32 on every path.
                       float(static_cast<const double*>(temperature.const_data_ptr())[r * stride]),
                       mode.log, data<double>(out) + r * view.cols, data<uint8_t>(status)[r]);
  if (mode.raise) raise_bad_rows("softmax", data<uint8_t>(status), view.rows);
  return {out, status};
}

}  // namespace fusedraw
