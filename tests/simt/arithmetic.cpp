// SPDX-License-Identifier: Apache-2.0
// The executor's stand-ins for instructions, against the processor's rounding modes and against
// plain loops over bits.
#include <cfenv>
#include <cmath>
#include <limits>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "../../csrc/cuda/memory.cuh"

namespace simt = fusedraw::simt;
namespace cuda = fusedraw::cuda;

namespace {

void require(bool truth, const std::string& what) {
  if (!truth) throw std::runtime_error("wrong: " + what);
}

std::string hex(float x) {
  char text[32];
  snprintf(text, sizeof text, "%a", double(x));
  return text;
}

// By the processor, in the rounding mode; volatile keeps the addition between the two calls.
float add_downward(float a, float b) {
  volatile float x = a, y = b, z;
  fesetround(FE_DOWNWARD);
  z = x + y;
  fesetround(FE_TONEAREST);
  return z;
}

void check_sum(float a, float b) {
  const float got = cuda::add_round_down(a, b), want = add_downward(a, b);
  require(simt::bits_from(got) == simt::bits_from(want) || (std::isnan(got) && std::isnan(want)),
          hex(a) + " + " + hex(b) + " = " + hex(want) + ", got " + hex(got));
}

}  // namespace

void check_add_round_down(uint64_t seed) {
  std::vector<float> edges;
  for (uint32_t bits :
       {0u,          1u,          2u,          0x007fffffu, 0x00800000u, 0x00800001u,
        0x33000000u, 0x33800000u, 0x34000000u, 0x3f7fffffu, 0x3f800000u, 0x3f800001u,
        0x4b000000u, 0x4b7fffffu, 0x4b800000u, 0x72800000u, 0x73000000u, 0x73800000u,
        0x7e800000u, 0x7f000000u, 0x7f7ffffeu, 0x7f7fffffu, 0x7f800000u, 0x7fc00000u})
    for (uint32_t sign : {0u, 0x80000000u}) edges.push_back(simt::float_from(bits | sign));
  for (float a : edges)
    for (float b : edges) check_sum(a, b);
  std::mt19937_64 random(seed);
  for (int i = 0; i < 1000000; ++i) {
    const uint64_t r = random();
    uint32_t a = uint32_t(r), b = uint32_t(r >> 32);
    if (i % 2) {  // exponents at most 30 apart
      const uint32_t near = a + ((uint32_t(random()) % 61) << 23) - (30u << 23);
      b = (b & 0x807fffffu) | (near & 0x7f800000u);
    }
    if (i % 16 == 3) {  // close to the largest
      a = (a & 0x80ffffffu) | 0x7e000000u;
      b = (b & 0x80ffffffu) | 0x7e800000u;
    }
    if (i % 8 == 5) a &= 0xffff0000u;  // as bfloat16
    check_sum(simt::float_from(a), simt::float_from(b));
  }
}

void check_rough_exp2() {
  bool any_off = false;
  for (int i = -140 * 4096; i < 128 * 4096; ++i) {
    const float t = float(i) / 4096, got = cuda::rough_exp2(t);
    const double want = std::exp2(double(t));
    const double off = std::fabs(double(got) - want) / want;
    require(want < 0x1p-126 * (1 + 0x1p-22) ? got == 0 || off <= 0x1p-22 : off <= 0x1p-22,
            "rough_exp2 of " + hex(t));
    any_off |= off > 0x1p-23;
  }
  require(any_off, "rough_exp2 is too good");
  require(cuda::rough_exp2(-std::numeric_limits<float>::infinity()) == 0, "rough_exp2(-inf)");
  require(std::isinf(cuda::rough_exp2(200)), "rough_exp2(200)");
  require(std::isnan(cuda::rough_exp2(NAN)), "rough_exp2(nan)");
}

void check_bits() {
  require(cuda::round_to_uint(0.5f) == 0 && cuda::round_to_uint(1.5f) == 2 &&
              cuda::round_to_uint(2.5f) == 2 && cuda::round_to_uint(0x1.fffffep31f) == 0xffffff00u,
          "round_to_uint");
  std::mt19937_64 random(1);
  for (int i = 0; i < 1000; ++i) {
    const uint64_t r = random() >> (i % 64), s = random();
    const uint32_t a = uint32_t(r), b = uint32_t(s);
    uint32_t reversed = 0;
    int ones = 0, first = 0, leading = 0, leading64 = 0;
    for (int k = 0; k < 32; ++k) reversed |= (a >> k & 1u) << (31 - k);
    for (int k = 0; k < 64; ++k) ones += int(r >> k & 1u);
    while (first < 32 && !(a >> first & 1u)) ++first;
    while (leading < 32 && !(a >> (31 - leading) & 1u)) ++leading;
    while (leading64 < 64 && !(r >> (63 - leading64) & 1u)) ++leading64;
    require(__brev(a) == reversed, "__brev");
    require(__popcll(r) == ones && __popc(a) + __popc(uint32_t(r >> 32)) == ones, "__popc");
    require(__ffs(int(a)) == (a ? first + 1 : 0), "__ffs");
    require(__clz(int(a)) == leading && __clzll(int64_t(r)) == leading64, "__clz");
    require(__umulhi(a, b) == uint32_t(uint64_t(a) * b >> 32), "__umulhi");
    const uint32_t shift = b % 32;
    require(__funnelshift_r(a, b, b) == (shift ? a >> shift | b << (32 - shift) : a),
            "funnel right");
    require(__funnelshift_l(a, b, b) == (shift ? b << shift | a >> (32 - shift) : b),
            "funnel left");
  }
  require(__clz(0) == 32 && __clzll(0) == 64 && __ffs(0) == 0, "bits of 0");
}
