// SPDX-License-Identifier: Apache-2.0
// The noise of a row: a pure function of (key, purpose, domain, id).
//
// r64 is uniform on [0, 2^64); exponential(r64) is a standard exponential in [2^-65, 36.8).
// Nothing here depends on rank, lane, slot, batch position or survivor order.
#pragma once

#include "arith.h"
#include "philox.h"

namespace fusedraw {

enum Purpose : uint32_t {
  kPurposeBlock = 1,
  kPurposeToken = 2,
  kPurposeCoin = 3,
  kPurposeMany = 4,
  kPurposeOrder = 5,
  kPurposeXtc = 6,
  kPurposeRoute = 7,
};

// One value of r64 that a test puts in place of the generator's, whatever the key.
struct ForcedNoise {
  uint32_t purpose;
  int64_t id;
  uint64_t r64;
};

struct Noise {
  uint64_t seed = 0, offset = 0;
  uint32_t domain = 0;  // 0 target, 1 draft, 2 accept, 3 recovery
  const ForcedNoise* forced = nullptr;
  int64_t n_forced = 0;
};

FD_FN Philox4 noise_block(const Noise& n, uint32_t purpose, uint32_t counter) {
  return philox4x32_10(uint32_t(n.seed), uint32_t(n.seed >> 32), counter, purpose | n.domain << 8,
                       uint32_t(n.offset), uint32_t(n.offset >> 32));
}

FD_FN const ForcedNoise* find_forced(const Noise& n, uint32_t purpose, int64_t id) {
  for (int64_t i = 0; i < n.n_forced; ++i)
    if (n.forced[i].purpose == purpose && n.forced[i].id == id) return n.forced + i;
  return nullptr;
}

FD_FN uint64_t noise_r64(const Noise& n, uint32_t purpose, int64_t id) {
  if (n.n_forced != 0)
    if (const ForcedNoise* f = find_forced(n, purpose, id)) return f->r64;
  const Philox4 o = noise_block(n, purpose, uint32_t(id >> 1));
  return (id & 1) ? uint64_t(o.o3) << 32 | o.o2 : uint64_t(o.o1) << 32 | o.o0;
}

// All 128 bits of counter word j: ids 2 j and 2 j + 1.
FD_FN u128 noise_r128(const Noise& n, uint32_t purpose, int64_t j) {
  return u128(noise_r64(n, purpose, 2 * j + 1)) << 64 | noise_r64(n, purpose, 2 * j);
}

// floor(r * s / 2^128) for r < 2^128, s < 2^77.
FD_FN u128 scale_uniform(u128 r, u128 s) {
  const u128 word = ~uint64_t{0};
  const u128 r0 = r & word, r1 = r >> 64, s0 = s & word, s1 = s >> 64;
  const u128 low = r0 * s0, a = r1 * s0, b = r0 * s1;
  const u128 carry = ((low >> 64) + (a & word) + (b & word)) >> 64;
  return r1 * s1 + (a >> 64) + (b >> 64) + carry;
}

// v(r64) in (0, 1): at least 2^-65, at most 1 - 2^-53.
FD_FN double uniform_open(uint64_t r64) {
  const double v = (double(r64) + 0.5) * 0x1p-64;
  return v < 0x1.fffffffffffffp-1 ? v : 0x1.fffffffffffffp-1;
}

// 2 atanh(s) = ln((1 + s) / (1 - s)) for |s| <= 1/5, odd series to s^23.
FD_FN double twice_atanh(double s) {
  constexpr double c[11] = {1.0 / 23, 1.0 / 21, 1.0 / 19, 1.0 / 17, 1.0 / 15, 1.0 / 13,
                            1.0 / 11, 1.0 / 9,  1.0 / 7,  1.0 / 5,  1.0 / 3};
  const double q = s * s;
  double p = c[0];
  for (int i = 1; i < 11; ++i) p = fma64(p, q, c[i]);
  return fma64(2.0 * s * q, p, 2.0 * s);
}

constexpr double kLn2 = 0x1.62e42fefa39efp-1;

// y = z * 2^k with z in [3/4, 3/2), y > 0 normal.
FD_FN double split_binade(double y, int& k) {
  const uint64_t u = bits_of(y);
  k = int(u >> 52) - 1023;
  double z = double_of((u & 0xfffffffffffffull) | 0x3ff0000000000000ull);  // [1, 2)
  if (z >= 1.5) {
    z *= 0.5;
    ++k;
  }
  return z;
}

// NL(y) = -ln y, y in (0, 1].
FD_FN double neg_log(double y) {
  int k;
  const double z = split_binade(y, k);
  return fma64(double(-k), kLn2, -twice_atanh((z - 1.0) / (z + 1.0)));
}

// E(r64) = -log1p(-v).
FD_FN double exponential(uint64_t r64) {
  const double v = uniform_open(r64);
  return v < 0.25 ? twice_atanh(v / (2.0 - v)) : neg_log(1.0 - v);
}

}  // namespace fusedraw
