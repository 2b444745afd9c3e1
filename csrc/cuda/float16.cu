// SPDX-License-Identifier: Apache-2.0
#include "launchers.cuh"

namespace fusedraw::cuda {

const TypedLaunchers& float16_launchers() { return launchers_of<Float16>(); }

}  // namespace fusedraw::cuda
