// SPDX-License-Identifier: Apache-2.0
// From the tensors of `verify` to the call of an engine, as calls.h does for the other operators.
#pragma once

#include "../core/verify.h"
#include "calls.h"

namespace fusedraw {

// ids, n_accepted, status, logp.
using VerifyResults = std::tuple<Tensor, Tensor, Tensor, Tensor>;

struct VerifyTensors {
  VerifyTensors(const Tensor& draft_ids, const Tensor& draft_logits, const Tensor& target_logits,
                const Tensor& draft_params, const Tensor& params, const Tensor& keys,
                const OptionalTensor& draft_mask, const OptionalTensor& mask,
                const OptionalTensor& n_draft, int64_t mode, bool wants_logp);

  static constexpr const char* op = "verify";
  bool raise;
  Device device;
  VerifyCall call;
  Tensor ids, n_accepted, status, logp;

  VerifyResults results() const { return {ids, n_accepted, status, logp}; }

 private:
  Tensor target_logits_, draft_logits_, draft_ids_, n_draft_, draft_params_, params_, keys_,
      draft_mask_, mask_;
};

// Throws when some row is bad. `status` is host memory.
void raise_bad_verdicts(const uint8_t* status, int64_t rows);

}  // namespace fusedraw
