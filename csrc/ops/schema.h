// SPDX-License-Identifier: Apache-2.0
// Every operator's schema, one line each, for whatever library defines them.
//
// mode:    bits 0-1 filter order (sequential, joint, min_p_first), 2 ties="all",
//          3 mix_support="valid", 4-5 noise domain, 6 rows hold probabilities, 7 raise on a bad
//          row, 8 keep weightless tokens, 9 temperature_last (sample_processed). softmax: bit 0
//          log, bit 7 raise. route: bits 0-1 noise (none, gumbel, jitter), 2 sigmoid scores, 3
//          renormalise, 7 raise. verify: bits 0-1 and 2 filter order and ties, 3-4 and 5 those of
//          the draft, 7 raise.
// outputs: the bits of calls.h in their order; `kept` gives ids and offsets.
//          mixture adds 12 member_logp, 13 member_entropy [M, B], 14 mean_entropy, 15
//          mutual_information, and has no logp_full, logp_raw, varentropy, margin.
// how:     0 arithmetic, 1 geometric, 2 cfg, 3 context_aware, 4 contrastive; weights: float64
//          [1 or B, M], or for 2 to 4 [1 or B, 2] strength and plausibility; placed like params.
// kind:    0 masked logits, 1 renormalised probabilities.
// token_logprob: logp, entropy ([0] where not asked for), status and `saved`, what its backward
//          needs of a row (core/token_logprob.h).
// params and temperature: float64 on the device of the rows, or one row of it on the CPU, which
// goes by value.
#pragma once

#include <torch/csrc/stable/library.h>

namespace fusedraw {

inline void define_operators(torch::stable::detail::StableLibrary& m) {
  m.def(
      "sample(Tensor logits, Tensor params, Tensor keys, Tensor? mask, int mode, int outputs, "
      "int top_n) -> Tensor[]");
  // sample with edits and rules (core/edits.h, core/late_rules.h). Ids are int32 or int64, [1 or B,
  // L] padded with negative ones or, with int64 offsets [2] (for all rows) or [B + 1], [N].
  m.def(
      "sample_processed(Tensor logits, Tensor params, Tensor rules, Tensor keys, Tensor? mask, "
      "Tensor? history, Tensor? history_offsets, Tensor? prompt, Tensor? prompt_offsets, Tensor? "
      "suppress, Tensor? suppress_offsets, Tensor? bias, Tensor? bias_offsets, Tensor? "
      "bias_values, int mode, int outputs, int top_n) -> Tensor[]");
  m.def("row_keys(Tensor logits, int seed, int step) -> Tensor");
  m.def("derive_keys(Tensor seed, Tensor request_ids, Tensor sample_ids, Tensor step) -> Tensor");
  m.def("softmax(Tensor logits, Tensor temperature, Tensor? mask, int mode) -> (Tensor, Tensor)");
  m.def("filter(Tensor x, Tensor params, Tensor? mask, int mode, int kind) -> (Tensor, Tensor)");
  m.def(
      "multinomial(Tensor probs, Tensor keys, int num_samples, bool replacement, int mode) -> "
      "(Tensor, Tensor)");
  m.def(
      "token_logprob(Tensor logits, Tensor ids, Tensor params, Tensor? mask, Tensor? kept_ids, "
      "Tensor? kept_offsets, int mode, bool entropy) -> (Tensor, Tensor, Tensor, Tensor)");
  m.def(
      "token_logprob_backward(Tensor grad_logp, Tensor? grad_entropy, Tensor logits, Tensor ids, "
      "Tensor? mask, Tensor? kept_ids, Tensor? kept_offsets, Tensor saved) -> Tensor");
  m.def(
      "mixture(Tensor[] members, Tensor weights, Tensor params, Tensor keys, Tensor? mask, int "
      "how, "
      "int mode, int outputs) -> Tensor[]");
  // weights, ids, counts, status, explored. params: temperature, jitter, mix_eps. Without keys
  // nothing is drawn, whatever mix_eps is.
  m.def(
      "route(Tensor logits, Tensor params, Tensor? keys, Tensor? bias, Tensor? replay_ids, int k, "
      "int mode) -> (Tensor, Tensor, Tensor, Tensor, Tensor)");
  // ids [B, G + 1], n_accepted, status, logp ([0, G + 1] where not asked for).
  m.def(
      "verify(Tensor draft_ids, Tensor draft_logits, Tensor target_logits, Tensor draft_params, "
      "Tensor params, Tensor keys, Tensor? draft_mask, Tensor? mask, Tensor? n_draft, int mode, "
      "bool logp) -> (Tensor, Tensor, Tensor, Tensor)");
}

}  // namespace fusedraw
