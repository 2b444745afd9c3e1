// SPDX-License-Identifier: Apache-2.0
#include "route_call.h"

#include <torch/csrc/stable/ops.h>

namespace fusedraw {
namespace {

RouteOptions parse_route_mode(int64_t mode) {
  FUSEDRAW_CHECK((mode & ~int64_t{0x8f}) == 0 && (mode & 3) != 3,
                 "route: mode bits out of range: ", mode);
  RouteOptions o;
  o.noise = RouteNoise(mode & 3);
  o.sigmoid = mode & 4;
  o.renormalise = mode & 8;
  return o;
}

}  // namespace

RouteTensors::RouteTensors(const Tensor& logits, const Tensor& params, const OptionalTensor& keys,
                           const OptionalTensor& bias, const OptionalTensor& replay_ids, int64_t k,
                           int64_t mode)
    : raise(mode & 128),
      x(checked_rows(op, "logits", logits)),
      device(x.device()),
      ids(x),
      weights(x),
      counts(x),
      status(x),
      explored(x),
      params_(x),
      keys_(x),
      bias_(x),
      replay_(x) {
  call.options = parse_route_mode(mode);
  call.x = rows_view(x);
  const int64_t rows = call.x.rows, experts = call.x.cols;
  FUSEDRAW_CHECK(experts <= kMaxExperts, op, ": logits must have at most ", kMaxExperts,
                 " experts, got ", experts);
  FUSEDRAW_CHECK(k >= 1 && k <= experts, op, ": k must be between 1 and the number of experts, ",
                 experts, ", got ", k);
  call.k = k;
  call.params = checked_params(op, params, rows, device, params_, kRouteColumns);
  FUSEDRAW_CHECK(keys || replay_ids || call.options.noise == RouteNoise::kNone, op,
                 ": noise needs keys");
  if (keys) call.keys = checked_keys(op, *keys, rows, device, keys_);
  if (bias) {
    check_device(op, "bias", *bias, device);
    FUSEDRAW_CHECK(
        bias->scalar_type() == ScalarType::Float && bias->dim() == 1 && bias->size(0) == experts,
        op, ": bias must be float32 [", experts, "], got ", shape_text(*bias));
    FUSEDRAW_CHECK(call.options.noise == RouteNoise::kNone, op, ": bias goes with no noise");
    bias_ = torch::stable::contiguous(*bias);
    call.bias = static_cast<const float*>(bias_.const_data_ptr());
  }
  if (replay_ids) {
    check_device(op, "replay_ids", *replay_ids, device);
    FUSEDRAW_CHECK(replay_ids->scalar_type() == ScalarType::Long && replay_ids->dim() == 2 &&
                       replay_ids->size(0) == rows && replay_ids->size(1) == k,
                   op, ": replay_ids must be int64 [", rows, ", ", k, "], got ",
                   shape_text(*replay_ids));
    replay_ = torch::stable::contiguous(*replay_ids);
    call.replay = static_cast<const int64_t*>(replay_.const_data_ptr());
  }
  ids = new_tensor({rows, k}, ScalarType::Long, device);
  weights = new_tensor({rows, k}, ScalarType::Float, device);
  counts = new_tensor({experts}, ScalarType::Long, device);
  status = new_tensor({rows}, ScalarType::Byte, device);
  explored = new_tensor({rows}, ScalarType::Bool, device);
  call.ids = data<int64_t>(ids);
  call.weights = data<float>(weights);
  call.status = data<uint8_t>(status);
  call.explored = data<bool>(explored);
}

}  // namespace fusedraw
