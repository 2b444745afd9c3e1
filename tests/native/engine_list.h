// SPDX-License-Identifier: Apache-2.0
// The engines of this processor, for programs without torch.
#pragma once

#include <algorithm>
#include <vector>

#include "../../csrc/core/engine.h"
#include "../../csrc/cpu/engines.h"
#include "../../csrc/reference/reference.h"

namespace fusedraw {

// Those that run here, R2 first.
inline std::vector<const Engine*> available_engines() {
  std::vector<const Engine*> all = {&reference_engine(), &scalar_engine()};
#if defined(__x86_64__)
  all.insert(all.end(), {&avx2_engine(), &avx512_engine()});
#elif defined(__aarch64__)
  all.push_back(&neon_engine());
#endif
  all.erase(std::remove_if(all.begin(), all.end(), [](const Engine* e) { return !e->available(); }),
            all.end());
  return all;
}

}  // namespace fusedraw
