// SPDX-License-Identifier: Apache-2.0
// R2 of token_logprob: the score of a given token and its gradient.
#pragma once

#include "../core/engine.h"

namespace fusedraw::reference {

void token_logprob_row(const TokenLogprobCall& call, int64_t row, const Pool&);
void token_logprob_grad_row(const TokenLogprobGradCall& call, int64_t row, const Pool&);

}  // namespace fusedraw::reference
