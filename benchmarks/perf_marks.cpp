// SPDX-License-Identifier: Apache-2.0
// Where callgrind begins to count and where it writes down what it has, for perf_facade.py.
#include <valgrind/callgrind.h>

extern "C" void perf_begin() { CALLGRIND_TOGGLE_COLLECT; }
extern "C" void perf_end() {
  CALLGRIND_TOGGLE_COLLECT;
  CALLGRIND_DUMP_STATS;
}
