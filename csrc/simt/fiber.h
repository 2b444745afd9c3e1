// SPDX-License-Identifier: Apache-2.0
// Fibers: stacks of their own on one system thread, switched by hand without a system call.
//
// The sanitizers are told of every switch: AddressSanitizer where a stack lies, ThreadSanitizer
// that a fiber is a thread of its own that nothing orders but what sync.cpp says.
#pragma once

#include <cstddef>

namespace fusedraw::simt {

constexpr size_t kStackBytes = 128 * 1024;

struct Fiber {
  void* sp = nullptr;
  char* stack = nullptr;  // lowest usable address; a guard page lies below. Null: the host's own
  size_t stack_bytes = 0;
  void* asan_fake_stack = nullptr;
  void* tsan_fiber = nullptr;
};

// Gives `fiber` a stack (from a pool) on which the first switch enters `entry`. An entry must not
// return: it ends by fiber_exit.
void fiber_create(Fiber& fiber, void (*entry)());
// Puts the stack back; the fiber must have ended or never have been entered.
void fiber_destroy(Fiber& fiber);
// Makes `fiber` stand for what runs now.
void fiber_adopt(Fiber& fiber);
void fiber_switch(Fiber& from, Fiber& to);
// First thing of an entry: completes the switch that came from `from`.
void fiber_entered(Fiber& from);
[[noreturn]] void fiber_exit(Fiber& from, Fiber& to);
// False once the fiber has run over the end of its stack as far as the last word of it.
bool fiber_stack_intact(const Fiber& fiber);

}  // namespace fusedraw::simt
