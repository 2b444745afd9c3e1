// SPDX-License-Identifier: Apache-2.0
// The context switch, the pool of stacks, and what the sanitizers must hear about both.
#include "fiber.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdint>
#include <cstdlib>
#include <new>
#include <vector>

#include "sanitizers.h"

#if defined(__x86_64__) && !defined(FD_SIMT_UCONTEXT)
#define FD_SIMT_OWN_SWITCH 1
#else
#define FD_SIMT_OWN_SWITCH 0
#include <ucontext.h>
#endif

namespace fusedraw::simt {

namespace {

constexpr unsigned kColours = 32, kColourBytes = 320;
constexpr uint64_t kCanary = 0x7b1d5a3cc3a5d1b7u;

std::vector<char*>& free_stacks() {
  static std::vector<char*> stacks;
  return stacks;
}

char* new_stack() {
  const size_t page = size_t(sysconf(_SC_PAGESIZE));
  void* p = mmap(nullptr, kStackBytes + page, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (p == MAP_FAILED) throw std::bad_alloc();
  mprotect(p, page, PROT_NONE);
  return static_cast<char*>(p) + page;
}

char* take_stack() {
  auto& stacks = free_stacks();
  if (stacks.empty()) return new_stack();
  char* stack = stacks.back();
  stacks.pop_back();
#if FD_SIMT_ASAN
  ASAN_UNPOISON_MEMORY_REGION(stack, kStackBytes);
#endif
  // Mapped anew, the stack has no history: its last owner's accesses are not races of the next.
  if (kTsan)
    mmap(stack, kStackBytes, PROT_READ | PROT_WRITE,
         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  return stack;
}

}  // namespace

#if FD_SIMT_OWN_SWITCH

// Saves the registers that a callee must keep, then continues where `to` was saved.
extern "C" void fd_simt_switch(void** from_sp, void* to_sp);
asm(R"(
.text
.globl fd_simt_switch
.hidden fd_simt_switch
.type fd_simt_switch, @function
fd_simt_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  popq %rcx
  jmpq *%rcx  # a return would be predicted to go where it does not
.size fd_simt_switch, .-fd_simt_switch
)");

static void prepare(Fiber& fiber, void (*entry)()) {
  // From the top: a null return address, the entry, six registers. The entry then finds the stack
  // pointer where a call would have left it, 8 below a multiple of 16.
  // Tops at the same offset in a page would fight for the same few cache lines.
  static unsigned turn = 0;
  const size_t shift = (turn++ % kColours) * kColourBytes;
  auto* top = reinterpret_cast<void**>(fiber.stack + fiber.stack_bytes - shift);
  top[-1] = nullptr;
  top[-2] = reinterpret_cast<void*>(entry);
  for (int i = 3; i <= 8; ++i) top[-i] = nullptr;
  fiber.sp = top - 8;
}
static void swap(Fiber& from, Fiber& to) { fd_simt_switch(&from.sp, to.sp); }
static void forget(Fiber&) {}

#else

static void prepare(Fiber& fiber, void (*entry)()) {
  auto* context = new ucontext_t;
  getcontext(context);
  context->uc_stack.ss_sp = fiber.stack;
  context->uc_stack.ss_size = fiber.stack_bytes;
  context->uc_link = nullptr;
  makecontext(context, entry, 0);
  fiber.sp = context;
}
static void swap(Fiber& from, Fiber& to) {
  if (!from.sp) from.sp = new ucontext_t;  // the host's own, kept for good
  swapcontext(static_cast<ucontext_t*>(from.sp), static_cast<ucontext_t*>(to.sp));
}
static void forget(Fiber& fiber) { delete static_cast<ucontext_t*>(fiber.sp); }

#endif

void fiber_create(Fiber& fiber, void (*entry)()) {
  fiber.stack = take_stack();
  fiber.stack_bytes = kStackBytes;
  fiber.asan_fake_stack = nullptr;
  *reinterpret_cast<volatile uint64_t*>(fiber.stack) = kCanary;
#if FD_SIMT_TSAN
  fiber.tsan_fiber = __tsan_create_fiber(0);
#endif
  prepare(fiber, entry);
}

void fiber_destroy(Fiber& fiber) {
  if (!fiber.stack) return;
  tsan_retire(fiber.tsan_fiber);
  forget(fiber);
  free_stacks().push_back(fiber.stack);
  fiber = Fiber{};
}

void fiber_adopt([[maybe_unused]] Fiber& fiber) {
#if FD_SIMT_TSAN
  fiber.tsan_fiber = __tsan_get_current_fiber();
#endif
}

void fiber_switch(Fiber& from, Fiber& to) {
#if FD_SIMT_TSAN
  __tsan_switch_to_fiber(to.tsan_fiber, kTsanNoSync);
#endif
#if FD_SIMT_ASAN
  __sanitizer_start_switch_fiber(&from.asan_fake_stack, to.stack, to.stack_bytes);
#endif
  swap(from, to);
#if FD_SIMT_ASAN
  __sanitizer_finish_switch_fiber(from.asan_fake_stack, nullptr, nullptr);
#endif
}

void fiber_entered([[maybe_unused]] Fiber& from) {
#if FD_SIMT_ASAN
  // Only the host's stack is of unknown extent: it is where a fiber is first entered from.
  const void* bottom = nullptr;
  size_t bytes = 0;
  __sanitizer_finish_switch_fiber(nullptr, &bottom, &bytes);
  from.stack = static_cast<char*>(const_cast<void*>(bottom));
  from.stack_bytes = bytes;
#endif
}

void fiber_exit(Fiber& from, Fiber& to) {
#if FD_SIMT_TSAN
  __tsan_switch_to_fiber(to.tsan_fiber, kTsanNoSync);
#endif
#if FD_SIMT_ASAN
  __sanitizer_start_switch_fiber(nullptr, to.stack, to.stack_bytes);
#endif
  swap(from, to);
  abort();
}

bool fiber_stack_intact(const Fiber& fiber) {
  return *reinterpret_cast<const volatile uint64_t*>(fiber.stack) == kCanary;
}

}  // namespace fusedraw::simt
