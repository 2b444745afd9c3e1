// SPDX-License-Identifier: Apache-2.0
// CUDA implementations: launches on the current stream of the rows' device.
//
// Nothing waits for the device, so every operator can be captured in a CUDA graph, but for what the
// caller asks to see: bad rows to be raised (mode bit 7: the statuses are read back), `kept` (its
// length is read back), and float64 softmax (computed on the CPU). Parameters that come by value
// are constants of a captured graph; those in device tensors are read at replay.
//
// With FUSEDRAW_SIMT the same operators are those of a test library, fusedraw_simt: host memory is
// device memory, and launches go to the executor of csrc/simt.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../cuda/launch.h"
#include "calls.h"
#include "token_logprob.h"
#include "route_call.h"
#include "verify_call.h"
#ifdef FUSEDRAW_SIMT
#include "forced.h"
#include "schema.h"
#else
#include <torch/csrc/stable/accelerator.h>
#if TORCH_FEATURE_VERSION < (2ULL << 56 | 13ULL << 48)
extern "C" AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device, void** stream);
#endif
#endif

namespace fusedraw {
namespace {

using torch::headeronly::DeviceType;

#ifdef FUSEDRAW_SIMT
struct CurrentStream {
  explicit CurrentStream(const Device&) {}
  void* handle() const { return nullptr; }
};
constexpr DeviceType kDeviceType = DeviceType::CPU;
constexpr const char *kDeviceName = "cpu", *kArchs = "the executor";

// As from the CPU to a device: one row goes by value.
template <int kMost>
void by_value(NumbersView<kMost>& v) {
  if (v.row_stride == 0) v.data = nullptr;
}
void by_value(SoftmaxCall& call) {
  if (call.temperature_stride == 0) call.temperature = nullptr;
}
#else
// The handle of the stream that torch uses on a device. Older ones of the versions that setup.py
// speaks of have another function for it.
void* current_stream(int32_t device) {
#if TORCH_FEATURE_VERSION < (2ULL << 56 | 13ULL << 48)
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return stream;
#else
  return torch::stable::accelerator::getCurrentStream(device).nativeHandle();
#endif
}

// Makes a device the current one for its lifetime; the stream is the one that torch uses there.
class CurrentStream {
 public:
  explicit CurrentStream(const Device& device)
      : guard_(device.index()), handle_(current_stream(device.index())) {}
  void* handle() const { return handle_; }

 private:
  torch::stable::accelerator::DeviceGuard guard_;
  void* handle_;
};
constexpr DeviceType kDeviceType = DeviceType::CUDA;
constexpr const char *kDeviceName = "cuda", *kArchs = FUSEDRAW_CUDA_ARCHS;

template <int kMost>
void by_value(const NumbersView<kMost>&) {}
void by_value(const SoftmaxCall&) {}
template <typename Call>
void use_forced_noise(const Call&) {}
#endif

constexpr int64_t kAlignment = 256;  // of a workspace

// Where the launches of one operator go.
class Launch {
 public:
  Launch(const char* op, const Device& device) : op_(op), device_(on_device(op, device)) {}

  void* stream() const { return stream_.handle(); }

  // Freed with this object: torch's allocator gives it to later work of the same stream only.
  void* workspace(int64_t bytes) {
    if (bytes == 0) return nullptr;
    const Tensor t = new_tensor({bytes + kAlignment}, ScalarType::Byte, device_);
    workspace_.push_back(t);
    const uintptr_t p = reinterpret_cast<uintptr_t>(t.mutable_data_ptr());
    return reinterpret_cast<void*>((p + kAlignment - 1) & ~uintptr_t(kAlignment - 1));
  }

  // Not "op: ...", by which Python knows a mistake of the caller.
  void check(const char* error) const {
    if (error != nullptr)
      fail("fusedraw: a kernel of ", op_, " was not launched: ", error, " (built for ", kArchs,
           ")");
  }

