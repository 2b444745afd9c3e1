// SPDX-License-Identifier: Apache-2.0
// What a host compiler gets in place of CUDA: csrc/cuda/platform.cuh includes this.
//
// The names are CUDA's, and those of the nvcc half of platform.cuh. What is missing is not to be
// used in kernels: the executor could not run it.
#pragma once

#include <cstdint>
#include <cstring>
#include <memory>  // uses __noinline__ as a word of the compiler's: must come before the macro
#include <type_traits>

#include "../core/dtype.h"
#include "executor.h"
#include "host_math.h"
#include "memory_check.h"
#include "sync.h"

#define __global__ __attribute__((unused))
#define __device__
#define __host__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)

// Not static: an out-of-line member function that the linker keeps once must find the one board of
// its kernel, whichever file it came from.
#define FD_DEVICE [[maybe_unused]] inline
#define FD_DEVICE_CALL [[maybe_unused]] inline __attribute__((noinline))

// Of the thread that runs; the engine sets them at every switch.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

// Barriers and fences.

inline void __syncthreads(fusedraw::simt::Place place = fusedraw::simt::here()) {
  fusedraw::simt::block_barrier(fusedraw::simt::Op::kSyncThreads, 0, place);
}
inline int __syncthreads_count(int predicate,
                               fusedraw::simt::Place place = fusedraw::simt::here()) {
  using namespace fusedraw::simt;
  return int(block_barrier(Op::kSyncThreadsCount, predicate != 0, place));
}
inline int __syncthreads_or(int predicate, fusedraw::simt::Place place = fusedraw::simt::here()) {
  using namespace fusedraw::simt;
  return int(block_barrier(Op::kSyncThreadsOr, predicate != 0, place));
}
inline int __syncthreads_and(int predicate, fusedraw::simt::Place place = fusedraw::simt::here()) {
  using namespace fusedraw::simt;
  return int(block_barrier(Op::kSyncThreadsAnd, predicate != 0, place));
}
inline void __syncwarp(unsigned mask = 0xffffffffu,
                       fusedraw::simt::Place place = fusedraw::simt::here()) {
  fusedraw::simt::warp_op(fusedraw::simt::Op::kSyncWarp, mask, 0, 0, 32, place);
}
inline void __threadfence() { fusedraw::simt::thread_fence(); }

// Warp operations.

namespace fusedraw::simt {
template <typename T>
T shuffle(Op op, unsigned mask, T v, int operand, int width, Place place) {
  static_assert(std::is_arithmetic_v<T> && (sizeof(T) == 4 || sizeof(T) == 8),
                "shuffles take 32 and 64-bit integers, float and double");
  uint64_t bits = 0;
  memcpy(&bits, &v, sizeof(T));
  bits = warp_op(op, mask, bits, operand, width, place);
  memcpy(&v, &bits, sizeof(T));
  return v;
}
}  // namespace fusedraw::simt

template <typename T>
T __shfl_sync(unsigned mask, T v, int lane, int width = 32,
              fusedraw::simt::Place place = fusedraw::simt::here()) {
  return fusedraw::simt::shuffle(fusedraw::simt::Op::kShuffle, mask, v, lane, width, place);
}
template <typename T>
T __shfl_xor_sync(unsigned mask, T v, int lane_mask, int width = 32,
                  fusedraw::simt::Place place = fusedraw::simt::here()) {
  return fusedraw::simt::shuffle(fusedraw::simt::Op::kShuffleXor, mask, v, lane_mask, width, place);
}
template <typename T>
T __shfl_up_sync(unsigned mask, T v, unsigned delta, int width = 32,
                 fusedraw::simt::Place place = fusedraw::simt::here()) {
  return fusedraw::simt::shuffle(fusedraw::simt::Op::kShuffleUp, mask, v, int(delta), width, place);
}
template <typename T>
T __shfl_down_sync(unsigned mask, T v, unsigned delta, int width = 32,
                   fusedraw::simt::Place place = fusedraw::simt::here()) {
  return fusedraw::simt::shuffle(fusedraw::simt::Op::kShuffleDown, mask, v, int(delta), width,
                                 place);
}
inline unsigned __ballot_sync(unsigned mask, int predicate,
                              fusedraw::simt::Place place = fusedraw::simt::here()) {
  using namespace fusedraw::simt;
  return unsigned(warp_op(Op::kBallot, mask, predicate != 0, 0, 32, place));
}
inline int __any_sync(unsigned mask, int predicate,
                      fusedraw::simt::Place place = fusedraw::simt::here()) {
  using namespace fusedraw::simt;
  return int(warp_op(Op::kAny, mask, predicate != 0, 0, 32, place));
}
inline int __all_sync(unsigned mask, int predicate,
                      fusedraw::simt::Place place = fusedraw::simt::here()) {
  using namespace fusedraw::simt;
  return int(warp_op(Op::kAll, mask, predicate != 0, 0, 32, place));
}

