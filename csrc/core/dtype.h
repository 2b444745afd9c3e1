// SPDX-License-Identifier: Apache-2.0
// Storage types of logits and their exact widening to float32.
#pragma once

#include "arith.h"

namespace fusedraw {

enum class DType : uint8_t { kFloat32, kBFloat16, kFloat16 };

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

FD_FN float widen(float x) { return x; }
FD_FN float widen(BFloat16 x) { return float_of(uint32_t(x.bits) << 16); }
FD_FN float widen(Float16 x) {
  const uint32_t sign = uint32_t(x.bits & 0x8000u) << 16, exponent = (x.bits >> 10) & 31u,
                 fraction = x.bits & 1023u;
  if (exponent == 31) return float_of(sign | 0x7f800000u | fraction << 13);
  if (exponent == 0) {  // subnormal: fraction * 2^-24, exact in float32
    const float magnitude = float(int(fraction)) * 0x1p-24f;
    return sign ? -magnitude : magnitude;
  }
  return float_of(sign | (exponent + 112) << 23 | fraction << 13);
}

// The nearest value of the storage type, ties to even.
FD_FN void round_to(float x, float& to) { to = x; }
FD_FN void round_to(float x, BFloat16& to) {
  const uint32_t u = bits_of(x);
  to.bits = x != x ? uint16_t(0x7fc0u) : uint16_t((u + 0x7fffu + (u >> 16 & 1u)) >> 16);
}
FD_FN void round_to(float x, Float16& to) {
  const uint32_t u = bits_of(x), sign = u >> 16 & 0x8000u, magnitude = u & 0x7fffffffu;
  if (magnitude > 0x7f800000u)
    to.bits = 0x7e00u;
  else if (magnitude >= 0x477ff000u)  // 65520, half way to 2^16, rounds to infinity
    to.bits = uint16_t(sign | 0x7c00u);
  else if (magnitude < 0x38800000u)  // subnormal: 0.5 + x has the spacing of its multiples
    to.bits = uint16_t(sign | (bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f)));
  else
    to.bits = uint16_t(sign | (magnitude - 0x38000000u + 0xfffu + (magnitude >> 13 & 1u)) >> 13);
}

// The value that takes no part in a draw, in the row's own type.
FD_FN void set_neg_inf(float& x) { x = float_of(0xff800000u); }
FD_FN void set_neg_inf(BFloat16& x) { x.bits = 0xff80u; }
FD_FN void set_neg_inf(Float16& x) { x.bits = 0xfc00u; }

// What a bad row's output holds.
FD_FN void set_nan(float& x) { x = nan32(); }
FD_FN void set_nan(BFloat16& x) { x.bits = 0x7fc0u; }
FD_FN void set_nan(Float16& x) { x.bits = 0x7e00u; }

}  // namespace fusedraw
