// SPDX-License-Identifier: Apache-2.0
// The order of the law: x descending, then index ascending.
#pragma once

#include "arith.h"

namespace fusedraw {

// Monotone map float32 -> uint32; -0 and +0 share a key. NaN is never passed.
FD_FN uint32_t order_key(float x) {
  const uint32_t u = bits_of(x + 0.0f);
  return u & 0x80000000u ? ~u : u | 0x80000000u;
}
FD_FN float from_order_key(uint32_t k) { return float_of(k & 0x80000000u ? k & 0x7fffffffu : ~k); }
// The next float towards +inf; the two zeros count as one.
FD_FN float next_up(float x) { return from_order_key(order_key(x) + 1); }

// The next float towards -inf, likewise.
FD_FN float next_down(float x) {
  const uint32_t k = order_key(x);
  return from_order_key(k == 0x80000000u ? 0x7ffffffeu : k - 1);
}

// The smallest float x in [low, high] with holds(x), holds(high) being true and the rest monotone:
// a bisection over the order keys, at most 32 steps.
template <typename Holds>
FD_FN float smallest_holding(float low_value, float high_value, Holds holds) {
  uint32_t low = order_key(low_value), high = order_key(high_value);
  while (low < high) {
    const uint32_t middle = low + (high - low) / 2;
    if (holds(from_order_key(middle)))
      high = middle;
    else
      low = middle + 1;
  }
  return from_order_key(high);
}

// Whether (x, i) comes before (y, j).
FD_FN bool before(float x, int64_t i, float y, int64_t j) { return x > y || (x == y && i < j); }

}  // namespace fusedraw
