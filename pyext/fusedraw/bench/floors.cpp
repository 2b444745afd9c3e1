// SPDX-License-Identifier: Apache-2.0
//
// The two floors that every benchmark here is measured against. Rows [B, V], float32 or bfloat16,
// read in place; V >= 1, any row stride.
//   read: one max pass over the row
//   exp:  one float32 pass of sum(exp2((x - max) * scale)), the max known beforehand
// A floor shows the time that memory and arithmetic ask for; it is no sampler: NaN is not looked
// for, and sums are taken in float32 in whatever order is fastest.
// Each exists for AVX-512 and AVX2; the best that the CPU has is chosen (FLOORS_ISA forces one).
#include <immintrin.h>
#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <vector>

namespace {

enum Kind : int { kRead = 0, kExp = 1 };
enum DType : int { kFloat32 = 0, kBFloat16 = 1 };

// One pass over `n` elements: the maximum, or the sum of exp2((x - max) * scale).
using Pass = float (*)(const void* x, int64_t n, float max, float scale);

// Relative minimax polynomial of 2^f on [0, 1), degree 5 (Remez; 7.5e-8, 1.5e-7 in float32).
constexpr float kC0 = 0x1.fffffep-1F;
constexpr float kC1 = 0x1.62e4f6p-1F;
constexpr float kC2 = 0x1.ebd5a8p-3F;
constexpr float kC3 = 0x1.c95446p-5F;
constexpr float kC4 = 0x1.26900cp-7F;
constexpr float kC5 = 0x1.ec320cp-10F;
// Below 2^-126 a term is nothing beside the term 1 of the maximum.
constexpr float kSmallestExponent = -126.0F;
constexpr uint16_t kBFloat16MinusInf = 0xff80;
constexpr float kMinusInf = -std::numeric_limits<float>::infinity();

// Enough independent chains to hide the latency of an add or a max (4 cycles, 2 a cycle).
constexpr int kChains = 8;

inline float drop_last_bits(float v, float) { return v; }
inline float drop_last_bits(float v, uint16_t) {
  uint32_t bits;
  std::memcpy(&bits, &v, sizeof bits);
  bits &= 0xffff0000;
  std::memcpy(&v, &bits, sizeof bits);
  return v;
}

}  // namespace

#pragma GCC push_options
#pragma GCC target("avx512f,avx512dq,avx512bw,avx512vl,fma")
namespace avx512 {

// Thirty-two elements as two vectors; in which order the elements come makes no difference here.
struct Pair {
  __m512 a, b;
};

inline Pair split_bfloat16(__m512i both) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(both, 16)),
          _mm512_castsi512_ps(_mm512_and_si512(both, _mm512_set1_epi32(int32_t(0xffff0000))))};
}

// For a max pass the upper element may keep the lower one in its last bits: they order no two
// different elements, and the pass drops them at its end. One instruction of four saved.
inline Pair split_dirty(__m512i both) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(both, 16)), _mm512_castsi512_ps(both)};
}

inline Pair load(const float* x) { return {_mm512_loadu_ps(x), _mm512_loadu_ps(x + 16)}; }
inline Pair load(const uint16_t* x) { return split_bfloat16(_mm512_loadu_si512(x)); }

inline Pair load_for_max(const float* x) { return load(x); }
inline Pair load_for_max(const uint16_t* x) { return split_dirty(_mm512_loadu_si512(x)); }

inline Pair load_tail(const float* x, int64_t n) {
  const auto bits = uint32_t((uint64_t{1} << n) - 1);
  const __m512 fill = _mm512_set1_ps(kMinusInf);
  return {_mm512_mask_loadu_ps(fill, __mmask16(bits), x),
          _mm512_mask_loadu_ps(fill, __mmask16(bits >> 16), x + 16)};
}
inline Pair load_tail(const uint16_t* x, int64_t n) {
  const auto bits = uint32_t((uint64_t{1} << n) - 1);
  return split_bfloat16(
      _mm512_mask_loadu_epi16(_mm512_set1_epi16(int16_t(kBFloat16MinusInf)), bits, x));
}

