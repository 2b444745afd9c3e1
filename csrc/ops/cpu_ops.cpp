// SPDX-License-Identifier: Apache-2.0
// CPU implementations: tensors to views, the engine in use, outputs back.
//
// mode:    bits 0-1 filter order (sequential, joint, min_p_first), 2 ties="all", 3
// mix_support="valid",
//          4-5 noise domain, 6 rows hold probabilities, 7 raise on a bad row, 8 keep weightless
//          tokens. softmax: bit 0 log, bit 7 raise.
// outputs: bits in the order of kOutputs; `kept` gives ids and offsets.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include <cmath>
#include <vector>

#include "checks.h"
#include "parallel.h"
#include "registry.h"

namespace fusedraw {
namespace {

using torch::headeronly::ScalarType;

Tensor new_cpu(std::initializer_list<int64_t> shape, ScalarType dtype) {
  return torch::stable::empty(torch::headeronly::IntHeaderOnlyArrayRef(shape.begin(), shape.size()),
                              dtype);
}
template <typename T>
T* data(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

enum OutputBit {
  kStatusBit = 1 << 0,
  kLogpBit = 1 << 1,
  kLogpFullBit = 1 << 2,
  kLogpRawBit = 1 << 3,
  kEntropyBit = 1 << 4,
  kVarentropyBit = 1 << 5,
  kMarginBit = 1 << 6,
  kNKeptBit = 1 << 7,
  kKeptMassBit = 1 << 8,
  kRankBit = 1 << 9,
  kExploredBit = 1 << 10,
  kKeptBit = 1 << 11,
  kLogitsOnlyBits = kLogpFullBit | kLogpRawBit | kEntropyBit | kVarentropyBit,
  kAllBits = (1 << 12) - 1,
};

// Kept ids of each row until all are known; then one CSR pair.
struct KeptRows {
  std::vector<std::vector<int32_t>> rows;
  static int32_t* reserve(void* context, int64_t row, int64_t n) {
    auto& ids = static_cast<KeptRows*>(context)->rows[size_t(row)];
    ids.resize(size_t(n));
    return ids.data();
  }
  void store(std::vector<Tensor>& results) const {
    Tensor offsets = new_cpu({int64_t(rows.size()) + 1}, ScalarType::Long);
    int64_t* o = data<int64_t>(offsets);
    o[0] = 0;
    for (size_t i = 0; i < rows.size(); ++i) o[i + 1] = o[i] + int64_t(rows[i].size());
    Tensor ids = new_cpu({o[rows.size()]}, ScalarType::Int);
    for (size_t i = 0; i < rows.size(); ++i)
      std::copy(rows[i].begin(), rows[i].end(), data<int32_t>(ids) + o[i]);
    results.push_back(ids);
    results.push_back(offsets);
  }
};

std::vector<Tensor> sample_cpu(const Tensor& logits, const Tensor& params, const Tensor& keys,
                               std::optional<Tensor> mask, int64_t mode_bits, int64_t outputs,
                               int64_t top_n) {
  const Mode mode = parse_mode(mode_bits);
  const char* op = mode.options.probs ? "sample_probs" : "sample";
  const Tensor x = checked_rows(op, mode.options.probs ? "probs" : "logits", logits);
  Tensor hold_mask = x, hold_params = x, hold_keys = x;
  SampleCall call;
  call.x = rows_view(x);
  const int64_t rows = call.x.rows;
  call.options = mode.options;
  call.mask = checked_mask(op, mask, call.x, hold_mask);
  call.params = checked_params(op, params, rows, hold_params);
  call.keys = checked_keys(op, keys, rows, hold_keys);
  FUSEDRAW_CHECK(outputs >= 0 && outputs <= kAllBits && top_n >= 0, op,
                 ": outputs or top_n out of range: ", outputs, ", ", top_n);
  FUSEDRAW_CHECK(!mode.options.probs || (!(outputs & kLogitsOnlyBits) && top_n == 0), op,
                 ": logp_full, logp_raw, entropy, varentropy and top_n need logits");
  FUSEDRAW_CHECK(!(outputs & kKeptBit) || call.x.cols <= INT32_MAX, op,
                 ": kept ids are int32, V must be below 2^31, got ", call.x.cols);

  std::vector<Tensor> results;
  results.reserve(4);
  results.push_back(new_cpu({rows}, ScalarType::Long));
  call.out.ids = data<int64_t>(results[0]);
  const auto add = [&](int bit, ScalarType dtype, auto*& pointer) {
    if (!(outputs & bit)) return;
    results.push_back(new_cpu({rows}, dtype));
    pointer = data<std::remove_reference_t<decltype(*pointer)>>(results.back());
  };
  add(kStatusBit, ScalarType::Byte, call.out.status);
  add(kLogpBit, ScalarType::Float, call.out.logp);
  add(kLogpFullBit, ScalarType::Float, call.out.logp_full);
  add(kLogpRawBit, ScalarType::Float, call.out.logp_raw);
  add(kEntropyBit, ScalarType::Float, call.out.entropy);
  add(kVarentropyBit, ScalarType::Float, call.out.varentropy);
  add(kMarginBit, ScalarType::Float, call.out.margin);
  add(kNKeptBit, ScalarType::Long, call.out.n_kept);
  add(kKeptMassBit, ScalarType::Float, call.out.kept_mass);
  add(kRankBit, ScalarType::Long, call.out.rank);
  add(kExploredBit, ScalarType::Bool, call.out.explored);
  KeptRows kept;
  if (outputs & kKeptBit) {
    kept.rows.resize(size_t(rows));
    call.out.kept = {&kept, KeptRows::reserve};
  }
  std::vector<Tensor> top;
  if (top_n > 0) {
    top = {new_cpu({rows, top_n}, ScalarType::Long), new_cpu({rows, top_n}, ScalarType::Float)};
    call.out.top_ids = data<int64_t>(top[0]);
    call.out.top_logps = data<float>(top[1]);
    call.out.top_n = top_n;
  }
  std::vector<uint8_t> own_status;
  if (mode.raise && call.out.status == nullptr) {
    own_status.resize(size_t(rows));
    call.out.status = own_status.data();
  }
  call.forced = forced_noise().data();
  call.n_forced = int64_t(forced_noise().size());
  for_rows(call, current_engine().sample_row);
  if (mode.raise) raise_bad_rows(op, call.out.status, rows);
  if (outputs & kKeptBit) kept.store(results);
  for (Tensor& t : top) results.push_back(t);
  return results;
}

// ASCII "KEYS": keeps derived keys apart from any counter of the noise.
constexpr uint32_t kDeriveTag = 0x4B455953u;

void derive_key(uint64_t seed, uint64_t request, uint64_t sample, int64_t step, int64_t* out) {
  const Philox4 h = philox4x32_10(uint32_t(seed), uint32_t(seed >> 32), uint32_t(request),
                                  uint32_t(request >> 32), uint32_t(sample), kDeriveTag);
  out[0] = int64_t(uint64_t(h.o1) << 32 | h.o0);
  out[1] = step;
}

Tensor row_keys_cpu(const Tensor& logits, int64_t seed, int64_t step) {
  FUSEDRAW_CHECK(logits.dim() == 2, "row_keys: logits must be [B, V], got ", shape_text(logits));
  const int64_t rows = logits.size(0);
  Tensor keys = new_cpu({rows, 2}, ScalarType::Long);
  for (int64_t i = 0; i < rows; ++i)
    derive_key(uint64_t(seed), uint64_t(i), 0, step, data<int64_t>(keys) + 2 * i);
  return keys;
}

Tensor derive_keys_cpu(const Tensor& seed, const Tensor& request_ids, const Tensor& sample_ids,
                       const Tensor& step) {
  const char* op = "derive_keys";
  int64_t rows = 1;
  for (const Tensor* t : {&seed, &request_ids, &sample_ids, &step})
    if (t->dim() == 1 && t->size(0) != 1) rows = t->size(0);
  const Tensor* inputs[4] = {&seed, &request_ids, &sample_ids, &step};
  const char* names[4] = {"seed", "request_ids", "sample_ids", "step"};
  const int64_t* p[4];
  int64_t stride[4];
  for (int i = 0; i < 4; ++i) {
    stride[i] = checked_vector(op, names[i], *inputs[i], rows, ScalarType::Long);
    p[i] = static_cast<const int64_t*>(inputs[i]->const_data_ptr());
  }
  Tensor keys = new_cpu({rows, 2}, ScalarType::Long);
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t sample = p[2][i * stride[2]];
    FUSEDRAW_CHECK(sample >= 0 && sample <= UINT32_MAX, op,
                   ": sample_ids must lie in [0, 2^32), got ", sample, " in row ", i);
    derive_key(uint64_t(p[0][i * stride[0]]), uint64_t(p[1][i * stride[1]]), uint64_t(sample),
               p[3][i * stride[3]], data<int64_t>(keys) + 2 * i);
  }
  return keys;
}

// The float64 path: the formula in double, for gradient checks. No promise of bits.
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

std::tuple<Tensor, Tensor> softmax_double(const Tensor& logits, const Tensor& temperature,
                                          const std::optional<Tensor>& mask, const Mode& mode) {
  FUSEDRAW_CHECK(logits.dim() == 2 && logits.size(1) > 0,
                 "softmax: logits must be [B, V], V >= 1, got ", shape_text(logits));
  const Tensor x = torch::stable::contiguous(logits);
  RowsView view;
  view.rows = x.size(0);
  view.cols = x.size(1);
  Tensor hold = x;
  const MaskView m = checked_mask("softmax", mask, view, hold);
  const int64_t stride =
      checked_vector("softmax", "temperature", temperature, view.rows, ScalarType::Double);
  Tensor out = new_cpu({view.rows, view.cols}, ScalarType::Double);
  Tensor status = new_cpu({view.rows}, ScalarType::Byte);
  for (int64_t r = 0; r < view.rows; ++r)
    softmax_double_row(static_cast<const double*>(x.const_data_ptr()) + r * view.cols, m, r,
                       view.cols,
                       // Parameters are float32 on every path.
                       float(static_cast<const double*>(temperature.const_data_ptr())[r * stride]),
                       mode.log, data<double>(out) + r * view.cols, data<uint8_t>(status)[r]);
  if (mode.raise) raise_bad_rows("softmax", data<uint8_t>(status), view.rows);
  return {out, status};
}

std::tuple<Tensor, Tensor> softmax_cpu(const Tensor& logits, const Tensor& temperature,
                                       std::optional<Tensor> mask, int64_t mode_bits) {
  const Mode mode = parse_softmax_mode(mode_bits);
  if (logits.scalar_type() == ScalarType::Double)
    return softmax_double(logits, temperature, mask, mode);
  const char* op = mode.log ? "log_softmax" : "softmax";
  const Tensor x = checked_rows(op, "logits", logits);
  Tensor hold = x;
  SoftmaxCall call;
  call.x = rows_view(x);
  call.mask = checked_mask(op, mask, call.x, hold);
  call.temperature_stride =
      checked_vector(op, "temperature", temperature, call.x.rows, ScalarType::Double);
  call.temperature = static_cast<const double*>(temperature.const_data_ptr());
  call.log = mode.log;
  Tensor out = new_cpu({call.x.rows, call.x.cols}, ScalarType::Float);
  Tensor status = new_cpu({call.x.rows}, ScalarType::Byte);
  call.out = data<float>(out);
  call.status = data<uint8_t>(status);
  for_rows(call, current_engine().softmax_row);
  if (mode.raise) raise_bad_rows(op, call.status, call.x.rows);
  return {out, status};
}

std::tuple<Tensor, Tensor> filter_cpu(const Tensor& values, const Tensor& params,
                                      std::optional<Tensor> mask, int64_t mode_bits, int64_t kind) {
  const Mode mode = parse_mode(mode_bits);
  FUSEDRAW_CHECK(kind == 0 || kind == 1, "filter: kind must be 0 (mask) or 1 (renorm), got ", kind);
  const char* op = kind == 0 ? "mask" : "renorm";
  const Tensor x = checked_rows(op, mode.options.probs ? "probs" : "logits", values);
  Tensor hold_mask = x, hold_params = x;
  FilterCall call;
  call.x = rows_view(x);
  call.options = mode.options;
  call.mask = checked_mask(op, mask, call.x, hold_mask);
  call.params = checked_params(op, params, call.x.rows, hold_params);
  call.renorm = kind == 1;
  Tensor out =
      new_cpu({call.x.rows, call.x.cols}, call.renorm ? ScalarType::Float : x.scalar_type());
  Tensor status = new_cpu({call.x.rows}, ScalarType::Byte);
  call.out = out.mutable_data_ptr();
  call.status = data<uint8_t>(status);
  for_rows(call, current_engine().filter_row);
  if (mode.raise) raise_bad_rows(op, call.status, call.x.rows);
  return {out, status};
}

std::tuple<Tensor, Tensor> multinomial_cpu(const Tensor& probs, const Tensor& keys,
                                           int64_t num_samples, bool replacement,
                                           int64_t mode_bits) {
  const Mode mode = parse_mode(mode_bits);
  const char* op = "multinomial";
  const Tensor x = checked_rows(op, "input", probs);
  Tensor hold = x;
  MultinomialCall call;
  call.x = rows_view(x);
  call.keys = checked_keys(op, keys, call.x.rows, hold);
  FUSEDRAW_CHECK(num_samples > 0 && num_samples <= int64_t(UINT32_MAX), op,
                 ": num_samples must lie in [1, 2^32), got ", num_samples);
  call.num_samples = num_samples;
  call.replacement = replacement;
  Tensor ids = new_cpu({call.x.rows, num_samples}, ScalarType::Long);
  Tensor status = new_cpu({call.x.rows}, ScalarType::Byte);
  call.ids = data<int64_t>(ids);
  call.status = data<uint8_t>(status);
  call.forced = forced_noise().data();
  call.n_forced = int64_t(forced_noise().size());
  for_rows(call, current_engine().multinomial_row);
  if (mode.raise) raise_bad_rows(op, call.status, call.x.rows);
  return {ids, status};
}

}  // namespace
}  // namespace fusedraw

STABLE_TORCH_LIBRARY_IMPL(fusedraw, CPU, m) {
  m.impl("sample", TORCH_BOX(&fusedraw::sample_cpu));
  m.impl("row_keys", TORCH_BOX(&fusedraw::row_keys_cpu));
  m.impl("derive_keys", TORCH_BOX(&fusedraw::derive_keys_cpu));
  m.impl("softmax", TORCH_BOX(&fusedraw::softmax_cpu));
  m.impl("filter", TORCH_BOX(&fusedraw::filter_cpu));
  m.impl("multinomial", TORCH_BOX(&fusedraw::multinomial_cpu));
}
