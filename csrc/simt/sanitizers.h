// SPDX-License-Identifier: Apache-2.0
// What the executor asks of AddressSanitizer and ThreadSanitizer; nothing where neither is there.
//
// FD_SIMT_TSAN marks an engine that is linked to kernels under -fsanitize=thread. The engine itself
// is compiled without that flag, so the flag cannot tell.
#pragma once

#include <cstddef>

#if defined(__SANITIZE_ADDRESS__)
#define FD_SIMT_ASAN 1
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#else
#define FD_SIMT_ASAN 0
#endif

#ifndef FD_SIMT_TSAN
#define FD_SIMT_TSAN 0
#endif

#if FD_SIMT_TSAN
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned flags);
void __tsan_destroy_fiber(void* fiber);
void __tsan_switch_to_fiber(void* fiber, unsigned flags);
void __tsan_acquire(void* address);
void __tsan_release(void* address);
void AnnotateIgnoreReadsBegin(char* file, int line);
void AnnotateIgnoreReadsEnd(char* file, int line);
void AnnotateIgnoreWritesBegin(char* file, int line);
void AnnotateIgnoreWritesEnd(char* file, int line);
}
#endif

namespace fusedraw::simt {

constexpr bool kAsan = FD_SIMT_ASAN, kTsan = FD_SIMT_TSAN;
constexpr unsigned kTsanNoSync = 1;  // flag of __tsan_switch_to_fiber

inline void tsan_acquire([[maybe_unused]] void* object) {
#if FD_SIMT_TSAN
  __tsan_acquire(object);
#endif
}
inline void tsan_release([[maybe_unused]] void* object) {
#if FD_SIMT_TSAN
  __tsan_release(object);
#endif
}

// Ends a fiber of ThreadSanitizer's, in time: an identity that another thread took over at once
// would make both look like one, and hide what races between them.
void tsan_retire(void* fiber);
// A sync object that nothing has used in this launch.
void* tsan_fresh_object();
// All of the last launch's are given up.
void tsan_begin_launch();

// The engine's own allocations and copies, made on whatever fiber happens to run, are nobody's
// accesses.
class TsanIgnore {
 public:
  TsanIgnore() {
#if FD_SIMT_TSAN
    AnnotateIgnoreReadsBegin(nullptr, 0);
    AnnotateIgnoreWritesBegin(nullptr, 0);
#endif
  }
  ~TsanIgnore() {
#if FD_SIMT_TSAN
    AnnotateIgnoreWritesEnd(nullptr, 0);
    AnnotateIgnoreReadsEnd(nullptr, 0);
#endif
  }
  TsanIgnore(const TsanIgnore&) = delete;
  TsanIgnore& operator=(const TsanIgnore&) = delete;
};

}  // namespace fusedraw::simt
