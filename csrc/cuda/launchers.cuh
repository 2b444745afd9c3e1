// SPDX-License-Identifier: Apache-2.0
// Which kernels an op launches, for rows of type T. Included by one source file per type.
#pragma once

#include "first_pass.cuh"
#include "mixture.cuh"
#include "multinomial.cuh"
#include "sample.cuh"
#include "token_logprob.cuh"
#include "typed.h"
#include "whole_rows.cuh"

namespace fusedraw::cuda {

template <typename T>
const char* launch_sample_of(const SampleCall& call, void* workspace, void* stream) {
  if (call.x.rows == 0) return nullptr;
  const Stream s = static_cast<Stream>(stream);
  const Space space = sample_space(call, workspace);
  const RowTask task{call.x, call.mask, call.params, call.options, true};
  if (const char* error = scan_parts<T>(task, space, s)) return error;
  const dim3 grid = grid_of(call.x.rows);
  if (!wants_more(call.out))
    return launch(sample_kernel<T, false>, grid, kThreads, s, call, space, false);
  return launch(sample_kernel<T, true>, grid, kThreads, s, call, space, keeps_laws(call));
}

template <typename T>
const char* launch_kept_ids_of(const SampleCall& call, const void* workspace,
                               const int64_t* offsets, int32_t* ids, void* stream) {
  if (call.x.rows == 0) return nullptr;
  const Space space = sample_space(call, const_cast<void*>(workspace));
  return launch(kept_ids_kernel<T>, grid_of(call.x.rows), kThreads, static_cast<Stream>(stream),
                call, space, EditSpace{}, offsets, ids);
}

inline Space softmax_space(const SoftmaxCall& call, void* base) {
  return plan_space(call.x, true, false, base);
}
inline Space filter_space(const FilterCall& call, void* base) {
  return plan_space(call.x, true, true, base);
}

// Few rows are written by many thread blocks each.
inline WriteTask write_task(const RowsView& x, const MaskView& mask, void* out, float least_t,
                            bool probs) {
  const int blocks = int((x.cols + kBlock - 1) / kBlock);
  const int per_chunk = x.rows < kSplitBelow ? kFewRowsChunk : kManyRowsChunk;
  return {x, mask, out, least_t, probs, (blocks + per_chunk - 1) / per_chunk, per_chunk};
}
template <typename T, Whole kWhat>
const char* write_rows(const WriteTask& task, const Space& space, Stream stream) {
  return launch(write_rows_kernel<T, kWhat>, grid_of(task.x.rows * task.chunks), kThreads, stream,
                task, space);
}

template <typename T>
const char* launch_softmax_of(const SoftmaxCall& call, void* workspace, void* stream) {
  if (call.x.rows == 0) return nullptr;
  const Stream s = static_cast<Stream>(stream);
  const Space space = softmax_space(call, workspace);
  if (const char* error = scan_parts<T>({call.x, call.mask, {}, {}, false}, space, s)) return error;
  if (const char* error =
          launch(softmax_law_kernel<T>, grid_of(call.x.rows), kThreads, s, call, space))
    return error;
  const WriteTask task = write_task(call.x, call.mask, call.out, kLeastSoftmaxT, false);
  return call.log ? write_rows<T, Whole::kLogs>(task, space, s)
                  : write_rows<T, Whole::kShares>(task, space, s);
}

template <typename T>
const char* launch_filter_of(const FilterCall& call, void* workspace, void* stream) {
  if (call.x.rows == 0) return nullptr;
  const Stream s = static_cast<Stream>(stream);
  const Space space = filter_space(call, workspace);
  if (const char* error =
          scan_parts<T>({call.x, call.mask, call.params, call.options, true}, space, s))
    return error;
  if (const char* error =
          launch(filter_law_kernel<T>, grid_of(call.x.rows), kThreads, s, call, space))
    return error;
  const WriteTask task = write_task(call.x, call.mask, call.out, kLeastWeightT, call.options.probs);
  return call.renorm ? write_rows<T, Whole::kShares>(task, space, s)
                     : write_rows<T, Whole::kMask>(task, space, s);
}

// One draw is a sample with no filters.
inline SampleCall as_sample(const MultinomialCall& call) {
  SampleCall c;
  c.x = call.x;
  c.params.row[kTemperature] = c.params.row[kTopP] = 1.0;
  c.keys = call.keys;
  c.options.probs = true;
  c.out.ids = call.ids;
  c.out.status = call.status;
  c.forced = call.forced;
  c.n_forced = call.n_forced;
  return c;
}
// Whether the draws end in launch_in_order().
inline bool draws_distinct(const MultinomialCall& call) {
  return call.num_samples > 1 && !call.replacement;
}

template <typename T>
const char* draw_many(const MultinomialCall& call, const DrawSpace& space, Stream stream) {
  if (space.rows.splits > 1)
    if (const char* error = launch(add_up_kernel, grid_of(call.x.rows), kThreads, stream, space))
      return error;
  const int64_t warps = call.x.rows * call.num_samples / kDrawingWarps;
  const int each = warps < 1 ? 1 : warps < kLanes ? int(warps) : kLanes;
  const int64_t chunks = (call.num_samples + kWarps * each - 1) / (kWarps * each);
  return launch(draw_kernel<T>, grid_of(call.x.rows * chunks), kThreads, stream, call, space, each,
                chunks);
}

// Without replacement, all but the last step.
template <typename T>
const char* launch_multinomial_of(const MultinomialCall& call, void* workspace, void* stream) {
  if (call.x.rows == 0) return nullptr;
  if (call.num_samples == 1) return launch_sample_of<T>(as_sample(call), workspace, stream);
  const Stream s = static_cast<Stream>(stream);
  const DrawSpace space = plan_draws(call, workspace);
  RowTask task{call.x, {}, {}, {}, false};
  task.options.probs = true;
  if (const char* error = scan_parts<T>(task, space.rows, s)) return error;
  const dim3 grid = grid_of(call.x.rows * space.rows.splits);
  if (draws_distinct(call)) return launch(weigh_kernel<T, false>, grid, kThreads, s, call, space);
  if (const char* error = launch(weigh_kernel<T, true>, grid, kThreads, s, call, space))
    return error;
  return draw_many<T>(call, space, s);
}

inline Space token_logprob_space(const TokenLogprobCall& call, void* base) {
  return plan_space(call.x, false, true, base);
}

template <typename T>
const char* launch_token_logprob_of(const TokenLogprobCall& call, void* workspace, void* stream) {
  if (call.x.rows == 0) return nullptr;
  const Stream s = static_cast<Stream>(stream);
  const Space space = token_logprob_space(call, workspace);
  // Whether a replayed row is read as a whole may depend on its own mix_eps.
  if (call.kept.offsets == nullptr || call.entropy != nullptr || call.options.mix_valid)
    if (const char* error =
            scan_parts<T>({call.x, call.mask, call.params, call.options, true}, space, s))
      return error;
  return launch(token_logprob_kernel<T>, grid_of(call.x.rows), kThreads, s, call, space);
}

template <typename T>
const char* launch_token_logprob_grad_of(const TokenLogprobGradCall& call, void* stream) {
  if (call.x.rows == 0) return nullptr;
  const WriteTask task = write_task(call.x, call.mask, call.grad, kLeastWeightT, false);
  return launch(token_logprob_grad_kernel<T>, grid_of(call.x.rows * task.chunks), kThreads,
                static_cast<Stream>(stream), call, task.chunks, task.per_chunk);
}

constexpr int kCombineBlocks = 64;  // thread blocks that write a combined row, at most

inline dim3 grid_of_threads(int64_t n) { return grid_of((n + kThreads - 1) / kThreads); }

template <typename T>
const char* launch_combine_of(const MixtureCall& call, void* workspace, void* stream) {
  const Stream s = static_cast<Stream>(stream);
  const MixtureSpace space = plan_mixture(call, workspace);
  const dim3 rows = grid_of(call.x.rows);
  for (int m = 0; m < call.members; ++m) {
    const MemberTask task{call.member[m], call.mask, call.params, m, wants_member_entropies(call)};
    if (const char* error = launch(member_law_kernel<T>, rows, kThreads, s, task, space))
      return error;
  }
  const TermsTask terms{call.weights, call.how, call.members};
  if (const char* error =
          launch(mixture_terms_kernel, grid_of_threads(call.x.rows), kThreads, s, terms, space))
    return error;
  const int chunks = space.blocks < kCombineBlocks ? space.blocks : kCombineBlocks;
  const CombineTask task{call.mask, call.x.cols, call.how, call.members, chunks};
  if (const char* error =
          launch(combine_kernel<T>, grid_of(call.x.rows * chunks), kThreads, s, task, space))
    return error;
  if (!wants_mean_entropy(call)) return nullptr;
  return launch(mean_sums_kernel, rows, kThreads, s, call.x.cols, space);
}

template <typename T>
const char* launch_finish_mixture_of(const MixtureCall& call, void* workspace, void* stream) {
  const FinishTask task{
      call.out.ids,        call.out.status,   call.out.entropy,        call.member_logp,
      call.member_entropy, call.mean_entropy, call.mutual_information, call.how,
      call.members};
  return launch(mixture_finish_kernel<T>, grid_of_threads(call.x.rows), kThreads,
                static_cast<Stream>(stream), task, plan_mixture(call, workspace));
}

template <typename T>
const TypedLaunchers& launchers_of() {
  static const TypedLaunchers all = {launch_sample_of<T>,
                                     launch_kept_ids_of<T>,
                                     launch_softmax_of<T>,
                                     launch_filter_of<T>,
                                     launch_multinomial_of<T>,
                                     launch_token_logprob_of<T>,
                                     launch_token_logprob_grad_of<T>,
                                     launch_combine_of<T>,
                                     launch_finish_mixture_of<T>};
  return all;
}

}  // namespace fusedraw::cuda
