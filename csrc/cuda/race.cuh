// SPDX-License-Identifier: Apache-2.0
// The race: argmin over blocks of E(BLOCK, b) / S_b, then over the winning block's tokens.
//
// A short list races as it stands. A row races lazily: `spread` times the weight of a block's
// maximum is at least S_b, so a block whose bound lies above the best exact value so far is not
// read again. A bound only ever skips what has lost, so the winner is that of the full race, to the
// bit.
#pragma once

#include "kept.cuh"

namespace fusedraw::cuda {

// What runs: the kept tokens by weight, or each as one (exploring).
struct Field {
  PostedCut cut;
  bool explore;
};

FD_DEVICE uint64_t arrival_value(NoiseSource noise, uint32_t purpose, int64_t id, uint64_t mass) {
  return bits_of(exponential(noise_r64(noise.noise(), purpose, id)) / to_double(mass));
}

FD_DEVICE uint64_t mass_of(const WeightRule& rule, bool explore, float x) {
  return explore ? 1 : weight_at(rule, x);
}

// E >= v and v >= word * 2^-32: with these factors a bound computed in float32 stays a bound.
constexpr float kShrink = 1.0f - 0x1p-18f, kGrow = 1.0f + 0x1p-18f;

// At most 2^43 E_b / S_b (exploring: E_b / count); +inf where block b cannot have any mass.
template <typename T>
FD_DEVICE float block_bound(const Work<T>& w, const Field& f, const NoiseSource& noise, int b) {
  if (b >= w.row.blocks || !block_alive(w, f.cut, b)) return inf32();
  float mass = float(kBlock);
  if (!f.explore) {
    const float e = relative_of(posted_rule(), w.maxima.load(b));
    if (e <= kNoWeight) return inf32();
    mass = e * w.maxima.spread(b) + 0x1p-36f;  // each weight is at most 2^43 e + 1/2
  }
  const uint32_t word = uint32_t(noise_r64(noise.noise(), kPurposeBlock, b) >> 32);
  return float(word) * (0x1p-32f * kShrink) / (mass * kGrow);
}

// A value of the race in the unit of the bounds, rounded up.
FD_DEVICE float limit_of(const Field& f, uint64_t value) {
  if (value == ~uint64_t{0}) return inf32();
  return float(double_of(value) * (f.explore ? 1.0 : 0x1p43)) * kGrow;
}

// A warp reads block b and gives its exact value, none where the field has no mass there.
template <typename T>
FD_DEVICE Arrival examine_block(const Work<T>& w, const Field& f, const NoiseSource& noise, int b) {
  const Values v = fetch_values(w.row, b, lane_id());
  const BlockCut cut = cut_of_block(f.cut, b);
  const bool runs = in_runs(w.row, b);
  const WeightRule rule = posted_rule();
  uint64_t mass = 0;
  each_in_turn(v, [&](float x, int j) {
    if (cut.keeps(x, place_of<T>(runs, lane_id(), j))) mass += mass_of(rule, f.explore, x);
  });
  mass = warp_sum(mass);
  if (mass == 0) return no_arrival();
  return {arrival_value(noise, kPurposeBlock, b, mass), uint32_t(b)};
}

// The winning block of a row, -1 when the field has no mass. Every thread gets it.
template <typename T>
FD_DEVICE int race_blocks(Field f, NoiseSource noise) {
  const Work<T> w = take_work<T>();
  const int t = thread_id();
  const Shared<uint64_t> words = board().words();
  // A sweep over all blocks' bounds finds the least one, whose block is read first; then comes the
  // sweep over what can still win. `best` is a thread's least bound, then a warp's least value.
  Arrival best = no_arrival();
  int start = -1;
#pragma unroll 1
  for (int first = -kThreads * ((w.row.blocks + kThreads - 1) / kThreads); first < w.row.blocks;
       first += kThreads) {
    const bool searching = first < 0;
    const int b = (searching ? -first - kThreads : first) + t;
    const float bound = b == start ? inf32() : block_bound(w, f, noise, b);
    if (searching) {
      if (bound < inf32() && Arrival{bits_of(bound), uint32_t(b)}.before(best))
        best = {bits_of(bound), uint32_t(b)};
      if (first + kThreads < 0) continue;
      start = int(block_first(best).id);
      if (start < 0) return -1;  // no block has mass
      best = no_arrival();
      if (t == 0) {
        words.store(kWordBest, ~uint64_t{0});
        counter().store(0, 1);
        bins().high.store(0, 0);
      }
      __syncthreads();
    } else {
      if (t == 0) counter().store(0, 0);
      __syncthreads();
      if (bound < inf32() && bound <= limit_of(f, words.load(kWordBest))) {
        const int at = int(counter().add(0, 1));
        bins().low.store(at, uint64_t(bits_of(bound)) << 32 | uint32_t(t));
      }
      __syncthreads();
      // In the order of their bounds, so that few are read before the rest have lost.
      const int n = int(counter().load(0));
      if (t < n) {
        const uint64_t mine = bins().low.load(t);
        int rank = 0;
#pragma unroll 1
        for (int i = 0; i < n; ++i) rank += bins().low.load(i) < mine ? 1 : 0;
        bins().high.store(rank, mine);
      }
      __syncthreads();
    }
    const int n = int(counter().load(0));
#pragma unroll 1
    for (int i = warp_id(); i < n; i += kWarps) {
      const uint64_t next = bins().high.load(i);
      uint64_t best_now = 0;
      if (lane_id() == 0) best_now = words.min(kWordBest, ~uint64_t{0});  // an atomic read
      if (float_of(uint32_t(next >> 32)) > limit_of(f, from_first_lane(best_now))) break;
      const Arrival a = examine_block(w, f, noise, searching ? start : first + int(uint32_t(next)));
      if (a.any() && lane_id() == 0) words.min(kWordBest, a.value);
      if (a.before(best)) best = a;
    }
    __syncthreads();
  }
  return int(block_first(best).id);
}

// The race within block b: one thread a token.
template <typename T>
FD_DEVICE_CALL int64_t race_tokens(Field f, NoiseSource noise, int b) {
  const Work<T> w = take_work<T>();
  const int64_t first = int64_t(b) * kBlock;
  const int place = thread_id();
  const float x = value_at(w.row, first + place);
  Arrival a = no_arrival();
  if (cut_of_block(f.cut, b).keeps(x, place)) {
    const uint64_t mass = mass_of(w.rule, f.explore, x);
    if (mass > 0) a = {arrival_value(noise, kPurposeToken, first + place, mass), uint32_t(place)};
  }
  const Arrival winner = block_first(a);
  return winner.any() ? first + winner.id : first;
}

// The race over the n <= kShortList tokens in bins.low, one a thread; bins.high takes their masses.
template <typename T>
FD_DEVICE_CALL int64_t race_list(Field f, NoiseSource noise, int n) {
  const WeightRule rule = posted_rule();
  const int t = thread_id();
  const Shared<uint64_t> entries = bins().low, masses = bins().high;
  uint64_t mine = 0;
  uint32_t id = 0;
  if (t < n) {
    const uint64_t e = entries.load(t);
    id = uint32_t(entry_id(e));
    mine = mass_of(rule, f.explore, entry_value(e));
    masses.store(t, mine);
  }
  __syncthreads();
  uint64_t mass = 0;
  bool head = t < n;  // one thread speaks for each block
  if (t < n) {
#pragma unroll 1
    for (int i = 0; i < n; ++i) {
      if (uint32_t(entry_id(entries.load(i))) / kBlock != id / kBlock) continue;
      mass += masses.load(i);
      head = head && i >= t;
    }
  }
  Arrival a = no_arrival();
  if (head && mass > 0) a = {arrival_value(noise, kPurposeBlock, id / kBlock, mass), id / kBlock};
  const uint32_t winner = block_first(a).id;
  a = no_arrival();
  if (t < n && mine > 0 && id / kBlock == winner)
    a = {arrival_value(noise, kPurposeToken, id, mine), id};
  const Arrival token = block_first(a);
  return token.any() ? token.id : 0;
}

// The tokens of the list that a cut keeps, to the low bins; their number, which may exceed
// kShortList.
FD_DEVICE int shorten(const List& list, const Cut& cut) {
  __syncthreads();
  if (thread_id() == 0) counter().store(0, 0);
  __syncthreads();
  ListItems{list.n, cut}.for_each([&](float x, int64_t id) {
    const int at = int(counter().add(0, 1));
    if (at < kShortList) bins().low.store(at, entry_of(x, id));
  });
  __syncthreads();
  return int(counter().load(0));
}

// Should the row change meanwhile, there may be no winner: then an id that exists is given.
template <typename T>
FD_DEVICE int64_t race(const Field& f, const NoiseSource& noise) {
  const List list = posted_list();
  const Cut cut{f.cut.lo, last_of(f.cut)};
  if (listed(list, cut)) {
    const int n = shorten(list, cut);
    if (n <= kShortList) return race_list<T>(f, noise, n);
  }
  __syncthreads();
  const int b = race_blocks<T>(f, noise);
  return b < 0 ? 0 : race_tokens<T>(f, noise, b);
}

}  // namespace fusedraw::cuda
