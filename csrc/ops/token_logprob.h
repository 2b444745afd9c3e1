// SPDX-License-Identifier: Apache-2.0
// From the tensors of token_logprob and its backward to the call of an engine, as calls.h does for
// the other operators.
#pragma once

#include "../core/token_logprob.h"
#include "calls.h"

namespace fusedraw {

struct TokenLogprobTensors {
  TokenLogprobTensors(const Tensor& logits, const Tensor& token_ids, const Tensor& params,
                      const OptionalTensor& mask, const OptionalTensor& kept_ids,
                      const OptionalTensor& kept_offsets, const Mode& mode, bool wants_entropy);

  static constexpr const char* op = "token_logprob";
  Tensor x;
  Device device;
  TokenLogprobCall call;
  Tensor logp, entropy, status, saved;

 private:
  Tensor ids_, params_, mask_, kept_ids_, kept_offsets_;
};

struct TokenLogprobGradTensors {
  TokenLogprobGradTensors(const Tensor& grad_logp, const OptionalTensor& grad_entropy,
                          const Tensor& logits, const Tensor& token_ids, const OptionalTensor& mask,
                          const OptionalTensor& kept_ids, const OptionalTensor& kept_offsets,
                          const Tensor& saved);

  static constexpr const char* op = "token_logprob_backward";
  Tensor x;
  Device device;
  TokenLogprobGradCall call;
  Tensor grad;

 private:
  Tensor grad_logp_, grad_entropy_, ids_, saved_, mask_, kept_ids_, kept_offsets_;
};

// Contiguous int64 of length `rows`.
const int64_t* checked_ids(const char* op, const Tensor& ids, int64_t rows, const Device& device,
                           Tensor& hold);
// Both tensors or neither.
KeptSetsView checked_kept(const char* op, const OptionalTensor& kept_ids,
                          const OptionalTensor& kept_offsets, int64_t rows, const Device& device,
                          Tensor& hold_ids, Tensor& hold_offsets);

// Throws, naming the row, where a token id or a recorded kept set is none. All of it host memory.
void check_scored(const char* op, const int64_t* ids, const KeptSetsView& kept, int64_t rows,
                  int64_t cols);

// float64 rows on the CPU: the formulas in double, for gradient checks. No promise of bits.
std::tuple<Tensor, Tensor, Tensor, Tensor> token_logprob_double(
    const Tensor& logits, const Tensor& token_ids, const Tensor& params, const OptionalTensor& mask,
    const OptionalTensor& kept_ids, const OptionalTensor& kept_offsets, const Mode& mode,
    bool wants_entropy);
Tensor token_logprob_backward_double(const Tensor& grad_logp, const OptionalTensor& grad_entropy,
                                     const Tensor& logits, const Tensor& token_ids,
                                     const OptionalTensor& mask, const OptionalTensor& kept_ids,
                                     const OptionalTensor& kept_offsets, const Tensor& saved);

}  // namespace fusedraw
