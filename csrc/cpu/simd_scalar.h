// SPDX-License-Identifier: Apache-2.0
// The verbs of the passes in portable C++: arrays of eight lanes. Any processor; also aarch64's
// engine, where the compiler turns the loops into NEON.
#pragma once

namespace fusedraw {
namespace {

struct V {
  static constexpr int kLanes = 8;
  struct F {
    float v[kLanes];
  };
  struct I {
    uint32_t v[kLanes];
  };
  using M = uint32_t;

  template <typename Fn>
  static F make(Fn fn) {
    F r;
    for (int i = 0; i < kLanes; ++i) r.v[i] = fn(i);
    return r;
  }
  template <typename Fn>
  static I imake(Fn fn) {
    I r;
    for (int i = 0; i < kLanes; ++i) r.v[i] = fn(i);
    return r;
  }
  template <typename Fn>
  static M test(Fn fn) {
    M m = 0;
    for (int i = 0; i < kLanes; ++i) m |= uint32_t(fn(i)) << i;
    return m;
  }

  static F set(float x) {
    return make([=](int) { return x; });
  }
  template <typename T>
  static F load(const T* p) {
    return make([=](int i) { return widen(p[i]); });
  }
  template <typename T>
  static void load_any_order(const T* p, F& a, F& b) {
    a = load(p);
    b = load(p + kLanes);
  }
  static void store(float* p, F x) { memcpy(p, x.v, sizeof x.v); }
  // Past the caches where the processor can: for p a multiple of a vector, and fenced afterwards.
  static void stream(float* p, F x) { store(p, x); }
  static void stream_fence() {}
  // Which of 32 bytes are not 0: a view of other bytes as bools holds any value.
  static uint32_t nonzero(const uint8_t* p) {
    constexpr uint64_t kLow = 0x7f7f7f7f7f7f7f7full;
    uint32_t bits = 0;
    for (int i = 0; i < 32; i += 8) {
      uint64_t bytes;
      memcpy(&bytes, p + i, 8);
      bytes = (((bytes & kLow) + kLow) | bytes) >> 7 & 0x0101010101010101ull;
      bits |= uint32_t(bytes * 0x0102040810204080ull >> 56) << i;
    }
    return bits;
  }

  static F add(F a, F b) {
    return make([&](int i) { return a.v[i] + b.v[i]; });
  }
  static F sub(F a, F b) {
    return make([&](int i) { return a.v[i] - b.v[i]; });
  }
  static F mul(F a, F b) {
    return make([&](int i) { return a.v[i] * b.v[i]; });
  }
  static F div(F a, F b) {
    return make([&](int i) { return a.v[i] / b.v[i]; });
  }
  static F fma(F a, F b, F c) {
    return make([&](int i) { return fma32(a.v[i], b.v[i], c.v[i]); });
  }
  static F max(F a, F b) {
    return make([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; });
  }
  static F min(F a, F b) {
    return make([&](int i) { return a.v[i] < b.v[i] ? a.v[i] : b.v[i]; });
  }
  static void split_log(F y, F& z, F& k) {
    F mantissa = y, exponent = y;
    for (int i = 0; i < kLanes; ++i) {
      const int32_t n = int32_t(bits_of(y.v[i]) - kThreeQuarters) >> 23;
      mantissa.v[i] = float_of(bits_of(y.v[i]) - (uint32_t(n) << 23));
      exponent.v[i] = float(n);
    }
    z = mantissa;
    k = exponent;
  }
  static int floor_int(float t) {
    const int n = int(t);
    return float(n) > t ? n - 1 : n;
  }
  static F frac(F t) {  // |t| <= 126
    return make([&](int i) { return t.v[i] - float(floor_int(t.v[i])); });
  }
  static constexpr bool kFracTakesInfinity = false;
  static F frac_exact(F t) { return frac(t); }
  static F scale2(F p, F t) {
    return make([&](int i) { return p.v[i] * float_of(uint32_t(floor_int(t.v[i]) + 127) << 23); });
  }

