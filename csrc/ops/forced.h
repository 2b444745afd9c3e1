// SPDX-License-Identifier: Apache-2.0
#pragma once

#include <vector>

#include "../core/noise.h"

namespace fusedraw {

// Noise that tests put in place of the generator's; empty outside tests. Not synchronised.
inline std::vector<ForcedNoise>& forced_noise() {
  static std::vector<ForcedNoise> list;
  return list;
}

template <typename Call>
void use_forced_noise(Call& call) {
  call.forced = forced_noise().data();
  call.n_forced = int64_t(forced_noise().size());
}

}  // namespace fusedraw
