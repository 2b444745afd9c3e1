// SPDX-License-Identifier: Apache-2.0
// Where the buffers of a call lie. Each has its own place and exactly its own size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

namespace native {

class Memory {
 public:
  virtual ~Memory() = default;
  // `bytes` bytes, filled with `fill`; aligned as an array of elements of `element` bytes. `skew`
  // moves the start by that many elements where the place leaves it open.
  void* take(size_t bytes, size_t element, size_t skew = 0);
  // Gives all buffers back.
  void reset();
  // Of the contents of all buffers.
  uint64_t hash() const;

  uint8_t fill = 0xa5;

 protected:
  virtual void* place(size_t bytes, size_t element, size_t skew) = 0;
  virtual void release() = 0;

 private:
  struct Taken {
    const uint8_t* p;
    size_t bytes;
  };
  std::vector<Taken> taken_;
  std::mutex mutex_;
};

// malloc, for sanitizers that put red zones around each block.
class HeapMemory : public Memory {
 public:
  ~HeapMemory() override { release(); }

 protected:
  void* place(size_t bytes, size_t element, size_t skew) override;
  void release() override;

 private:
  std::vector<void*> blocks_;
};

// Between two pages that nobody may touch: a buffer ends where the second begins, or begins where
// the first ends.
class GuardedMemory : public Memory {
 public:
  enum class Side { kEnd, kStart };
  explicit GuardedMemory(Side side) : side_(side) {}
  ~GuardedMemory() override;

 protected:
  void* place(size_t bytes, size_t element, size_t skew) override;
  void release() override { used_ = 0; }

 private:
  struct Slot {
    uint8_t* begin;  // the first page that may be touched
    size_t bytes;
  };
  Side side_;
  std::vector<Slot> slots_;
  size_t used_ = 0;
};

}  // namespace native
