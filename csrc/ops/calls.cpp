// SPDX-License-Identifier: Apache-2.0
#include "calls.h"

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <type_traits>

namespace fusedraw {

// Not torch::stable::empty: that looks its operator up by name, which takes as long as all checks.
Tensor new_tensor(std::initializer_list<int64_t> shape, ScalarType dtype, const Device& device) {
  using torch::stable::detail::from;
  using torch::stable::detail::to;
  constexpr size_t kMostDims = 4;
  FUSEDRAW_CHECK(shape.size() <= kMostDims, "fusedraw: a tensor of ", shape.size(), " dimensions");
  int64_t strides[kMostDims];
  int64_t stride = 1;
  for (size_t d = shape.size(); d-- > 0;) {
    strides[d] = stride;
    stride *= std::max<int64_t>(shape.begin()[d], 1);
  }
  AtenTensorHandle made = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      int64_t(shape.size()), shape.begin(), strides, to<int32_t>(from(dtype)),
      to<int32_t>(from(device.type())), device.index(), &made));
  return Tensor(made);
}

namespace {

// The vectors of B that `outputs` names, ids first.
void add_outputs(SampleOutputs& out, int64_t rows, const Device& device, int64_t outputs,
                 DrawResults& to) {
  std::vector<Tensor>& results = to.results;
  results.reserve(4);
  results.push_back(new_tensor({rows}, ScalarType::Long, device));
  out.ids = data<int64_t>(results[0]);
  const auto add = [&](int bit, ScalarType dtype, auto*& pointer) {
    if (!(outputs & bit)) return;
    results.push_back(new_tensor({rows}, dtype, device));
    pointer = data<std::remove_reference_t<decltype(*pointer)>>(results.back());
    if (bit == kStatusBit) to.status = results.back();
    if (bit == kNKeptBit) to.n_kept = results.back();
  };
  add(kStatusBit, ScalarType::Byte, out.status);
  add(kLogpBit, ScalarType::Float, out.logp);
  add(kLogpFullBit, ScalarType::Float, out.logp_full);
  add(kLogpRawBit, ScalarType::Float, out.logp_raw);
  add(kEntropyBit, ScalarType::Float, out.entropy);
  add(kVarentropyBit, ScalarType::Float, out.varentropy);
  add(kMarginBit, ScalarType::Float, out.margin);
  add(kNKeptBit, ScalarType::Long, out.n_kept);
  add(kKeptMassBit, ScalarType::Float, out.kept_mass);
  add(kRankBit, ScalarType::Long, out.rank);
  add(kExploredBit, ScalarType::Bool, out.explored);
}

// The rows of every member: one shape, dtype and device.
std::vector<Tensor> checked_members(const char* op, const std::vector<Tensor>& members) {
  FUSEDRAW_CHECK(!members.empty() && members.size() <= size_t(kMaxMembers), op,
                 ": members must be 1 to ", kMaxMembers, " tensors, got ", members.size());
  std::vector<Tensor> rows;
  for (const Tensor& member : members) {
    rows.push_back(checked_rows(op, "each member", member));
    check_device(op, "members", member, members[0].device());
    FUSEDRAW_CHECK(member.scalar_type() == members[0].scalar_type() &&
                       member.size(0) == members[0].size(0) && member.size(1) == members[0].size(1),
                   op, ": members must have one shape and dtype, got ", shape_text(members[0]),
                   " and ", shape_text(member));
  }
  return rows;
}

}  // namespace

