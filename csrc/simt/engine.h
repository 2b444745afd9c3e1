// SPDX-License-Identifier: Apache-2.0
// The executor's inside: threads, warps, blocks, and the one engine that runs them.
#pragma once

#include <cstdint>
#include <map>
#include <stdexcept>
#include <string>
#include <vector>

#include "executor.h"
#include "fiber.h"
#include "request_log.h"
#include "sanitizers.h"
#include "shared_memory.h"
#include "sync.h"

namespace fusedraw::simt {

constexpr int kWarp = 32;
constexpr int kMaxThreads = 1024;

struct Block;
struct Warp;

enum class State : uint8_t { kNew, kReady, kRunning, kAtBarrier, kAtWarpOp, kFinished };

struct Thread {
  Fiber fiber;
  Warp* warp = nullptr;
  Block* block = nullptr;
  uint3 index{};
  int lane = 0;
  State state = State::kNew;
  uint32_t spins = 0;  // atomics and fences since it last gave way
  // What it waits for, or waited for last.
  Op op{};
  uint32_t mask = 0;
  uint64_t value = 0, result = 0;
  int operand = 0, width = kWarp;
  Place place{};
  void* tsan_fence = nullptr;    // stands for what it had done by its last fence
  std::vector<void*> tsan_seen;  // others' fences that its atomics have read since then
};

// Lanes that wait in one warp operation.
struct Gathering {
  Op op;
  uint32_t mask, arrived;
  void* tsan_object;
};

struct Warp {
  Block* block = nullptr;
  int index = 0;
  uint32_t lanes = 0, ready = 0, yielded = 0, finished = 0;
  Gathering gathering[kWarp];
  int n_gathering = 0;
  // clock[a][b]: the latest time of lane b that lane a is ordered behind; clock[a][a] is a's own.
  uint32_t clock[kWarp][kWarp];
  // While only whole-warp operations have ordered memory, all of clock is this one value.
  uint32_t uniform_clock = 0;
  bool clocks_differ = false;
  RequestLog log;
  void* tsan_objects[2] = {};
  uint32_t tsan_parity = 0;
};

struct Block {
  uint64_t linear = 0;
  uint3 index{};
  int threads = 0, n_warps = 0, finished = 0;
  uint32_t ready_warps = 0;  // warps with a ready lane
  std::vector<Thread> thread;
  std::vector<Warp> warp;
  // The barrier that some wait at.
  int at_barrier = 0;
  Op barrier_op{};
  Place barrier_place{};
  Thread* barrier_first = nullptr;
  uint64_t barrier_count = 0;
  // By turns: with one, who wakes late would inherit the next barrier, and races would vanish.
  void* tsan_objects[2] = {};
  uint32_t tsan_parity = 0;
  SharedMemory shared;
};

// Unwinds a fiber's stack after an error; never leaves the fiber's entry.
struct Abort {};

struct Engine {
  Thread* self = nullptr;  // the thread that runs; null on the host
  Thread* ended = nullptr;
  Fiber host;
  Kernel kernel{};
  std::string kernel_name;
  size_t dynamic_shared_bytes = 0;
  Options options;
  uint64_t launch = 0;  // how many there were
  Counts counts;
  std::vector<Block*> live;
  size_t current = 0;  // of live
  std::string error;
  bool failed = false, aborting = false;
  uint64_t random_state = 0;
  uint64_t idle = 0;  // atomics and fences since a thread last finished or a barrier last opened
  // ThreadSanitizer only. Released by threads that end, acquired by the launch that returns.
  char tsan_done = 0;
  // Fences that atomics on an address came behind, in order.
  std::map<const void*, std::vector<void*>> tsan_fences;

  bool random_order() const { return options.schedule > 1; }
  uint32_t random() {
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return uint32_t(random_state >> 16);
  }
};
extern Engine engine;

// Ends the launch with `message`, headed by the kernel's name and the thread that runs.
[[noreturn]] void fail(const std::string& message);
// Gives way to the scheduler until the thread's state is kReady and it is chosen.
void suspend(Thread& self);
// The same at once, with the thread still able to run.
void give_way(Thread& self);
void make_ready(Thread& t);

// "block (1,0,0) thread 37".
std::string name_of(const Thread& t);
std::string name_of(const Place& place);
// Who waits where, of all live blocks.
std::string who_waits_where();
// An error if the thread's end leaves others at a barrier for good.
void check_end(Thread& t);

}  // namespace fusedraw::simt
