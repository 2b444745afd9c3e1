// SPDX-License-Identifier: Apache-2.0
// sample_processed: the kernels of `sample` for rows with edits and rules, apart from them so that
// these stay as short as they are. Included by one source file per type.
#pragma once

#include "first_pass.cuh"
#include "marks.cuh"
#include "sample.cuh"
#include "typed.h"

namespace fusedraw::cuda {

// As sample_kernel; T is Edited<...>.
template <typename T>
__global__ void __launch_bounds__(kThreads, kResidentProcessed)
    processed_kernel(SampleCall call, Space space, EditSpace edits, bool keep_laws) {
  const int64_t row = blockIdx.x;
  post_row<T>(call.x, call.mask, row, false, space.maxima_of<T>(), space.spreads_of());
  post_edits<T>(edits, row);
  post_plan(call.params, call.options, row, call.x.cols);
  post_rules(call.rules, edits, row);
  post_key(call.keys, row);
  uint8_t status = kBadParam;
  if (!has_flag(kFlagBad)) {
    const RowFacts facts = read_row<T>(space, row, true);
    status = facts.status;
    leave_rule(WeightRule{WeightKind::kLogits, facts.max, 0.0f});
  }
  if (status == kOk && !draw_token<T>(call, call.out.n_kept != nullptr)) status = kEmpty;
  if (status != kOk) {
    if (keep_laws && thread_id() == 0)
      space.law_of(row).store(0, RowLaw{WeightRule{}, Cut{0.0f, 0}, 0, 0, status, false});
    store_bad_row(call.out, row, status);
    return;
  }
  enforce_ceiling<T>(false);
  store_token(call.out, posted_row_number());
  if (keep_laws && thread_id() == 0) {
    const int64_t of = posted_row_number();
    space.law_of(of).store(0, RowLaw{WeightRule{}, posted_cut(), 0, 0, kOk, has_flag(kFlagGreedy)});
    edits.ceiling_of(of).store(0, Ceiling{ceiling_found(), ceiling_first()});
  }
  by_products<T>(call.out, call.options.mix_valid);
}

struct ProcessedSpace {
  Space rows;
  EditSpace edits;
};
inline ProcessedSpace processed_space(const SampleCall& call, void* base) {
  RowsView wide = call.x;  // maxima are float32
  wide.dtype = DType::kFloat32;
  const Space rows = plan_space(wide, keeps_laws(call), true, base);
  return {rows, plan_edits(call, keeps_laws(call), rows.bytes, base)};
}

template <typename T>
const char* launch_processed_of(const SampleCall& call, void* workspace, void* stream) {
  if (call.x.rows == 0) return nullptr;
  const Stream s = static_cast<Stream>(stream);
  const ProcessedSpace space = processed_space(call, workspace);
  const dim3 grid = grid_of(call.x.rows);
  if (any_edits(call.edits)) {
    const MarkTask task{call.x, call.edits, call.rules};
    if (const char* error = launch(mark_rows_kernel<T>, grid, kThreads, s, task, space.edits))
      return error;
  }
  const RowTask task{call.x, call.mask, call.params, call.options, true, space.edits};
  if (const char* error = scan_parts<Edited<T>>(task, space.rows, s)) return error;
  return launch(processed_kernel<Edited<T>>, grid, kThreads, s, call, space.rows, space.edits,
                keeps_laws(call));
}

template <typename T>
const char* launch_processed_kept_of(const SampleCall& call, const void* workspace,
                                     const int64_t* offsets, int32_t* ids, void* stream) {
  if (call.x.rows == 0) return nullptr;
  const ProcessedSpace space = processed_space(call, const_cast<void*>(workspace));
  return launch(kept_ids_kernel<Edited<T>>, grid_of(call.x.rows), kThreads,
                static_cast<Stream>(stream), call, space.rows, space.edits, offsets, ids);
}

template <typename T>
const ProcessedLaunchers& processed_launchers_of() {
  static const ProcessedLaunchers all = {launch_processed_of<T>, launch_processed_kept_of<T>};
  return all;
}

}  // namespace fusedraw::cuda
