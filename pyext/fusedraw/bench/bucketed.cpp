// SPDX-License-Identifier: Apache-2.0
//
// A rival for plain temperature draws: rejection by octaves, the idea behind the fastest CPU
// sampler known to us. Each weight 2^-t is bounded by 2^-floor(t), which needs no polynomial; a
// token is drawn by its bound, in two levels, and accepted with probability 2^(floor(t) - t) > 1/2.
// Rows float32 [V], V a multiple of 256 up to 2^20, finite; AVX-512 only; one thread; exact up to
// float32 sums. Three passes' worth of work: maximum, bounds, and about 1.4 tries over one block
// each.
#include <immintrin.h>

#include <chrono>
#include <cmath>
#include <cstdint>

#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,fma")
namespace {

constexpr int64_t kBlock = 256;
constexpr int64_t kMostBlocks = 4096;
// Beyond this many octaves a bound adds nothing to a float32 sum, and the exponent stays in range.
constexpr float kMostOctaves = 100.0F;

uint64_t next_bits(uint64_t& state) {  // xorshift64*, Vigna 2016
  state ^= state >> 12;
  state ^= state << 25;
  state ^= state >> 27;
  return state * 2685821657736338717ULL;
}

float next_uniform(uint64_t& state) { return float(next_bits(state) >> 40) * 0x1p-24F; }

float row_max(const float* x, int64_t n) {
  __m512 best[4];
  for (auto& b : best) b = _mm512_set1_ps(-INFINITY);
  for (int64_t i = 0; i < n; i += 64) {
    for (int c = 0; c < 4; ++c) best[c] = _mm512_max_ps(best[c], _mm512_loadu_ps(x + i + 16 * c));
  }
  return _mm512_reduce_max_ps(
      _mm512_max_ps(_mm512_max_ps(best[0], best[1]), _mm512_max_ps(best[2], best[3])));
}

// 2^-floor(t), t = (max - x) * scale: floor and the exponent come from one conversion.
inline __m512 bound(__m512 x, __m512 scale, __m512 shift) {
  const __m512 t = _mm512_fmsub_ps(x, scale, shift);  // -t <= 0
  const __m512 capped = _mm512_max_ps(t, _mm512_set1_ps(-kMostOctaves));
  // rounding -t towards zero is -floor(t)
  const __m512i octaves = _mm512_cvttps_epi32(capped);
  return _mm512_castsi512_ps(
      _mm512_add_epi32(_mm512_set1_epi32(127 << 23), _mm512_slli_epi32(octaves, 23)));
}

int64_t pick(const float* weights, int64_t n, float target) {
  float sum = 0.0F;
  for (int64_t i = 0; i < n; ++i) {
    sum += weights[i];
    if (sum > target) return i;
  }
  return n - 1;
}

int64_t draw(const float* x, int64_t n, float scale, uint64_t& state) {
  const float max = row_max(x, n);
  const __m512 s = _mm512_set1_ps(scale), shift = _mm512_set1_ps(max * scale);
  float sums[kMostBlocks];
  const int64_t blocks = n / kBlock;
  float total = 0.0F;
  for (int64_t b = 0; b < blocks; ++b) {
    __m512 sum[4];
    for (auto& v : sum) v = _mm512_setzero_ps();
    for (int64_t i = 0; i < kBlock; i += 64) {
      for (int c = 0; c < 4; ++c) {
        const __m512 v = _mm512_loadu_ps(x + b * kBlock + i + 16 * c);
        sum[c] = _mm512_add_ps(sum[c], bound(v, s, shift));
      }
    }
    sums[b] = _mm512_reduce_add_ps(
        _mm512_add_ps(_mm512_add_ps(sum[0], sum[1]), _mm512_add_ps(sum[2], sum[3])));
    total += sums[b];
  }
  for (;;) {
    const int64_t b = pick(sums, blocks, next_uniform(state) * total);
    float inner[kBlock];
    for (int64_t i = 0; i < kBlock; i += 16) {
      _mm512_storeu_ps(inner + i, bound(_mm512_loadu_ps(x + b * kBlock + i), s, shift));
    }
    const int64_t id = b * kBlock + pick(inner, kBlock, next_uniform(state) * sums[b]);
    const float t = (max - x[id]) * scale;
    if (t < kMostOctaves && next_uniform(state) < std::exp2(std::floor(t) - t)) return id;
  }
}

}  // namespace

extern "C" {

int bucketed_runs_here() {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq");
}

// `iterations` draws of every row [rows, cols]; ids of the last; returns the seconds in total.
double bucketed_run(const float* x, int64_t rows, int64_t cols, float scale, uint64_t seed,
                    int64_t* ids, int64_t iterations) {
  uint64_t state = seed | 1;
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < iterations; ++i) {
    for (int64_t r = 0; r < rows; ++r) ids[r] = draw(x + r * cols, cols, scale, state);
    asm volatile("" ::: "memory");
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // extern "C"
#pragma GCC pop_options
