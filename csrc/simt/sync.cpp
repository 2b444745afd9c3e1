// SPDX-License-Identifier: Apache-2.0
// Barriers and warp operations, and who waits where when they do not open.
#include "sync.h"

#include <cstdio>
#include <cstring>

#include "engine.h"

namespace fusedraw::simt {

namespace {

constexpr uint32_t kSpinsBeforeGivingWay = 256;

const char* name_of(Op op) {
  static const char* const names[] = {
      "__syncthreads",    "__syncthreads_count", "__syncthreads_or", "__syncthreads_and",
      "__syncwarp",       "__shfl_sync",         "__shfl_xor_sync",  "__shfl_up_sync",
      "__shfl_down_sync", "__ballot_sync",       "__any_sync",       "__all_sync"};
  return names[int(op)];
}

std::string hex(uint32_t mask) {
  char text[16];
  snprintf(text, sizeof text, "0x%08x", mask);
  return text;
}

// The lane that a shuffle reads, its own where the source lies outside the segment.
int source_lane(const Thread& t) {
  const int first = t.lane & ~(t.width - 1), last = first + t.width - 1;
  int j = t.lane;
  switch (t.op) {
    case Op::kShuffle:
      return first | (t.operand & (t.width - 1));
    case Op::kShuffleXor:
      j = t.lane ^ t.operand;
      return j > last ? t.lane : j;
    case Op::kShuffleUp:
      j = t.lane - t.operand;
      return j < first ? t.lane : j;
    default:
      j = t.lane + t.operand;
      return j > last ? t.lane : j;
  }
}

void order_lanes(Warp& warp, uint32_t mask) {
  if (mask == warp.lanes && !warp.clocks_differ) {
    ++warp.uniform_clock;
    return;
  }
  if (!warp.clocks_differ) {
    warp.clocks_differ = true;
    // Ordered behind all that came before the last whole-warp operation, not behind what follows.
    for (int a = 0; a < kWarp; ++a)
      for (int b = 0; b < kWarp; ++b) warp.clock[a][b] = warp.uniform_clock - (a == b ? 0 : 1);
  }
  uint32_t joined[kWarp] = {};
  for (uint32_t m = mask; m; m &= m - 1) {
    const uint32_t* c = warp.clock[__builtin_ctz(m)];
    for (int b = 0; b < kWarp; ++b) joined[b] = joined[b] > c[b] ? joined[b] : c[b];
  }
  for (uint32_t m = mask; m; m &= m - 1) {
    const int a = __builtin_ctz(m);
    for (int b = 0; b < kWarp; ++b) warp.clock[a][b] = joined[b];
    ++warp.clock[a][a];
  }
}

bool same_place(const Place& a, const Place& b) {
  return a.line == b.line && (a.file == b.file || strcmp(a.file, b.file) == 0);
}

bool orders_memory(Op op) { return op == Op::kSyncWarp || engine.options.shuffles_order_memory; }

// All lanes of `mask` have come: what each of them gets.
void complete(Warp& warp, Op op, uint32_t mask) {
  Thread* lane = &warp.block->thread[size_t(warp.index * kWarp)];
  uint32_t votes = 0;
  if (op >= Op::kBallot)
    for (uint32_t m = mask; m; m &= m - 1) {
      const int i = __builtin_ctz(m);
      votes |= uint32_t(lane[i].value) << i;
    }
  for (uint32_t m = mask; m; m &= m - 1) {
    Thread& t = lane[__builtin_ctz(m)];
    switch (op) {
      case Op::kSyncWarp:
        break;
      case Op::kBallot:
        t.result = votes;
        break;
      case Op::kAny:
        t.result = votes != 0;
        break;
      case Op::kAll:
        t.result = votes == mask;
        break;
      default: {
        const int source = source_lane(t);
        if (source < 0 || source >= kWarp || !(mask >> source & 1))
          fail(std::string(name_of(op)) + " at " + name_of(t.place) + ": lane " +
               std::to_string(t.lane) + " reads lane " + std::to_string(source) +
               ", which is not in the mask " + hex(mask));
        t.result = lane[source].value;
      }
    }
  }
  if (mask == warp.lanes) warp.log.flush(engine.counts);
  if (orders_memory(op)) order_lanes(warp, mask);
}

}  // namespace

uint64_t warp_op(Op op, uint32_t mask, uint64_t value, int operand, int width, Place place) {
  Thread& self = *engine.self;
  Warp& warp = *self.warp;
  const uint32_t bit = 1u << self.lane;
  // CUDA's default mask names 32 lanes even where a block's last warp has fewer.
  mask &= warp.lanes;
  if (!(mask & bit))
    fail(std::string(name_of(op)) + " at " + name_of(place) + ": the mask " + hex(mask) +
         " does not name the lane that calls");
  if (width < 1 || width > kWarp || (width & (width - 1)))
    fail(std::string(name_of(op)) + " at " + name_of(place) + ": width " + std::to_string(width));
  self.op = op;
  self.mask = mask;
  self.value = value;
  self.operand = operand;
  self.width = width;
  self.place = place;
  Gathering* g = nullptr;
  for (int i = 0; i < warp.n_gathering; ++i)
    if (warp.gathering[i].op == op && warp.gathering[i].mask == mask) g = &warp.gathering[i];
  if (!g) {
    if (mask & warp.finished)
      fail(std::string(name_of(op)) + " at " + name_of(place) + ": the mask " + hex(mask) +
           " names lanes that have finished: " + hex(mask & warp.finished));
    g = &warp.gathering[warp.n_gathering++];
    *g = {op, mask, 0, nullptr};
    if (kTsan && orders_memory(op))
      g->tsan_object =
          mask == warp.lanes ? warp.tsan_objects[warp.tsan_parity++ & 1] : tsan_fresh_object();
  }
  g->arrived |= bit;
  void* const object = g->tsan_object;
  if (object) tsan_release(object);
  if (g->arrived != mask) {
    self.state = State::kAtWarpOp;
    suspend(self);
    if (object) tsan_acquire(object);
    return self.result;
  }
  if (object) tsan_acquire(object);
  *g = warp.gathering[--warp.n_gathering];
  complete(warp, op, mask);
  Thread* lane = &self.block->thread[size_t(warp.index * kWarp)];
  for (uint32_t m = mask & ~bit; m; m &= m - 1) make_ready(lane[__builtin_ctz(m)]);
  if (engine.random_order() && engine.random() & 1) {
    make_ready(self);
    suspend(self);
  }
  return self.result;
}

uint64_t block_barrier(Op op, uint64_t value, Place place) {
  Thread& self = *engine.self;
  Block& b = *self.block;
  self.op = op;
  self.place = place;
  if (b.finished)
    fail("divergent barrier: waits at " + std::string(name_of(op)) + " (" + name_of(place) +
         "), which " + std::to_string(b.finished) + " threads of its block that have finished " +
         "will not reach");
  if (b.at_barrier == 0) {
    b.barrier_op = op;
    b.barrier_place = place;
    b.barrier_first = &self;
    b.barrier_count = 0;
  } else if (op != b.barrier_op || !same_place(place, b.barrier_place)) {
    fail("divergent barrier: waits at " + std::string(name_of(op)) + " (" + name_of(place) +
         ") while thread " + std::to_string(b.barrier_first->index.x) + " waits at " +
         name_of(b.barrier_op) + " (" + name_of(b.barrier_place) + ")");
  }
  b.barrier_count += value;
  void* const object = b.tsan_objects[b.tsan_parity];
  tsan_release(object);
  if (++b.at_barrier != b.threads) {
    self.state = State::kAtBarrier;
    suspend(self);
    tsan_acquire(object);
    return self.result;
  }
  tsan_acquire(object);
  b.tsan_parity ^= 1;
  b.at_barrier = 0;
  engine.idle = 0;
  uint64_t result = b.barrier_count;
  if (op == Op::kSyncThreadsOr) result = result != 0;
  if (op == Op::kSyncThreadsAnd) result = result == uint64_t(b.threads);
  for (int i = 0; i < b.threads; ++i) {
    b.thread[size_t(i)].result = result;
    if (&b.thread[size_t(i)] != &self) make_ready(b.thread[size_t(i)]);
  }
  b.shared.barrier();
  for (int w = 0; w < b.n_warps; ++w) {
    Warp& warp = b.warp[size_t(w)];
    warp.log.flush(engine.counts);
    warp.uniform_clock = 1;
    warp.clocks_differ = false;
  }
  if (engine.options.schedule) {
    make_ready(self);
    suspend(self);
  }
  return result;
}

static void maybe_give_way(Thread& self) {
  ++engine.idle;
  if (++self.spins > kSpinsBeforeGivingWay || (engine.random_order() && engine.random() % 4 == 0))
    give_way(self);
}

// For ThreadSanitizer, as C++ has it: what came before a fence that a thread did before an atomic
// is visible behind a fence after another thread's atomic that read it, or read what was made of
// it.
void thread_fence() {
  Thread& self = *engine.self;
  if (kTsan) {
    const TsanIgnore ignore;
    for (void* object : self.tsan_seen) tsan_acquire(object);
    self.tsan_seen.clear();
    self.tsan_fence = tsan_fresh_object();
    tsan_release(self.tsan_fence);
  }
  maybe_give_way(self);
}

void after_atomic(const void* p) {
  Thread& self = *engine.self;
  if (kTsan) {
    const TsanIgnore ignore;
    const auto found = engine.tsan_fences.find(p);
    if (found != engine.tsan_fences.end())
      self.tsan_seen.insert(self.tsan_seen.end(), found->second.begin(), found->second.end());
    if (self.tsan_fence) {
      auto& fences = engine.tsan_fences[p];
      if (fences.empty() || fences.back() != self.tsan_fence) fences.push_back(self.tsan_fence);
    }
  }
  maybe_give_way(self);
}

void check_end(Thread& t) {
  const Block& b = *t.block;
  if (b.at_barrier)
    fail("divergent barrier: finished while thread " + std::to_string(b.barrier_first->index.x) +
         " of its block waits at " + name_of(b.barrier_op) + " (" + name_of(b.barrier_place) + ")");
  const Warp& warp = *t.warp;
  for (int i = 0; i < warp.n_gathering; ++i) {
    const Gathering& g = warp.gathering[i];
    if (g.mask >> t.lane & 1)
      fail("finished while the lanes " + hex(g.arrived) + " of its warp wait at " + name_of(g.op) +
           " with the mask " + hex(g.mask) + ", which names it");
  }
}

std::string name_of(const Place& place) {
  std::string file = place.file ? place.file : "?";
  file.erase(0, file.rfind('/') + 1);
  return file + ":" + std::to_string(place.line);
}

std::string name_of(const Thread& t) {
  const uint3 i = t.block->index;
  return "block (" + std::to_string(i.x) + "," + std::to_string(i.y) + "," + std::to_string(i.z) +
         ") thread " + std::to_string(t.index.x);
}

static std::string what_it_does(const Thread& t) {
  switch (t.state) {
    case State::kAtBarrier:
      return std::string("at ") + name_of(t.op) + " (" + name_of(t.place) + ")";
    case State::kAtWarpOp:
      return std::string("at ") + name_of(t.op) + " with mask " + hex(t.mask) + " (" +
             name_of(t.place) + ")";
    case State::kFinished:
      return "finished";
    default:
      return "running";
  }
}

std::string who_waits_where() {
  constexpr int kMaxLines = 12;
  std::string text;
  int lines = 0;
  for (const Block* b : engine.live)
    for (int i = 0, j; i < b->threads; i = j) {
      const std::string what = what_it_does(b->thread[size_t(i)]);
      for (j = i + 1; j < b->threads && what_it_does(b->thread[size_t(j)]) == what;) ++j;
      if (++lines > kMaxLines) return text + "; ...";
      if (!text.empty()) text += "; ";
      text += name_of(b->thread[size_t(i)]);
      if (j > i + 1) text += "-" + std::to_string(j - 1);
      text += " " + what;
    }
  return text;
}

}  // namespace fusedraw::simt
