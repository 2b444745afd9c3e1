// SPDX-License-Identifier: Apache-2.0
// Several models as one law: a kernel for the law of each member (a thread block a row), one for
// the rows' weights, one that writes the combined rows, and after the draw, which is that of
// `sample` on these, one for what is said about the members.
#pragma once

#include "../core/mixture.h"
#include "outputs.cuh"
#include "parts.cuh"

namespace fusedraw::cuda {

// A member's row: its law, and where its logits lie.
struct MemberRow {
  MemberLaw law;
  const void* data;
};
// How a row's members are combined.
struct RowTerms {
  MemberWeights w;
  float c[kMaxMembers];  // of an arithmetic mean
  float least;           // the base's least logit
  uint8_t status;
};

struct MixtureSpace : SlotSpace {
  int64_t members = 0, terms = 0, sums = 0, combined = 0, draw = 0;  // offsets

  __host__ __device__ float* combined_rows() const {
    return reinterpret_cast<float*>(base + combined);
  }
  __device__ Global<MemberRow> member(int m) const {
    return Global<MemberRow>(reinterpret_cast<MemberRow*>(base + members) + m * rows);
  }
  // Fields are loaded one by one: whole, the arrays would lie in local memory.
  __device__ RowTerms* terms_of(int64_t row) const {
    return reinterpret_cast<RowTerms*>(base + terms) + row;
  }
  __device__ Global<Sums> sums_of() const {
    return Global<Sums>(reinterpret_cast<Sums*>(base + sums));
  }
};

inline MixtureSpace plan_mixture(const MixtureCall& call, void* base) {
  MixtureSpace s;
  s.plan_slots(call.x, call.x.rows, base);
  s.members = s.take(s.rows * call.members * int64_t(sizeof(MemberRow)));
  s.terms = s.take(s.rows * int64_t(sizeof(RowTerms)));
  s.sums = s.take(s.rows * int64_t(sizeof(Sums)));
  s.combined = s.take(s.rows * call.x.cols * int64_t(sizeof(float)));
  s.draw = s.take(0);
  return s;
}

// The law of one member.
struct MemberTask {
  RowsView x;
  MaskView mask;
  ParamsView params;
  int m;
  bool stats;
};

template <typename T>
__global__ void __launch_bounds__(kThreads, kResident)
    member_law_kernel(MemberTask task, MixtureSpace space) {
  const int64_t row = blockIdx.x;
  const Space rows = space.of_rows();
  post_row<T>(task.x, task.mask, row, false, rows.maxima_of<T>(), rows.spreads_of());
  post_plan(task.params, Options{}, row, task.x.cols);
  RowFacts facts{0.0f, kBadParam};
  if (!has_flag(kFlagBad)) facts = read_row<T>(rows, row, false);
  MemberRow member{};
  member.law.status = facts.status;
  member.data = static_cast<const T*>(task.x.data) + row * task.x.row_stride;
  if (facts.status == kOk) {
    member.law.greedy = has_flag(kFlagGreedy);
    leave_rule(weight_rule(facts.max, member.law.greedy ? 1.0f : temperature_of(), false));
    member.law.sums.s = u128(1) << kWeightBits;
    if (member.law.greedy)
      member.law.first = first_token<T>();
    else
      member.law.sums =
          row_sums<T>(posted_rule(), keep_all(posted_row<T>().smallest_valid()), task.stats);
    member.law.rule = posted_rule();
  }
  if (thread_id() == 0) space.member(task.m).store(row, member);
}

// Weights, a thread a row.
struct TermsTask {
  NumbersView<kMaxMembers> weights;
  Combination how;
  int members;
};
static __global__ void __launch_bounds__(kThreads)
    mixture_terms_kernel(TermsTask task, MixtureSpace space) {
  const int64_t row = int64_t(blockIdx.x) * kThreads + int64_t(thread_id());
  if (row >= space.rows) return;
  RowTerms terms{};
  const bool ok = read_member_weights(
      task.how, task.members, [&](int i) { return number_at(task.weights, row, i); }, terms.w);
  terms.status = ok ? kOk : kBadParam;
#pragma unroll 1
  for (int m = 0; m < task.members; ++m) {
    const uint8_t status = space.member(m).load(row).law.status;
    if (status == kBadParam || terms.status == kOk) terms.status = status;
  }
  terms.least = -kFltMax;
  if (terms.status == kOk && task.how == Combination::kArithmetic)
    mean_coefficients(
        terms.w, task.members, [&](int m) { return space.member(m).load(row).law.sums.s; },
        terms.c);
  if (terms.status == kOk && task.how == Combination::kContrastive)
    terms.least = plausible_from(space.member(0).load(row).law.rule.m, terms.w.plausibility);
  store_global(space.terms_of(row), terms);
}

struct CombineTask {
  MaskView mask;
  int64_t cols;
  Combination how;
  int members, chunks;
};

template <typename T>
FD_DEVICE float member_value(const MemberRow& member, int64_t id) {
  return to_float(Global<const T>(static_cast<const T*>(member.data)).load(id)) + 0.0f;
}
FD_DEVICE bool allowed_by(const MaskView& mask, int64_t row, int64_t id) {
  const int64_t at = row * mask.row_stride;
  if (mask.kind == MaskView::Kind::kNone) return true;
  if (mask.kind == MaskView::Kind::kBool)
    return Global<const uint8_t>(static_cast<const uint8_t*>(mask.data) + at).load(id) != 0;
  return Global<const uint32_t>(static_cast<const uint32_t*>(mask.data) + at).load(id >> 5) >>
             (id & 31) &
         1u;
}

template <typename T>
FD_DEVICE float mean_value(const CombineTask& task, const MixtureSpace& space, int64_t row,
                           int64_t id) {
  const RowTerms* terms = space.terms_of(row);
  float p = 0.0f, low = 0.0f, high = 0.0f;
  bool first = true;
#pragma unroll 1
  for (int m = 0; m < task.members; ++m) {
    const float c = load_global(terms->c + m);
    if (c == 0.0f) continue;
    const MemberRow member = space.member(m).load(row);
    const float x = member_value<T>(member, id);
    const float e = x > -inf32() ? member_share(member.law, x, id) : 0.0f;
    p = first ? c * e : fma32(c, e, p);
    low = first || e < low ? e : low;
    high = first || e > high ? e : high;
    first = false;
  }
  p = p < low ? low : p;
  return p > high ? high : p;
}

template <typename T>
FD_DEVICE float linear_value(const CombineTask& task, const MixtureSpace& space, int64_t row,
                             int64_t id) {
  const RowTerms* terms = space.terms_of(row);
  const int base_member = load_global(&terms->w.base);
  const float base = member_value<T>(space.member(base_member).load(row), id);
  if (!(base >= load_global(&terms->least))) return -inf32();
  float y = base;
#pragma unroll 1
  for (int m = 0; m < task.members; ++m) {
    const float b = load_global(terms->w.b + m);
    if (m == base_member || b == 0.0f) continue;
    const float x = member_value<T>(space.member(m).load(row), id);
    if (x == -inf32() || y == -inf32()) return -inf32();
    y = fma32(b, x - base, y);
  }
  return y;
}

template <typename T>
FD_DEVICE float combined_value(const CombineTask& task, const MixtureSpace& space, int64_t row,
                               int64_t id) {
  const bool mean = task.how == Combination::kArithmetic;
  if (load_global(&space.terms_of(row)->status) != kOk) return nan32();
  if (!allowed_by(task.mask, row, id)) return mean ? 0.0f : -inf32();
  return mean ? mean_value<T>(task, space, row, id) : linear_value<T>(task, space, row, id);
}

template <typename T>
__global__ void __launch_bounds__(kThreads) combine_kernel(CombineTask task, MixtureSpace space) {
  const int64_t row = int64_t(blockIdx.x) / task.chunks;
  const int64_t first = int64_t(blockIdx.x) % task.chunks * kThreads + int64_t(thread_id());
  const Global<float> out(space.combined_rows() + row * task.cols);
#pragma unroll 1
  for (int64_t id = first; id < task.cols; id += int64_t(task.chunks) * kThreads)
    out.store(id, combined_value<T>(task, space, row, id));
}

// S and G of the combined rows of an arithmetic mean, a thread block a row.
static __global__ void __launch_bounds__(kThreads)
    mean_sums_kernel(int64_t cols, MixtureSpace space) {
  const int64_t row = blockIdx.x;
  const Global<float> p(space.combined_rows() + row * cols);
  FixedSum s, g;
#pragma unroll 1
  for (int64_t id = int64_t(thread_id()); id < cols; id += kThreads) {
    const float v = p.load(id);
    if (!(v > kNoWeight)) continue;
    const uint64_t weight = fixed_of(v), part = fixed_of(-log2p(v) * v);
    s.high += weight >> kHighShift;
    s.low += int64_t(weight & ((1u << kHighShift) - 1));
    g.high += part >> kHighShift;
    g.low += int64_t(part & ((1u << kHighShift) - 1));
  }
  Sums sums;
  sums.s = block_total(s);
  sums.g = block_total(g);
  if (thread_id() == 0) space.sums_of().store(row, sums);
}

struct FinishTask {
  int64_t* ids;
  uint8_t* status;
  float *entropy, *member_logp, *member_entropy, *mean_entropy, *mutual_information;
  Combination how;
  int members;
};

// One row's figures, by one thread; the status of a row whose members are bad.
template <typename T>
__global__ void __launch_bounds__(kThreads)
    mixture_finish_kernel(FinishTask task, MixtureSpace space) {
  const int64_t row = int64_t(blockIdx.x) * kThreads + int64_t(thread_id());
  if (row >= space.rows) return;
  const int64_t id = Global<int64_t>(task.ids).load(row);
  const RowTerms* terms = space.terms_of(row);
  const uint8_t status = load_global(&terms->status);
  if (status != kOk && task.status != nullptr) store_global(task.status + row, status);
  const bool ok = id >= 0, mean = task.how == Combination::kArithmetic;
  double of_members = 0.0, all = 0.0;
#pragma unroll 1
  for (int m = 0; m < task.members; ++m) {
    const int64_t at = m * space.rows + row;
    const MemberRow member = space.member(m).load(row);
    if (task.member_logp != nullptr) {
      float logp = nan32();
      if (ok) logp = member_log_prob(member.law, member_value<T>(member, id), id);
      store_global(task.member_logp + at, logp);
    }
    const double entropy = ok ? entropy_value(member.law.sums) : double(nan32());
    if (task.member_entropy != nullptr)
      store_global(task.member_entropy + at, float(entropy) + 0.0f);
    const double a = double(load_global(terms->w.a + m));
    of_members = of_members + a * entropy;
    all = all + a;
  }
  const double of_each = of_members / all;
  if (task.mean_entropy != nullptr)
    store_global(task.mean_entropy + row, ok ? float(of_each) + 0.0f : nan32());
  if (!mean || (task.entropy == nullptr && task.mutual_information == nullptr)) return;
  const double entropy = ok ? entropy_value(space.sums_of().load(row)) : double(nan32());
  if (task.entropy != nullptr)
    store_global(task.entropy + row, ok ? float(entropy) + 0.0f : nan32());
  if (task.mutual_information != nullptr)
    store_global(task.mutual_information + row,
                 ok ? mutual_information_of(entropy, of_each) : nan32());
}

}  // namespace fusedraw::cuda
