// SPDX-License-Identifier: Apache-2.0
// R2 of routing: every expert's key, sorted.
#pragma once

#include "../core/engine.h"

namespace fusedraw::reference {

void route_row(const RouteCall& call, int64_t row, const Pool&);

}  // namespace fusedraw::reference
