// SPDX-License-Identifier: Apache-2.0
// What kernels may use of CUDA. nvcc gets CUDA itself; a host compiler gets the executor of
// csrc/simt, which supplies the same names (threadIdx, __syncthreads, __shfl_*_sync, ...).
//
// This is the only file of csrc/cuda that knows which compiler reads it. Memory is touched through
// load_*, store_* and atomic_* alone: the executor checks and counts each of them.
#pragma once

#include "../core/config.h"

#if defined(__CUDACC__)

#include <cuda_runtime.h>

#define FD_DEVICE static __device__ __forceinline__
// A function called at several places or with many live values of its own: kept out of line.
#define FD_DEVICE_CALL static __device__ __noinline__

namespace fusedraw::cuda {

struct alignas(16) Vec16 {
  uint32_t w[4];
};

// Pointers to rows come out of shared memory as integers: the compiler is told what they point to.
template <typename T>
FD_DEVICE T load_global(const T* p) {
  __builtin_assume(__isGlobal(p));
  return *p;
}
// 16 bytes at a multiple of 16.
FD_DEVICE Vec16 load_global16(const void* p) {
  __builtin_assume(__isGlobal(p));
  const uint4 v = *static_cast<const uint4*>(p);
  return {v.x, v.y, v.z, v.w};
}
template <typename T>
FD_DEVICE void store_global(T* p, T v) {
  __builtin_assume(__isGlobal(p));
  *p = v;
}
// 16 bytes to a multiple of 16. In assembly, since the compiler splits such a store by what the
// bytes were before.
FD_DEVICE void store_global16(void* p, Vec16 v) {
  asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};" ::"l"(__cvta_generic_to_global(p)),
               "r"(v.w[0]), "r"(v.w[1]), "r"(v.w[2]), "r"(v.w[3])
               : "memory");
}
template <typename T>
FD_DEVICE T load_shared(const T* p) {
  return *p;
}
template <typename T>
FD_DEVICE void store_shared(T* p, T v) {
  *p = v;
}

// On global or shared memory; each returns what was there before. Integers only.
FD_DEVICE uint32_t atomic_add(uint32_t* p, uint32_t v) { return atomicAdd(p, v); }
FD_DEVICE uint64_t atomic_add(uint64_t* p, uint64_t v) {
  return atomicAdd(reinterpret_cast<unsigned long long*>(p), v);
}
FD_DEVICE uint32_t atomic_or(uint32_t* p, uint32_t v) { return atomicOr(p, v); }
FD_DEVICE uint32_t atomic_max(uint32_t* p, uint32_t v) { return atomicMax(p, v); }
FD_DEVICE uint64_t atomic_min(uint64_t* p, uint64_t v) {
  return atomicMin(reinterpret_cast<unsigned long long*>(p), v);
}

// t + u rounded towards -inf.
FD_DEVICE float add_round_down(float t, float u) { return __fadd_rd(t, u); }
// RNE(y) for 0 <= y < 2^32.
FD_DEVICE uint32_t round_to_uint(float y) { return __float2uint_rn(y); }
// About 2^t, relative error at most 2^-22; results below 2^-126 may be 0. For bounds only.
FD_DEVICE float rough_exp2(float t) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(t));
  return y;
}
// The larger one; of a NaN and a number, the number.
FD_DEVICE float larger(float a, float b) { return fmaxf(a, b); }
// v, but the compiler does not know that: what is computed from it stays behind this point.
FD_DEVICE uint32_t opaque(uint32_t v) {
  asm volatile("" : "+r"(v));
  return v;
}
// The value of a float16, exactly.
FD_DEVICE float half_to_float(uint16_t bits) {
  float y;
  asm("cvt.f32.f16 %0, %1;" : "=f"(y) : "h"(bits));
  return y;
}

// Thread blocks that shall fit a multiprocessor. With 4 a thread has 64 registers, which the
// compiler makes do with on this architecture only, and shared memory leaves room for no more than
// 3 on most of the others. Of the kernel that scans parts of rows: kResidentParts.
#if __CUDA_ARCH__ == 900
constexpr int kResident = 4, kResidentParts = 4;
#else
constexpr int kResident = 3, kResidentParts = 2;
#endif
// Of rows with edits or rules.
constexpr int kResidentEditedParts = 2;
#if __CUDA_ARCH__ >= 1000
constexpr int kResidentProcessed = 2;
#else
constexpr int kResidentProcessed = 3;
#endif

