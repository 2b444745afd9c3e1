// SPDX-License-Identifier: Apache-2.0
// From the tensors of `route` to the call of an engine, as calls.h does for the other operators.
#pragma once

#include "../core/route.h"
#include "calls.h"

namespace fusedraw {

// weights, ids, counts, status, explored.
using RouteResults = std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor>;

struct RouteTensors {
  RouteTensors(const Tensor& logits, const Tensor& params, const OptionalTensor& keys,
               const OptionalTensor& bias, const OptionalTensor& replay_ids, int64_t k,
               int64_t mode);

  const char* op = "route";
  bool raise;
  Tensor x;
  Device device;
  RouteCall call;
  Tensor ids, weights, counts, status, explored;  // counts: for the device to fill

  RouteResults results() const { return {weights, ids, counts, status, explored}; }

 private:
  Tensor params_, keys_, bias_, replay_;
};

}  // namespace fusedraw
