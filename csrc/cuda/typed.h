// SPDX-License-Identifier: Apache-2.0
// The launchers of one dtype. Each has a source file of its own, so that they compile in parallel.
#pragma once

#include "launch.h"

namespace fusedraw::cuda {

struct TypedLaunchers {
  const char* (*sample)(const SampleCall&, void* workspace, void* stream);
  const char* (*kept_ids)(const SampleCall&, const void* workspace, const int64_t* offsets,
                          int32_t* ids, void* stream);
  const char* (*softmax)(const SoftmaxCall&, void* workspace, void* stream);
  const char* (*filter)(const FilterCall&, void* workspace, void* stream);
  const char* (*multinomial)(const MultinomialCall&, void* workspace, void* stream);
  const char* (*token_logprob)(const TokenLogprobCall&, void* workspace, void* stream);
  const char* (*token_logprob_grad)(const TokenLogprobGradCall&, void* stream);
  // Before and after the draw from the combined rows.
  const char* (*combine)(const MixtureCall&, void* workspace, void* stream);
  const char* (*finish_mixture)(const MixtureCall&, void* workspace, void* stream);
};

// Of sample_processed.
struct ProcessedLaunchers {
  const char* (*sample)(const SampleCall&, void* workspace, void* stream);
  const char* (*kept_ids)(const SampleCall&, const void* workspace, const int64_t* offsets,
                          int32_t* ids, void* stream);
};

const TypedLaunchers& float32_launchers();
const TypedLaunchers& bfloat16_launchers();
const TypedLaunchers& float16_launchers();
const ProcessedLaunchers& processed_float32_launchers();
const ProcessedLaunchers& processed_bfloat16_launchers();
const ProcessedLaunchers& processed_float16_launchers();

}  // namespace fusedraw::cuda
