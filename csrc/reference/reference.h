// SPDX-License-Identifier: Apache-2.0
// R2: the law in scalar C++ that sorts every row. Slow, obvious, selectable as an instruction set.
#pragma once

#include "../core/engine.h"

namespace fusedraw {

const Engine& reference_engine();

}  // namespace fusedraw
