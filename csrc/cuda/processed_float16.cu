// SPDX-License-Identifier: Apache-2.0
#include "processed.cuh"

namespace fusedraw::cuda {

const ProcessedLaunchers& processed_float16_launchers() {
  return processed_launchers_of<Float16>();
}

}  // namespace fusedraw::cuda
