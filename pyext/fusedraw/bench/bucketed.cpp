// SPDX-License-Identifier: Apache-2.0
//
// A rival for plain temperature draws: rejection by octaves, the idea behind the fastest CPU
// sampler known to us. Each weight 2^-t is bounded by 2^-floor(t), which needs no polynomial; a
// token is drawn by its bound, in two levels, and accepted with probability 2^(floor(t) - t) > 1/2.
// Rows float32 [V], V a multiple of 256 up to 2^20, finite; AVX-512 or AVX2, as for the floors; one
// thread; exact up to float32 sums. Three passes' worth of work: maximum, bounds, and about 1.4
// tries over one block each.
#include <immintrin.h>

#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstring>

namespace {

constexpr int64_t kBlock = 256;
constexpr int64_t kMostBlocks = 4096;
// Beyond this many octaves a bound adds nothing to a float32 sum, and the exponent stays in range.
constexpr float kMostOctaves = 100.0F;

}  // namespace

// What has no operator: the rest is written once, in bucketed.inl.
#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,fma")
namespace avx512 {
namespace {
using F = __m512;
inline F max(F a, F b) { return _mm512_max_ps(a, b); }
inline F fmsub(F a, F b, F c) { return _mm512_fmsub_ps(a, b, c); }
inline float largest(F x) { return _mm512_reduce_max_ps(x); }
inline float sum_of(F x) { return _mm512_reduce_add_ps(x); }
}  // namespace
#include "bucketed.inl"
}  // namespace avx512
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {
namespace {
using F = __m256;
inline F max(F a, F b) { return _mm256_max_ps(a, b); }
inline F fmsub(F a, F b, F c) { return _mm256_fmsub_ps(a, b, c); }
inline float largest(F x) {
  __m128 q = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  q = _mm_max_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_max_ss(q, _mm_movehdup_ps(q)));
}
inline float sum_of(F x) {
  __m128 q = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  q = _mm_add_ps(q, _mm_movehl_ps(q, q));
  return _mm_cvtss_f32(_mm_add_ss(q, _mm_movehdup_ps(q)));
}
}  // namespace
#include "bucketed.inl"
}  // namespace avx2
#pragma GCC pop_options

extern "C" {

int bucketed_runs_here() { return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma"); }

// `iterations` draws of every row [rows, cols]; ids of the last; returns the seconds in total.
// `wide`: in AVX-512, which the machine must have.
double bucketed_run(int wide, const float* x, int64_t rows, int64_t cols, float scale,
                    uint64_t seed, int64_t* ids, int64_t iterations) {
  const auto draw = wide ? avx512::draw : avx2::draw;
  uint64_t state = seed | 1;
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < iterations; ++i) {
    for (int64_t r = 0; r < rows; ++r) ids[r] = draw(x + r * cols, cols, scale, state);
    asm volatile("" ::: "memory");
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // extern "C"
