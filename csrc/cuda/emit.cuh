// SPDX-License-Identifier: Apache-2.0
// Tokens in the order of a 64-bit key, then id: the first n of a row or list, however many.
//
// Goes in chunks: a radix search finds where the next chunk ends, its tokens are gathered in shared
// memory, and each finds its place by counting.
#pragma once

#include "kept.cuh"

namespace fusedraw::cuda {

constexpr int kChunk = kListCapacity / 2;

// key_of(x, id) -> uint64, smallest first; place(j, key, id) stores the j-th token. Tokens for
// which key_of gives ~0 do not count, the others are at most max_key. The list's entries are
// overwritten: `items` reads the row. Returns how many there were, n at most.
template <typename Items, typename KeyOf, typename Place>
FD_DEVICE int64_t emit_in_order(const Items& items, int64_t cols, int64_t n, uint64_t max_key,
                                KeyOf key_of, Place place) {
  const Shared<uint64_t> keys = list_entries(), ids = keys.at(kChunk);
  constexpr uint64_t kNone = ~uint64_t{0};
  const uint64_t last = uint64_t(cols - 1);
  uint64_t from_key = 0;  // the next token is (from_key, from_id) or later
  int64_t from_id = 0;
  int64_t done = 0;
  bool more = true;
#pragma unroll 1
  while (done < n && more) {
    const auto open = [&](uint64_t key, int64_t id) {
      return key != kNone && (key > from_key || (key == from_key && id >= from_id));
    };
    // Where the chunk ends: first its last key, then the last id of that key. The radix search goes
    // from the top, so both are turned round.
    uint64_t end_key = max_key;
    int64_t end_id = cols - 1;
    const int left = n - done < kChunk ? int(n - done) : kChunk;
    u128 wanted = uint64_t(left);
#pragma unroll 1
    for (int phase = 0; phase < 2 && more; ++phase) {
      const bool by_id = phase == 1;
      const Found found = select_key(
          by_id ? 0 : kNone - max_key, by_id ? last : kNone - from_key,
          [wanted](u128) { return wanted; },
          [&](const BinAdder& add) {
            items.for_each([&](auto x, int64_t id) {
              const uint64_t k = key_of(x, id);
              if (open(k, id) && (!by_id || k == end_key))
                add(by_id ? last - uint64_t(id) : kNone - k, 1);
            });
          });
      if (by_id) {
        end_id = int64_t(last - found.key);
      } else if (found.reached) {
        end_key = kNone - found.key;
        wanted -= board().wide(kWordAbove);
      } else {
        more = false;
      }
    }
    __syncthreads();
    if (thread_id() == 0) counter().store(0, 0);
    __syncthreads();
    items.for_each([&](auto x, int64_t id) {
      const uint64_t k = key_of(x, id);
      if (!open(k, id) || k > end_key || (k == end_key && id > end_id)) return;
      const int at = int(counter().add(0, 1));
      if (at >= kChunk) return;  // only where the row changes meanwhile
      keys.store(at, k);
      ids.store(at, uint64_t(id));
    });
    __syncthreads();
    const int found = int(counter().load(0)), count = found < left ? found : left;
    if (count == 0) break;
#pragma unroll 1
    for (int i = thread_id(); i < count; i += kThreads) {
      const uint64_t k = keys.load(i), id = ids.load(i);
      int rank = 0;
#pragma unroll 1
      for (int j = 0; j < count; ++j) {
        const uint64_t o = keys.load(j);
        rank += o < k || (o == k && ids.load(j) < id) ? 1 : 0;
      }
      place(done + rank, k, int64_t(id));
    }
    __syncthreads();
    done += count;
    from_key = end_key;
    from_id = end_id + 1;
  }
  return done;
}

}  // namespace fusedraw::cuda
