// SPDX-License-Identifier: Apache-2.0
// The engine's entry points: what does not depend on the dtype, and the choice of those that do.
#include "keys.cuh"
#include "launchers.cuh"
#include "processed.cuh"

namespace fusedraw::cuda {
namespace {

// Whether a call of sample_processed asks for more than `sample` can do. Rules that lie on the
// device may.
bool is_processed(const SampleCall& call) {
  if (!call.ruled) return false;
  LateRules r;
  return any_edits(call.edits) || call.options.temperature_last || call.rules.data != nullptr ||
         !read_rules(call.rules.row, r) || has_sigma(r) || has_late(r);
}

const ProcessedLaunchers& processed(const RowsView& x) {
  switch (x.dtype) {
    case DType::kBFloat16:
      return processed_bfloat16_launchers();
    case DType::kFloat16:
      return processed_float16_launchers();
    default:
      return processed_float32_launchers();
  }
}

const TypedLaunchers& typed(const RowsView& x) {
  switch (x.dtype) {
    case DType::kBFloat16:
      return bfloat16_launchers();
    case DType::kFloat16:
      return float16_launchers();
    default:
      return float32_launchers();
  }
}

}  // namespace

int64_t sample_workspace(const SampleCall& call) {
  if (is_processed(call)) return processed_space(call, nullptr).edits.bytes;
  return sample_space(call, nullptr).bytes;
}
const char* launch_sample(const SampleCall& call, void* workspace, void* stream) {
  if (is_processed(call)) return processed(call.x).sample(call, workspace, stream);
  return typed(call.x).sample(call, workspace, stream);
}
const char* launch_kept_offsets(const int64_t* n_kept, int64_t rows, int64_t* offsets,
                                void* stream) {
  return launch(kept_offsets_kernel, dim3(1), kThreads, static_cast<Stream>(stream), n_kept, rows,
                offsets);
}
const char* launch_kept_ids(const SampleCall& call, const void* workspace, const int64_t* offsets,
                            int32_t* ids, void* stream) {
  if (is_processed(call)) return processed(call.x).kept_ids(call, workspace, offsets, ids, stream);
  return typed(call.x).kept_ids(call, workspace, offsets, ids, stream);
}

int64_t softmax_workspace(const SoftmaxCall& call) { return softmax_space(call, nullptr).bytes; }
const char* launch_softmax(const SoftmaxCall& call, void* workspace, void* stream) {
  return typed(call.x).softmax(call, workspace, stream);
}

int64_t filter_workspace(const FilterCall& call) { return filter_space(call, nullptr).bytes; }
const char* launch_filter(const FilterCall& call, void* workspace, void* stream) {
  return typed(call.x).filter(call, workspace, stream);
}

int64_t multinomial_workspace(const MultinomialCall& call) {
  if (call.num_samples == 1) return sample_workspace(as_sample(call));
  return plan_draws(call, nullptr).bytes;
}
const char* launch_multinomial(const MultinomialCall& call, void* workspace, void* stream) {
  if (const char* error = typed(call.x).multinomial(call, workspace, stream)) return error;
  if (call.x.rows == 0 || !draws_distinct(call)) return nullptr;
  return launch(arrivals_in_order_kernel, grid_of(call.x.rows), kThreads,
                static_cast<Stream>(stream), call, plan_draws(call, workspace));
}

int64_t token_logprob_workspace(const TokenLogprobCall& call) {
  return token_logprob_space(call, nullptr).bytes;
}
const char* launch_token_logprob(const TokenLogprobCall& call, void* workspace, void* stream) {
  return typed(call.x).token_logprob(call, workspace, stream);
}
const char* launch_token_logprob_grad(const TokenLogprobGradCall& call, void* stream) {
  return typed(call.x).token_logprob_grad(call, stream);
}
MixtureDraw mixture_draw(const MixtureCall& call, void* workspace) {
  const MixtureSpace space = plan_mixture(call, workspace);
  return {draw_call(call, space.combined_rows(), call.x.cols), space.base + space.draw};
}
int64_t mixture_workspace(const MixtureCall& call) {
  return plan_mixture(call, nullptr).bytes + sample_workspace(draw_call(call, nullptr, 0));
}
const char* launch_mixture(const MixtureCall& call, void* workspace, void* stream) {
  if (call.x.rows == 0) return nullptr;
  const TypedLaunchers& own = typed(call.x);
  const MixtureDraw draw = mixture_draw(call, workspace);
  if (const char* error = own.combine(call, workspace, stream)) return error;
  if (const char* error = launch_sample(draw.call, draw.workspace, stream)) return error;
  return own.finish_mixture(call, workspace, stream);
}

const char* launch_row_keys(int64_t rows, int64_t seed, int64_t step, uint64_t* keys,
                            void* stream) {
  if (rows == 0) return nullptr;
  return launch(row_keys_kernel, grid_of((rows + kThreads - 1) / kThreads), kThreads,
                static_cast<Stream>(stream), rows, seed, step, keys);
}
const char* launch_derive_keys(const KeyParts& parts, int64_t rows, uint64_t* keys, void* stream) {
  if (rows == 0) return nullptr;
  return launch(derive_keys_kernel, grid_of((rows + kThreads - 1) / kThreads), kThreads,
                static_cast<Stream>(stream), parts, rows, keys);
}

}  // namespace fusedraw::cuda
