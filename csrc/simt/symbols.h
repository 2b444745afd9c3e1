// SPDX-License-Identifier: Apache-2.0
// Names of functions from their addresses, for messages and records.
#pragma once

#include <string>

namespace fusedraw::simt {

// The demangled name without its parameters; "function at <address>" where no symbol is left.
std::string function_name(const void* function);

}  // namespace fusedraw::simt
