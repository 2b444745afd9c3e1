// SPDX-License-Identifier: Apache-2.0
#include "schema.h"

STABLE_TORCH_LIBRARY(fusedraw, m) { fusedraw::define_operators(m); }
