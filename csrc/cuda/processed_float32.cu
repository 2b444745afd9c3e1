// SPDX-License-Identifier: Apache-2.0
#include "processed.cuh"

namespace fusedraw::cuda {

const ProcessedLaunchers& processed_float32_launchers() { return processed_launchers_of<float>(); }

}  // namespace fusedraw::cuda
