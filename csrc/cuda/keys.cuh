// SPDX-License-Identifier: Apache-2.0
// Keys of requests, one thread a row.
#pragma once

#include "../core/keys.h"
#include "launch.h"
#include "tuning.cuh"

namespace fusedraw::cuda {

FD_DEVICE int64_t row_of_thread() { return int64_t(blockIdx.x) * kThreads + int64_t(threadIdx.x); }
FD_DEVICE void store_key(uint64_t* keys, int64_t row, const Key& key) {
  const Global<uint64_t> to(keys + 2 * row);
  to.store(0, key.seed);
  to.store(1, key.offset);
}

static __global__ void __launch_bounds__(kThreads)
    row_keys_kernel(int64_t rows, int64_t seed, int64_t step, uint64_t* keys) {
  const int64_t row = row_of_thread();
  if (row < rows)
    store_key(keys, row, derive_key(uint64_t(seed), uint64_t(row), 0, uint64_t(step)));
}

static __global__ void __launch_bounds__(kThreads)
    derive_keys_kernel(KeyParts parts, int64_t rows, uint64_t* keys) {
  const int64_t row = row_of_thread();
  if (row >= rows) return;
  const auto part = [row](const int64_t* p, int64_t stride) {
    return uint64_t(Global<const int64_t>(p).load(row * stride));
  };
  store_key(
      keys, row,
      derive_key(part(parts.seed, parts.seed_stride), part(parts.request, parts.request_stride),
                 part(parts.sample, parts.sample_stride), part(parts.step, parts.step_stride)));
}

}  // namespace fusedraw::cuda
