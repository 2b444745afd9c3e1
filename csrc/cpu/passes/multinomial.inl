// SPDX-License-Identifier: Apache-2.0
// Draws from a row of probabilities: one (the race), many with replacement, many without.
#pragma once

namespace fusedraw {
namespace {

void block_sums(const Row& r, uint64_t* sums) {
  alignas(64) float buffer[kBlock];
  for (int64_t b = 0; b < r.blocks; ++b)
    sums[b] = block_sum(r.rule, r.fetch(r, b, buffer), top_weight(r.rule, r.block_max[b]));
}

// With replacement: prefix sums over blocks once, then a binary search and one block per draw.
void draw_many(const MultinomialCall& call, int64_t* ids, const Row& r, const Noise& noise,
               Scratch& scratch) {
  uint64_t* sums = scratch.array<uint64_t>(Scratch::kBlockSum, size_t(r.blocks));
  block_sums(r, sums);
  u128* before = scratch.array<u128>(Scratch::kWide, size_t(r.blocks + 1));
  before[0] = 0;
  for (int64_t b = 0; b < r.blocks; ++b) before[b + 1] = before[b] + sums[b];
  alignas(64) float buffer[kBlock];
  for (int64_t j = 0; j < call.num_samples; ++j) {
    const u128 point = scale_uniform(noise_r128(noise, kPurposeMany, j), before[r.blocks]);
    int64_t low = 0, high = r.blocks - 1;  // the first block whose end exceeds the point
    while (low < high) {
      const int64_t middle = low + (high - low) / 2;
      if (before[middle + 1] > point)
        high = middle;
      else
        low = middle + 1;
    }
    const float* x = r.fetch(r, low, buffer);
    u128 running = before[low];
    int i = 0;
    for (; i < kBlock - 1; ++i) {
      running += weight_of(r.rule, x[i]);
      if (running > point) break;
    }
    ids[j] = low * kBlock + i;
  }
}

struct Arrival {
  double value;
  int64_t id;
  bool operator<(const Arrival& o) const {
    return value < o.value || (value == o.value && id < o.id);
  }
};

// Without replacement: the num_samples smallest E(ORDER, i) / w_i, kept in a heap whose top is the
// largest; a token whose bound lies above it is skipped without a logarithm. Returns how many.
int64_t draw_distinct(const MultinomialCall& call, int64_t* ids, const Row& r, const Noise& noise,
                      Scratch& scratch) {
  const int64_t want = call.num_samples < r.cols ? call.num_samples : r.cols;
  Arrival* heap = scratch.array<Arrival>(Scratch::kWide, size_t(want));
  int64_t n = 0;
  alignas(64) float buffer[kBlock];
  alignas(64) uint32_t words[kBlock + 2 * V::kLanes];
  for (int64_t b = 0; b < r.blocks; ++b) {
    if (top_weight(r.rule, r.block_max[b]) <= kNoWeight) continue;
    const float* x = r.fetch(r, b, buffer);
    noise_words(noise, kPurposeOrder, b * kBlock, kBlock, words);
    for (int i = 0; i < kBlock; ++i) {
      const uint64_t w = weight_of(r.rule, x[i]);
      if (w == 0) continue;
      const double d = to_double(w);
      if (n == want && double(words[i]) * (0x1p-32 * (1.0 - 0x1p-40)) / d > heap[0].value) continue;
      const int64_t id = b * kBlock + i;
      const Arrival a{exponential(noise_r64(noise, kPurposeOrder, id)) / d, id};
      if (n < want) {
        heap[n++] = a;
        std::push_heap(heap, heap + n);
      } else if (a < heap[0]) {
        std::pop_heap(heap, heap + n);
        heap[n - 1] = a;
        std::push_heap(heap, heap + n);
      }
    }
  }
  std::sort_heap(heap, heap + n);
  for (int64_t j = 0; j < n; ++j) ids[j] = heap[j].id;
  return n;
}

void multinomial_row(const MultinomialCall& call, int64_t row, const Pool& pool) {
  int64_t* ids = call.ids + row * call.num_samples;
  for (int64_t j = 0; j < call.num_samples; ++j) ids[j] = -1;
  Scratch& scratch = Scratch::of_this_thread();
  Row r = open_row(call.x, MaskView{}, row, true, scratch);
  call.status[row] = scan_row(r, pool);
  if (call.status[row] == kOk) {
    r.rule = weight_rule(r.rule.m, 1.0f, true);
    const Noise noise = row_noise(call.keys, row, 0, call.forced, call.n_forced);
    if (call.num_samples == 1)
      ids[0] = race_row(Field{&r, Cut{smallest_valid(r), kAllTies}, false}, noise, scratch);
    else if (call.replacement)
      draw_many(call, ids, r, noise, scratch);
    else if (draw_distinct(call, ids, r, noise, scratch) < call.num_samples)
      call.status[row] = kEmpty;
  }
  scratch.trim();
}

}  // namespace
}  // namespace fusedraw
