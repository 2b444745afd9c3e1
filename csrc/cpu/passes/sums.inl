// SPDX-License-Identifier: Apache-2.0
// Exact sums of weights over a row, and what a cut keeps of it.
#pragma once

namespace fusedraw {
namespace {

// Sums over many blocks. They are taken of kRun blocks at a time: sums and constants then stay in
// registers, and lanes are folded to integers before they could overflow (a lane's high part grows
// by at most 1.2 * 2^21 * 32 a block).
template <typename T>
class SumsOf {
 public:
  static constexpr int kRun = 8;
  SumsOf(const WeightRule& rule, Moments moments)
      : rule_(rule), moments_(rule.kind == WeightKind::kLogits ? moments : Moments::kNone) {}

  // Where the block that is added next may lie: it is read later.
  T* room() { return room_ + n_ * kBlock; }
  void add(const T* x, float e_max) {
    blocks_[n_++] = x;
    e_max_ = e_max > e_max_ ? e_max : e_max_;
    if (n_ == kRun) fold();
  }
  Sums finish() {
    if (n_ > 0) fold();
    return sums_;
  }

 private:
  void fold() {
    if (rule_.kind != WeightKind::kLogits) {
      FixedSum s;
      with_lanes(rule_, [&](auto lanes) {
        for (int i = 0; i < n_; ++i) add_weights(lanes, blocks_[i], s);
      });
      sums_.s += s.total(n_ * kVecs);
    } else if (e_max_ <= 0.5f) {
      fold_logits(LowLogitLanes(rule_));
    } else {
      fold_logits(LogitLanes(rule_));
    }
    n_ = 0;
    e_max_ = 0.0f;
  }
  template <typename Lanes>
  void fold_logits(const Lanes& lanes) {
    blocks_[n_] = blocks_[0];
    FixedSum s, g, h;
    const int values = n_ * kVecs + kLateVecs;
    switch (moments_) {
      case Moments::kNone:
        sum_blocks<Moments::kNone>(lanes, blocks_, n_, s, g, h);
        break;
      case Moments::kFirst:
        sum_blocks<Moments::kFirst>(lanes, blocks_, n_, s, g, h);
        sums_.g += g.total(values);
        break;
      case Moments::kSecond:
        sum_blocks<Moments::kSecond>(lanes, blocks_, n_, s, g, h);
        sums_.g += g.total(values);
        sums_.h += h.total(values);
    }
    sums_.s += s.total(values);
  }
  const WeightRule rule_;
  const Moments moments_;
  int n_ = 0;
  float e_max_ = 0.0f;  // of the blocks that wait
  const T* blocks_[kRun + 1];
  Sums sums_;
  alignas(64) T room_[kRun * kBlock];
};
using RowSums = SumsOf<float>;

// e at the maximum of every block, in lanes.
const float* block_weights(const Row& r, const WeightRule& rule, Scratch& scratch) {
  float* e = scratch.array<float>(Scratch::kBlockWeight, size_t(r.blocks + V::kLanes));
  with_lanes(rule, [&](auto lanes) {
    for (int64_t b = 0; b < r.blocks; b += V::kLanes)
      V::store(e + b, lanes(V::load(r.block_max + b)));
    return 0;
  });
  return e;
}

// Sums over all valid tokens of the row under a rule.
struct SumTask {
  const Row* row;
  WeightRule rule;
  const float* block_weight;
  Parts parts;
  Moments moments;
  Sums part[kMaxParts];

  static void run(void* argument, int64_t i) {
    SumTask& t = *static_cast<SumTask*>(argument);
    const Row& r = *t.row;
    t.part[i] = with_blocks(r, Cut{smallest_valid(r), kAllTies},
                            [&](auto blocks) { return sum(t, i, blocks); });
  }

  template <typename Blocks>
  static Sums sum(const SumTask& t, int64_t i, const Blocks& blocks) {
    const Row& r = *t.row;
    const int64_t begin = i * t.parts.per;
    const int64_t end = begin + t.parts.per < r.blocks ? begin + t.parts.per : r.blocks;
    SumsOf<typename Blocks::Value> sums(t.rule, t.moments);
    for (int64_t b = begin; b < end; ++b) {
      const float e_max = t.block_weight[b];
      prefetch_ahead(r, b);
      if (e_max > kNoWeight) sums.add(blocks(b, sums.room()), e_max);
    }
    return sums.finish();
  }
};

Sums row_sums(const Row& r, const WeightRule& rule, Moments moments, const Pool& pool,
              Scratch& scratch) {
  SumTask task;
  task.row = &r;
  task.rule = rule;
  task.block_weight = block_weights(r, rule, scratch);
  task.parts = split_blocks(r.blocks, pool);
  task.moments = moments;
  run_parts(task.parts, pool, SumTask::run, &task);
  Sums sums;
  for (int i = 0; i < task.parts.n; ++i) {
    sums.s += task.part[i].s;
    sums.g += task.part[i].g;
    sums.h += task.part[i].h;
  }
  return sums;
}

// Number of kept tokens, weightless ones included.
int64_t count_kept(const Row& r, const Cut& cut) {
  alignas(64) float buffer[kBlock];
  int64_t n = 0;
  const V::F valid = V::set(smallest_valid(r));
  for (int64_t b = 0; b < r.blocks; ++b) {
    if (!block_alive(r, cut, b)) continue;
    const float* x = kept_block(r, cut, b, buffer);
    for (int j = 0; j < kVecs; ++j)
      n += __builtin_popcount(V::bits(V::ge(V::load(x + j * V::kLanes), valid)));
  }
  return n;
}

// Sums over the kept tokens.
Sums kept_sums(const Row& r, const Cut& cut, Moments moments) {
  return with_blocks(r, cut, [&](auto blocks) {
    SumsOf<typename decltype(blocks)::Value> sums(r.rule, moments);
    for (int64_t b = 0; b < r.blocks; ++b) {
      const float e_max = top_weight(r.rule, r.block_max[b]);
      if (e_max <= kNoWeight || !block_alive(r, cut, b)) continue;
      sums.add(blocks(b, sums.room()), e_max);
    }
    return sums.finish();
  });
}
u128 kept_sum(const Row& r, const Cut& cut) { return kept_sums(r, cut, Moments::kNone).s; }

// fn(x, id) for every kept token, ids ascending.
template <typename Fn>
void for_kept(const Row& r, const Cut& cut, Fn fn) {
  alignas(64) float buffer[kBlock];
  const float least = smallest_valid(r);
  for (int64_t b = 0; b < r.blocks; ++b) {
    if (!block_alive(r, cut, b)) continue;
    const float* x = kept_block(r, cut, b, buffer);
    for (int i = 0; i < kBlock; ++i)
      if (x[i] >= least) fn(x[i], b * kBlock + i);
  }
}

// Number of valid tokens before (x, id) in the order.
int64_t count_before(const Row& r, float x, int64_t id) { return count_kept(r, Cut{x, id}) - 1; }

}  // namespace
}  // namespace fusedraw
