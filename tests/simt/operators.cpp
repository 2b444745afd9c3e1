// SPDX-License-Identifier: Apache-2.0
// The operators of torch.ops.fusedraw_simt: csrc/ops/cuda_ops.cpp as it is, but with the memory of
// every call declared to the executor before its launches. And what Python asks of the executor.
#include <optional>
#include <sstream>
#include <string>

#include "../../csrc/cuda/launch.h"
#include "../../csrc/simt/declare.h"
#include "../../csrc/simt/executor.h"

namespace fusedraw::cuda::declared {
namespace {

constexpr unsigned kOutput = simt::kRead | simt::kWrite | simt::kUninitialised;

// Of the operator that runs, or the last one that did: the steps of `kept` share it. Never
// destroyed, since what it registers with is gone when static data go.
auto& scope = *new std::optional<simt::Buffers>;

simt::Buffers& new_scope() {
  scope.reset();
  return scope.emplace();
}

template <typename Call>
void declare_call(const Call& call, void* workspace, int64_t bytes) {
  simt::Buffers& buffers = new_scope();
  simt::declare(buffers, call);
  buffers.declare(workspace, size_t(bytes), kOutput, "workspace");
}

}  // namespace

const char* launch_sample(const SampleCall& call, void* workspace, void* stream) {
  declare_call(call, workspace, sample_workspace(call));
  return cuda::launch_sample(call, workspace, stream);
}
const char* launch_kept_offsets(const int64_t* n_kept, int64_t rows, int64_t* offsets,
                                void* stream) {
  scope->declare(offsets, size_t(rows + 1) * sizeof(int64_t), kOutput, "offsets");
  return cuda::launch_kept_offsets(n_kept, rows, offsets, stream);
}
const char* launch_kept_ids(const SampleCall& call, const void* workspace, const int64_t* offsets,
                            int32_t* ids, void* stream) {
  scope->declare(ids, size_t(offsets[call.x.rows]) * sizeof(int32_t), kOutput, "kept ids");
  return cuda::launch_kept_ids(call, workspace, offsets, ids, stream);
}
const char* launch_softmax(const SoftmaxCall& call, void* workspace, void* stream) {
  declare_call(call, workspace, softmax_workspace(call));
  return cuda::launch_softmax(call, workspace, stream);
}
const char* launch_filter(const FilterCall& call, void* workspace, void* stream) {
  declare_call(call, workspace, filter_workspace(call));
  return cuda::launch_filter(call, workspace, stream);
}
const char* launch_multinomial(const MultinomialCall& call, void* workspace, void* stream) {
  declare_call(call, workspace, multinomial_workspace(call));
  return cuda::launch_multinomial(call, workspace, stream);
}
const char* launch_token_logprob(const TokenLogprobCall& call, void* workspace, void* stream) {
  declare_call(call, workspace, token_logprob_workspace(call));
  return cuda::launch_token_logprob(call, workspace, stream);
}
const char* launch_token_logprob_grad(const TokenLogprobGradCall& call, void* stream) {
  simt::declare(new_scope(), call);
  return cuda::launch_token_logprob_grad(call, stream);
}
const char* launch_mixture(const MixtureCall& call, void* workspace, void* stream) {
  declare_call(call, workspace, mixture_workspace(call));
  return cuda::launch_mixture(call, workspace, stream);
}
const char* launch_route(const RouteCall& call, int64_t* counts, void* stream) {
  simt::Buffers& buffers = new_scope();
  simt::declare(buffers, call);
  buffers.declare(counts, size_t(call.x.cols) * sizeof(int64_t), simt::kRead | simt::kWrite,
                  "counts");
  return cuda::launch_route(call, counts, stream);
}
const char* launch_verify(const VerifyCall& call, void* workspace, void* stream) {
  declare_call(call, workspace, verify_workspace(call));
  return cuda::launch_verify(call, workspace, stream);
}
const char* launch_row_keys(int64_t rows, int64_t seed, int64_t step, uint64_t* keys,
                            void* stream) {
  new_scope().declare(keys, size_t(rows) * 16, kOutput, "keys");
  return cuda::launch_row_keys(rows, seed, step, keys, stream);
}
const char* launch_derive_keys(const KeyParts& parts, int64_t rows, uint64_t* keys, void* stream) {
  simt::Buffers& buffers = new_scope();
  const auto part = [&](const int64_t* p, int64_t stride, const char* name) {
    buffers.declare(p, size_t(stride == 0 ? 1 : rows) * sizeof(int64_t), simt::kRead, name);
  };
  part(parts.seed, parts.seed_stride, "seed");
  part(parts.request, parts.request_stride, "request");
  part(parts.sample, parts.sample_stride, "sample");
  part(parts.step, parts.step_stride, "step");
  buffers.declare(keys, size_t(rows) * 16, kOutput, "keys");
  return cuda::launch_derive_keys(parts, rows, keys, stream);
}

}  // namespace fusedraw::cuda::declared

#define launch_sample declared::launch_sample
#define launch_kept_offsets declared::launch_kept_offsets
#define launch_kept_ids declared::launch_kept_ids
#define launch_softmax declared::launch_softmax
#define launch_filter declared::launch_filter
#define launch_multinomial declared::launch_multinomial
#define launch_token_logprob declared::launch_token_logprob
#define launch_token_logprob_grad declared::launch_token_logprob_grad
#define launch_mixture declared::launch_mixture
#define launch_route declared::launch_route
#define launch_verify declared::launch_verify
#define launch_row_keys declared::launch_row_keys
#define launch_derive_keys declared::launch_derive_keys
#include "../../csrc/ops/cuda_ops.cpp"  // NOLINT(bugprone-suspicious-include)

namespace simt = fusedraw::simt;

extern "C" {

// Of the calling thread, until the next call.
void simt_set_options(uint64_t schedule, int check_shared, int count_requests) {
  simt::Options& options = simt::options();
  options.schedule = schedule;
  options.check_shared = check_shared != 0;
  options.count_requests = count_requests != 0;
}

void simt_reset_records() { simt::reset_records(); }

// A JSON list; valid until the next call.
const char* simt_records() {
  static std::string text;
  std::ostringstream out;
  const char* between = "[";
  for (const simt::Record& r : simt::records()) {
    const simt::Counts& c = r.counts;
    out << between << "{\"kernel\":\"" << r.kernel
        << "\",\"blocks\":" << uint64_t(r.grid[0]) * r.grid[1] * r.grid[2]
        << ",\"threads\":" << r.threads << ",\"read\":" << c.global_read_bytes
        << ",\"written\":" << c.global_written_bytes << ",\"loads16\":" << c.loads16
        << ",\"requests\":" << c.global_requests << ",\"sectors\":" << c.sectors
        << ",\"shared_requests\":" << c.shared_requests << ",\"conflicts\":" << c.bank_conflicts
        << ",\"collisions\":" << c.shared_atomic_collisions << "}";
    between = ",";
  }
  out << (*between == '[' ? "[]" : "]");
  text = out.str();
  return text.c_str();
}

}  // extern "C"