// scalef floors its second operand and reduce leaves t - floor(t), so that no shift, no add into
// the exponent and no clamp is needed: -inf gives 0.
inline __m512 exp2_term(__m512 x, __m512 scale, __m512 shift) {
  const __m512 t = _mm512_fmadd_ps(x, scale, shift);
  const __m512 f = _mm512_reduce_ps(t, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  __m512 p = _mm512_set1_ps(kC5);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kC4));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kC3));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kC2));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kC1));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(kC0));
  return _mm512_scalef_ps(p, t);
}

template <class T>
float max_pass(const void* data, int64_t n, float, float) {
  const T* x = static_cast<const T*>(data);
  __m512 best[kChains];
  for (auto& b : best) b = _mm512_set1_ps(kMinusInf);
  int64_t i = 0;
  for (; i + 16 * kChains <= n; i += 16 * kChains) {
    for (int c = 0; c < kChains; c += 2) {
      const Pair v = load_for_max(x + i + 16 * c);
      best[c] = _mm512_max_ps(v.a, best[c]);  // this order lets a NaN go by: -inf with last bits
      best[c + 1] = _mm512_max_ps(v.b, best[c + 1]);
    }
  }
  for (; i < n; i += 32) {
    const Pair v = n - i >= 32 ? load(x + i) : load_tail(x + i, n - i);
    best[0] = _mm512_max_ps(best[0], v.a);
    best[1] = _mm512_max_ps(best[1], v.b);
  }
  for (int c = 1; c < kChains; ++c) best[0] = _mm512_max_ps(best[0], best[c]);
  return drop_last_bits(_mm512_reduce_max_ps(best[0]), T{});
}

template <class T>
float exp_pass(const void* data, int64_t n, float max, float scale) {
  const T* x = static_cast<const T*>(data);
  const __m512 s = _mm512_set1_ps(scale);
  const __m512 shift = _mm512_set1_ps(-max * scale);
  __m512 sum[kChains];
  for (auto& v : sum) v = _mm512_setzero_ps();
  int64_t i = 0;
  for (; i + 16 * kChains <= n; i += 16 * kChains) {
    for (int c = 0; c < kChains; c += 2) {
      const Pair v = load(x + i + 16 * c);
      sum[c] = _mm512_add_ps(sum[c], exp2_term(v.a, s, shift));
      sum[c + 1] = _mm512_add_ps(sum[c + 1], exp2_term(v.b, s, shift));
    }
  }
  // reduce(-inf) is 0 (checked by the validation in floors.py), so a filled lane adds 0.
  for (; i < n; i += 32) {
    const Pair v = n - i >= 32 ? load(x + i) : load_tail(x + i, n - i);
    sum[0] = _mm512_add_ps(sum[0], exp2_term(v.a, s, shift));
    sum[1] = _mm512_add_ps(sum[1], exp2_term(v.b, s, shift));
  }
  for (int c = 1; c < kChains; ++c) sum[0] = _mm512_add_ps(sum[0], sum[c]);
  return _mm512_reduce_add_ps(sum[0]);
}

}  // namespace avx512
#pragma GCC pop_options

#pragma GCC push_options
#pragma GCC target("avx2,fma")
namespace avx2 {

struct Pair {
  __m256 a, b;
};

inline Pair split_bfloat16(__m256i both) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(both, 16)),
          _mm256_castsi256_ps(_mm256_and_si256(both, _mm256_set1_epi32(int32_t(0xffff0000))))};
}

// For a max pass the upper element may keep the lower one in its last bits: they order no two
// different elements, and the pass drops them at its end. One instruction of four saved.
inline Pair split_dirty(__m256i both) {
  return {_mm256_castsi256_ps(_mm256_slli_epi32(both, 16)), _mm256_castsi256_ps(both)};
}

inline Pair load(const float* x) { return {_mm256_loadu_ps(x), _mm256_loadu_ps(x + 8)}; }
inline Pair load(const uint16_t* x) {
  return split_bfloat16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
}

