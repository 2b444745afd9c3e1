// SPDX-License-Identifier: Apache-2.0
#include "launchers.cuh"

namespace fusedraw::cuda {

const TypedLaunchers& bfloat16_launchers() { return launchers_of<BFloat16>(); }

}  // namespace fusedraw::cuda
