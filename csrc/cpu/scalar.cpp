// SPDX-License-Identifier: Apache-2.0
// The portable engine: any processor, no instruction-set extension.
#include "engine_headers.h"

#include "../core/engine.h"
#include "../core/stats.h"
#include "simd_scalar.h"
#include "passes/engine.inl"

namespace fusedraw {

const Engine& scalar_engine() {
  static constexpr Engine engine = engine_of("scalar", []() -> bool { return true; });
  return engine;
}

}  // namespace fusedraw
