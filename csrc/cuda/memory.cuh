// SPDX-License-Identifier: Apache-2.0
// Typed views of global and shared memory. Every access of a kernel goes through one of these.
#pragma once

#include "platform.cuh"

namespace fusedraw::cuda {

// Takes bytes from a workspace that is being planned; gives where they begin.
inline int64_t take_bytes(int64_t& all, int64_t bytes) {
  const int64_t at = all;
  all += (bytes + 255) / 256 * 256;
  return at;
}

template <typename T>
class Global {
 public:
  __device__ explicit Global(T* p) : p_(p) {}
  __device__ T load(int64_t i) const { return load_global(p_ + i); }
  // The 16 bytes that begin at element i.
  __device__ Vec16 load16(int64_t i) const { return load_global16(p_ + i); }
  template <typename U>
  __device__ void store(int64_t i, U v) const {
    store_global(p_ + i, T(v));
  }
  __device__ void store16(int64_t i, const Vec16& v) const { store_global16(p_ + i, v); }
  __device__ uint32_t add(int64_t i, uint32_t v) const { return atomic_add(p_ + i, v); }
  __device__ uint32_t either(int64_t i, uint32_t v) const { return atomic_or(p_ + i, v); }
  __device__ bool aligned16() const { return (reinterpret_cast<uintptr_t>(p_) & 15) == 0; }
  __device__ Global at(int64_t i) const { return Global(p_ + i); }
  __device__ bool null() const { return p_ == nullptr; }
  __device__ uint64_t address() const { return reinterpret_cast<uint64_t>(p_); }

 private:
  T* p_;
};

template <typename T>
class Shared {
 public:
  __device__ explicit Shared(T* p) : p_(p) {}
  __device__ T load(int i) const { return load_shared(p_ + i); }
  template <typename U>
  __device__ void store(int i, U v) const {
    store_shared(p_ + i, T(v));
  }
  __device__ T add(int i, T v) const { return atomic_add(p_ + i, v); }
  __device__ T min(int i, T v) const { return atomic_min(p_ + i, v); }
  __device__ T max(int i, T v) const { return atomic_max(p_ + i, v); }
  __device__ T either(int i, T v) const { return atomic_or(p_ + i, v); }
  __device__ Shared at(int i) const { return Shared(p_ + i); }
  // The same memory, 32 bits at a time, least significant first.
  __device__ Shared<uint32_t> words() const {
    return Shared<uint32_t>(reinterpret_cast<uint32_t*>(p_));
  }

 private:
  T* p_;
};

}  // namespace fusedraw::cuda
