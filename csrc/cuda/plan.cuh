// SPDX-License-Identifier: Apache-2.0
// A row's parameters and key, read once and kept on the board: all threads need them now and then,
// and registers are few.
#pragma once

#include "../core/call.h"
#include "reduce.cuh"

namespace fusedraw::cuda {

template <int kMost>
FD_DEVICE double number_at(const NumbersView<kMost>& view, int64_t row, int column) {
  const Global<const double> data(view.data);
  return data.null() ? view.row[column] : data.load(row * view.row_stride + column);
}

FD_DEVICE bool load_params(const ParamsView& view, int64_t row, RowParams& out) {
  double p[kParamColumns];
#pragma unroll
  for (int i = 0; i < kParamColumns; ++i) p[i] = number_at(view, row, i);
  return read_params(p, out);
}

enum PlanFlag : uint32_t {
  kFlagGreedy = 1,
  kFlagTopK = 2,
  kFlagTopP = 4,
  kFlagJoint = 8,
  kFlagTiesAll = 16,
  kFlagBad = 32,  // BAD_PARAM
};

FD_DEVICE bool has_flag(PlanFlag f) { return board().word(kWordFlags) & f; }
FD_DEVICE float top_p_of() { return float_of(uint32_t(board().word(kWordTopP))); }
FD_DEVICE float mix_eps_of() { return float_of(uint32_t(board().word(kWordTopP) >> 32)); }
FD_DEVICE float temperature_of() { return float_of(uint32_t(board().word(kWordFlags) >> 32)); }

// Tokens to list for top-k; 0: none.
FD_DEVICE uint32_t wanted_list(int64_t cols) {
  if (!has_flag(kFlagTopK) || cols > (int64_t{1} << 32)) return 0;
  const uint64_t k = board().word(kWordTopK);
  return k <= kListWant ? uint32_t(k) : 0;
}

// Whether a list of the largest tokens may be asked for.
FD_DEVICE bool may_list(int64_t cols) { return has_flag(kFlagTopP) || wanted_list(cols) > 0; }

// Thread 0 works it out; a barrier at the end.
FD_DEVICE void post_plan(const ParamsView& view, const Options& options, int64_t row,
                         int64_t cols) {
  if (thread_id() == 0) {
    RowParams p;
    uint64_t flags = 0;
    if (load_params(view, row, p)) {
      const Plan plan = make_plan(p, options);
      if (plan.greedy) flags |= kFlagGreedy;
      if (!plan.greedy && plan.top_k > 0 && plan.top_k < cols) flags |= kFlagTopK;
      if (!plan.greedy && plan.has_top_p) flags |= kFlagTopP;
      if (plan.joint) flags |= kFlagJoint;
      if (plan.ties_all) flags |= kFlagTiesAll;
      board().put(kWordTopK, uint64_t(plan.top_k));
      board().put(kWordPreWeight, plan.pre_weight);
      board().put(kWordPostWeight, plan.post_weight);
      board().put(kWordTopP, uint64_t(bits_of(p.mix_eps)) << 32 | bits_of(plan.top_p));
    } else {
      flags = kFlagBad;
      p.temperature = 0.0f;
    }
    board().put(kWordFlags, uint64_t(bits_of(p.temperature)) << 32 | flags);
    // c of the weights, where a lazy race may ask for spreads.
    const bool races = !options.probs && p.temperature > 0.0f && p.temperature <= 0x1p64f;
    board().put(kWordScale, races ? bits_of(temperature_scale(p.temperature)) : 0);
  }
  __syncthreads();
}

FD_DEVICE void post_key(const KeysView& keys, int64_t row) {
  if (thread_id() == 0) {
    const Global<const uint64_t> key(keys.data + row * keys.row_stride);
    board().put(kWordSeed, key.load(0));
    board().put(kWordOffset, key.load(1));
  }
  __syncthreads();
}
// The noise of the row: what is not the same in all rows comes from the board at every use.
struct NoiseSource {
  uint32_t domain;
  const ForcedNoise* forced;
  int64_t n_forced;
  __device__ Noise noise() const {
    // Opaque: the round keys of Philox are computed at each use, not ahead.
    const uint64_t seed = board().word(kWordSeed);
    return {uint64_t(opaque(uint32_t(seed >> 32))) << 32 | opaque(uint32_t(seed)),
            board().word(kWordOffset), domain, forced, n_forced};
  }
};

}  // namespace fusedraw::cuda