MixtureTensors::MixtureTensors(const std::vector<Tensor>& rows, const Tensor& weights,
                               const Tensor& params, const Tensor& keys, const OptionalTensor& mask,
                               int64_t how, int64_t mode_bits, int64_t outputs)
    : mode(parse_mode(mode_bits)),
      members(checked_members(op, rows)),
      device(members[0].device()),
      wants_kept(outputs & kKeptBit),
      mask_(members[0]),
      weights_(members[0]),
      params_(members[0]),
      keys_(members[0]) {
  FUSEDRAW_CHECK(how >= 0 && how <= int64_t(Combination::kContrastive), op,
                 ": how must be 0 to 4, got ", how);
  call.how = Combination(how);
  call.members = int(members.size());
  FUSEDRAW_CHECK(is_mean(call.how) || call.members == 2, op,
                 ": this combination takes two members, got ", call.members);
  for (int m = 0; m < call.members; ++m) call.member[m] = rows_view(members[size_t(m)]);
  call.x = call.member[0];
  const int64_t n = call.x.rows;
  FUSEDRAW_CHECK(!mode.options.probs && !mode.options.keep_zero, op,
                 ": mode bits out of range: ", mode_bits);
  call.options = mode.options;
  call.options.probs = call.how == Combination::kArithmetic;
  call.mask = checked_mask(op, mask, call.x, device, mask_);
  call.params = checked_params(op, params, n, device, params_);
  call.weights = checked_numbers<kMaxMembers>(
      op, "weights", weights, n, weight_columns(call.how, call.members), device, weights_);
  call.keys = checked_keys(op, keys, n, device, keys_);
  FUSEDRAW_CHECK(outputs >= 0 && (outputs & ~int64_t(kMixtureBits)) == 0, op,
                 ": outputs out of range: ", outputs);
  FUSEDRAW_CHECK(is_mean(call.how) || !(outputs & kMeanEntropyBit), op,
                 ": mean_entropy needs a mean");
  FUSEDRAW_CHECK(call.how == Combination::kArithmetic || !(outputs & kMutualInformationBit), op,
                 ": mutual_information needs the arithmetic mean");
  FUSEDRAW_CHECK(!wants_kept || call.x.cols <= INT32_MAX, op,
                 ": kept ids are int32, V must be below 2^31, got ", call.x.cols);
  add_outputs(call.out, n, device, outputs, *this);
  const auto add = [&](int bit, std::initializer_list<int64_t> shape, float*& pointer) {
    if (!(outputs & bit)) return;
    after_kept.push_back(new_tensor(shape, ScalarType::Float, device));
    pointer = data<float>(after_kept.back());
  };
  add(kMemberLogpBit, {call.members, n}, call.member_logp);
  add(kMemberEntropyBit, {call.members, n}, call.member_entropy);
  add(kMeanEntropyBit, {n}, call.mean_entropy);
  add(kMutualInformationBit, {n}, call.mutual_information);
}

SampleTensors::SampleTensors(const Tensor& logits, const Tensor& params, const Tensor& keys,
                             const OptionalTensor& mask, int64_t mode_bits, int64_t outputs,
                             int64_t top_n, bool processed)
    : mode(parse_mode(mode_bits, processed)),
      op(mode.options.probs ? "sample_probs" : "sample"),
      x(checked_rows(op, mode.options.probs ? "probs" : "logits", logits)),
      device(x.device()),
      wants_kept(outputs & kKeptBit),
      mask_(x),
      params_(x),
      keys_(x) {
  call.x = rows_view(x);
  const int64_t rows = call.x.rows;
  call.options = mode.options;
  call.mask = checked_mask(op, mask, call.x, device, mask_);
  call.params = checked_params(op, params, rows, device, params_);
  call.keys = checked_keys(op, keys, rows, device, keys_);
  FUSEDRAW_CHECK(outputs >= 0 && outputs <= kAllBits && top_n >= 0, op,
                 ": outputs or top_n out of range: ", outputs, ", ", top_n);
  FUSEDRAW_CHECK(!mode.options.probs || (!(outputs & kLogitsOnlyBits) && top_n == 0), op,
                 ": logp_full, logp_raw, entropy, varentropy and top_n need logits");
  FUSEDRAW_CHECK(!wants_kept || call.x.cols <= INT32_MAX, op,
                 ": kept ids are int32, V must be below 2^31, got ", call.x.cols);

  add_outputs(call.out, rows, device, outputs, *this);
  if (top_n > 0) {
    after_kept = {new_tensor({rows, top_n}, ScalarType::Long, device),
                  new_tensor({rows, top_n}, ScalarType::Float, device)};
    call.out.top_ids = data<int64_t>(after_kept[0]);
    call.out.top_logps = data<float>(after_kept[1]);
    call.out.top_n = top_n;
  }
}

void SampleTensors::add_rules(const Tensor& rules, const EditTensors& edits) {
  FUSEDRAW_CHECK(!mode.options.probs, op, ": rules need logits");
  const int64_t rows = call.x.rows;
  held_.assign(10, x);
  call.ruled = true;
  call.rules =
      checked_numbers<kRuleColumns>(op, "rules", rules, rows, kRuleColumns, device, held_[0]);
  EditsView& e = call.edits;
  e.history = checked_ids(op, "history", edits.history, edits.history_offsets, rows, device,
                          held_[1], held_[2]);
  e.prompt = checked_ids(op, "prompt", edits.prompt, edits.prompt_offsets, rows, device, held_[3],
                         held_[4]);
  e.suppress = checked_ids(op, "suppress", edits.suppress, edits.suppress_offsets, rows, device,
                           held_[5], held_[6]);
  e.bias =
      checked_ids(op, "bias", edits.bias, edits.bias_offsets, rows, device, held_[7], held_[8]);
  FUSEDRAW_CHECK(edits.bias.has_value() == edits.bias_values.has_value(), op,
                 ": bias ids and values come together");
  if (!edits.bias_values.has_value()) return;
  const Tensor& values = *edits.bias_values;
  check_device(op, "bias values", values, device);
  FUSEDRAW_CHECK(e.bias.ids == nullptr || e.bias.offsets != nullptr, op, ": bias needs offsets");
  FUSEDRAW_CHECK(values.scalar_type() == ScalarType::Float && values.dim() == 1 &&
                     values.size(0) == edits.bias->size(0),
                 op, ": bias values must be float32 [", edits.bias->size(0), "], got ",
                 shape_text(values));
  held_[9] = torch::stable::contiguous(values);
  e.values = static_cast<const float*>(held_[9].const_data_ptr());
}

