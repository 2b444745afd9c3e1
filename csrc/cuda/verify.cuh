// SPDX-License-Identifier: Apache-2.0
// Speculative decoding: the laws of all positions (a thread block each), the verdicts (a thread a
// row), and for each row the one token that is still to be drawn, from the residual of a rejected
// draft or, after the last draft, as `sample` does.
//
// Residuals are added up exactly, block by block of the row, token by token of a lane.
#pragma once

#include "../core/verify.h"
#include "sample.cuh"
#include "whole_rows.cuh"

namespace fusedraw::cuda {

// One model at a position, before it is known whether anyone gets that far.
struct PositionLaw {
  KeptLaw law;
  uint64_t weight;  // of the draft
  uint8_t status;
};

enum class Next : uint8_t { kNothing, kRecover, kBonus };
struct Verdict {
  int64_t position;
  Next next;
};

struct VerifySpace : SlotSpace {
  int64_t laws = 0, verdicts = 0;  // offsets
  int64_t drafts = 0;

  __device__ Global<PositionLaw> laws_of(bool draft) const {
    return Global<PositionLaw>(reinterpret_cast<PositionLaw*>(base + laws) +
                               (draft ? 0 : rows * drafts));
  }
  __device__ Global<Verdict> verdict_of() const {
    return Global<Verdict>(reinterpret_cast<Verdict*>(base + verdicts));
  }
};

inline VerifySpace plan_verify(const VerifyCall& call, void* base) {
  VerifySpace s;
  s.drafts = call.drafts;
  // A slot for each position, and for each row: the kernels that use them follow each other.
  s.plan_slots(call.x, call.x.rows * (s.drafts > 1 ? s.drafts : 1), base);
  s.laws = s.take(2 * s.rows * s.drafts * int64_t(sizeof(PositionLaw)));
  s.verdicts = s.take(s.rows * int64_t(sizeof(Verdict)));
  return s;
}

// drafts_of() of the core.
FD_DEVICE int64_t number_of_drafts(const VerifyCall& call, int64_t row) {
  const Global<const int64_t> of_rows(call.n_draft);
  if (of_rows.null()) return call.drafts;
  const int64_t n = of_rows.load(row);
  return n >= 0 && n <= call.drafts ? n : -1;
}
FD_DEVICE Noise noise_at(const VerifyCall& call, int64_t row, int64_t position, uint32_t domain) {
  const Global<const uint64_t> key(call.keys.data + row * call.keys.row_stride);
  return position_noise(key.load(0), key.load(1), position, domain, call.forced, call.n_forced);
}
// For NoiseSource. A barrier at the end.
FD_DEVICE void post_position_key(const VerifyCall& call, int64_t row, int64_t position) {
  if (thread_id() == 0) {
    const Noise noise = noise_at(call, row, position, kTarget);
    board().put(kWordSeed, noise.seed);
    board().put(kWordOffset, noise.offset);
  }
  __syncthreads();
}
template <typename T>
FD_DEVICE void post_position(const VerifySide& side, const VerifySpace& space, int64_t row,
                             int64_t position, int64_t slot) {
  const Space rows = space.of_rows();
  const int64_t skip = slot * space.blocks;
  post_row<T>(row_at(side.x, row, position), mask_at(side.mask, row, position), 0, false,
              rows.maxima_of<T>() + skip, rows.spreads_of() + skip);
  post_plan(side.params, side.options, row, side.x.cols);
}

FD_DEVICE uint64_t kept_weight_at(const KeptLaw& law, float x, int64_t id) {
  return keeps(law.cut, x, id) ? weight_at(law.rule, x) : 0;
}

template <typename T>
__global__ void __launch_bounds__(kThreads, kResident)
    position_law_kernel(VerifyCall call, bool of_draft, VerifySpace space) {
  const int64_t at = blockIdx.x, row = at / call.drafts, position = at % call.drafts;
  if (position >= number_of_drafts(call, row)) return;
  post_position<T>(of_draft ? call.draft : call.target, space, row, position, at);
  PositionLaw found{};
  found.status = kBadParam;
  RowFacts facts{0.0f, kBadParam};
  if (!has_flag(kFlagBad)) facts = read_row<T>(space.of_rows(), 0, true);
  found.status = facts.status;
  if (facts.status == kOk) {
    leave_rule(weight_rule(facts.max, has_flag(kFlagGreedy) ? 1.0f : temperature_of(), false));
    choose_kept<T>();
    found.law.sum = kept_sum<T>();
    found.law.rule = posted_rule();
    found.law.cut = posted_cut();
    const int64_t id = Global<const int64_t>(call.draft_ids).load(at);
    if (id >= 0 && id < call.x.cols)
      found.weight = kept_weight_at(found.law, value_at(posted_row<T>(), id), id);
  }
  if (thread_id() == 0) space.laws_of(of_draft).store(at, found);
}

FD_DEVICE bool side_is_good(const VerifySide& side, int64_t row) {
  RowParams p;
  return load_params(side.params, row, p) && p.mix_eps == 0.0f;
}

// store_nothing() of the core.
FD_DEVICE void store_no_tokens(const VerifyCall& call, int64_t row, int64_t from) {
  const int64_t first = row * (call.drafts + 1);
#pragma unroll 1
  for (int64_t j = from; j <= call.drafts; ++j) {
    store_global(call.ids + first + j, int64_t{-1});
    if (call.logp != nullptr) store_global(call.logp + first + j, nan32());
  }
}

static __global__ void __launch_bounds__(kThreads)
    verdict_kernel(VerifyCall call, VerifySpace space) {
  const int64_t row = int64_t(blockIdx.x) * kThreads + int64_t(thread_id());
  if (row >= call.x.rows) return;
  const int64_t n = number_of_drafts(call, row), first = row * (call.drafts + 1);
  uint8_t status = kOk;
  if (n < 0 || !side_is_good(call.target, row) || !side_is_good(call.draft, row))
    status = kBadParam;
  Verdict verdict{0, Next::kBonus};
#pragma unroll 1
  while (status == kOk && verdict.next == Next::kBonus && verdict.position < n) {
    const int64_t j = verdict.position, at = row * call.drafts + j;
    const int64_t id = Global<const int64_t>(call.draft_ids).load(at);
    const PositionLaw draft = space.laws_of(true).load(at), target = space.laws_of(false).load(at);
    if (id < 0 || id >= call.x.cols)
      status = kBadParam;
    else if (draft.status != kOk)
      status = draft.status;
    else if (draft.weight == 0)
      status = kBadParam;
    else
      status = target.status;
    if (status != kOk) break;
    const uint64_t r64 = noise_r64(noise_at(call, row, j, kAccept), kPurposeCoin, 0);
    if (!accepts(r64, target.weight, target.law.sum, draft.weight, draft.law.sum)) {
      verdict.next = Next::kRecover;
      break;
    }
    store_global(call.ids + first + j, id);
    if (call.logp != nullptr)
      store_global(call.logp + first + j, kept_log_prob(target.law, target.weight));
    ++verdict.position;
  }
  const bool ok = status == kOk;
  if (!ok) verdict = {0, Next::kNothing};
  store_global(call.status + row, status);
  store_global(call.n_accepted + row, verdict.position);
  store_no_tokens(call, row, ok ? verdict.position + 1 : 0);
  space.verdict_of().store(row, verdict);
}

// A token of a row that is not the posted one.
FD_DEVICE float value_elsewhere(const RowsView& x, const MaskView& mask, int64_t id) {
  if (mask.kind == MaskView::Kind::kBool &&
      Global<const uint8_t>(static_cast<const uint8_t*>(mask.data)).load(id) == 0)
    return -inf32();
  if (mask.kind == MaskView::Kind::kBits &&
      (Global<const uint32_t>(static_cast<const uint32_t*>(mask.data)).load(id >> 5) >> (id & 31) &
       1u) == 0)
    return -inf32();
  if (x.dtype == DType::kFloat32)
    return Global<const float>(static_cast<const float*>(x.data)).load(id) + 0.0f;
  const uint16_t bits = Global<const uint16_t>(static_cast<const uint16_t*>(x.data)).load(id);
  return (x.dtype == DType::kBFloat16 ? to_float(BFloat16{bits}) : to_float(Float16{bits})) + 0.0f;
}

// The target's row is the posted one.
struct Residual {
  KeptLaw target, draft;
  RowsView x;  // the draft's
  MaskView mask;
};
template <typename T>
FD_DEVICE u128 residual_at(const Residual& f, const Row<T>& r, int64_t id) {
  if (id >= r.cols()) return 0;
  const uint64_t w = kept_weight_at(f.target, value_at(r, id), id);
  if (w == 0) return 0;
  const uint64_t v = kept_weight_at(f.draft, value_elsewhere(f.x, f.mask, id), id);
  return residual(w, f.target.sum, v, f.draft.sum);
}
FD_DEVICE u128 warp_sum_wide(u128 v) {
#pragma unroll
  for (int d = kLanes / 2; d > 0; d /= 2)
    v += u128(shuffle_xor(uint64_t(v >> 64), d)) << 64 | shuffle_xor(uint64_t(v), d);
  return v;
}
FD_DEVICE Arrival wide_arrival(NoiseSource noise, uint32_t purpose, int64_t id, u128 mass,
                               uint32_t as) {
  return {bits_of(exponential(noise_r64(noise.noise(), purpose, id)) / to_double(mass)), as};
}

// The race of the residuals; every thread gets the winner.
template <typename T>
FD_DEVICE int64_t recover(const Residual& f, NoiseSource noise) {
  const Row<T> r = posted_row<T>();
  Arrival best = no_arrival();
#pragma unroll 1
  for (int b = warp_id(); b < r.blocks; b += kWarps) {
    u128 mass = 0;
#pragma unroll 1
    for (int j = 0; j < kPerLane; ++j)
      mass += residual_at(f, r, int64_t(b) * kBlock + j * kLanes + lane_id());
    mass = warp_sum_wide(mass);
    if (mass == 0) continue;
    const Arrival a = wide_arrival(noise, kPurposeBlock, b, mass, uint32_t(b));
    if (a.before(best)) best = a;
  }
  best = block_first(best);
  const int64_t first = best.any() ? int64_t(best.id) * kBlock : 0;
  const int place = thread_id();
  const u128 mine = residual_at(f, r, first + place);
  Arrival a = no_arrival();
  if (mine > 0) a = wide_arrival(noise, kPurposeToken, first + place, mine, uint32_t(place));
  const Arrival winner = block_first(a);
  return winner.any() ? first + winner.id : first;  // none: only where a row changes meanwhile
}

template <typename T>
__global__ void __launch_bounds__(kThreads) recover_kernel(VerifyCall call, VerifySpace space) {
  const int64_t row = blockIdx.x;
  const Verdict verdict = space.verdict_of().load(row);
  if (verdict.next != Next::kRecover) return;
  const int64_t position = verdict.position, at = row * call.drafts + position;
  post_row<T>(row_at(call.target.x, row, position), mask_at(call.target.mask, row, position), 0,
              false, nullptr, nullptr);
  post_position_key(call, row, position);
  const Residual f{space.laws_of(false).load(at).law, space.laws_of(true).load(at).law,
                   row_at(call.draft.x, row, position), mask_at(call.draft.mask, row, position)};
  const int64_t id = recover<T>(f, NoiseSource{kRecovery, call.forced, call.n_forced});
  const int64_t to = row * (call.drafts + 1) + position;
  put(call.ids, to, id);
  if (call.logp != nullptr)
    put(call.logp, to,
        kept_log_prob(f.target, kept_weight_at(f.target, value_at(posted_row<T>(), id), id)));
}

// draw: what draw_token() looks at of a `sample`.
template <typename T>
__global__ void __launch_bounds__(kThreads, kResident)
    bonus_kernel(VerifyCall call, SampleCall draw, VerifySpace space) {
  const int64_t row = blockIdx.x;
  const Verdict verdict = space.verdict_of().load(row);
  if (verdict.next != Next::kBonus) return;
  const int64_t position = verdict.position;
  post_position<T>(call.target, space, row, position, row);
  post_position_key(call, row, position);
  const RowFacts facts = read_row<T>(space.of_rows(), 0, true);
  if (facts.status != kOk) {
    put(call.status, row, facts.status);
    put(call.n_accepted, row, 0);
    if (thread_id() == 0) store_no_tokens(call, row, 0);
    return;
  }
  leave_rule(WeightRule{WeightKind::kLogits, facts.max, 0.0f});
  draw_token<T>(draw, false);
  const int64_t to = row * (call.drafts + 1) + position;
  put(call.ids, to, int64_t(board().word(kWordDrawn)));
  if (call.logp == nullptr) return;
  const KeptLaw law{posted_rule(), posted_cut(), kept_sum<T>()};
  const int64_t id = int64_t(board().word(kWordDrawn));
  put(call.logp, to, kept_log_prob(law, kept_weight_at(law, value_at(posted_row<T>(), id), id)));
}

// A grid of n thread blocks; more than CUDA has is refused by the launch.
inline dim3 verify_grid(int64_t n) { return dim3(n <= INT32_MAX ? unsigned(n) : ~0u); }

template <typename T>
const char* launch_position_laws(const VerifyCall& call, bool of_draft, const VerifySpace& space,
                                 Stream stream) {
  if (call.drafts == 0) return nullptr;
  return launch(position_law_kernel<T>, verify_grid(call.x.rows * call.drafts), kThreads, stream,
                call, of_draft, space);
}

template <typename T>
const char* launch_last_tokens(const VerifyCall& call, const VerifySpace& space, Stream stream) {
  const dim3 rows = verify_grid(call.x.rows);
  if (call.drafts > 0)
    if (const char* error = launch(recover_kernel<T>, rows, kThreads, stream, call, space))
      return error;
  SampleCall draw;
  draw.options = call.target.options;
  draw.forced = call.forced;
  draw.n_forced = call.n_forced;
  return launch(bonus_kernel<T>, rows, kThreads, stream, call, draw, space);
}

}  // namespace fusedraw::cuda
