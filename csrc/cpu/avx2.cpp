// SPDX-License-Identifier: Apache-2.0
// The engine for AVX2 with FMA and F16C (Haswell, Zen and later).
#if defined(__x86_64__)
#include <immintrin.h>

#define FUSEDRAW_HAVE_FMA 1
#include "engine_headers.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt"))), \
                             apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c,bmi,bmi2,lzcnt,popcnt")
#endif

#include "../core/engine.h"
#include "../core/stats.h"
#include "simd_avx2.h"
#include "passes/engine.inl"

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace fusedraw {

const Engine& avx2_engine() {
  static constexpr Engine engine = engine_of("avx2", []() -> bool {
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("bmi2") && __builtin_cpu_supports("popcnt");
  });
  return engine;
}

}  // namespace fusedraw
#endif
