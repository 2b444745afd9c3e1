// SPDX-License-Identifier: Apache-2.0
#include "processed.cuh"

namespace fusedraw::cuda {

const ProcessedLaunchers& processed_bfloat16_launchers() {
  return processed_launchers_of<BFloat16>();
}

}  // namespace fusedraw::cuda
