// SPDX-License-Identifier: Apache-2.0
// Launches: blocks come alive, their threads run as fibers in the order of the schedule, errors
// unwind them all.
#include "executor.h"

#include <algorithm>
#include <memory>
#include <mutex>

#include "engine.h"
#include "symbols.h"

uint3 threadIdx{}, blockIdx{};
dim3 blockDim, gridDim;

namespace fusedraw::simt {

Engine engine;

Options& options() {
  static thread_local Options o;
  return o;
}

namespace {

std::mutex launching;
std::vector<Record> launched;

constexpr size_t kMaxParameterBytes = 4096;

// A set bit of `mask`, by chance if the schedule is random.
int choose(uint32_t mask) {
  if (engine.options.schedule == 0) return __builtin_ctz(mask);
  if (engine.options.schedule == 1) return 31 - __builtin_clz(mask);
  const uint32_t turn = engine.random() & 31;
  const uint32_t turned = mask >> turn | (turn ? mask << (32 - turn) : 0);
  return (__builtin_ctz(turned) + int(turn)) & 31;
}

// The first error is the launch's.
void note_error(const std::string& message) {
  if (!engine.failed) engine.error = engine.kernel_name + ": " + message;
  engine.failed = true;
}

void thread_main() {
  fiber_entered(engine.host);
  Thread* self = engine.self;
  try {
    engine.kernel.call(engine.kernel.arguments);
    check_end(*self);
  } catch (const Abort&) {
  } catch (const std::exception& e) {
    note_error(name_of(*self) + ": " + e.what());
  } catch (...) {
    note_error(name_of(*self) + ": an exception of unknown type");
  }
  self->state = State::kFinished;
  self->warp->finished |= 1u << self->lane;
  ++self->block->finished;
  engine.ended = self;
  engine.idle = 0;
  tsan_release(&engine.tsan_done);
  fiber_exit(self->fiber, engine.host);
}

void set_running(Thread& t) {
  engine.self = &t;
  t.state = State::kRunning;
  threadIdx = t.index;
  blockIdx = t.block->index;
}

void resume(Thread& t) {
  if (t.state == State::kNew) fiber_create(t.fiber, thread_main);
  set_running(t);
  fiber_switch(engine.host, t.fiber);
  engine.self = nullptr;
}

// Threads that have run on each other's heels come back here when one ends.
void bury(Thread& t) {
  if (!fiber_stack_intact(t.fiber))
    note_error(name_of(t) + " overran its stack of " + std::to_string(kStackBytes) + " bytes");
  fiber_destroy(t.fiber);
}

// Blocks that have run, kept for the next ones.
std::vector<std::unique_ptr<Block>> block_pool;

Block* start_block(uint64_t linear, int threads) {
  std::unique_ptr<Block> taken;
  if (!block_pool.empty()) {
    taken = std::move(block_pool.back());
    block_pool.pop_back();
  } else {
    taken = std::make_unique<Block>();
    taken->thread.resize(kMaxThreads);
    taken->warp.resize(kMaxThreads / kWarp);
  }
  Block& b = *taken.release();
  b.linear = linear;
  b.index = {unsigned(linear % gridDim.x), unsigned(linear / gridDim.x % gridDim.y),
             unsigned(linear / gridDim.x / gridDim.y)};
  b.threads = threads;
  b.n_warps = (threads + kWarp - 1) / kWarp;
  b.finished = b.at_barrier = 0;
  b.ready_warps = 0;
  for (int w = 0; w < b.n_warps; ++w) {
    Warp& warp = b.warp[size_t(w)];
    warp.block = &b;
    warp.index = w;
    warp.lanes = warp.ready = warp.yielded = warp.finished = 0;
    warp.n_gathering = 0;
    warp.uniform_clock = 1;
    warp.clocks_differ = false;
    if (kTsan)
      for (void*& object : warp.tsan_objects) object = tsan_fresh_object();
  }
  if (kTsan)
    for (void*& object : b.tsan_objects) object = tsan_fresh_object();
  for (int i = 0; i < threads; ++i) {
    Thread& t = b.thread[size_t(i)];
    t.warp = &b.warp[size_t(i / kWarp)];
    t.block = &b;
    t.index = {unsigned(i), 0, 0};
    t.lane = i % kWarp;
    t.state = State::kNew;
    t.spins = 0;
    t.tsan_fence = nullptr;
    t.tsan_seen.clear();
    t.warp->lanes |= 1u << t.lane;
    t.warp->ready |= 1u << t.lane;
    b.ready_warps |= 1u << t.warp->index;
  }
  b.shared.begin(engine.launch, engine.dynamic_shared_bytes);
  return &b;
}

void retire(Block* b) {
  for (int w = 0; w < b->n_warps; ++w) b->warp[size_t(w)].log.flush(engine.counts);
  block_pool.emplace_back(b);
}

// The next thread by the schedule; null if none can run.
Thread* pick() {
  auto& live = engine.live;
  if (engine.random_order() && live.size() > 1 && engine.random() % 8 == 0)
    engine.current = engine.random() % live.size();
  for (size_t n = 0; n < live.size(); ++n) {
    Block& b = *live[engine.current];
    if (b.ready_warps) {
      // In order, a warp goes on until it waits; by chance, now and then another one is up.
      Warp& warp = b.warp[size_t(choose(b.ready_warps))];
      const int lane = choose(warp.ready);
      warp.ready &= ~(1u << lane);
      if (!warp.ready) b.ready_warps &= ~(1u << warp.index);
      return &b.thread[size_t(warp.index * kWarp + lane)];
    }
    engine.current = (engine.current + 1) % live.size();
  }
  return nullptr;
}

void unpick(Thread& t) {
  t.warp->ready |= 1u << t.lane;
  t.block->ready_warps |= 1u << t.warp->index;
}

// Those that gave way may run again, once all others have had their turn.
bool recall() {
  bool any = false;
  for (Block* b : engine.live)
    for (int w = 0; w < b->n_warps; ++w) {
      Warp& warp = b->warp[size_t(w)];
      if (!warp.yielded) continue;
      warp.ready |= warp.yielded;
      warp.yielded = 0;
      b->ready_warps |= 1u << w;
      any = true;
    }
  return any;
}

void unwind_all() {
  engine.aborting = true;
  for (Block* b : engine.live) {
    for (int i = 0; i < b->threads; ++i) {
      Thread& t = b->thread[size_t(i)];
      if (t.state == State::kNew || t.state == State::kFinished) continue;
      resume(t);
      bury(t);
    }
    retire(b);
  }
  engine.live.clear();
  engine.aborting = false;
}

uint64_t block_at(uint64_t i, uint64_t n, const std::vector<uint32_t>& order) {
  return engine.options.schedule == 0 ? i : engine.options.schedule == 1 ? n - 1 - i : order[i];
}

void run_grid(uint64_t blocks, int threads) {
  std::vector<uint32_t> order;
  if (engine.random_order()) {
    order.resize(blocks);
    for (size_t i = 0; i < blocks; ++i) order[i] = uint32_t(i);
    for (size_t i = blocks; i > 1; --i) std::swap(order[i - 1], order[engine.random() % i]);
  }
  uint64_t next = 0;
  engine.idle = 0;
  for (;;) {
    while (next < blocks && engine.live.size() < size_t(engine.options.resident))
      engine.live.push_back(start_block(block_at(next++, blocks, order), threads));
    if (engine.live.empty()) return;
    engine.current %= engine.live.size();
    Thread* t = pick();
    if (!t) {
      if (recall()) continue;
      note_error("deadlock: " + who_waits_where());
    } else {
      engine.ended = nullptr;
      resume(*t);
      if (engine.ended) bury(*engine.ended);
      if (engine.idle > engine.options.patience)
        note_error("threads spin without end: " + who_waits_where() +
                   (next < blocks ? "; " + std::to_string(blocks - next) +
                                        " blocks have not begun (Options::resident)"
                                  : ""));
    }
    if (engine.failed) return;
    if (!engine.ended) continue;
    if (Block* b = engine.ended->block; b->finished == b->threads) {
      for (size_t i = 0; i < engine.live.size(); ++i)
        if (engine.live[i] == b) {
          engine.live.erase(engine.live.begin() + std::ptrdiff_t(i));
          if (engine.current > i) --engine.current;
          break;
        }
      retire(b);
    }
  }
}

std::string show(dim3 d) {
  return "(" + std::to_string(d.x) + "," + std::to_string(d.y) + "," + std::to_string(d.z) + ")";
}

}  // namespace

void make_ready(Thread& t) {
  t.state = State::kReady;
  t.warp->ready |= 1u << t.lane;
  t.block->ready_warps |= 1u << t.warp->index;
}

void suspend(Thread& self) {
  Thread* next = engine.aborting || engine.idle > engine.options.patience ? nullptr : pick();
  if (next == &self) return set_running(self);
  if (next && next->state != State::kNew) {  // without a turn by way of the host
    set_running(*next);
    fiber_switch(self.fiber, next->fiber);
  } else {
    if (next) unpick(*next);
    fiber_switch(self.fiber, engine.host);
  }
  if (engine.aborting) throw Abort();
}

void give_way(Thread& self) {
  self.spins = 0;
  self.state = State::kReady;
  self.warp->yielded |= 1u << self.lane;
  suspend(self);
}

void fail(const std::string& message) {
  note_error(engine.self ? name_of(*engine.self) + ": " + message : message);
  throw Abort();
}

void run(const Kernel& kernel, dim3 grid, int threads, size_t dynamic_shared_bytes) {
  if (engine.self) throw std::runtime_error("a kernel cannot launch a kernel here");
  const std::lock_guard<std::mutex> lock(launching);
  engine.kernel_name = function_name(kernel.function);
  if (threads < 1 || threads > kMaxThreads || !grid.x || !grid.y || !grid.z || grid.y > 65535 ||
      grid.z > 65535 || grid.x > 0x7fffffffu)
    throw std::runtime_error(engine.kernel_name + ": bad launch: grid " + show(grid) + ", " +
                             std::to_string(threads) + " threads");
  if (kernel.argument_bytes > kMaxParameterBytes)
    throw std::runtime_error(engine.kernel_name + ": " + std::to_string(kernel.argument_bytes) +
                             " bytes of parameters, more than 4096");
  engine.kernel = kernel;
  engine.options = options();
  engine.options.resident = std::max(1, engine.options.resident);
  engine.dynamic_shared_bytes = dynamic_shared_bytes;
  engine.counts = Counts{};
  ++engine.launch;
  engine.failed = false;
  engine.error.clear();
  engine.current = 0;
  engine.random_state = engine.options.schedule * 0x9e3779b97f4a7c15u | 1;
  for (int i = 0; i < 8; ++i) engine.random();
  gridDim = grid;
  blockDim = dim3(unsigned(threads));
  begin_global_checks();
  tsan_begin_launch();
  engine.tsan_fences.clear();
  fiber_adopt(engine.host);
  try {
    run_grid(uint64_t(grid.x) * grid.y * grid.z, threads);
  } catch (const std::exception& e) {  // no memory for a stack
    note_error(e.what());
  }
  if (engine.failed) unwind_all();
  tsan_acquire(&engine.tsan_done);
  Record record;
  record.kernel = engine.kernel_name;
  record.grid[0] = grid.x, record.grid[1] = grid.y, record.grid[2] = grid.z;
  record.threads = threads;
  record.counts = engine.counts;
  launched.push_back(record);
  if (engine.failed) throw std::runtime_error(engine.error);
}

std::vector<Record> records() {
  const std::lock_guard<std::mutex> lock(launching);
  return launched;
}
void reset_records() {
  const std::lock_guard<std::mutex> lock(launching);
  launched.clear();
}

}  // namespace fusedraw::simt
