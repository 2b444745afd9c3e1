// SPDX-License-Identifier: Apache-2.0
// The CUDA engine as its callers see it: plain C++, no CUDA headers, no torch.
//
// Every pointer of a call lies on the device that is current; `stream` is a cudaStream_t. Nothing
// waits for the device. A launcher returns null, or why the launch failed. `workspace` is the
// caller's, 256-byte aligned, of the size that the op's *_workspace function gives, contents
// undefined; it must live until the work is done (an allocator that is ordered by stream sees to
// that).
#pragma once

#include "../core/token_logprob.h"
#include "../core/mixture.h"
#include "../core/route.h"
#include "../core/verify.h"

namespace fusedraw::cuda {

// The kept set of `sample` is two more steps, since its size is data: sample with out.n_kept set,
// then kept_offsets, then (the caller reads offsets[rows] and makes room) kept_ids, with the
// workspace as the first step left it.
int64_t sample_workspace(const SampleCall& call);
const char* launch_sample(const SampleCall& call, void* workspace, void* stream);
const char* launch_kept_offsets(const int64_t* n_kept, int64_t rows, int64_t* offsets,
                                void* stream);
const char* launch_kept_ids(const SampleCall& call, const void* workspace, const int64_t* offsets,
                            int32_t* ids, void* stream);

int64_t softmax_workspace(const SoftmaxCall& call);
const char* launch_softmax(const SoftmaxCall& call, void* workspace, void* stream);

int64_t filter_workspace(const FilterCall& call);
const char* launch_filter(const FilterCall& call, void* workspace, void* stream);

int64_t multinomial_workspace(const MultinomialCall& call);
const char* launch_multinomial(const MultinomialCall& call, void* workspace, void* stream);

int64_t token_logprob_workspace(const TokenLogprobCall& call);
const char* launch_token_logprob(const TokenLogprobCall& call, void* workspace, void* stream);
const char* launch_token_logprob_grad(const TokenLogprobGradCall& call, void* stream);
// The kept set, as of `sample`: kept_offsets, then kept_ids with the draw from the combined rows
// and the part of the workspace that this used.
int64_t mixture_workspace(const MixtureCall& call);
const char* launch_mixture(const MixtureCall& call, void* workspace, void* stream);
struct MixtureDraw {
  SampleCall call;
  void* workspace;
};
MixtureDraw mixture_draw(const MixtureCall& call, void* workspace);
// counts: [experts], zero before; the ids of all good rows are added. No workspace.
const char* launch_route(const RouteCall& call, int64_t* counts, void* stream);

int64_t verify_workspace(const VerifyCall& call);
const char* launch_verify(const VerifyCall& call, void* workspace, void* stream);

// keys[r] = the key of (seed, request r, sample 0, step), and the same with one of each per row
// (stride 0: one for all rows). Sample ids count modulo 2^32: looking at them would need a sync.
const char* launch_row_keys(int64_t rows, int64_t seed, int64_t step, uint64_t* keys, void* stream);
struct KeyParts {
  const int64_t *seed = nullptr, *request = nullptr, *sample = nullptr, *step = nullptr;
  int64_t seed_stride = 0, request_stride = 0, sample_stride = 0, step_stride = 0;
};
const char* launch_derive_keys(const KeyParts& parts, int64_t rows, uint64_t* keys, void* stream);

}  // namespace fusedraw::cuda
