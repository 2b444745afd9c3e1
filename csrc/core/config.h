// SPDX-License-Identifier: Apache-2.0
// Function marker of the header-only core: host and device, internal linkage.
//
// Internal linkage matters: the CPU engine includes these headers once per instruction set inside a
// target region. Were the functions `inline` with external linkage, the linker would keep one copy,
// possibly the AVX-512 one, for every caller.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define FD_FN static __host__ __device__ __forceinline__
#else
#define FD_FN [[maybe_unused]] static inline
#endif

namespace fusedraw {

using u128 = unsigned __int128;

// Tokens per noise block. Part of stream version 1: a row's noise is one value per 256 ids.
constexpr int kBlock = 256;
constexpr int kStreamVersion = 1;
// V / 2 must fit the 32-bit counter word of Philox.
constexpr int64_t kMaxVocab = int64_t{1} << 33;

}  // namespace fusedraw
