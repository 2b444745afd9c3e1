// SPDX-License-Identifier: Apache-2.0
// The floating-point mode of the law for one scope: round to nearest even, subnormals kept, no
// traps. The caller's mode (torch.set_flush_denormal, fesetround) is restored on the way out.
#pragma once

#include <cstdint>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace fusedraw {

class FpEnv {
 public:
#if defined(__x86_64__)
  FpEnv() : saved_(_mm_getcsr()) {
    if (saved_ != kDefault) _mm_setcsr(kDefault);
  }
  ~FpEnv() {
    if (saved_ != kDefault) _mm_setcsr(saved_);
  }

 private:
  static constexpr unsigned kDefault = 0x1f80;  // all exceptions masked, RNE, no FTZ, no DAZ
  unsigned saved_;
#elif defined(__aarch64__)
  FpEnv() {
    __asm__ volatile("mrs %0, fpcr" : "=r"(saved_));
    set(0);
  }
  ~FpEnv() { set(saved_); }

 private:
  static void set(uint64_t v) { __asm__ volatile("msr fpcr, %0" : : "r"(v)); }
  uint64_t saved_;
#else
#error "fusedraw: no floating-point mode control for this processor"
#endif
 public:
  FpEnv(const FpEnv&) = delete;
  FpEnv& operator=(const FpEnv&) = delete;
};

}  // namespace fusedraw
