// SPDX-License-Identifier: Apache-2.0
// The arithmetic that nvcc has as instructions, on the host.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace fusedraw::simt {

inline float float_from(uint32_t bits) {
  float x;
  memcpy(&x, &bits, 4);
  return x;
}
inline uint32_t bits_from(float x) {
  uint32_t bits;
  memcpy(&bits, &x, 4);
  return bits;
}

// The next float32 towards -inf of a finite or +inf x.
inline float next_below(float x) {
  const uint32_t bits = bits_from(x);
  if ((bits & 0x7fffffffu) == 0) return float_from(0x80000001u);
  return float_from(bits >> 31 ? bits + 1 : bits - 1);
}

// t + u rounded towards -inf. TwoSum gives what the nearest sum lost, exactly unless something
// overflows: where it lost something negative, the sum below is the answer.
inline float add_round_down(float t, float u) {
  constexpr float kMax = std::numeric_limits<float>::max(), kSafe = 0x1p126f;
  const float y = t + u;
  if (std::fabs(y) < kSafe && y != 0) {
    const float u_part = y - t, lost = (t - (y - u_part)) + (u - u_part);
    // Without a branch, since half of all sums are rounded up.
    const uint32_t bits = bits_from(y), up = uint32_t(int32_t(bits) >> 31) | 1u;
    return float_from(bits - (up & (0u - uint32_t(lost < 0))));
  }
  // x + -x is -0 in this direction, and so is any sum of zeros but 0 + 0.
  if (y == 0) return bits_from(t) == 0 && bits_from(u) == 0 ? 0.0f : -0.0f;
  if (!std::isfinite(t) || !std::isfinite(u)) return y;
  if (std::isinf(y) && y > 0) return kMax;
  if (std::isinf(y)) return y;
  // Large: the same in double, which holds the sum, or what TwoSum says it lost.
  const double a = t, b = u, s = a + b, b_part = s - a, lost = (a - (s - b_part)) + (b - b_part);
  return double(y) > s || (double(y) == s && lost < 0) ? next_below(y) : y;
}

// RNE(y) for 0 <= y < 2^32.
inline uint32_t round_to_uint(float y) { return uint32_t(int64_t(std::nearbyint(double(y)))); }

// 2^t, off by up to 2^-22 of it (0.72 of that, and the rounding to float32) in a way that the bits
// of t decide; below 2^-126: 0. What depends on the last bits of the device's approximation, which
// no host has, thereby shows.
inline float rough_exp2(float t) {
  if (std::isnan(t)) return t;
  const uint32_t hash = (bits_from(t) ^ bits_from(t) >> 15) * 0x2c1b3c6du;
  const double off = (double(hash ^ hash >> 12) * 0x1p-31 - 1.0) * 0x1.7p-23;
  const double y = std::exp2(double(t)) * (1.0 + off);
  return y < 0x1p-126 ? 0.0f : float(y);
}

}  // namespace fusedraw::simt
