// SPDX-License-Identifier: Apache-2.0
// CPU implementations: the engine in use, over torch's threads.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <vector>

#include "../core/keys.h"
#include "calls.h"
#include "forced.h"
#include "parallel.h"
#include "registry.h"
#include "token_logprob.h"
#include "route_call.h"
#include "verify_call.h"

namespace fusedraw {
namespace {

// Kept ids of each row until all are known; then one CSR pair.
struct KeptRows {
  std::vector<std::vector<int32_t>> rows;
  static int32_t* reserve(void* context, int64_t row, int64_t n) {
    auto& ids = static_cast<KeptRows*>(context)->rows[size_t(row)];
    ids.resize(size_t(n));
    return ids.data();
  }
  void store(std::vector<Tensor>& results, const Device& device) const {
    Tensor offsets = new_tensor({int64_t(rows.size()) + 1}, ScalarType::Long, device);
    int64_t* o = data<int64_t>(offsets);
    o[0] = 0;
    for (size_t i = 0; i < rows.size(); ++i) o[i + 1] = o[i] + int64_t(rows[i].size());
    Tensor ids = new_tensor({o[rows.size()]}, ScalarType::Int, device);
    for (size_t i = 0; i < rows.size(); ++i)
      std::copy(rows[i].begin(), rows[i].end(), data<int32_t>(ids) + o[i]);
    results.push_back(ids);
    results.push_back(offsets);
  }
};

// What sample and mixture share: a bare status where bad rows raise, the kept sets, the threads.
template <typename Tensors, typename RowFunction>
std::vector<Tensor> run_draw(Tensors& t, RowFunction row_function) {
  const int64_t rows = t.call.x.rows;
  KeptRows kept;
  if (t.wants_kept) {
    kept.rows.resize(size_t(rows));
    t.call.out.kept = {&kept, KeptRows::reserve};
  }
  std::vector<uint8_t> own_status;
  if (t.mode.raise && t.call.out.status == nullptr) {
    own_status.resize(size_t(rows));
    t.call.out.status = own_status.data();
  }
  use_forced_noise(t.call);
  for_rows(t.call, row_function);
  if (t.mode.raise) raise_bad_rows(t.op, t.call.out.status, rows);
  if (t.wants_kept) kept.store(t.results, t.device);
  for (Tensor& tensor : t.after_kept) t.results.push_back(tensor);
  return std::move(t.results);
}

std::vector<Tensor> sample_cpu(const Tensor& logits, const Tensor& params, const Tensor& keys,
                               OptionalTensor mask, int64_t mode_bits, int64_t outputs,
                               int64_t top_n) {
  SampleTensors t(logits, params, keys, mask, mode_bits, outputs, top_n);
  return run_draw(t, current_engine().sample_row);
}

std::vector<Tensor> sample_processed_cpu(const Tensor& logits, const Tensor& params,
                                         const Tensor& rules, const Tensor& keys,
                                         OptionalTensor mask, OptionalTensor history,
                                         OptionalTensor history_offsets, OptionalTensor prompt,
                                         OptionalTensor prompt_offsets, OptionalTensor suppress,
                                         OptionalTensor suppress_offsets, OptionalTensor bias,
                                         OptionalTensor bias_offsets, OptionalTensor bias_values,
                                         int64_t mode_bits, int64_t outputs, int64_t top_n) {
  SampleTensors t(logits, params, keys, mask, mode_bits, outputs, top_n, true);
  t.add_rules(rules, {history, history_offsets, prompt, prompt_offsets, suppress, suppress_offsets,
                      bias, bias_offsets, bias_values});
  return run_draw(t, current_engine().sample_row);
}

std::vector<Tensor> mixture_cpu(std::vector<Tensor> members, const Tensor& weights,
                                const Tensor& params, const Tensor& keys, OptionalTensor mask,
                                int64_t how, int64_t mode_bits, int64_t outputs) {
  MixtureTensors t(members, weights, params, keys, mask, how, mode_bits, outputs);
  return run_draw(t, current_engine().mixture_row);
}

void store_key(const Tensor& keys, int64_t row, const Key& key) {
  uint64_t* p = data<uint64_t>(keys) + 2 * row;
  p[0] = key.seed;
  p[1] = key.offset;
}

Tensor row_keys_cpu(const Tensor& logits, int64_t seed, int64_t step) {
  Tensor keys = new_row_keys(logits);
  for (int64_t i = 0; i < logits.size(0); ++i)
    store_key(keys, i, derive_key(uint64_t(seed), uint64_t(i), 0, uint64_t(step)));
  return keys;
}

Tensor derive_keys_cpu(const Tensor& seed, const Tensor& request_ids, const Tensor& sample_ids,
                       const Tensor& step) {
  const DeriveTensors t(seed, request_ids, sample_ids, step);
  Tensor keys = new_tensor({t.rows, 2}, ScalarType::Long, t.device);
  for (int64_t i = 0; i < t.rows; ++i) {
    const auto word = [&](int part) { return uint64_t(t.part[part][i * t.stride[part]]); };
    const uint64_t sample = word(2);
    FUSEDRAW_CHECK(sample <= UINT32_MAX, t.op, ": sample_ids must lie in [0, 2^32), got ",
                   int64_t(sample), " in row ", i);
    store_key(keys, i, derive_key(word(0), word(1), sample, word(3)));
  }
  return keys;
}

std::tuple<Tensor, Tensor> softmax_cpu(const Tensor& logits, const Tensor& temperature,
                                       OptionalTensor mask, int64_t mode_bits) {
  const Mode mode = parse_softmax_mode(mode_bits);
  if (logits.scalar_type() == ScalarType::Double)
    return softmax_double(logits, temperature, mask, mode);
  SoftmaxTensors t(logits, temperature, mask, mode);
  for_rows(t.call, current_engine().softmax_row);
  if (mode.raise) raise_bad_rows(t.op, t.call.status, t.call.x.rows);
  return {t.out, t.status};
}

std::tuple<Tensor, Tensor> filter_cpu(const Tensor& values, const Tensor& params,
                                      OptionalTensor mask, int64_t mode_bits, int64_t kind) {
  const Mode mode = parse_mode(mode_bits);
  FilterTensors t(values, params, mask, mode, kind);
  for_rows(t.call, current_engine().filter_row);
  if (mode.raise) raise_bad_rows(t.op, t.call.status, t.call.x.rows);
  return {t.out, t.status};
}

std::tuple<Tensor, Tensor> multinomial_cpu(const Tensor& probs, const Tensor& keys,
                                           int64_t num_samples, bool replacement,
                                           int64_t mode_bits) {
  const Mode mode = parse_mode(mode_bits);
  MultinomialTensors t(probs, keys, num_samples, replacement);
  use_forced_noise(t.call);
  for_rows(t.call, current_engine().multinomial_row);
  if (mode.raise) raise_bad_rows(t.op, t.call.status, t.call.x.rows);
  return {t.ids, t.status};
}

std::tuple<Tensor, Tensor, Tensor, Tensor> token_logprob_cpu(
    const Tensor& logits, const Tensor& ids, const Tensor& params, OptionalTensor mask,
    OptionalTensor kept_ids, OptionalTensor kept_offsets, int64_t mode_bits, bool entropy) {
  const Mode mode = parse_mode(mode_bits);
  if (logits.scalar_type() == ScalarType::Double)
    return token_logprob_double(logits, ids, params, mask, kept_ids, kept_offsets, mode, entropy);
  TokenLogprobTensors t(logits, ids, params, mask, kept_ids, kept_offsets, mode, entropy);
  if (mode.raise) check_scored(t.op, t.call.ids, t.call.kept, t.call.x.rows, t.call.x.cols);
  for_rows(t.call, current_engine().token_logprob_row);
  if (mode.raise) raise_bad_rows(t.op, t.call.status, t.call.x.rows);
  return {t.logp, t.entropy, t.status, t.saved};
}

Tensor token_logprob_backward_cpu(const Tensor& grad_logp, OptionalTensor grad_entropy,
                                  const Tensor& logits, const Tensor& ids, OptionalTensor mask,
                                  OptionalTensor kept_ids, OptionalTensor kept_offsets,
                                  const Tensor& saved) {
  if (logits.scalar_type() == ScalarType::Double)
    return token_logprob_backward_double(grad_logp, grad_entropy, logits, ids, mask, kept_ids,
                                         kept_offsets, saved);
  TokenLogprobGradTensors t(grad_logp, grad_entropy, logits, ids, mask, kept_ids, kept_offsets,
                            saved);
  for_rows(t.call, current_engine().token_logprob_grad_row);
  return t.grad;
}

RouteResults route_cpu(const Tensor& logits, const Tensor& params, OptionalTensor keys,
                       OptionalTensor bias, OptionalTensor replay_ids, int64_t k, int64_t mode) {
  RouteTensors t(logits, params, keys, bias, replay_ids, k, mode);
  use_forced_noise(t.call);
  for_rows(t.call, current_engine().route_row);
  if (t.raise) raise_bad_rows(t.op, t.call.status, t.call.x.rows);
  int64_t* counts = data<int64_t>(t.counts);
  std::fill_n(counts, t.call.x.cols, 0);
  for (int64_t i = 0; i < t.call.x.rows * k; ++i)
    if (t.call.ids[i] >= 0) ++counts[t.call.ids[i]];
  return t.results();
}

VerifyResults verify_cpu(const Tensor& draft_ids, const Tensor& draft_logits,
                         const Tensor& target_logits, const Tensor& draft_params,
                         const Tensor& params, const Tensor& keys, OptionalTensor draft_mask,
                         OptionalTensor mask, OptionalTensor n_draft, int64_t mode, bool logp) {
  VerifyTensors t(draft_ids, draft_logits, target_logits, draft_params, params, keys, draft_mask,
                  mask, n_draft, mode, logp);
  use_forced_noise(t.call);
  for_rows(t.call, current_engine().verify_row);
  if (t.raise) raise_bad_verdicts(t.call.status, t.call.x.rows);
  return t.results();
}

}  // namespace
}  // namespace fusedraw

STABLE_TORCH_LIBRARY_IMPL(fusedraw, CPU, m) {
  m.impl("sample", TORCH_BOX(&fusedraw::sample_cpu));
  m.impl("sample_processed", TORCH_BOX(&fusedraw::sample_processed_cpu));
  m.impl("row_keys", TORCH_BOX(&fusedraw::row_keys_cpu));
  m.impl("derive_keys", TORCH_BOX(&fusedraw::derive_keys_cpu));
  m.impl("softmax", TORCH_BOX(&fusedraw::softmax_cpu));
  m.impl("filter", TORCH_BOX(&fusedraw::filter_cpu));
  m.impl("multinomial", TORCH_BOX(&fusedraw::multinomial_cpu));
  m.impl("token_logprob", TORCH_BOX(&fusedraw::token_logprob_cpu));
  m.impl("token_logprob_backward", TORCH_BOX(&fusedraw::token_logprob_backward_cpu));
  m.impl("mixture", TORCH_BOX(&fusedraw::mixture_cpu));
  m.impl("route", TORCH_BOX(&fusedraw::route_cpu));
  m.impl("verify", TORCH_BOX(&fusedraw::verify_cpu));
}
