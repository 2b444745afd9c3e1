// SPDX-License-Identifier: Apache-2.0
// The whole engine of one instruction set: included once by each, inside its target region, after
// its verbs (struct V).
#pragma once

#include "row.inl"
#include "edits.inl"
#include "lanes.inl"
#include "blocks.inl"
#include "sums.inl"
#include "noise.inl"
#include "race.inl"
#include "list.inl"
#include "select.inl"
#include "pivot.inl"
#include "estimate.inl"
#include "sampled.inl"
#include "sides.inl"
#include "top_p.inl"
#include "kept.inl"
#include "late_rules.inl"
#include "sample.inl"
#include "softmax.inl"
#include "multinomial.inl"
#include "token_logprob.inl"
#include "token_logprob_grad.inl"
#include "mixture.inl"
#include "route.inl"
#include "verify.inl"

namespace fusedraw {
namespace {

// Hashes the weights that the vector code gives, float by float.
uint64_t weight_hash(uint32_t begin, uint32_t end) {
  uint64_t h = kHashSeed;
  alignas(64) float t[V::kLanes], hi[V::kLanes];
  for (uint64_t u = begin; u < end; u += V::kLanes) {
    for (int i = 0; i < V::kLanes; ++i) {
      const uint64_t bits = u + uint64_t(i) < end ? u + uint64_t(i) : u;
      t[i] = float_of(uint32_t(bits));
    }
    const V::F e = LogitLanes::exp2(V::max(V::load(t), V::set(kClampT)));
    V::store(hi, V::keep(V::gt(e, V::set(kNoWeight)), e));
    for (int i = 0; i < V::kLanes && u + uint64_t(i) < end; ++i) h = hash_step(h, fixed43(hi[i]));
  }
  return h;
}

// A constant expression: none of this region's instructions may run before `available` was asked.
constexpr Engine engine_of(const char* name, bool (*available)()) {
  return {name,        available,       sample_row,        softmax_row,
          filter_row,  multinomial_row, token_logprob_row, token_logprob_grad_row,
          mixture_row, route_row,       verify_row,        weight_hash};
}

}  // namespace
}  // namespace fusedraw
