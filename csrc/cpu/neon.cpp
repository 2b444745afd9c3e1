// SPDX-License-Identifier: Apache-2.0
// The engine for aarch64: every such processor has NEON and FMA, so no target region is needed; the
// compiler turns the lane loops into NEON.
#if defined(__aarch64__)
#define FUSEDRAW_HAVE_FMA 1
#include "engine_headers.h"

#include "../core/engine.h"
#include "../core/stats.h"
#include "simd_scalar.h"
#include "passes/engine.inl"

namespace fusedraw {

const Engine& neon_engine() {
  static constexpr Engine engine = engine_of("neon", []() -> bool { return true; });
  return engine;
}

}  // namespace fusedraw
#endif
