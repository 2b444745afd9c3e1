// SPDX-License-Identifier: Apache-2.0
// sample and sample_probs: one thread block goes through a row from first pass to token; where rows
// are few, more of them make the first pass beforehand. Another kernel writes kept ids.
#pragma once

#include "late.cuh"
#include "outputs.cuh"
#include "parts.cuh"

namespace fusedraw::cuda {

template <typename T>
FD_DEVICE bool choose(const Options& options, const NoiseSource& noise) {
  if constexpr (kEdited<T>) return choose_by_rules<T>(options, noise);
  choose_kept<T>();
  return true;
}

// From the row's facts to its token, which is left on the board. False: there is none.
template <typename T>
FD_DEVICE bool draw_token(const SampleCall& call, bool counts_kept) {
  leave_rule(weight_rule(posted_rule().m, has_flag(kFlagGreedy) ? 1.0f : temperature_of(),
                         call.options.probs));
  const NoiseSource noise{call.options.domain, call.forced, call.n_forced};
  if (!choose<T>(call.options, noise)) return false;
  const float eps = mix_eps_of();
  const bool greedy = has_flag(kFlagGreedy), over_valid = call.options.mix_valid;
  if ((counts_kept || (eps > 0.0f && !over_valid)) && !greedy &&
      board().word(kWordPostWeight) == 1) {
    const Cut cut = stricter(posted_cut(), Cut{lightest_value<T>(1), kAllTies});
    post_cut(cut, keeps_whole());  // what is dropped weighs nothing
  }
  const bool explored = eps > 0.0f && coin_fires(noise_r64(noise.noise(), kPurposeCoin, 0), eps);
  Cut cut = posted_cut();
  if (explored && over_valid) cut = keep_all(posted_row<T>().smallest_valid());
  __syncthreads();
  if (thread_id() == 0) {
    board().put(kWordFieldLast, uint64_t(cut.last));
    board().put(kWordDrawn, uint64_t(cut.last));  // the token of a greedy row
    board().put(kWordExplored, explored);
  }
  __syncthreads();
  if (greedy && !(explored && over_valid)) return true;
  enforce_ceiling<T>(!(explored && over_valid));
  const int64_t id = race<T>(Field{{cut.lo, kWordFieldLast}, explored}, noise);
  __syncthreads();
  if (thread_id() == 0) board().put(kWordDrawn, uint64_t(id));
  __syncthreads();
  return true;
}

template <typename T, bool kMore>
__global__ void __launch_bounds__(kThreads, kResident)
    sample_kernel(SampleCall call, Space space, bool keep_laws) {
  const int64_t row = blockIdx.x;
  post_row<T>(call.x, call.mask, row, call.options.probs, space.maxima_of<T>(), space.spreads_of());
  post_plan(call.params, call.options, row, call.x.cols);
  post_key(call.keys, row);
  uint8_t status = kBadParam;
  if (!has_flag(kFlagBad)) {
    const RowFacts facts = read_row<T>(space, row, true);
    status = facts.status;
    leave_rule(WeightRule{WeightKind::kLogits, facts.max, 0.0f});
  }
  if (status != kOk) {
    if (kMore && keep_laws && thread_id() == 0)
      space.law_of(row).store(0, RowLaw{WeightRule{}, Cut{0.0f, 0}, 0, 0, status, false});
    store_bad_row(call.out, row, status);
    return;
  }
  draw_token<T>(call, kMore && call.out.n_kept);
  store_token(call.out, posted_row_number());
  if (kMore) {
    if (keep_laws && thread_id() == 0)
      space.law_of(posted_row_number())
          .store(0, RowLaw{WeightRule{}, posted_cut(), 0, 0, kOk, has_flag(kFlagGreedy)});
    by_products<T>(call.out, call.options.mix_valid);
  }
}

// Offsets of the rows' kept ids: running sums, by one thread block.
static __global__ void __launch_bounds__(kThreads)
    kept_offsets_kernel(const int64_t* n_kept, int64_t rows, int64_t* offsets) {
  const Global<const int64_t> from(n_kept);
  const Global<int64_t> to(offsets);
  uint64_t before = 0;
#pragma unroll 1
  for (int64_t first = 0; first < rows; first += kThreads) {
    const int64_t i = first + int64_t(thread_id());
    const uint64_t n = i < rows ? uint64_t(from.load(i)) : 0;
    const uint64_t after = block_suffix(n);
    const uint64_t all = block_broadcast(0, after);
    if (i < rows) to.store(i, int64_t(before + all - after));
    before += all;
  }
  if (thread_id() == 0) to.store(rows, int64_t(before));
}

// The kept ids of a row, ascending.
template <typename T>
__global__ void __launch_bounds__(kThreads, kResident)
    kept_ids_kernel(SampleCall call, Space space, EditSpace edits, const int64_t* offsets,
                    int32_t* ids) {
  const int64_t row = blockIdx.x;
  const RowLaw law = space.law_of(row).load(0);
  if (law.status != kOk) return;
  post_row<T>(call.x, call.mask, row, call.options.probs, nullptr, nullptr);
  post_edits<T>(edits, row);
  if constexpr (kEdited<T>) leave_ceiling(edits.ceiling_of(row).load(0));
  const Row<T> r = posted_row<T>();
  int64_t at = Global<const int64_t>(offsets).load(row);
  const int64_t end = Global<const int64_t>(offsets).load(row + 1);
#pragma unroll 1
  for (int64_t first = 0; first < r.cols(); first += kThreads) {
    const int64_t id = first + int64_t(thread_id());
    const float x = value_at(r, id);
    const bool kept = x >= r.smallest_valid() && keeps(law.cut, x, id);
    const uint64_t from_here = block_suffix(uint64_t{kept});
    const uint64_t all = block_broadcast(0, from_here);
    const int64_t place = at + int64_t(all - from_here);
    if (kept && place < end) Global<int32_t>(ids).store(place, int32_t(id));
    at += int64_t(all);
  }
}

}  // namespace fusedraw::cuda
