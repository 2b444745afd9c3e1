// SPDX-License-Identifier: Apache-2.0
// The verbs of the passes in AVX2 + FMA + F16C. Included inside a target region.
#pragma once

namespace fusedraw {
namespace {

// Lane order that moves the set bits' lanes to the front, one byte a lane, for each 8-bit mask.
struct CompressTable {
  uint64_t order[256];
  constexpr CompressTable() : order() {
    for (int mask = 0; mask < 256; ++mask) {
      int n = 0;
      uint64_t packed = 0;
      for (uint64_t lane = 0; lane < 8; ++lane)
        if (mask >> lane & 1) packed |= lane << (8 * n++);
      order[mask] = packed;
    }
  }
};
constexpr CompressTable kCompress;

struct V {
  static constexpr int kLanes = 8;
  using F = __m256;
  using I = __m256i;
  using M = __m256;

  static F set(float x) { return _mm256_set1_ps(x); }
  static F load(const float* p) { return _mm256_loadu_ps(p); }
  static F load(const BFloat16* p) {
    const __m128i h = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(h), 16));
  }
  static F load(const Float16* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
  }
  // 2 * kLanes values in any order: bfloat16 pairs split with one operation each.
  template <typename T>
  static void load_any_order(const T* p, F& a, F& b) {
    a = load(p);
    b = load(p + kLanes);
  }
  static void load_any_order(const BFloat16* p, F& a, F& b) {
    const I pairs = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    a = _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
    b = _mm256_castsi256_ps(_mm256_and_si256(pairs, iset(0xffff0000u)));
  }
  static void store(float* p, F x) { _mm256_storeu_ps(p, x); }
  static void stream(float* p, F x) { _mm256_stream_ps(p, x); }
  static void stream_fence() { _mm_sfence(); }
  static uint32_t nonzero(const uint8_t* p) {
    const I bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
    return ~uint32_t(_mm256_movemask_epi8(_mm256_cmpeq_epi8(bytes, _mm256_setzero_si256())));
  }

