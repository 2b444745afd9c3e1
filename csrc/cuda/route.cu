// SPDX-License-Identifier: Apache-2.0
#include "route.cuh"

namespace fusedraw::cuda {

const char* launch_route(const RouteCall& call, int64_t* counts, void* stream) {
  if (call.x.rows == 0) return nullptr;
  const Stream s = static_cast<Stream>(stream);
  switch (call.x.dtype) {
    case DType::kBFloat16:
      return launch_route_of<BFloat16>(call, counts, s);
    case DType::kFloat16:
      return launch_route_of<Float16>(call, counts, s);
    default:
      return launch_route_of<float>(call, counts, s);
  }
}

}  // namespace fusedraw::cuda
