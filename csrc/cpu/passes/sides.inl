// SPDX-License-Identifier: Apache-2.0
// The weight at or above a value and that below it, in one pass over the kept tokens, in float32 to
// within a proven relative error.
#pragma once

namespace fusedraw {
namespace {

// Float32 sums of the weights at or above a pivot and below it, a run of blocks at a time.
template <typename T>
class SideSums {
 public:
  SideSums(const WeightRule& rule, float pivot) : rule_(rule), pivot_(pivot) {}

  // Where the block that is added next may lie: it is read later.
  T* room() { return room_ + n_ * kBlock; }
  void add(const T* x, float e_max, float block_max) {
    blocks_[n_++] = x;
    e_max_ = e_max > e_max_ ? e_max : e_max_;
    top_ = block_max > top_ ? block_max : top_;
    if (n_ == kRoughRun) fold();
  }
  // Whole blocks of the row that a sample holds: they are weighed already.
  void add(const Sample& s) {
    if (s.end == 0) return;
    const V::F pivot = V::set(pivot_);
    for (int64_t i = 0; i < s.n;) {
      Group a = zeros(), b = a;
      for (int n = 0; n < kRoughRun && i < s.n; ++n, i += kBlock) {
        for (int j = 0; j < kVecs; j += kGroup) {
          const Group e = load_group(s.e + i, j);
          const GroupMask m = at_least(load_group(s.x + i, j), pivot);
          a = add_where(a, m, e);
          b = add_unless(b, m, e);
        }
      }
      above_.add(total(a));
      below_.add(total(b));
    }
  }
  void finish(double& above, double& below) {
    if (n_ > 0) fold();
    above = above_.total();
    below = below_.total();
  }

 private:
  void fold() {
    with_near_lanes(rule_, e_max_, [&](auto lanes) {
      if (top_ < pivot_)
        add_below(lanes);
      else
        add_both(lanes);
    });
    n_ = 0;
    e_max_ = 0.0f;
    top_ = -inf32();
  }
  template <typename Lanes>
  void add_both(const Lanes& lanes) {
    const V::F pivot = V::set(pivot_);
    Group a = zeros(), b = a;
    const auto add = [&](const GroupMask& m, const Group& e) {
      a = add_where(a, m, e);
      b = add_unless(b, m, e);
    };
    if constexpr (kSumsLate && kInSteps<Lanes>) {
      // What one group needs first is worked out beside the sums of the group before it.
      blocks_[n_] = blocks_[0];
      Group v = load_any_order(blocks_[0], 0), t = lanes.t(v), f = Lanes::frac(t);
      for (int j = kGroup; j <= n_ * kVecs; j += kGroup) {
        const GroupMask m = at_least(v, pivot);
        const Group e = Lanes::exp2(f, t);
        v = load_any_order(blocks_[j / kVecs], j % kVecs);
        t = lanes.t(v);
        add(m, e);
        f = Lanes::frac(t);
      }
    } else {
      for (int i = 0; i < n_; ++i) {
        for (int j = 0; j < kVecs; j += kGroup) {
          const Group v = load_any_order(blocks_[i], j);
          add(at_least(v, pivot), lanes(v));
        }
      }
    }
    above_.add(total(a));
    below_.add(total(b));
  }
  template <typename Lanes>
  void add_below(const Lanes& lanes) {
    Group s = zeros();
    for (int i = 0; i < n_; ++i)
      for (int j = 0; j < kVecs; j += kGroup)
        s = fusedraw::add(s, lanes(load_any_order(blocks_[i], j)));
    below_.add(total(s));
  }
  const WeightRule rule_;
  const float pivot_;
  int n_ = 0;
  float e_max_ = 0.0f, top_ = -inf32();  // of the blocks that wait
  const T* blocks_[kRoughRun + 1];
  LaneDoubles above_, below_;
  alignas(64) T room_[kRoughRun * kBlock];
};

struct RoughPivotTask {
  const Row* row;
  Cut base;
  float pivot;
  const Sample* sample;
  const float* block_weight;
  Parts parts;
  double above[kMaxParts], below[kMaxParts];

  static void run(void* argument, int64_t i) {
    RoughPivotTask& t = *static_cast<RoughPivotTask*>(argument);
    with_blocks(*t.row, t.base, [&](auto blocks) { sum(t, i, blocks); });
  }
  template <typename Blocks>
  static void sum(RoughPivotTask& t, int64_t i, const Blocks& blocks) {
    const Row& r = *t.row;
    const int64_t begin = i * t.parts.per;
    const int64_t end = begin + t.parts.per < r.blocks ? begin + t.parts.per : r.blocks;
    SideSums<typename Blocks::Value> sums(r.rule, t.pivot);
    if (i == 0) sums.add(*t.sample);
    int64_t held = t.sample->next_held(begin);
    for (int64_t b = begin; b < end; ++b) {
      if (b == held && b < t.sample->end) {
        held += t.sample->stride;
        continue;
      }
      const float e_max = t.block_weight[b];
      if (e_max <= kNoWeight || !block_alive(r, t.base, b)) continue;
      sums.add(blocks(b, sums.room()), e_max, r.block_max[b]);
    }
    sums.finish(t.above[i], t.below[i]);
  }
};

struct RoughPivot {
  Estimate above, below;
};
// `sample`: of whole blocks of the row.
RoughPivot rough_pivot_sums(const Row& r, const Cut& base, float pivot, const Sample& sample,
                            const Pool& pool, Scratch& scratch) {
  RoughPivotTask task;
  task.row = &r;
  task.base = base;
  task.pivot = pivot;
  task.sample = &sample;
  task.block_weight = block_weights(r, r.rule, scratch);
  task.parts = split_blocks(r.blocks, pool);
  run_parts(task.parts, pool, RoughPivotTask::run, &task);
  double above = 0.0, below = 0.0;
  for (int i = 0; i < task.parts.n; ++i) {
    above += task.above[i];
    below += task.below[i];
  }
  const int64_t padded = r.blocks * kBlock;
  return {range_of(above, padded), range_of(below, padded)};
}

}  // namespace
}  // namespace fusedraw