// Integers and bits.

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __ffsll(long long x) { return __builtin_ffsll(x); }
inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
inline unsigned __brev(unsigned x) {
  unsigned y = 0;
  for (int i = 0; i < 32; ++i) y |= (x >> i & 1u) << (31 - i);
  return y;
}
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return unsigned((uint64_t(high) << 32 | low) >> (shift & 31));
}
inline unsigned __funnelshift_l(unsigned low, unsigned high, unsigned shift) {
  return unsigned((uint64_t(high) << 32 | low) << (shift & 31) >> 32);
}
inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned(uint64_t(a) * b >> 32); }
inline unsigned long long __umul64hi(unsigned long long a, unsigned long long b) {
  return (unsigned long long)((unsigned __int128)a * b >> 64);
}

// float32, each one operation rounded to nearest. Built with -ffp-contract=off.

inline unsigned __float_as_uint(float x) { return fusedraw::simt::bits_from(x); }
inline float __uint_as_float(unsigned x) { return fusedraw::simt::float_from(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return __builtin_fmaf(a, b, c); }

namespace fusedraw::simt {
// Of both halves of a word, which hold values of type T: the larger one, or a NaN if there is one.
template <typename T>
uint32_t larger_halves(uint32_t a, uint32_t b) {
  uint32_t both = 0;
  for (int shift = 0; shift < 32; shift += 16) {
    const uint16_t of_a = uint16_t(a >> shift), of_b = uint16_t(b >> shift);
    const float x = widen(T{of_a}), y = widen(T{of_b});
    both |= uint32_t(std::isnan(x) || x > y ? of_a : of_b) << shift;
  }
  return both;
}
}  // namespace fusedraw::simt

namespace fusedraw::cuda {

struct alignas(16) Vec16 {
  uint32_t w[4];
};

template <typename T>
FD_DEVICE T load_global(const T* p) {
  simt::on_global(p, sizeof(T), alignof(T), simt::Access::kRead);
  return *p;
}
FD_DEVICE uint32_t opaque(uint32_t v) { return v; }
FD_DEVICE Vec16 load_global16(const void* p) {
  simt::on_global(p, 16, 16, simt::Access::kRead);
  Vec16 v;
  for (int i = 0; i < 4; ++i) memcpy(&v.w[i], static_cast<const char*>(p) + 4 * i, 4);
  return v;
}
template <typename T>
FD_DEVICE void store_global(T* p, T v) {
  simt::on_global(p, sizeof(T), alignof(T), simt::Access::kWrite);
  *p = v;
}
FD_DEVICE void store_global16(void* p, Vec16 v) {
  simt::on_global(p, 16, 16, simt::Access::kWrite);
  for (int i = 0; i < 4; ++i) memcpy(static_cast<char*>(p) + 4 * i, &v.w[i], 4);
}
template <typename T>
FD_DEVICE T load_shared(const T* p) {
  simt::on_shared(p, sizeof(T), simt::Access::kRead);
  return *p;
}
template <typename T>
FD_DEVICE void store_shared(T* p, T v) {
  simt::on_shared(p, sizeof(T), simt::Access::kWrite);
  *p = v;
}

// One system thread runs all, so plain operations would do; these tell ThreadSanitizer.
FD_DEVICE uint32_t atomic_add(uint32_t* p, uint32_t v) {
  simt::on_atomic(p, 4);
  const uint32_t old = __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
  simt::after_atomic(p);
  return old;
}
FD_DEVICE uint64_t atomic_add(uint64_t* p, uint64_t v) {
  simt::on_atomic(p, 8);
  const uint64_t old = __atomic_fetch_add(p, v, __ATOMIC_RELAXED);
  simt::after_atomic(p);
  return old;
}
FD_DEVICE uint32_t atomic_or(uint32_t* p, uint32_t v) {
  simt::on_atomic(p, 4);
  const uint32_t old = __atomic_fetch_or(p, v, __ATOMIC_RELAXED);
  simt::after_atomic(p);
  return old;
}
FD_DEVICE uint32_t atomic_max(uint32_t* p, uint32_t v) {
  simt::on_atomic(p, 4);
  uint32_t old = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(p, &old, old > v ? old : v, false, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED)) {
  }
  simt::after_atomic(p);
  return old;
}
FD_DEVICE uint64_t atomic_min(uint64_t* p, uint64_t v) {
  simt::on_atomic(p, 8);
  uint64_t old = __atomic_load_n(p, __ATOMIC_RELAXED);
  while (!__atomic_compare_exchange_n(p, &old, old < v ? old : v, false, __ATOMIC_RELAXED,
                                      __ATOMIC_RELAXED)) {
  }
  simt::after_atomic(p);
  return old;
}

FD_DEVICE float add_round_down(float t, float u) { return simt::add_round_down(t, u); }
FD_DEVICE uint32_t round_to_uint(float y) { return simt::round_to_uint(y); }
FD_DEVICE float rough_exp2(float t) { return simt::rough_exp2(t); }
FD_DEVICE float larger(float a, float b) { return __builtin_fmaxf(a, b); }
FD_DEVICE float half_to_float(uint16_t bits) { return widen(Float16{bits}); }
FD_DEVICE float larger_or_nan(float a, float b) { return a != a || a > b ? a : b; }
FD_DEVICE uint32_t larger_bfloat16s(uint32_t a, uint32_t b) {
  return simt::larger_halves<BFloat16>(a, b);
}
FD_DEVICE uint32_t larger_float16s(uint32_t a, uint32_t b) {
  return simt::larger_halves<Float16>(a, b);
}
FD_DEVICE uint32_t warp_max(uint32_t v) {
  for (int d = 16; d > 0; d /= 2) {
    const uint32_t o = __shfl_xor_sync(0xffffffffu, v, d);
    v = v > o ? v : o;
  }
  return v;
}
FD_DEVICE uint32_t warp_min(uint32_t v) { return ~warp_max(~v); }

using Stream = void*;

// Null, like the device's; an error of the kernel is thrown.
template <typename... Parameters, typename... Arguments>
const char* launch(void (*kernel)(Parameters...), dim3 grid, int threads, Stream,
                   const Arguments&... arguments) {
  simt::launch_kernel(kernel, grid, threads, 0, arguments...);
  return nullptr;
}
template <typename... Parameters, typename... Arguments>
const char* launch(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared_bytes,
                   Stream, const Arguments&... arguments) {
  simt::launch_kernel(kernel, grid, threads, shared_bytes, arguments...);
  return nullptr;
}

}  // namespace fusedraw::cuda

// The lambda's static names the declaration, once per instantiation of a template.
#define FD_SHARED(T, name, n)                                                            \
  const ::fusedraw::cuda::Shared<T> name(static_cast<T*>(::fusedraw::simt::shared_array( \
      [] {                                                                               \
        static char tag;                                                                 \
        return &tag;                                                                     \
      }(),                                                                               \
      #name, sizeof(T), n)))

#define FD_DYNAMIC_SHARED(T, name)        \
  const ::fusedraw::cuda::Shared<T> name( \
      static_cast<T*>(::fusedraw::simt::dynamic_shared_array(#name, sizeof(T))))
