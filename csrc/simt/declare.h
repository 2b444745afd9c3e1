// SPDX-License-Identifier: Apache-2.0
// Declares what a call's kernels may touch, each row and array in its exact extents: inputs to be
// read, outputs to be written and to be read only once they were. The workspace is the caller's to
// declare, and so are offsets and ids of the kept set.
#pragma once

#include "../core/token_logprob.h"
#include "../core/mixture.h"
#include "../core/route.h"
#include "../core/verify.h"
#include "buffers.h"

namespace fusedraw::simt {

void declare(Buffers& buffers, const RowsView& x, const char* name);
void declare(Buffers& buffers, const MaskView& mask, int64_t rows, int64_t cols);
void declare(Buffers& buffers, const SampleCall& call);
void declare(Buffers& buffers, const SoftmaxCall& call);
void declare(Buffers& buffers, const FilterCall& call);
void declare(Buffers& buffers, const MultinomialCall& call);
void declare(Buffers& buffers, const TokenLogprobCall& call);
void declare(Buffers& buffers, const TokenLogprobGradCall& call);
void declare(Buffers& buffers, const MixtureCall& call);
void declare(Buffers& buffers, const RouteCall& call);
void declare(Buffers& buffers, const VerifyCall& call);

}  // namespace fusedraw::simt
