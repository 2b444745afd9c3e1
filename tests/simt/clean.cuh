// SPDX-License-Identifier: Apache-2.0
// Kernels without a mistake, whose answers and counts are known.
#pragma once

#include "../../csrc/cuda/memory.cuh"

namespace clean {

using namespace fusedraw::cuda;

constexpr unsigned kAll = 0xffffffffu;
constexpr int kThreads = 128;

FD_DEVICE int tid() { return int(threadIdx.x); }

// A histogram of 16-byte loads, by shared atomics, then a scan of it by shuffles.
__global__ void __launch_bounds__(kThreads)
    histogram_scan(const uint32_t* x, int n, uint32_t* out) {
  FD_SHARED(uint32_t, bins, kThreads);
  FD_SHARED(uint32_t, sums, kThreads / 32);
  FD_SHARED(uint32_t, most, 1);
  FD_SHARED(uint64_t, least, 1);
  bins.store(tid(), 0u);
  if (tid() == 0) {
    most.store(0, 0u);
    least.store(0, ~uint64_t{0});
  }
  __syncthreads();
  const Global<const uint32_t> row(x + int64_t(blockIdx.x) * n);
  for (int i = 4 * tid(); i < n; i += 4 * kThreads) {
    const Vec16 v = row.load16(i);
    for (uint32_t w : v.w) {
      bins.add(int(w % kThreads), 1);
      most.max(0, w);
      least.min(0, w);
    }
  }
  __syncthreads();
  uint32_t v = bins.load(tid());
  for (int d = 1; d < 32; d *= 2) {
    const uint32_t below = __shfl_up_sync(kAll, v, unsigned(d));
    if (tid() % 32 >= d) v += below;
  }
  if (tid() % 32 == 31) sums.store(tid() / 32, v);
  __syncthreads();
  for (int w = 0; w < tid() / 32; ++w) v += sums.load(w);
  uint32_t* const to = out + int64_t(blockIdx.x) * (kThreads + 2);
  store_global(to + tid(), v);
  if (tid() == 0) {
    store_global(to + kThreads, most.load(0));
    store_global(to + kThreads + 1, uint32_t(least.load(0)));
  }
}

// Every thread does everything that warps and blocks can do together, and sums it up.
__global__ void collectives(uint64_t* out) {
  const int lane = tid() % 32;
  uint64_t all = 0;
  const auto mix = [&all](uint64_t v) { all = (all ^ v) * 0x9e3779b97f4a7c15u; };
  for (int width = 1; width <= 32; width *= 2)
    for (int d = 0; d < 32; d += 5) {
      mix(__shfl_sync(kAll, uint32_t(tid()), d, width));
      mix(uint64_t(__shfl_sync(kAll, int64_t(-tid()), d, width)));
      mix(__shfl_xor_sync(kAll, uint64_t(tid()) << 33, d, width));
      mix(uint64_t(__shfl_up_sync(kAll, 0.5f * float(tid()), unsigned(d), width) * 2.0f));
      mix(uint64_t(__shfl_down_sync(kAll, 0.25 * double(tid()), unsigned(d), width) * 4.0));
    }
  mix(__ballot_sync(kAll, tid() % 3 == 0));
  mix(uint64_t(__any_sync(kAll, tid() == 40)));
  mix(uint64_t(__all_sync(kAll, tid() < 64)));
  // Half warps at operations of their own, at their own pace.
  const unsigned half = lane < 16 ? 0x0000ffffu : 0xffff0000u;
  for (int i = 0; i < (lane < 16 ? 2 : 5); ++i) mix(__ballot_sync(half, lane % 5 == i));
  __syncwarp(half);
  mix(uint64_t(__syncthreads_count(tid() % 3 == 0)));
  mix(uint64_t(__syncthreads_or(tid() == 77)));
  mix(uint64_t(__syncthreads_and(tid() != 77)));
  mix(uint64_t(__syncthreads_and(tid() < 1000)));
  const int64_t block = blockIdx.y * gridDim.x + blockIdx.x;
  store_global(out + block * blockDim.x + tid(), all);
}

// Dynamic memory reversed through; the arrays of one block mean nothing to the next.
__global__ void dynamic_reverse(uint32_t* out) {
  FD_DYNAMIC_SHARED(uint32_t, words);
  const int n = int(blockDim.x);
  words.store(tid(), uint32_t(tid()) + blockIdx.x);
  __syncthreads();
  store_global(out + int64_t(blockIdx.x) * n + tid(), words.load(n - 1 - tid()));
}

// Bytes side by side belong to threads side by side; warps pass words on with __syncwarp.
__global__ void bytes_and_warps(uint32_t* out) {
  FD_SHARED(uint8_t, flags, kThreads);
  FD_SHARED(uint32_t, words, kThreads);
  flags.store(tid(), tid() % 7 == 0);
  uint32_t v = uint32_t(tid());
  for (int d = 16; d > 0; d /= 2) {
    words.store(tid(), v);
    __syncwarp();
    v += words.load(tid() ^ d);
    __syncwarp();
  }
  __syncthreads();
  store_global(out + tid(), v + flags.load(kThreads - 1 - tid()));
}

// One request of every lane: lane l reads element l * stride + offset.
template <typename T>
__global__ void strided(const T* x, int stride, int offset) {
  load_global(x + int64_t(tid()) * stride + offset);
}
__global__ void vectors(const float* x) { load_global16(x + 4 * tid()); }

// Lanes read as often as they are many, the others having gone on: 32 requests a warp.
__global__ void triangle(const float* x) {
  for (int i = 0; i <= tid() % 32; ++i) load_global(x + 32 * i + tid() % 32);
}

// `distinct` words of shared memory, lane l at (l % distinct) * stride.
template <typename T>
__global__ void banks(int stride, int distinct) {
  FD_SHARED(T, words, 1024);
  for (int i = tid(); i < 1024; i += 32) words.store(i, T(0));
  __syncwarp();
  words.load(tid() % distinct * stride);
}

__global__ void counters(uint32_t* out) {
  FD_SHARED(uint32_t, count, 1);
  if (tid() == 0) count.store(0, 0u);
  __syncthreads();
  count.add(0, 1);
  atomic_add(out, 1);
}

}  // namespace clean