  static F add(F a, F b) { return _mm256_add_ps(a, b); }
  static F sub(F a, F b) { return _mm256_sub_ps(a, b); }
  static F mul(F a, F b) { return _mm256_mul_ps(a, b); }
  static F div(F a, F b) { return _mm256_div_ps(a, b); }
  static F fma(F a, F b, F c) { return _mm256_fmadd_ps(a, b, c); }
  static F max(F a, F b) { return _mm256_max_ps(a, b); }
  static F min(F a, F b) { return _mm256_min_ps(a, b); }
  static void split_log(F y, F& z, F& k) {
    const I u = as_int(y), n = _mm256_srai_epi32(_mm256_sub_epi32(u, iset(kThreeQuarters)), 23);
    z = _mm256_castsi256_ps(_mm256_sub_epi32(u, _mm256_slli_epi32(n, 23)));
    k = _mm256_cvtepi32_ps(n);
  }
  static F frac(F t) { return _mm256_sub_ps(t, _mm256_floor_ps(t)); }
  static constexpr bool kFracTakesInfinity = false;
  static F frac_exact(F t) { return frac(t); }
  // t in [-126, 0].
  static F scale2(F p, F t) {
    const I n = _mm256_cvtps_epi32(_mm256_floor_ps(t));
    return mul(
        p, _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23)));
  }

  static M ge(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_GE_OQ); }
  static M gt(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_GT_OQ); }
  static M eq(F a, F b) { return _mm256_cmp_ps(a, b, _CMP_EQ_OQ); }
  static M none() { return _mm256_setzero_ps(); }
  static M all() { return _mm256_castsi256_ps(_mm256_set1_epi32(-1)); }
  static M still_ordered(M so_far, F a, F b) {
    return _mm256_and_ps(so_far, _mm256_cmp_ps(a, b, _CMP_ORD_Q));
  }
  static M either(M a, M b) { return _mm256_or_ps(a, b); }
  static M both(M a, M b) { return _mm256_and_ps(a, b); }
  static uint32_t bits(M m) { return uint32_t(_mm256_movemask_ps(m)); }
  static M from_bits(uint32_t b) {
    const I lane = _mm256_set_epi32(128, 64, 32, 16, 8, 4, 2, 1);
    const I hit = _mm256_and_si256(_mm256_set1_epi32(int(b)), lane);
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(hit, lane));
  }
  static bool any(M m) { return _mm256_movemask_ps(m) != 0; }
  static F select(M m, F a, F b) { return _mm256_blendv_ps(b, a, m); }
  static F keep(M m, F a) { return _mm256_and_ps(m, a); }
  static F add_where(F acc, M m, F a) { return add(acc, keep(m, a)); }
  static F add_unless(F acc, M m, F a) { return add(acc, _mm256_andnot_ps(m, a)); }
  static F keep_product(M m, F a, F b) { return keep(m, mul(a, b)); }
  static float reduce_max(F a) {
    __m128 h = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    h = _mm_max_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_max_ss(h, _mm_movehdup_ps(h)));
  }
  static void reduce_max_rows(const float* rows, float* out) {
    for (int i = 0; i < kLanes; ++i) out[i] = reduce_max(load(rows + kLanes * i));
  }
  static float reduce_add(F a) {
    __m128 h = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    h = _mm_add_ps(h, _mm_movehl_ps(h, h));
    return _mm_cvtss_f32(_mm_add_ss(h, _mm_movehdup_ps(h)));
  }

  static I zero() { return _mm256_setzero_si256(); }
  static I iset(uint32_t x) { return _mm256_set1_epi32(int(x)); }
  static I iota() { return _mm256_set_epi32(7, 6, 5, 4, 3, 2, 1, 0); }
  static I iadd(I a, I b) { return _mm256_add_epi32(a, b); }
  static I ixor(I a, I b) { return _mm256_xor_si256(a, b); }
  static M at_most(I a, I b) {  // unsigned
    return _mm256_castsi256_ps(_mm256_cmpeq_epi32(_mm256_min_epu32(a, b), a));
  }
  static I masked_iadd(I acc, M m, I b) {
    return _mm256_add_epi32(acc, _mm256_and_si256(_mm256_castps_si256(m), b));
  }
  static I as_int(F a) { return _mm256_castps_si256(a); }
  static int32_t reduce_iadd(I a) {
    __m128i h = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    h = _mm_add_epi32(h, _mm_shuffle_epi32(h, 0x4e));
    return _mm_cvtsi128_si32(_mm_add_epi32(h, _mm_shuffle_epi32(h, 0xb1)));
  }
  static void istore(uint32_t* p, I a) { _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), a); }
  static I iload(const uint32_t* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  // Words a[0] b[0] a[1] b[1] ...
  static void istore_interleaved(uint32_t* p, I a, I b) {
    const I low = _mm256_unpacklo_epi32(a, b), high = _mm256_unpackhi_epi32(a, b);
    istore(p, _mm256_permute2x128_si256(low, high, 0x20));
    istore(p + kLanes, _mm256_permute2x128_si256(low, high, 0x31));
  }
  // High and low words of a * m.
  static void mul_wide(I a, I m, I& hi, I& lo) {
    const I even = _mm256_mul_epu32(a, m), odd = _mm256_mul_epu32(_mm256_srli_epi64(a, 32), m);
    hi = _mm256_blend_epi32(_mm256_srli_epi64(even, 32), odd, 0xAA);
    lo = _mm256_blend_epi32(even, _mm256_slli_epi64(odd, 32), 0xAA);
  }
  // Unsigned words to float within one unit: half the word, as signed, doubled.
  static F to_float(I a) { return mul(_mm256_cvtepi32_ps(_mm256_srli_epi32(a, 1)), set(2.0f)); }
  // Signed words to float, rounded to nearest.
  static F signed_to_float(I a) { return _mm256_cvtepi32_ps(a); }

  // Appends the chosen lanes of x to px and their ids to pi; returns how many. Up to kLanes
  // elements past the end may be overwritten.
  static int compress(float* px, uint32_t* pi, M m, F x, I ids) {
    const uint32_t b = bits(m);
    const I order = _mm256_cvtepu8_epi32(_mm_cvtsi64_si128(int64_t(kCompress.order[b])));
    _mm256_storeu_ps(px, _mm256_permutevar8x32_ps(x, order));
    istore(pi, _mm256_permutevar8x32_epi32(ids, order));
    return __builtin_popcount(b);
  }

  // RNE(2^43 * e) as integers: adding 2^52 rounds, and leaves them in the mantissa.
  static void store_fixed43(uint64_t* p, F e) {
    const __m256d scale = _mm256_set1_pd(0x1p43), magic = _mm256_set1_pd(0x1p52);
    for (int half = 0; half < 2; ++half) {
      const __m128 part = half ? _mm256_extractf128_ps(e, 1) : _mm256_castps256_ps128(e);
      const __m256d y = _mm256_add_pd(_mm256_mul_pd(_mm256_cvtps_pd(part), scale), magic);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(p + 4 * half),
                          _mm256_xor_si256(_mm256_castpd_si256(y), _mm256_castpd_si256(magic)));
    }
  }
  static void store_log(float* p, F t, double ls) {
    for (int half = 0; half < 2; ++half) {
      const __m128 part = half ? _mm256_extractf128_ps(t, 1) : _mm256_castps256_ps128(t);
      const __m256d y = _mm256_sub_pd(_mm256_mul_pd(_mm256_cvtps_pd(part), _mm256_set1_pd(kLn2)),
                                      _mm256_set1_pd(ls));
      _mm_storeu_ps(p + 4 * half, _mm_add_ps(_mm256_cvtpd_ps(y), _mm_setzero_ps()));
    }
  }
};

}  // namespace
}  // namespace fusedraw
