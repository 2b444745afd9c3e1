// SPDX-License-Identifier: Apache-2.0
// Per-row status: the first that holds, in this order after parameters.
#pragma once

#include "config.h"

namespace fusedraw {

enum Status : uint8_t { kOk = 0, kBadParam = 1, kNan = 2, kPosInf = 3, kEmpty = 4 };

}  // namespace fusedraw
