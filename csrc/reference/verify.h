// SPDX-License-Identifier: Apache-2.0
// R2 of speculative decoding: both laws of a position, sorted; every residual.
#pragma once

#include "../core/engine.h"

namespace fusedraw::reference {

void verify_row(const VerifyCall& call, int64_t row, const Pool&);

}  // namespace fusedraw::reference