#if __CUDA_ARCH__ >= 800
// The larger one, or a NaN if there is one; of floats, and of both halves of a word.
FD_DEVICE float larger_or_nan(float a, float b) {
  float y;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(y) : "f"(a), "f"(b));
  return y;
}
FD_DEVICE uint32_t larger_bfloat16s(uint32_t a, uint32_t b) {
  uint32_t y;
  asm("max.NaN.bf16x2 %0, %1, %2;" : "=r"(y) : "r"(a), "r"(b));
  return y;
}
FD_DEVICE uint32_t larger_float16s(uint32_t a, uint32_t b) {
  uint32_t y;
  asm("max.NaN.f16x2 %0, %1, %2;" : "=r"(y) : "r"(a), "r"(b));
  return y;
}
// Of a whole warp.
FD_DEVICE uint32_t warp_max(uint32_t v) { return __reduce_max_sync(0xffffffffu, v); }
FD_DEVICE uint32_t warp_min(uint32_t v) { return __reduce_min_sync(0xffffffffu, v); }
#else
FD_DEVICE float larger_or_nan(float a, float b) { return a != a || a > b ? a : b; }
FD_DEVICE uint32_t larger_bfloat16s(uint32_t a, uint32_t b) {
  const float low = larger_or_nan(__uint_as_float(a << 16), __uint_as_float(b << 16));
  const float high =
      larger_or_nan(__uint_as_float(a & 0xffff0000u), __uint_as_float(b & 0xffff0000u));
  return __float_as_uint(high) | __float_as_uint(low) >> 16;
}
FD_DEVICE uint32_t larger_float16s(uint32_t a, uint32_t b) {
  const float a_low = half_to_float(uint16_t(a)), b_low = half_to_float(uint16_t(b));
  const float a_high = half_to_float(uint16_t(a >> 16)), b_high = half_to_float(uint16_t(b >> 16));
  const uint32_t low = a_low != a_low || a_low > b_low ? a : b;
  const uint32_t high = a_high != a_high || a_high > b_high ? a : b;
  return (high & 0xffff0000u) | (low & 0xffffu);
}
FD_DEVICE uint32_t warp_max(uint32_t v) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) v = max(v, __shfl_xor_sync(0xffffffffu, v, d));
  return v;
}
FD_DEVICE uint32_t warp_min(uint32_t v) { return ~warp_max(~v); }
#endif

using Stream = cudaStream_t;

template <typename... Parameters, typename... Arguments>
const char* launch(void (*kernel)(Parameters...), dim3 grid, int threads, Stream stream,
                   const Arguments&... arguments) {
  kernel<<<grid, threads, 0, stream>>>(arguments...);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

// With dynamic shared memory: see FD_DYNAMIC_SHARED.
template <typename... Parameters, typename... Arguments>
const char* launch(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared_bytes,
                   Stream stream, const Arguments&... arguments) {
  constexpr size_t kWithoutAsking = 48 * 1024;  // more must be asked for, kernel by kernel
  cudaError_t error = cudaSuccess;
  if (shared_bytes > kWithoutAsking)
    error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                 int(shared_bytes));
  if (error == cudaSuccess) {
    kernel<<<grid, threads, shared_bytes, stream>>>(arguments...);
    error = cudaGetLastError();
  }
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace fusedraw::cuda

// An array in shared memory, known to the whole block.
#define FD_SHARED(T, name, n)     \
  __shared__ T name##_storage[n]; \
  const ::fusedraw::cuda::Shared<T> name(name##_storage)

// The launch's dynamic shared memory, as elements T, 16-byte aligned. One memory for all of these.
#define FD_DYNAMIC_SHARED(T, name)                                         \
  extern __shared__ __align__(16) unsigned char fusedraw_dynamic_shared[]; \
  const ::fusedraw::cuda::Shared<T> name(reinterpret_cast<T*>(fusedraw_dynamic_shared))

#else
#include "../simt/platform.h"
#endif
