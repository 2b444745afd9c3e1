// SPDX-License-Identifier: Apache-2.0
// How the kernels of an op are launched: one launch where there are rows enough to fill the device;
// one more for the first pass where there are not.
#pragma once

#include "parts.cuh"

namespace fusedraw::cuda {

inline bool keeps_laws(const SampleCall& call) { return call.out.n_kept != nullptr; }
inline Space sample_space(const SampleCall& call, void* base) {
  return plan_space(call.x, keeps_laws(call), true, base);
}

template <typename T>
const char* scan_parts(const RowTask& task, const Space& space, Stream stream) {
  if (space.splits == 1) return nullptr;
  return launch(scan_part_kernel<T>, dim3(unsigned(task.x.rows * space.splits)), kThreads, stream,
                task, space);
}

// A grid of n thread blocks; more than CUDA has is refused by the launch.
inline dim3 grid_of(int64_t n) { return dim3(n <= INT32_MAX ? unsigned(n) : ~0u); }

}  // namespace fusedraw::cuda
