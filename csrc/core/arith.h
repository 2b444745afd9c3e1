// SPDX-License-Identifier: Apache-2.0
// Exact and correctly rounded scalar arithmetic: FMA, bit casts, 128-bit integer to double.
//
// Every function is one IEEE operation, round to nearest even. No libm approximations.
#pragma once

#include <cstring>

#include "config.h"

namespace fusedraw {

FD_FN uint32_t bits_of(float x) {
  uint32_t u;
  memcpy(&u, &x, 4);
  return u;
}
FD_FN float float_of(uint32_t u) {
  float x;
  memcpy(&x, &u, 4);
  return x;
}
FD_FN uint64_t bits_of(double x) {
  uint64_t u;
  memcpy(&u, &x, 8);
  return u;
}
FD_FN double double_of(uint64_t u) {
  double x;
  memcpy(&x, &u, 8);
  return x;
}

constexpr float kFltMax = 0x1.fffffep+127f;
FD_FN float inf32() { return float_of(0x7f800000u); }
FD_FN float nan32() { return float_of(0x7fc00000u); }

// a * b + c rounded once to float32.
FD_FN float fma32(float a, float b, float c) {
#if defined(__CUDA_ARCH__)
  return __fmaf_rn(a, b, c);
#elif defined(FUSEDRAW_HAVE_FMA) || defined(__FP_FAST_FMAF)
  return __builtin_fmaf(a, b, c);
#else
  // Baseline x86-64 has no FMA. The product is exact in double (48 bits); the sum is rounded to odd
  // (Boldo & Melquiond 2008), so that the second rounding, to float32, is the only one that counts.
  const double p = double(a) * double(b), d = double(c);
  double s = p + d;
  const double t = s - p;
  const double err = (p - (s - t)) + (d - t);
  if ((err < 0.0 || err > 0.0) && (bits_of(s) & 1) == 0)  // not where s is infinite: err is NaN
    s = double_of(bits_of(s) + (((err > 0.0) == (s > 0.0)) ? 1 : uint64_t(-1)));
  return float(s);
#endif
}

// a * b + c rounded once to float64; without FMA hardware the C library's exact software version.
FD_FN double fma64(double a, double b, double c) {
#if defined(__CUDA_ARCH__)
  return __fma_rn(a, b, c);
#else
  return __builtin_fma(a, b, c);
#endif
}

// D(n): an integer to float64, round to nearest even.
FD_FN double to_double(uint64_t n) { return double(n); }
FD_FN double to_double(u128 n) {
  if (uint64_t(n >> 64) == 0) return double(uint64_t(n));
  int shift = 0;  // keep 64 bits and a sticky one; 64 - 53 > 2, so one rounding remains
  u128 top = n;
  while (uint64_t(top >> 64) != 0) {
    top >>= 8;
    shift += 8;
  }
  uint64_t kept = uint64_t(top);
  if ((u128(kept) << shift) != n) kept |= 1;
  return double(kept) * double_of(uint64_t(1023 + shift) << 52);
}

}  // namespace fusedraw
