// SPDX-License-Identifier: Apache-2.0
// The verbs of the passes in AVX-512 (F, BW, DQ, VL). Included inside a target region.
#pragma once

namespace fusedraw {
namespace {

struct V {
  static constexpr int kLanes = 16;
  using F = __m512;
  using I = __m512i;
  using M = __mmask16;

  static F set(float x) { return _mm512_set1_ps(x); }
  static F load(const float* p) { return _mm512_loadu_ps(p); }
  static F load(const BFloat16* p) {
    const __m256i h = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
  }
  static F load(const Float16* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  // 2 * kLanes values in any order: bfloat16 pairs split with one operation each.
  template <typename T>
  static void load_any_order(const T* p, F& a, F& b) {
    a = load(p);
    b = load(p + kLanes);
  }
  static void load_any_order(const BFloat16* p, F& a, F& b) {
    const I pairs = _mm512_loadu_si512(p);
    a = _mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16));
    b = _mm512_castsi512_ps(_mm512_and_si512(pairs, iset(0xffff0000u)));
  }
  static void store(float* p, F x) { _mm512_storeu_ps(p, x); }
  static void stream(float* p, F x) { _mm512_stream_ps(p, x); }
  static void stream_fence() { _mm_sfence(); }
  static uint32_t nonzero(const uint8_t* p) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return _mm256_test_epi8_mask(bytes, bytes);
  }

  static F add(F a, F b) { return _mm512_add_ps(a, b); }
  static F sub(F a, F b) { return _mm512_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm512_mul_ps(a, b); }
  static F div(F a, F b) { return _mm512_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm512_fmadd_ps(a, b, c); }
  static F max(F a, F b) { return _mm512_max_ps(a, b); }
  static F min(F a, F b) { return _mm512_min_ps(a, b); }
  // y = z * 2^k, z in [3/4, 3/2), for normal y > 0.
  static void split_log(F y, F& z, F& k) {
    const I u = as_int(y), n = _mm512_srai_epi32(_mm512_sub_epi32(u, iset(kThreeQuarters)), 23);
    z = _mm512_castsi512_ps(_mm512_sub_epi32(u, _mm512_slli_epi32(n, 23)));
    k = _mm512_cvtepi32_ps(n);
  }
  // fl32(t - floor(t)); p * 2^floor(t), exact.
  static F frac(F t) { return _mm512_sub_ps(t, _mm512_roundscale_ps(t, 0x09)); }
  // The same for t <= -1, where the difference is exact (the instruction would round it down); also
  // takes -inf, to 0.
  static constexpr bool kFracTakesInfinity = true;
  static F frac_exact(F t) { return _mm512_reduce_ps(t, 0x09); }
  static F scale2(F p, F t) { return _mm512_scalef_ps(p, t); }

