// SPDX-License-Identifier: Apache-2.0
// One row of `mixture`: the law of each member, one combined row, a draw from that.
//
// An arithmetic mean keeps each member's weights in float32 until all normalisers are known: V
// floats a member, of one row, in the thread's scratch memory.
#pragma once

namespace fusedraw {
namespace {

// S and, with kStats, G of a member's block; with kStore the weights that are not 0, as floats.
template <bool kStats, bool kStore, typename Lanes>
void member_block(const Lanes& lanes, const float* x, FixedSum& sum, FixedSum& sum_g, float* out) {
  FixedSum s = sum, g = sum_g;
  for (int j = 0; j < kVecs; j += kGroup) {
    const Group t = lanes.t(load_group(x, j)), e = Lanes::exp2(t);
    s.add(e);
    const GroupMask weighs = above(e, V::set(kNoWeight));
    if (kStats) g.subtract(keep_product(weighs, t, e));
    if (kStore) {
      float* p = out + j * V::kLanes;
      V::store(p, V::keep(weighs.a, e.a));
      V::store(p + V::kLanes, V::keep(weighs.b, e.b));
      V::store(p + 2 * V::kLanes, V::keep(weighs.c, e.c));
      V::store(p + 3 * V::kLanes, V::keep(weighs.d, e.d));
    }
  }
  sum = s;
  sum_g = g;
}

void store_zeros(float* out) {
  for (int j = 0; j < kBlock; j += V::kLanes) V::store(out + j, V::set(0.0f));
}

// What of a member's blocks is computed; e: [blocks * 256] or null.
struct MemberTask {
  const Row* row;
  const float* block_weight;
  float* e;
  bool stats;
  Parts parts;
  Sums part[kMaxParts];

  template <bool kStats, bool kStore>
  Sums blocks(int64_t begin, int64_t end) const {
    const Row& r = *row;
    alignas(64) float buffer[kBlock];
    Sums sums;
    while (begin < end) {
      FixedSum s, g;
      int n = 0;
      for (; n < RowSums::kRun && begin < end; ++begin) {
        float* out = kStore ? e + begin * kBlock : nullptr;
        const float e_max = block_weight[begin];
        if (e_max <= kNoWeight) {
          if (kStore) store_zeros(out);
          continue;
        }
        const float* x = r.fetch(r, begin, buffer);
        if (e_max <= 0.5f)
          member_block<kStats, kStore>(LowLogitLanes(r.rule), x, s, g, out);
        else
          member_block<kStats, kStore>(LogitLanes(r.rule), x, s, g, out);
        ++n;
      }
      sums.s += s.total(n * kVecs);
      if (kStats) sums.g += g.total(n * kVecs);
    }
    return sums;
  }
  // Temperature above 2^64: each valid token weighs 1.
  Sums uniform_blocks(int64_t begin, int64_t end) const {
    const Row& r = *row;
    alignas(64) float buffer[kBlock];
    const UniformLanes lanes(r.rule);
    int64_t valid = 0;
    for (; begin < end; ++begin) {
      const float* x = r.fetch(r, begin, buffer);
      for (int j = 0; j < kBlock; j += V::kLanes) {
        const V::F share = lanes(V::load(x + j));
        valid += __builtin_popcount(V::bits(V::gt(share, V::set(0.0f))));
        if (e != nullptr) V::store(e + begin * kBlock + j, share);
      }
    }
    Sums sums;
    sums.s = u128(uint64_t(valid)) << kWeightBits;
    return sums;
  }
  static void run(void* argument, int64_t i) {
    MemberTask& t = *static_cast<MemberTask*>(argument);
    const int64_t begin = i * t.parts.per, all = t.row->blocks;
    const int64_t end = begin + t.parts.per < all ? begin + t.parts.per : all;
    if (t.row->rule.kind == WeightKind::kUniform)
      t.part[i] = t.uniform_blocks(begin, end);
    else if (t.e == nullptr)
      t.part[i] = t.stats ? t.blocks<true, false>(begin, end) : t.blocks<false, false>(begin, end);
    else
      t.part[i] = t.stats ? t.blocks<true, true>(begin, end) : t.blocks<false, true>(begin, end);
  }
};

// After the member's scan.
void read_member(Row& r, float temperature, bool stats, float* e, const Pool& pool,
                 Scratch& scratch, MemberLaw& law) {
  law.greedy = temperature == 0.0f;
  r.rule = law.rule = weight_rule(r.rule.m, law.greedy ? 1.0f : temperature, false);
  if (law.greedy) {
    law.first = first_token(r);
    law.sums.s = u128(1) << kWeightBits;
    if (e != nullptr) {
      fill(e, r.blocks * kBlock, 0.0f);
      e[law.first] = 1.0f;
    }
    return;
  }
  MemberTask task;
  task.row = &r;
  task.block_weight = block_weights(r, r.rule, scratch);
  task.e = e;
  task.stats = stats;
  task.parts = split_blocks(r.blocks, pool);
  run_parts(task.parts, pool, MemberTask::run, &task);
  for (int i = 0; i < task.parts.n; ++i) {
    law.sums.s += task.part[i].s;
    law.sums.g += task.part[i].g;
  }
}

// The members that a combination reads, in order.
struct Terms {
  int n = 0, member[kMaxMembers];
  float coefficient[kMaxMembers];
  void add(int m, float c) {
    member[n] = m;
    coefficient[n++] = c;
  }
};

// sum of c_m e_m, within the range of what it is a mean of, and the sums for its entropy.
struct MeanTask {
  const float* shares;  // e of the members, [M, size]
  Terms terms;
  int64_t size, blocks;
  bool stats;
  float* out;  // [size]; may be the first member's shares
  Parts parts;
  Sums part[kMaxParts];

