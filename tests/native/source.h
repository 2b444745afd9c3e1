// SPDX-License-Identifier: Apache-2.0
// Where the choices of a case come from: bytes, and when they end a generator seeded by the first
// of them. So every string of bytes, the empty one too, is a whole case, and always the same one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>

namespace native {

class Source {
 public:
  Source(const uint8_t* bytes, size_t n, uint64_t seed = 0) : at_(bytes), end_(bytes + n) {
    uint8_t first[8] = {};
    if (n > 0) std::memcpy(first, bytes, n < 8 ? n : 8);
    uint64_t word;
    std::memcpy(&word, first, 8);
    state_ = seed ^ word;
  }

  uint8_t byte() {
    if (at_ < end_) return *at_++;
    if (left_ == 0) {
      pool_ = next();
      left_ = 8;
    }
    --left_;
    const uint8_t b = uint8_t(pool_);
    pool_ >>= 8;
    return b;
  }
  uint64_t word() { return at_ < end_ ? little<8>() : next(); }
  uint32_t word32() { return at_ < end_ ? uint32_t(little<4>()) : uint32_t(next() >> 32); }
  uint32_t word16() { return uint32_t(little<2>()); }

  bool one_in(int n) { return byte() % n == 0; }
  bool flip() { return byte() & 1; }
  // An integer in [low, high], high - low < 2^16.
  int64_t between(int64_t low, int64_t high) {
    const uint32_t span = uint32_t(high - low + 1);
    return low + (span <= 256 ? byte() : word16()) % span;
  }
  template <typename T, size_t kN>
  T choose(const T (&values)[kN]) {
    static_assert(kN <= 256, "one byte chooses");
    return values[byte() % kN];
  }

 private:
  template <int kBytes>
  uint64_t little() {
    uint64_t v = 0;
    for (int i = 0; i < kBytes; ++i) v |= uint64_t(byte()) << 8 * i;
    return v;
  }
  uint64_t next() {  // SplitMix64
    uint64_t z = state_ += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
  }

  const uint8_t *at_, *end_;
  uint64_t state_ = 0, pool_ = 0;
  int left_ = 0;
};

}  // namespace native
