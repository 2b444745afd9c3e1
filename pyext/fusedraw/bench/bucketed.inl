// SPDX-License-Identifier: Apache-2.0
// The passes of bucketed.cpp, once for each instruction set: included inside a target region and
// a namespace that holds the vectors F and what they have no operator for.
namespace {

using I = int32_t __attribute__((vector_size(sizeof(F))));
constexpr int64_t kLanes = sizeof(F) / sizeof(float);

inline F set(float x) { return x - F{}; }  // in every lane
inline F load(const float* p) {
  F x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

uint64_t next_bits(uint64_t& state) {  // xorshift64*, Vigna 2016
  state ^= state >> 12;
  state ^= state << 25;
  state ^= state >> 27;
  return state * 2685821657736338717ULL;
}

float next_uniform(uint64_t& state) { return float(next_bits(state) >> 40) * 0x1p-24F; }

int64_t pick(const float* weights, int64_t n, float target) {
  float sum = 0.0F;
  for (int64_t i = 0; i < n; ++i) {
    sum += weights[i];
    if (sum > target) return i;
  }
  return n - 1;
}

float row_max(const float* x, int64_t n) {
  F best[4];
  for (auto& b : best) b = set(-INFINITY);
  for (int64_t i = 0; i < n; i += 4 * kLanes) {
    for (int c = 0; c < 4; ++c) best[c] = max(best[c], load(x + i + kLanes * c));
  }
  return largest(max(max(best[0], best[1]), max(best[2], best[3])));
}

// 2^-floor(t), t = (max - x) * scale: floor and the exponent come from one conversion.
inline F bound(F x, F scale, F shift) {
  const F t = max(fmsub(x, scale, shift), set(-kMostOctaves));  // -t <= 0
  // rounding -t towards zero is -floor(t)
  return F((__builtin_convertvector(t, I) << 23) + (127 << 23));
}

int64_t draw(const float* x, int64_t n, float scale, uint64_t& state) {
  const float top = row_max(x, n);
  const F s = set(scale), shift = set(top * scale);
  float sums[kMostBlocks];
  const int64_t blocks = n / kBlock;
  float total = 0.0F;
  for (int64_t b = 0; b < blocks; ++b) {
    F sum[4];
    for (auto& v : sum) v = F{};
    for (int64_t i = 0; i < kBlock; i += 4 * kLanes) {
      for (int c = 0; c < 4; ++c) {
        const F v = load(x + b * kBlock + i + kLanes * c);
        sum[c] += bound(v, s, shift);
      }
    }
    sums[b] = sum_of((sum[0] + sum[1]) + (sum[2] + sum[3]));
    total += sums[b];
  }
  for (;;) {
    const int64_t b = pick(sums, blocks, next_uniform(state) * total);
    float inner[kBlock];
    for (int64_t i = 0; i < kBlock; i += kLanes) {
      const F bounds = bound(load(x + b * kBlock + i), s, shift);
      std::memcpy(inner + i, &bounds, sizeof bounds);
    }
    const int64_t id = b * kBlock + pick(inner, kBlock, next_uniform(state) * sums[b]);
    const float t = (top - x[id]) * scale;
    if (t < kMostOctaves && next_uniform(state) < std::exp2(std::floor(t) - t)) return id;
  }
}

}  // namespace