  Group mean(int64_t at) const {
    const float* x = shares + at;
    Group e = load_group(x + terms.member[0] * size, 0), low = e, high = e;
    const V::F first = V::set(terms.coefficient[0]);
    Group p = map(e, [&](V::F v) { return V::mul(first, v); });
    for (int i = 1; i < terms.n; ++i) {
      e = load_group(x + terms.member[i] * size, 0);
      const V::F c = V::set(terms.coefficient[i]);
      p = map(p, e, [&](V::F v, V::F w) { return V::fma(c, w, v); });
      low = map(low, e, [](V::F v, V::F w) { return V::min(v, w); });
      high = map(high, e, [](V::F v, V::F w) { return V::max(v, w); });
    }
    p = map(p, low, [](V::F v, V::F w) { return V::max(v, w); });
    return map(p, high, [](V::F v, V::F w) { return V::min(v, w); });
  }
  template <bool kStats>
  void block(int64_t b, FixedSum& sum, FixedSum& sum_g) const {
    FixedSum s = sum, g = sum_g;
    for (int64_t at = b * kBlock; at < (b + 1) * kBlock; at += kGroup * V::kLanes) {
      const Group p = mean(at);
      V::store(out + at, p.a);
      V::store(out + at + V::kLanes, p.b);
      V::store(out + at + 2 * V::kLanes, p.c);
      V::store(out + at + 3 * V::kLanes, p.d);
      if (kStats) {
        s.add(p);
        g.subtract(keep_product(above(p, V::set(kNoWeight)), log2_of(p), p));
      }
    }
    sum = s;
    sum_g = g;
  }
  template <bool kStats>
  Sums run_blocks(int64_t b, int64_t end) const {
    Sums sums;
    while (b < end) {
      FixedSum s, g;
      int n = 0;
      for (; n < RowSums::kRun && b < end; ++b, ++n) block<kStats>(b, s, g);
      if (!kStats) continue;
      sums.s += s.total(n * kVecs);
      sums.g += g.total(n * kVecs);
    }
    return sums;
  }
  static void run(void* argument, int64_t i) {
    MeanTask& t = *static_cast<MeanTask*>(argument);
    const int64_t begin = i * t.parts.per;
    const int64_t end = begin + t.parts.per < t.blocks ? begin + t.parts.per : t.blocks;
    t.part[i] = t.stats ? t.run_blocks<true>(begin, end) : t.run_blocks<false>(begin, end);
  }
};

Sums combine_mean(const MixtureCall& call, const MemberWeights& w, const MemberLaw* laws,
                  int64_t blocks, float* room, const Pool& pool) {
  float c[kMaxMembers];
  mean_coefficients(w, call.members, [laws](int m) { return laws[m].sums.s; }, c);
  MeanTask task;
  for (int m = 0; m < call.members; ++m)
    if (c[m] > 0.0f) task.terms.add(m, c[m]);
  task.shares = task.out = room;
  task.blocks = blocks;
  task.size = blocks * kBlock;
  task.stats = wants_mean_entropy(call);
  task.parts = split_blocks(blocks, pool);
  run_parts(task.parts, pool, MeanTask::run, &task);
  Sums sums;
  for (int i = 0; i < task.parts.n; ++i) {
    sums.s += task.part[i].s;
    sums.g += task.part[i].g;
  }
  return sums;
}

// x_base + sum of b_m (x_m - x_base), where every logit is finite and the base reaches `least`.
struct LinearTask {
  const Row* rows;
  Terms terms;  // the base first
  int64_t blocks;
  float least;
  float* out;
  Parts parts;

