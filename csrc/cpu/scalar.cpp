// SPDX-License-Identifier: Apache-2.0
// The portable engine: any processor, no instruction-set extension.
#include "engine_headers.h"

#include "../core/engine.h"
#include "../core/stats.h"
#include "simd_scalar.h"
#include "passes/engine.inl"

namespace fusedraw {

const Engine& scalar_engine() {
  static const Engine engine = {"scalar",          []() -> bool { return true; },
                                sample_row,        softmax_row,
                                filter_row,        multinomial_row,
                                token_logprob_row, token_logprob_grad_row,
                                mixture_row,       route_row,
                                weight_hash};
  return engine;
}

}  // namespace fusedraw