 private:
  static const Device& on_device(const char* op, const Device& device) {
    FUSEDRAW_CHECK(device.type() == kDeviceType, op, ": rows must be on ", kDeviceName,
                   " like the rest");
    return device;
  }

  const char* op_;
  Device device_;
  CurrentStream stream_{device_};
  std::vector<Tensor> workspace_;
};

// Waits for the device.
Tensor to_host(const Tensor& t) { return torch::stable::to(t, Device(DeviceType::CPU)); }

void raise_bad_device_rows(const char* op, const Tensor& status) {
  const Tensor host = to_host(status);
  raise_bad_rows(op, static_cast<const uint8_t*>(host.const_data_ptr()), host.numel());
}

// ids and offsets of the kept sets. Waits for the device to know how many there are.
void store_kept(const SampleCall& call, const Device& device, const Launch& launch,
                const void* workspace, std::vector<Tensor>& results) {
  const int64_t rows = call.x.rows;
  Tensor offsets = new_tensor({rows + 1}, ScalarType::Long, device);
  if (rows == 0)
    torch::stable::zero_(offsets);
  else
    launch.check(
        cuda::launch_kept_offsets(call.out.n_kept, rows, data<int64_t>(offsets), launch.stream()));
  const Tensor last = to_host(torch::stable::narrow(offsets, 0, rows, 1));
  const int64_t n = *static_cast<const int64_t*>(last.const_data_ptr());
  Tensor ids = new_tensor({n}, ScalarType::Int, device);
  if (n > 0)
    launch.check(cuda::launch_kept_ids(call, workspace, data<int64_t>(offsets), data<int32_t>(ids),
                                       launch.stream()));
  results.push_back(ids);
  results.push_back(offsets);
}

// What a draw needs beyond what was asked for: statuses to be raised, sizes of kept sets.
template <typename Tensors>
void add_own_outputs(Tensors& t) {
  const int64_t rows = t.call.x.rows;
  if (t.mode.raise && !t.status) {
    t.status = new_tensor({rows}, ScalarType::Byte, t.device);
    t.call.out.status = data<uint8_t>(*t.status);
  }
  if (t.wants_kept && !t.n_kept) {
    t.n_kept = new_tensor({rows}, ScalarType::Long, t.device);
    t.call.out.n_kept = data<int64_t>(*t.n_kept);
  }
}

std::vector<Tensor> run_sample(SampleTensors& t) {
  Launch launch(t.op, t.device);
  const int64_t rows = t.call.x.rows;
  add_own_outputs(t);
  by_value(t.call.params);
  use_forced_noise(t.call);
  void* workspace = nullptr;
  if (rows > 0) {
    workspace = launch.workspace(cuda::sample_workspace(t.call));
    launch.check(cuda::launch_sample(t.call, workspace, launch.stream()));
  }
  if (t.mode.raise) raise_bad_device_rows(t.op, *t.status);
  if (t.wants_kept) store_kept(t.call, t.device, launch, workspace, t.results);
  for (Tensor& tensor : t.after_kept) t.results.push_back(tensor);
  return std::move(t.results);
}

std::vector<Tensor> sample_cuda(const Tensor& logits, const Tensor& params, const Tensor& keys,
                                OptionalTensor mask, int64_t mode_bits, int64_t outputs,
                                int64_t top_n) {
  SampleTensors t(logits, params, keys, mask, mode_bits, outputs, top_n);
  return run_sample(t);
}

std::vector<Tensor> sample_processed_cuda(const Tensor& logits, const Tensor& params,
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
  by_value(t.call.rules);
  return run_sample(t);
}

std::vector<Tensor> mixture_cuda(std::vector<Tensor> members, const Tensor& weights,
                                 const Tensor& params, const Tensor& keys, OptionalTensor mask,
                                 int64_t how, int64_t mode_bits, int64_t outputs) {
  MixtureTensors t(members, weights, params, keys, mask, how, mode_bits, outputs);
  Launch launch(t.op, t.device);
  add_own_outputs(t);
  by_value(t.call.params);
  by_value(t.call.weights);
  use_forced_noise(t.call);
  void* workspace = nullptr;
  if (t.call.x.rows > 0) {
    workspace = launch.workspace(cuda::mixture_workspace(t.call));
    launch.check(cuda::launch_mixture(t.call, workspace, launch.stream()));
  }
  if (t.mode.raise) raise_bad_device_rows(t.op, *t.status);
  if (t.wants_kept) {
    const cuda::MixtureDraw draw = cuda::mixture_draw(t.call, workspace);
    store_kept(draw.call, t.device, launch, draw.workspace, t.results);
  }
  for (Tensor& tensor : t.after_kept) t.results.push_back(tensor);
  return std::move(t.results);
}

Tensor row_keys_cuda(const Tensor& logits, int64_t seed, int64_t step) {
  Tensor keys = new_row_keys(logits);
  const Launch launch("row_keys", logits.device());
  const int64_t rows = logits.size(0);
  if (rows > 0)
    launch.check(cuda::launch_row_keys(rows, seed, step, data<uint64_t>(keys), launch.stream()));
  return keys;
}

// Unlike on the CPU, sample ids are not looked at: they count modulo 2^32.
Tensor derive_keys_cuda(const Tensor& seed, const Tensor& request_ids, const Tensor& sample_ids,
                        const Tensor& step) {
  const DeriveTensors t(seed, request_ids, sample_ids, step);
  const Launch launch(t.op, t.device);
  Tensor keys = new_tensor({t.rows, 2}, ScalarType::Long, t.device);
  const cuda::KeyParts parts{t.part[0],   t.part[1],   t.part[2],   t.part[3],
                             t.stride[0], t.stride[1], t.stride[2], t.stride[3]};
  if (t.rows > 0)
    launch.check(cuda::launch_derive_keys(parts, t.rows, data<uint64_t>(keys), launch.stream()));
  return keys;
}

// Two copies and a wait: the float64 path exists for gradient checks.
std::tuple<Tensor, Tensor> softmax_double_on_host(const Tensor& logits, const Tensor& temperature,
                                                  const OptionalTensor& mask, const Mode& mode) {
  const Device device = logits.device();
  OptionalTensor host_mask;
  if (mask) {
    check_device("softmax", "mask", *mask, device);
    host_mask = to_host(*mask);
  }
  const auto [out, status] = softmax_double(to_host(logits), to_host(temperature), host_mask, mode);
  return {torch::stable::to(out, device), torch::stable::to(status, device)};
}

std::tuple<Tensor, Tensor> softmax_cuda(const Tensor& logits, const Tensor& temperature,
                                        OptionalTensor mask, int64_t mode_bits) {
  const Mode mode = parse_softmax_mode(mode_bits);
  if (logits.scalar_type() == ScalarType::Double)
    return softmax_double_on_host(logits, temperature, mask, mode);
  SoftmaxTensors t(logits, temperature, mask, mode);
  Launch launch(t.op, t.device);
  by_value(t.call);
  if (t.call.x.rows > 0)
    launch.check(cuda::launch_softmax(t.call, launch.workspace(cuda::softmax_workspace(t.call)),
                                      launch.stream()));
  if (mode.raise) raise_bad_device_rows(t.op, t.status);
  return {t.out, t.status};
}

std::tuple<Tensor, Tensor> filter_cuda(const Tensor& values, const Tensor& params,
                                       OptionalTensor mask, int64_t mode_bits, int64_t kind) {
  const Mode mode = parse_mode(mode_bits);
  FilterTensors t(values, params, mask, mode, kind);
  Launch launch(t.op, t.device);
  by_value(t.call.params);
  if (t.call.x.rows > 0)
    launch.check(cuda::launch_filter(t.call, launch.workspace(cuda::filter_workspace(t.call)),
                                     launch.stream()));
  if (mode.raise) raise_bad_device_rows(t.op, t.status);
  return {t.out, t.status};
}

std::tuple<Tensor, Tensor> multinomial_cuda(const Tensor& probs, const Tensor& keys,
                                            int64_t num_samples, bool replacement,
                                            int64_t mode_bits) {
  const Mode mode = parse_mode(mode_bits);
  MultinomialTensors t(probs, keys, num_samples, replacement);
  Launch launch(t.op, t.device);
  use_forced_noise(t.call);
  if (t.call.x.rows > 0)
    launch.check(cuda::launch_multinomial(
        t.call, launch.workspace(cuda::multinomial_workspace(t.call)), launch.stream()));
  if (mode.raise) raise_bad_device_rows(t.op, t.status);
  return {t.ids, t.status};
}

OptionalTensor to_host(const OptionalTensor& t) {
  if (!t) return std::nullopt;
  return to_host(*t);
}

// Before the launch, as on the CPU: what is wrong with an id or a kept set is named. Waits for the
// device.
void check_device_scored(const TokenLogprobCall& call, const Tensor& ids,
                         const OptionalTensor& kept_ids, const OptionalTensor& kept_offsets) {
  const Tensor host = to_host(ids);
  const OptionalTensor host_ids = to_host(kept_ids), host_offsets = to_host(kept_offsets);
  Tensor hold[3] = {host, host, host};
  const char* op = TokenLogprobTensors::op;
  const KeptSetsView kept =
      checked_kept(op, host_ids, host_offsets, call.x.rows, host.device(), hold[1], hold[2]);
  check_scored(op, checked_ids(op, host, call.x.rows, host.device(), hold[0]), kept, call.x.rows,
               call.x.cols);
}

std::tuple<Tensor, Tensor, Tensor, Tensor> token_logprob_cuda(
    const Tensor& logits, const Tensor& ids, const Tensor& params, OptionalTensor mask,
    OptionalTensor kept_ids, OptionalTensor kept_offsets, int64_t mode_bits, bool entropy) {
  const Mode mode = parse_mode(mode_bits);
  if (logits.scalar_type() == ScalarType::Double) {  // as softmax: two copies and a wait
    const Device device = logits.device();
    const auto [logp, h, status, saved] =
        token_logprob_double(to_host(logits), to_host(ids), to_host(params), to_host(mask),
                             to_host(kept_ids), to_host(kept_offsets), mode, entropy);
    return {torch::stable::to(logp, device), torch::stable::to(h, device),
            torch::stable::to(status, device), torch::stable::to(saved, device)};
  }
  TokenLogprobTensors t(logits, ids, params, mask, kept_ids, kept_offsets, mode, entropy);
  if (mode.raise) check_device_scored(t.call, ids, kept_ids, kept_offsets);
  Launch launch(t.op, t.device);
  by_value(t.call.params);
  if (t.call.x.rows > 0)
    launch.check(cuda::launch_token_logprob(
        t.call, launch.workspace(cuda::token_logprob_workspace(t.call)), launch.stream()));
  if (mode.raise) raise_bad_device_rows(t.op, t.status);
  return {t.logp, t.entropy, t.status, t.saved};
}

Tensor token_logprob_backward_cuda(const Tensor& grad_logp, OptionalTensor grad_entropy,
                                   const Tensor& logits, const Tensor& ids, OptionalTensor mask,
                                   OptionalTensor kept_ids, OptionalTensor kept_offsets,
                                   const Tensor& saved) {
  if (logits.scalar_type() == ScalarType::Double)
    return torch::stable::to(
        token_logprob_backward_double(to_host(grad_logp), to_host(grad_entropy), to_host(logits),
                                      to_host(ids), to_host(mask), to_host(kept_ids),
                                      to_host(kept_offsets), to_host(saved)),
        logits.device());
  TokenLogprobGradTensors t(grad_logp, grad_entropy, logits, ids, mask, kept_ids, kept_offsets,
                            saved);
  const Launch launch(t.op, t.device);
  if (t.call.x.rows > 0) launch.check(cuda::launch_token_logprob_grad(t.call, launch.stream()));
  return t.grad;
}

RouteResults route_cuda(const Tensor& logits, const Tensor& params, OptionalTensor keys,
                        OptionalTensor bias, OptionalTensor replay_ids, int64_t k, int64_t mode) {
  RouteTensors t(logits, params, keys, bias, replay_ids, k, mode);
  const Launch launch(t.op, t.device);
  by_value(t.call.params);
  use_forced_noise(t.call);
  torch::stable::zero_(t.counts);
  if (t.call.x.rows > 0)
    launch.check(cuda::launch_route(t.call, data<int64_t>(t.counts), launch.stream()));
  if (t.raise) raise_bad_device_rows(t.op, t.status);
  return t.results();
}

VerifyResults verify_cuda(const Tensor& draft_ids, const Tensor& draft_logits,
                          const Tensor& target_logits, const Tensor& draft_params,
                          const Tensor& params, const Tensor& keys, OptionalTensor draft_mask,
                          OptionalTensor mask, OptionalTensor n_draft, int64_t mode, bool logp) {
  VerifyTensors t(draft_ids, draft_logits, target_logits, draft_params, params, keys, draft_mask,
                  mask, n_draft, mode, logp);
  Launch launch(t.op, t.device);
  by_value(t.call.draft.params);
  by_value(t.call.target.params);
  use_forced_noise(t.call);
  if (t.call.x.rows > 0)
    launch.check(cuda::launch_verify(t.call, launch.workspace(cuda::verify_workspace(t.call)),
                                     launch.stream()));
  if (t.raise) {
    const Tensor host = to_host(t.status);
    raise_bad_verdicts(static_cast<const uint8_t*>(host.const_data_ptr()), host.numel());
  }
  return t.results();
}

void implement_operators(torch::stable::detail::StableLibrary& m) {
  m.impl("sample", TORCH_BOX(&sample_cuda));
  m.impl("sample_processed", TORCH_BOX(&sample_processed_cuda));
  m.impl("row_keys", TORCH_BOX(&row_keys_cuda));
  m.impl("derive_keys", TORCH_BOX(&derive_keys_cuda));
  m.impl("softmax", TORCH_BOX(&softmax_cuda));
  m.impl("filter", TORCH_BOX(&filter_cuda));
  m.impl("multinomial", TORCH_BOX(&multinomial_cuda));
  m.impl("token_logprob", TORCH_BOX(&token_logprob_cuda));
  m.impl("token_logprob_backward", TORCH_BOX(&token_logprob_backward_cuda));
  m.impl("mixture", TORCH_BOX(&mixture_cuda));
  m.impl("route", TORCH_BOX(&route_cuda));
  m.impl("verify", TORCH_BOX(&verify_cuda));
}

#ifdef FUSEDRAW_SIMT
// (purpose, id, r64) of each forced value, one after another; none ends it.
void force_noise(std::vector<int64_t> words) {
  FUSEDRAW_CHECK(words.size() % 3 == 0, "force_noise: words must come in threes");
  forced_noise().clear();
  for (size_t i = 0; i < words.size(); i += 3)
    forced_noise().push_back({uint32_t(words[i]), words[i + 1], uint64_t(words[i + 2])});
}
#endif

}  // namespace
}  // namespace fusedraw

#ifdef FUSEDRAW_SIMT
STABLE_TORCH_LIBRARY(fusedraw_simt, m) {
  fusedraw::define_operators(m);
  m.def("force_noise(int[] words) -> ()");
  m.impl("force_noise", TORCH_BOX(&fusedraw::force_noise));
}
STABLE_TORCH_LIBRARY_IMPL(fusedraw_simt, CPU, m) { fusedraw::implement_operators(m); }
#else
STABLE_TORCH_LIBRARY_IMPL(fusedraw, CUDA, m) { fusedraw::implement_operators(m); }
#endif
