// SPDX-License-Identifier: Apache-2.0
#include "launchers.cuh"

namespace fusedraw::cuda {

const TypedLaunchers& float32_launchers() { return launchers_of<float>(); }

}  // namespace fusedraw::cuda
