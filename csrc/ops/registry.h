// SPDX-License-Identifier: Apache-2.0
// The engines of this build and the one in use. FUSEDRAW_ISA forces one; unknown names are errors.
#pragma once

#include <string>
#include <vector>

#include "../core/engine.h"

namespace fusedraw {

// Names of the engines that run on this machine, slowest first.
std::vector<std::string> available_engines();
const Engine& current_engine();
// Throws std::invalid_argument naming what is available.
void set_engine(const std::string& name);
// Reads FUSEDRAW_ISA once; throws like set_engine.
void choose_engine_from_environment();

}  // namespace fusedraw