  static M ge(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GE_OQ); }
  static M gt(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
  static M eq(F a, F b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
  static M none() { return 0; }
  static M all() { return M(0xffff); }
  // `so_far` where neither a nor b is NaN.
  static M still_ordered(M so_far, F a, F b) {
    return _mm512_mask_cmp_ps_mask(so_far, a, b, _CMP_ORD_Q);
  }
  static M either(M a, M b) { return M(a | b); }
  static M both(M a, M b) { return M(a & b); }
  static uint32_t bits(M m) { return m; }
  static M from_bits(uint32_t b) { return M(b); }
  static bool any(M m) { return m != 0; }
  static F select(M m, F a, F b) { return _mm512_mask_blend_ps(m, b, a); }
  static F keep(M m, F a) { return _mm512_maskz_mov_ps(m, a); }
  static F add_where(F acc, M m, F a) { return _mm512_mask_add_ps(acc, m, acc, a); }
  static F add_unless(F acc, M m, F a) { return _mm512_mask_add_ps(acc, M(~m), acc, a); }
  static F keep_product(M m, F a, F b) { return _mm512_maskz_mul_ps(m, a, b); }
  static float reduce_max(F a) { return _mm512_reduce_max_ps(a); }
  // out[i] = max of row i of kLanes rows of kLanes.
  static void reduce_max_rows(const float* rows, float* out) {
    F v[16];
    for (int i = 0; i < 16; ++i) v[i] = load(rows + 16 * i);
    // After each step a vector holds the partial maxima of twice as many rows.
    for (int i = 0; i < 8; ++i)
      v[i] = max(_mm512_unpacklo_ps(v[2 * i], v[2 * i + 1]),
                 _mm512_unpackhi_ps(v[2 * i], v[2 * i + 1]));
    for (int i = 0; i < 4; ++i)
      v[i] = max(_mm512_shuffle_ps(v[2 * i], v[2 * i + 1], 0x44),
                 _mm512_shuffle_ps(v[2 * i], v[2 * i + 1], 0xee));
    for (int i = 0; i < 2; ++i)
      v[i] = max(_mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0x88),
                 _mm512_shuffle_f32x4(v[2 * i], v[2 * i + 1], 0xdd));
    store(out, max(_mm512_shuffle_f32x4(v[0], v[1], 0x88), _mm512_shuffle_f32x4(v[0], v[1], 0xdd)));
  }
  static float reduce_add(F a) { return _mm512_reduce_add_ps(a); }

  static I zero() { return _mm512_setzero_si512(); }
  static I iset(uint32_t x) { return _mm512_set1_epi32(int(x)); }
  static I iota() { return _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0); }
  static I iadd(I a, I b) { return _mm512_add_epi32(a, b); }
  static I ixor(I a, I b) { return _mm512_xor_si512(a, b); }
  static M at_most(I a, I b) { return _mm512_cmple_epu32_mask(a, b); }  // unsigned
  static I masked_iadd(I acc, M m, I b) { return _mm512_mask_add_epi32(acc, m, acc, b); }
  static I as_int(F a) { return _mm512_castps_si512(a); }
  // Modulo 2^32 (the library's own reduction adds signed integers, which must not overflow).
  static int32_t reduce_iadd(I a) {
    const __m256i q = _mm256_add_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
    __m128i h = _mm_add_epi32(_mm256_castsi256_si128(q), _mm256_extracti128_si256(q, 1));
    h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(h, _mm_shuffle_epi32(h, 0xb1)));
  }
  static void istore(uint32_t* p, I a) { _mm512_storeu_si512(p, a); }
  // Words a[0] b[0] a[1] b[1] ...
  static void istore_interleaved(uint32_t* p, I a, I b) {
    const I low = _mm512_set_epi32(23, 7, 22, 6, 21, 5, 20, 4, 19, 3, 18, 2, 17, 1, 16, 0);
    const I high = _mm512_set_epi32(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8);
    istore(p, _mm512_permutex2var_epi32(a, low, b));
    istore(p + kLanes, _mm512_permutex2var_epi32(a, high, b));
  }
  // High and low words of a * m.
  static void mul_wide(I a, I m, I& hi, I& lo) {
    const I even = _mm512_mul_epu32(a, m), odd = _mm512_mul_epu32(_mm512_srli_epi64(a, 32), m);
    hi = _mm512_mask_blend_epi32(0xAAAA, _mm512_srli_epi64(even, 32), odd);
    lo = _mm512_mask_blend_epi32(0xAAAA, even, _mm512_slli_epi64(odd, 32));
  }
  // Unsigned words to float, rounded to nearest.
  static F to_float(I a) { return _mm512_cvtepu32_ps(a); }
  // Signed words to float, rounded to nearest.
  static F signed_to_float(I a) { return _mm512_cvtepi32_ps(a); }
  static I iload(const uint32_t* p) { return _mm512_loadu_si512(p); }

  // Appends the chosen lanes of x to px and their ids (first + lane) to pi; returns how many.
  // Up to kLanes elements past the end may be overwritten.
  static int compress(float* px, uint32_t* pi, M m, F x, I ids) {
    _mm512_storeu_ps(px, _mm512_maskz_compress_ps(m, x));
    _mm512_storeu_si512(pi, _mm512_maskz_compress_epi32(m, ids));
    return __builtin_popcount(m);
  }

  // RNE(2^43 * e) as integers.
  static void store_fixed43(uint64_t* p, F e) {
    for (int half = 0; half < 2; ++half) {
      const __m256 part = half ? _mm512_extractf32x8_ps(e, 1) : _mm512_castps512_ps256(e);
      _mm512_storeu_si512(p + 8 * half, _mm512_cvtpd_epu64(_mm512_mul_pd(_mm512_cvtps_pd(part),
                                                                         _mm512_set1_pd(0x1p43))));
    }
  }
  // out = fl32(t * ln2 - ls) in float64, zero as +0.
  static void store_log(float* p, F t, double ls) {
    for (int half = 0; half < 2; ++half) {
      const __m256 part = half ? _mm512_extractf32x8_ps(t, 1) : _mm512_castps512_ps256(t);
      const __m512d y = _mm512_sub_pd(_mm512_mul_pd(_mm512_cvtps_pd(part), _mm512_set1_pd(kLn2)),
                                      _mm512_set1_pd(ls));
      _mm256_storeu_ps(p + 8 * half, _mm256_add_ps(_mm512_cvtpd_ps(y), _mm256_setzero_ps()));
    }
  }
};

}  // namespace
}  // namespace fusedraw
