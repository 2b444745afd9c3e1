// SPDX-License-Identifier: Apache-2.0
// Rows over torch's threads, or the blocks of one row when rows are few.
#pragma once

#include <torch/csrc/stable/ops.h>

#include "../core/engine.h"
#include "../cpu/fp_env.h"

namespace fusedraw {

// Below this many logits per thread, waking another thread costs more than it saves.
constexpr int64_t kMinPerThread = 32768;

inline void pool_run(void*, int64_t n, void (*task)(void*, int64_t), void* argument) {
  torch::stable::parallel_for(0, n, 1, [&](int64_t begin, int64_t end) {
    FpEnv mode;
    for (int64_t i = begin; i < end; ++i) task(argument, i);
  });
}

template <typename Call>
void for_rows(const Call& call, void (*row_fn)(const Call&, int64_t, const Pool&)) {
  const int64_t rows = call.x.rows, work = rows * call.x.cols;
  const Pool serial;
  int64_t threads = 1;
  if (work >= 2 * kMinPerThread)
    threads = std::min<int64_t>(torch::stable::get_num_threads(), work / kMinPerThread);
  if (threads <= 1 || rows >= threads) {
    const auto run = [&](int64_t begin, int64_t end) {
      FpEnv mode;
      for (int64_t r = begin; r < end; ++r) row_fn(call, r, serial);
    };
    if (threads <= 1)
      run(0, rows);
    else
      torch::stable::parallel_for(0, rows, (rows + threads - 1) / threads, run);
    return;
  }
  Pool pool;
  pool.threads = int(threads);
  pool.run = pool_run;
  FpEnv mode;
  for (int64_t r = 0; r < rows; ++r) row_fn(call, r, pool);
}

}  // namespace fusedraw
