// SPDX-License-Identifier: Apache-2.0
// Everything from outside that the passes use. Included before a target region opens, so that no
// library function is compiled for an instruction set that the machine may lack.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "engines.h"
#include "scratch.h"