inline Pair load_for_max(const float* x) { return load(x); }
inline Pair load_for_max(const uint16_t* x) {
  return split_dirty(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(x)));
}

inline float fill_value(float) { return kMinusInf; }
inline uint16_t fill_value(uint16_t) { return kBFloat16MinusInf; }

template <class T>
Pair load_tail(const T* x, int64_t n) {
  T padded[16];
  std::fill(padded, padded + 16, fill_value(T{}));
  std::memcpy(padded, x, size_t(n) * sizeof(T));
  return load(padded);
}

inline __m256 exp2_term(__m256 x, __m256 scale, __m256 shift) {
  const __m256 t =
      _mm256_max_ps(_mm256_fmadd_ps(x, scale, shift), _mm256_set1_ps(kSmallestExponent));
  const __m256 n = _mm256_floor_ps(t);
  const __m256 f = _mm256_sub_ps(t, n);
  __m256 p = _mm256_set1_ps(kC5);
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(kC4));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(kC3));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(kC2));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(kC1));
  p = _mm256_fmadd_ps(p, f, _mm256_set1_ps(kC0));
  const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n), 23);
  return _mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(p), exponent));
}

inline float reduce(__m256 v, bool add) {
  float lanes[8];
  _mm256_storeu_ps(lanes, v);
  float out = lanes[0];
  for (int i = 1; i < 8; ++i) out = add ? out + lanes[i] : std::max(out, lanes[i]);
  return out;
}

template <class T>
float max_pass(const void* data, int64_t n, float, float) {
  const T* x = static_cast<const T*>(data);
  __m256 best[kChains];
  for (auto& b : best) b = _mm256_set1_ps(kMinusInf);
  int64_t i = 0;
  for (; i + 8 * kChains <= n; i += 8 * kChains) {
    for (int c = 0; c < kChains; c += 2) {
      const Pair v = load_for_max(x + i + 8 * c);
      best[c] = _mm256_max_ps(v.a, best[c]);  // this order lets a NaN go by: -inf with last bits
      best[c + 1] = _mm256_max_ps(v.b, best[c + 1]);
    }
  }
  for (; i < n; i += 16) {
    const Pair v = n - i >= 16 ? load(x + i) : load_tail(x + i, n - i);
    best[0] = _mm256_max_ps(best[0], v.a);
    best[1] = _mm256_max_ps(best[1], v.b);
  }
  for (int c = 1; c < kChains; ++c) best[0] = _mm256_max_ps(best[0], best[c]);
  return drop_last_bits(reduce(best[0], false), T{});
}

template <class T>
float exp_pass(const void* data, int64_t n, float max, float scale) {
  const T* x = static_cast<const T*>(data);
  const __m256 s = _mm256_set1_ps(scale);
  const __m256 shift = _mm256_set1_ps(-max * scale);
  __m256 sum[kChains];
  for (auto& v : sum) v = _mm256_setzero_ps();
  int64_t i = 0;
  for (; i + 8 * kChains <= n; i += 8 * kChains) {
    for (int c = 0; c < kChains; c += 2) {
      const Pair v = load(x + i + 8 * c);
      sum[c] = _mm256_add_ps(sum[c], exp2_term(v.a, s, shift));
      sum[c + 1] = _mm256_add_ps(sum[c + 1], exp2_term(v.b, s, shift));
    }
  }
  for (; i < n; i += 16) {
    const Pair v = n - i >= 16 ? load(x + i) : load_tail(x + i, n - i);
    sum[0] = _mm256_add_ps(sum[0], exp2_term(v.a, s, shift));
    sum[1] = _mm256_add_ps(sum[1], exp2_term(v.b, s, shift));
  }
  for (int c = 1; c < kChains; ++c) sum[0] = _mm256_add_ps(sum[0], sum[c]);
  return reduce(sum[0], true);
}

}  // namespace avx2
#pragma GCC pop_options