  void block(int64_t b) const {
    alignas(64) float base_buffer[kBlock], buffer[kBlock];
    const V::F excluded = V::set(-inf32());
    const Row& first = rows[terms.member[0]];
    const float* base = first.fetch(first, b, base_buffer);
    float* y = out + b * kBlock;
    for (int j = 0; j < kBlock; j += V::kLanes) {
      const V::F x = V::load(base + j);
      V::store(y + j, V::select(V::ge(x, V::set(least)), x, excluded));
    }
    for (int i = 1; i < terms.n; ++i) {
      const Row& r = rows[terms.member[i]];
      const float* other = r.fetch(r, b, buffer);
      const V::F c = V::set(terms.coefficient[i]);
      for (int j = 0; j < kBlock; j += V::kLanes) {
        const V::F so_far = V::load(y + j), x = V::load(other + j);
        const V::F sum = V::fma(c, V::sub(x, V::load(base + j)), so_far);
        const V::M gone = V::either(V::eq(so_far, excluded), V::eq(x, excluded));
        V::store(y + j, V::select(gone, excluded, sum));
      }
    }
  }
  static void run(void* argument, int64_t i) {
    const LinearTask& t = *static_cast<const LinearTask*>(argument);
    const int64_t begin = i * t.parts.per, end = begin + t.parts.per;
    for (int64_t b = begin; b < end && b < t.blocks; ++b) t.block(b);
  }
};

void combine_logits(const MixtureCall& call, const MemberWeights& w, const Row* rows, float* out,
                    const Pool& pool) {
  LinearTask task;
  task.rows = rows;
  task.terms.add(w.base, 0.0f);
  for (int m = 0; m < call.members; ++m)
    if (m != w.base && takes_part(w, m)) task.terms.add(m, w.b[m]);
  task.blocks = rows[0].blocks;
  task.least = call.how == Combination::kContrastive
                   ? plausible_from(rows[0].rule.m, w.plausibility)
                   : -kFltMax;
  task.out = out;
  task.parts = split_blocks(task.blocks, pool);
  run_parts(task.parts, pool, LinearTask::run, &task);
}

void mixture_checked(const MixtureCall& call, int64_t row, const RowParams& params,
                     const MemberWeights& w, const Pool& pool, Scratch& scratch, RowResult& res) {
  const bool mean = call.how == Combination::kArithmetic, stats = wants_member_entropies(call);
  const int64_t blocks = (call.x.cols + kBlock - 1) / kBlock;
  float* room =
      scratch.array<float>(Scratch::kMembers, size_t(blocks * kBlock * (mean ? call.members : 1)));
  Row rows[kMaxMembers];
  MemberLaw laws[kMaxMembers];
  for (int m = 0; m < call.members; ++m) {
    // Last blocks at places 1 to M: the draw takes place 0.
    rows[m] =
        open_row(call.member[m], call.mask, row, false, scratch, false, m + 1, call.members + 1);
    res.status = scan_row(rows[m], pool);
    if (res.status != kOk) return;
    if (mean || stats || call.member_logp)
      read_member(rows[m], params.temperature, stats, mean ? room + m * blocks * kBlock : nullptr,
                  pool, scratch, laws[m]);
  }
  Sums sums;
  if (mean)
    sums = combine_mean(call, w, laws, blocks, room, pool);
  else
    combine_logits(call, w, rows, room, pool);
  const SampleCall draw = draw_call(call, room, 0);
  sample_checked(draw, row, params, LateRules{}, pool, scratch, res);
  store_row(draw.out, row, res);
  if (res.status == kOk)
    store_members(call, row, w, laws, sums, res.id,
                  [&](int m) { return value_of(rows[m], res.id); });
}

void mixture_row(const MixtureCall& call, int64_t row, const Pool& pool) {
  RowResult res;
  RowParams params;
  MemberWeights w;
  const double* weights = call.weights.data + row * call.weights.row_stride;
  if (!read_params(call.params.data + row * call.params.row_stride, params) ||
      !read_member_weights(call.how, call.members, [weights](int i) { return weights[i]; }, w)) {
    res.status = kBadParam;
  } else {
    Scratch& scratch = Scratch::of_this_thread();
    mixture_checked(call, row, params, w, pool, scratch, res);
    scratch.trim();
  }
  if (res.status == kOk) return;
  store_row(call.out, row, res);
  store_bad_members(call, row);
}

}  // namespace
}  // namespace fusedraw
