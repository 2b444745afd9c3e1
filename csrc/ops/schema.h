// SPDX-License-Identifier: Apache-2.0
// Every operator's schema, one line each, for whatever library defines them.
//
// mode:    bits 0-1 filter order (sequential, joint, min_p_first), 2 ties="all",
//          3 mix_support="valid", 4-5 noise domain, 6 rows hold probabilities, 7 raise on a bad
//          row, 8 keep weightless tokens. softmax: bit 0 log, bit 7 raise.
//          route: bits 0-1 noise (none, gumbel, jitter), 2 sigmoid scores, 3 renormalise, 7 raise.
// outputs: the bits of calls.h in their order; `kept` gives ids and offsets.
// kind:    0 masked logits, 1 renormalised probabilities.
// params and temperature: float64 on the device of the rows, or one row of it on the CPU, which
// goes by value.
#pragma once

#include <torch/csrc/stable/library.h>

namespace fusedraw {

inline void define_operators(torch::stable::detail::StableLibrary& m) {
  m.def(
      "sample(Tensor logits, Tensor params, Tensor keys, Tensor? mask, int mode, int outputs, "
      "int top_n) -> Tensor[]");
  m.def("row_keys(Tensor logits, int seed, int step) -> Tensor");
  m.def("derive_keys(Tensor seed, Tensor request_ids, Tensor sample_ids, Tensor step) -> Tensor");
  m.def("softmax(Tensor logits, Tensor temperature, Tensor? mask, int mode) -> (Tensor, Tensor)");
  m.def("filter(Tensor x, Tensor params, Tensor? mask, int mode, int kind) -> (Tensor, Tensor)");
  m.def(
      "multinomial(Tensor probs, Tensor keys, int num_samples, bool replacement, int mode) -> "
      "(Tensor, Tensor)");
  // weights, ids, counts, status, explored. params: temperature, jitter, mix_eps. Without keys
  // nothing is drawn, whatever mix_eps is.
  m.def(
      "route(Tensor logits, Tensor params, Tensor? keys, Tensor? bias, Tensor? replay_ids, int k, "
      "int mode) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
}

}  // namespace fusedraw