namespace {

bool use_avx512() {
  static const bool choice = [] {
    const char* forced = std::getenv("FLOORS_ISA");
    if (forced != nullptr) return std::strcmp(forced, "avx2") != 0;
    return bool(__builtin_cpu_supports("avx512f")) && bool(__builtin_cpu_supports("avx512dq")) &&
           bool(__builtin_cpu_supports("avx512bw")) && bool(__builtin_cpu_supports("avx512vl"));
  }();
  return choice;
}

Pass choose(int kind, int dtype) {
  static const Pass table[2][2][2] = {{{avx2::max_pass<float>, avx2::max_pass<uint16_t>},
                                       {avx2::exp_pass<float>, avx2::exp_pass<uint16_t>}},
                                      {{avx512::max_pass<float>, avx512::max_pass<uint16_t>},
                                       {avx512::exp_pass<float>, avx512::exp_pass<uint16_t>}}};
  return table[int(use_avx512())][kind][dtype];
}

struct Job {
  Pass pass;
  int kind;
  const char* x;
  int64_t rows, cols, element_size, row_bytes;
  const float* maxima;  // exp only
  float scale;
  float* out;  // one per row
  int threads;
};

float run_piece(const Job& job, int64_t row, int64_t begin, int64_t end) {
  const float max = job.kind == kExp ? job.maxima[row] : 0.0F;
  return job.pass(job.x + row * job.row_bytes + begin * job.element_size, end - begin, max,
                  job.scale);
}

void run_rows(const Job& job) {
  for (int64_t r = 0; r < job.rows; ++r) job.out[r] = run_piece(job, r, 0, job.cols);
}

// Rows to threads while there are enough of them, pieces of each row otherwise. OpenMP's pool is
// the one torch uses as well (the same libgomp), so both pay the same price for a second thread.
void run_threads(const Job& job) {
  if (job.rows >= job.threads) {
#pragma omp parallel num_threads(job.threads)
    {
      const int64_t count = omp_get_num_threads(), id = omp_get_thread_num();
      Job mine = job;
      const int64_t begin = job.rows * id / count, end = job.rows * (id + 1) / count;
      mine.x += begin * job.row_bytes;
      mine.maxima += job.kind == kExp ? begin : 0;
      mine.out += begin;
      mine.rows = end - begin;
      run_rows(mine);
    }
    return;
  }
  constexpr int64_t kPiece = 256;
  constexpr int kMaxThreads = 256;
  float partial[kMaxThreads];
  const int threads = std::min(job.threads, kMaxThreads);
  for (int64_t r = 0; r < job.rows; ++r) {
    const int64_t pieces = (job.cols + kPiece - 1) / kPiece;
    int used = 1;
#pragma omp parallel num_threads(threads)
    {
      const int count = omp_get_num_threads(), id = omp_get_thread_num();
      if (id == 0) used = count;
      const int64_t begin = pieces * id / count * kPiece;
      const int64_t end = std::min(job.cols, pieces * (id + 1) / count * kPiece);
      partial[id] = run_piece(job, r, begin, std::max(begin, end));
    }
    float total = partial[0];
    for (int i = 1; i < used; ++i) {
      total = job.kind == kExp ? total + partial[i] : std::max(total, partial[i]);
    }
    job.out[r] = total;
  }
}

}  // namespace

extern "C" {

const char* floors_isa() { return use_avx512() ? "avx512" : "avx2"; }

// Runs the floor `iterations` times over all rows and returns the seconds that took in total.
// `stride` is in elements. `maxima` [rows] is read by kExp only.
double floors_run(int kind, int dtype, const void* x, int64_t rows, int64_t cols, int64_t stride,
                  const float* maxima, float scale, float* out, int threads, int64_t iterations) {
  const int64_t size = dtype == kFloat32 ? 4 : 2;
  const Job job{choose(kind, dtype),
                kind,
                static_cast<const char*>(x),
                rows,
                cols,
                size,
                stride * size,
                maxima,
                scale,
                out,
                threads};
  const auto start = std::chrono::steady_clock::now();
  for (int64_t i = 0; i < iterations; ++i) {
    if (threads > 1) {
      run_threads(job);
    } else {
      run_rows(job);
    }
    asm volatile("" ::: "memory");
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

}  // extern "C"
