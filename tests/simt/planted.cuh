// SPDX-License-Identifier: Apache-2.0
// Small kernels, each with one mistake that kBug puts in; without it the executor has nothing to
// say.
#pragma once

#include <atomic>

#include "../../csrc/core/call.h"
#include "../../csrc/cuda/memory.cuh"

namespace planted {

using namespace fusedraw::cuda;

constexpr unsigned kAll = 0xffffffffu;

FD_DEVICE int tid() { return int(threadIdx.x); }
FD_DEVICE int at() { return int(blockIdx.x) * 64 + tid(); }

template <bool kBug>
__global__ void barrier_removed(uint32_t* out) {
  FD_SHARED(uint32_t, words, 64);
  words.store(tid(), uint32_t(tid()));
  if (!kBug) __syncthreads();
  store_global(out + at(), words.load(tid() ^ 32));
}

// The reads of one round and the writes of the next: the barrier behind the reads is missing.
template <bool kBug>
__global__ void barrier_removed_after_reads(uint32_t* out) {
  FD_SHARED(uint32_t, words, 64);
  uint32_t sum = 0;
  for (int round = 0; round < 2; ++round) {
    words.store(tid(), uint32_t(tid() + round));
    __syncthreads();
    sum += words.load(tid() ^ 32);
    if (!kBug) __syncthreads();
  }
  store_global(out + at(), sum);
}

template <bool kBug>
__global__ void two_writers(uint32_t* out) {
  FD_SHARED(uint32_t, word, 1);
  if (tid() % 32 == 0 && (kBug || tid() == 0)) word.store(0, uint32_t(tid()));
  __syncthreads();
  store_global(out + at(), word.load(0));
}

template <bool kBug>
__global__ void plain_beside_atomic(uint32_t* out) {
  FD_SHARED(uint32_t, count, 1);
  if (tid() == 0) count.store(0, 0u);
  if (!kBug) __syncthreads();
  count.add(0, 1);
  __syncthreads();
  store_global(out + at(), count.load(0));
}

template <bool kBug>
__global__ void warp_barrier_missing(uint32_t* out) {
  FD_SHARED(uint32_t, words, 64);
  words.store(tid(), uint32_t(tid()));
  if (!kBug) __syncwarp();
  store_global(out + at(), words.load(tid() ^ 1));
}

// A shuffle makes lanes meet, but CUDA promises nothing about memory.
template <bool kBug>
__global__ void shuffle_for_a_barrier(uint32_t* out) {
  FD_SHARED(uint32_t, words, 64);
  words.store(tid(), uint32_t(tid()));
  if (kBug)
    __shfl_xor_sync(kAll, 1u, 1);
  else
    __syncwarp();
  store_global(out + at(), words.load(tid() ^ 1));
}

// Half warps that meet among themselves know nothing of each other.
template <bool kBug>
__global__ void half_warp_barrier(uint32_t* out) {
  FD_SHARED(uint32_t, words, 64);
  words.store(tid(), uint32_t(tid()));
  __syncwarp(tid() & 16 ? 0xffff0000u : 0x0000ffffu);
  store_global(out + at(), words.load(tid() ^ (kBug ? 16 : 1)));
}

template <bool kBug>
__global__ void shared_index_too_far(uint32_t* out) {
  FD_SHARED(uint32_t, words, 64);
  FD_SHARED(uint32_t, others, 64);
  others.store(tid(), 7u);
  words.store(tid() + (kBug ? 1 : 0), uint32_t(tid()));
  store_global(out + at(), words.load(tid() + (kBug ? 1 : 0)) + others.load(tid()));
}

template <bool kBug>
__global__ void shared_index_negative(uint32_t* out) {
  FD_SHARED(uint32_t, words, 64);
  words.store(tid() - (kBug ? 1 : 0), 0u);
  store_global(out + at(), 0u);
}

template <bool kBug>
__global__ void shared_word_unwritten(uint32_t* out) {
  FD_SHARED(uint32_t, words, 64);
  if (!kBug || tid() < 63) words.store(tid(), 1u);
  __syncthreads();
  store_global(out + at(), words.load(63 - tid()));
}

template <bool kBug>
__global__ void shared_too_large(uint32_t* out) {
  FD_SHARED(uint64_t, first, 4096);
  FD_SHARED(uint64_t, second, kBug ? 2049 : 2048);
  first.store(tid(), uint64_t(1));
  second.store(tid(), uint64_t(2));
  store_global(out + at(), uint32_t(first.load(tid()) + second.load(tid())));
}

template <bool kBug>
__global__ void global_index_too_far(const float* x, int n, uint32_t* out) {
  const int i = n - 64 + tid() + (kBug ? 1 : 0);
  store_global(out + at(), uint32_t(load_global(x + i)));
}

// Rows of n values, 64 more between a row and the next.
template <bool kBug>
__global__ void reads_the_gap(const float* x, int n, uint32_t* out) {
  const Global<const float> row(x + int64_t(blockIdx.x) * (n + 64));
  store_global(out + at(), uint32_t(row.load(n - 64 + tid() + (kBug ? 3 : 0))));
}

template <bool kBug>
__global__ void writes_its_input(const float* x, int, uint32_t* out) {
  if (kBug) store_global(const_cast<float*>(x), 1.0f);
  store_global(out + at(), 1u);
}

template <bool kBug>
__global__ void workspace_unwritten(const float*, int, uint32_t* out) {
  if (!kBug) store_global(out + at(), 1u);
  store_global(out + at(), load_global(out + at()) + 1u);
}

template <bool kBug>
__global__ void misaligned16(const float* x, int, uint32_t* out) {
  store_global(out + at(), load_global16(x + 4 * tid() + (kBug ? 2 : 0)).w[0]);
}

template <bool kBug>
__global__ void barrier_in_a_branch(uint32_t* out) {
  if (!kBug || tid() < 32) __syncthreads();
  store_global(out + at(), 1u);
}

template <bool kBug>
__global__ void barrier_of_another_branch(uint32_t* out) {
  if (!kBug || tid() < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
  store_global(out + at(), 1u);
}

template <bool kBug>
__global__ void barrier_of_another_kind(uint32_t* out) {
  uint32_t n = 0;
  if (!kBug || tid() < 32)
    n = uint32_t(__syncthreads_count(1));
  else
    n = uint32_t(__syncthreads_or(1));
  store_global(out + at(), n);
}

template <bool kBug>
__global__ void mask_names_a_lane_that_left(uint32_t* out) {
  const uint32_t mask = kBug ? kAll : 0x7fffffffu;
  if (tid() % 32 == 31) return;
  store_global(out + at(), __ballot_sync(mask, 1));
}

template <bool kBug>
__global__ void mask_without_the_caller(uint32_t* out) {
  store_global(out + at(), __ballot_sync(kBug ? 0xfffffffeu : kAll, 1));
}

template <bool kBug>
__global__ void masks_differ(uint32_t* out) {
  const uint32_t mask = kBug && tid() % 32 < 16 ? 0x0000ffffu : kAll;
  store_global(out + at(), __ballot_sync(mask, 1));
}

template <bool kBug>
__global__ void shuffle_from_an_inactive_lane(uint32_t* out) {
  if (tid() % 32 < 16)
    store_global(out + at(), __shfl_xor_sync(0x0000ffffu, uint32_t(tid()), kBug ? 16 : 8));
}

template <bool kBug>
__global__ void deadlock(uint32_t* out) {
  if (kBug && tid() % 32 == 5)
    __syncthreads();
  else
    __syncwarp(kBug || tid() % 32 != 5 ? kAll : kAll);
  store_global(out + at(), 1u);
}

// A barrier of the whole grid: what its blocks need is to be alive together.
__global__ void grid_barrier(uint32_t* arrived, uint32_t* out) {
  if (tid() == 0) {
    __threadfence();
    atomic_add(arrived, 1);
    while (atomic_add(arrived, 0) < gridDim.x) {
    }
    __threadfence();
  }
  __syncthreads();
  store_global(out + at(), 1u);
}

// Sums rows block by block; the last block to finish adds up. kFence: 1 before, 2 behind the
// ticket.
template <int kFence>
__global__ void split_sum(const float* x, int n, float* partial, uint32_t* ticket, float* total) {
  FD_SHARED(float, warps, 32);
  FD_SHARED(uint32_t, last, 1);
  const Global<const float> row(x + int64_t(blockIdx.x) * n);
  float sum = 0;
  for (int i = tid(); i < n; i += int(blockDim.x)) sum += row.load(i);
  for (int d = 16; d > 0; d /= 2) sum += __shfl_xor_sync(kAll, sum, d);
  if (tid() % 32 == 0) warps.store(tid() / 32, sum);
  __syncthreads();
  if (tid() == 0) {
    sum = 0;
    for (int w = 0; w < int(blockDim.x) / 32; ++w) sum += warps.load(w);
    store_global(partial + blockIdx.x, sum);
    if (kFence & 1) __threadfence();
    last.store(0, atomic_add(ticket, 1) == gridDim.x - 1);
    if (kFence & 2) __threadfence();
  }
  __syncthreads();
  if (last.load(0) && tid() == 33) {
    sum = 0;
    for (unsigned b = 0; b < gridDim.x; ++b) sum += load_global(partial + b);
    store_global(total, sum);
  }
}

// Reads the last of everything that a call points to and writes all its outputs; the mistake is to
// take the row stride for the number of columns.
template <bool kBug>
__global__ void ends_of_a_call(fusedraw::SampleCall call) {
  const int64_t row = blockIdx.x, n = kBug ? call.x.row_stride : call.x.cols;
  load_global(static_cast<const float*>(call.x.data) + row * call.x.row_stride + n - 1);
  const auto* mask = static_cast<const uint32_t*>(call.mask.data);
  load_global(mask + row * call.mask.row_stride + (call.x.cols + 31) / 32 - 1);
  load_global(call.params.data + 4);
  load_global(call.keys.data + row * call.keys.row_stride + 1);
  store_global(call.out.ids + row, int64_t{1});
  store_global(call.out.logp + row, 0.5f);
  const int64_t last = (row + 1) * call.out.top_n - 1;
  store_global(call.out.top_ids + last, load_global(call.out.ids + row));
}

// An argument that says itself what it points to.
struct Row {
  const float* x;
  int n;
};
inline void declare_buffers(fusedraw::simt::Buffers& buffers, const Row& row) {
  buffers.declare(row.x, size_t(row.n) * 4, fusedraw::simt::kRead, "the argument's row");
}
template <bool kBug>
__global__ void row_of_an_argument(Row row) {
  load_global(row.x + (kBug ? row.n : row.n - 1));
}

// What a kernel's thread holds is given up when an error ends the launch.
struct Held {
  static inline std::atomic<int> alive{0};
  Held() { ++alive; }
  ~Held() { --alive; }
};

template <bool kBug>
__global__ void holds_something(uint32_t* out) {
  const Held held;
  FD_SHARED(uint32_t, words, 64);
  words.store(tid(), 0u);
  __syncthreads();
  if (kBug && tid() == 63) words.store(64, 0u);
  __syncthreads();
  store_global(out + at(), words.load(tid()));
}

}  // namespace planted