SoftmaxTensors::SoftmaxTensors(const Tensor& logits, const Tensor& temperature,
                               const OptionalTensor& mask, const Mode& mode)
    : op(mode.log ? "log_softmax" : "softmax"),
      x(checked_rows(op, "logits", logits)),
      device(x.device()),
      out(x),
      status(x),
      mask_(x) {
  call.x = rows_view(x);
  call.mask = checked_mask(op, mask, call.x, device, mask_);
  call.temperature_stride =
      checked_vector(op, "temperature", temperature, call.x.rows, ScalarType::Double);
  const double* t = static_cast<const double*>(temperature.const_data_ptr());
  const bool one = temperature.size(0) == 1 && temperature.is_cpu();
  if (one) call.temperature_value = *t;
  if (!one || device.is_cpu()) {
    check_device(op, "temperature", temperature, device);
    call.temperature = t;
  }
  call.log = mode.log;
  out = new_tensor({call.x.rows, call.x.cols}, ScalarType::Float, device);
  status = new_tensor({call.x.rows}, ScalarType::Byte, device);
  call.out = data<float>(out);
  call.status = data<uint8_t>(status);
}

FilterTensors::FilterTensors(const Tensor& values, const Tensor& params, const OptionalTensor& mask,
                             const Mode& mode, int64_t kind)
    : op(kind == 0 ? "mask" : "renorm"),
      x(checked_rows(op, mode.options.probs ? "probs" : "logits", values)),
      device(x.device()),
      out(x),
      status(x),
      mask_(x),
      params_(x) {
  FUSEDRAW_CHECK(kind == 0 || kind == 1, "filter: kind must be 0 (mask) or 1 (renorm), got ", kind);
  call.x = rows_view(x);
  call.options = mode.options;
  call.mask = checked_mask(op, mask, call.x, device, mask_);
  call.params = checked_params(op, params, call.x.rows, device, params_);
  call.renorm = kind == 1;
  out = new_tensor({call.x.rows, call.x.cols}, call.renorm ? ScalarType::Float : x.scalar_type(),
                   device);
  status = new_tensor({call.x.rows}, ScalarType::Byte, device);
  call.out = out.mutable_data_ptr();
  call.status = data<uint8_t>(status);
}

MultinomialTensors::MultinomialTensors(const Tensor& probs, const Tensor& keys, int64_t num_samples,
                                       bool replacement)
    : x(checked_rows(op, "input", probs)), device(x.device()), ids(x), status(x), keys_(x) {
  call.x = rows_view(x);
  call.keys = checked_keys(op, keys, call.x.rows, device, keys_);
  FUSEDRAW_CHECK(num_samples > 0 && num_samples <= int64_t(UINT32_MAX), op,
                 ": num_samples must lie in [1, 2^32), got ", num_samples);
  call.num_samples = num_samples;
  call.replacement = replacement;
  ids = new_tensor({call.x.rows, num_samples}, ScalarType::Long, device);
  status = new_tensor({call.x.rows}, ScalarType::Byte, device);
  call.ids = data<int64_t>(ids);
  call.status = data<uint8_t>(status);
}

DeriveTensors::DeriveTensors(const Tensor& seed, const Tensor& request_ids,
                             const Tensor& sample_ids, const Tensor& step)
    : device(request_ids.device()) {
  const Tensor* inputs[4] = {&seed, &request_ids, &sample_ids, &step};
  const char* names[4] = {"seed", "request_ids", "sample_ids", "step"};
  for (const Tensor* t : inputs)
    if (t->dim() == 1 && t->size(0) != 1) rows = t->size(0);
  for (int i = 0; i < 4; ++i) {
    check_device(op, names[i], *inputs[i], device);
    stride[i] = checked_vector(op, names[i], *inputs[i], rows, ScalarType::Long);
    part[i] = static_cast<const int64_t*>(inputs[i]->const_data_ptr());
  }
}

Tensor new_row_keys(const Tensor& logits) {
  FUSEDRAW_CHECK(logits.dim() == 2, "row_keys: logits must be [B, V], got ", shape_text(logits));
  return new_tensor({logits.size(0), 2}, ScalarType::Long, logits.device());
}

}  // namespace fusedraw
