// SPDX-License-Identifier: Apache-2.0
// For a library of float32 rows alone, which is built in a third of the time.
#include <stdexcept>

#include "../../csrc/cuda/typed.h"

namespace fusedraw::cuda {

const TypedLaunchers& bfloat16_launchers() { throw std::runtime_error("built for float32 alone"); }
const TypedLaunchers& float16_launchers() { return bfloat16_launchers(); }
const ProcessedLaunchers& processed_bfloat16_launchers() {
  throw std::runtime_error("built for float32 alone");
}
const ProcessedLaunchers& processed_float16_launchers() { return processed_bfloat16_launchers(); }

}  // namespace fusedraw::cuda