  static M ge(F a, F b) {
    return test([&](int i) { return a.v[i] >= b.v[i]; });
  }
  static M gt(F a, F b) {
    return test([&](int i) { return a.v[i] > b.v[i]; });
  }
  static M eq(F a, F b) {
    return test([&](int i) { return a.v[i] == b.v[i]; });
  }
  static M none() { return 0; }
  static M all() { return (1u << kLanes) - 1; }
  static M still_ordered(M so_far, F a, F b) {
    return so_far & test([&](int i) { return a.v[i] == a.v[i] && b.v[i] == b.v[i]; });
  }
  static M either(M a, M b) { return a | b; }
  static M both(M a, M b) { return a & b; }
  static uint32_t bits(M m) { return m; }
  static M from_bits(uint32_t b) { return b & ((1u << kLanes) - 1); }
  static bool any(M m) { return m != 0; }
  static F select(M m, F a, F b) {
    return make([&](int i) { return m >> i & 1 ? a.v[i] : b.v[i]; });
  }
  static F keep(M m, F a) {
    return make([&](int i) { return m >> i & 1 ? a.v[i] : 0.0f; });
  }
  static F add_where(F acc, M m, F a) { return add(acc, keep(m, a)); }
  static F add_unless(F acc, M m, F a) { return select(m, acc, add(acc, a)); }
  static F keep_product(M m, F a, F b) { return keep(m, mul(a, b)); }
  static float reduce_max(F a) {
    float r = a.v[0];
    for (float x : a.v) r = x > r ? x : r;
    return r;
  }
  static void reduce_max_rows(const float* rows, float* out) {
    for (int i = 0; i < kLanes; ++i) out[i] = reduce_max(load(rows + kLanes * i));
  }
  static float reduce_add(F a) {
    float r = 0;
    for (float x : a.v) r += x;
    return r;
  }

  static I zero() { return iset(0); }
  static I iset(uint32_t x) {
    return imake([=](int) { return x; });
  }
  static I iota() {
    return imake([](int i) { return uint32_t(i); });
  }
  static I iadd(I a, I b) {
    return imake([&](int i) { return a.v[i] + b.v[i]; });
  }
  static I ixor(I a, I b) {
    return imake([&](int i) { return a.v[i] ^ b.v[i]; });
  }
  static M at_most(I a, I b) {
    return test([&](int i) { return a.v[i] <= b.v[i]; });
  }
  static I masked_iadd(I acc, M m, I b) {
    return imake([&](int i) { return acc.v[i] + (m >> i & 1 ? b.v[i] : 0u); });
  }
  static I as_int(F a) {
    return imake([&](int i) { return bits_of(a.v[i]); });
  }
  static int32_t reduce_iadd(I a) {
    uint32_t r = 0;
    for (uint32_t x : a.v) r += x;
    return int32_t(r);
  }
  static void istore(uint32_t* p, I a) { memcpy(p, a.v, sizeof a.v); }
  static I iload(const uint32_t* p) {
    return imake([=](int i) { return p[i]; });
  }
  static void istore_interleaved(uint32_t* p, I a, I b) {
    for (int i = 0; i < kLanes; ++i) p[2 * i] = a.v[i], p[2 * i + 1] = b.v[i];
  }
  static void mul_wide(I a, I m, I& hi, I& lo) {
    I h = zero(), l = zero();
    for (int i = 0; i < kLanes; ++i) {
      const uint64_t p = uint64_t(a.v[i]) * m.v[i];
      h.v[i] = uint32_t(p >> 32);
      l.v[i] = uint32_t(p);
    }
    hi = h;
    lo = l;
  }
  static F to_float(I a) {
    return make([&](int i) { return float(a.v[i]); });
  }
  // Signed words to float, rounded to nearest.
  static F signed_to_float(I a) {
    return make([&](int i) { return float(int32_t(a.v[i])); });
  }

  static int compress(float* px, uint32_t* pi, M m, F x, I ids) {
    int n = 0;
    for (int i = 0; i < kLanes; ++i)
      if (m >> i & 1) {
        px[n] = x.v[i];
        pi[n] = ids.v[i];
        ++n;
      }
    return n;
  }

  static void store_fixed43(uint64_t* p, F e) {
    for (int i = 0; i < kLanes; ++i) p[i] = fixed43(e.v[i]);
  }
  static void store_log(float* p, F t, double ls) {
    for (int i = 0; i < kLanes; ++i) p[i] = log_prob(t.v[i], ls);
  }
};

}  // namespace
}  // namespace fusedraw
