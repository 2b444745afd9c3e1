// SPDX-License-Identifier: Apache-2.0
// R2: the law in scalar C++ that sorts every row. Slow, obvious, selectable as an instruction set.
#pragma once

#include "../core/engine.h"

namespace fusedraw {

const Engine& reference_engine();

// Draws and stores the kept ids, but nothing else.
RowResult reference_draw(const SampleCall& call, int64_t row);
void reference_mixture_row(const MixtureCall& call, int64_t row, const Pool& pool);

}  // namespace fusedraw
