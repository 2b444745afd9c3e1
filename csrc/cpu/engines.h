// SPDX-License-Identifier: Apache-2.0
// One engine per instruction set, from the same source (see passes).
#pragma once

#include "../core/engine.h"

namespace fusedraw {

const Engine& scalar_engine();
#if defined(__x86_64__)
const Engine& avx2_engine();
const Engine& avx512_engine();
#elif defined(__aarch64__)
const Engine& neon_engine();
#endif

}  // namespace fusedraw
