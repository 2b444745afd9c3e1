// SPDX-License-Identifier: Apache-2.0
// Metadata checks of the operators, once for every device: what was got, what is allowed.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>

#include "../core/mixture.h"

namespace fusedraw {

using torch::stable::Device;
using torch::stable::Tensor;

// Unlike torch's own check macro, the message is the text alone, without a C++ location.
template <typename... Parts>
[[noreturn]] void fail(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  throw std::runtime_error(text.str());
}
#define FUSEDRAW_CHECK(condition, ...)               \
  do {                                               \
    if (!(condition)) ::fusedraw::fail(__VA_ARGS__); \
  } while (false)

// Bits of the `mode` argument of the operators.
struct Mode {
  Options options;
  bool raise = false;
  bool log = false;  // softmax only
};
Mode parse_mode(int64_t mode, bool processed = false);
Mode parse_softmax_mode(int64_t mode);

std::string shape_text(const Tensor& t);
void check_device(const char* op, const char* name, const Tensor& t, const Device& device);
// A 2-D tensor of float32, bfloat16 or float16 with unit column stride (copied if it has none).
Tensor checked_rows(const char* op, const char* name, const Tensor& x);
RowsView rows_view(const Tensor& x);
// On `device`, the rows' own. `hold` keeps a converted copy alive.
MaskView checked_mask(const char* op, const std::optional<Tensor>& mask, const RowsView& x,
                      const Device& device, Tensor& hold);
// Rows of numbers. One row may come from the CPU to any device: its values are then in `by_value`,
// and null comes back.
const double* checked_numbers(const char* op, const char* name, const Tensor& t, int64_t rows,
                              int columns, const Device& device, Tensor& hold, double* by_value,
                              int64_t& row_stride);
template <int kMost>
NumbersView<kMost> checked_numbers(const char* op, const char* name, const Tensor& t, int64_t rows,
                                   int columns, const Device& device, Tensor& hold) {
  NumbersView<kMost> v;
  v.data = checked_numbers(op, name, t, rows, columns, device, hold, v.row, v.row_stride);
  return v;
}
inline ParamsView checked_params(const char* op, const Tensor& params, int64_t rows,
                                 const Device& device, Tensor& hold, int columns = kParamColumns) {
  return checked_numbers<kParamColumns>(op, "params", params, rows, columns, device, hold);
}
// Ids of every row; `hold` and `hold_offsets` keep copies alive. Offsets on the CPU are checked.
IdLists checked_ids(const char* op, const char* name, const std::optional<Tensor>& ids,
                    const std::optional<Tensor>& offsets, int64_t rows, const Device& device,
                    Tensor& hold, Tensor& hold_offsets);
KeysView checked_keys(const char* op, const Tensor& keys, int64_t rows, const Device& device,
                      Tensor& hold);
// A float64 or int64 vector of length 1 or `rows`; returns the stride to walk it with.
int64_t checked_vector(const char* op, const char* name, const Tensor& t, int64_t rows,
                       torch::headeronly::ScalarType dtype);
// Throws when some row is bad. `status` is host memory.
void raise_bad_rows(const char* op, const uint8_t* status, int64_t rows);

}  // namespace fusedraw
