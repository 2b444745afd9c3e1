// SPDX-License-Identifier: Apache-2.0
// A warp's accesses since its lanes last met, to be counted as the requests that a device would
// have made of them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "counts.h"
#include "memory_check.h"

namespace fusedraw::simt {

class RequestLog {
 public:
  void add(Counts& counts, int lane, const void* site, const void* p, size_t bytes, bool shared,
           Access access) {
    Lane& l = lanes_[lane];
    if (l.n == l.entries.size()) make_room(l, counts);
    l.entries[l.n++] = {site, uintptr_t(p), uint16_t(bytes), shared, access};
  }
  // Counts all and forgets it.
  void flush(Counts& counts);
  void clear() {
    for (Lane& l : lanes_) l.n = 0;
  }

 private:
  struct Entry {
    const void* site;
    uintptr_t address;
    uint16_t bytes;
    bool shared;
    Access access;
  };
  struct Lane {
    std::vector<Entry> entries;
    size_t n = 0;
  };
  struct Item {
    const Entry* entry;
    uint32_t lane, occurrence;
  };

  void make_room(Lane& lane, Counts& counts);
  static bool alike(const Entry& a, const Entry& b) {
    return a.site == b.site && a.bytes == b.bytes;
  }
  static bool before(const Entry& a, const Entry& b) {
    return a.site != b.site ? a.site < b.site : a.bytes < b.bytes;
  }
  static void count(const Entry* const* by_lane, Counts& counts);
  static void count_sectors(const Entry* const* by_lane, Counts& counts);
  static void count_banks(const Entry* const* by_lane, Counts& counts);

  Lane lanes_[32];
  std::vector<Item> items_;
};

}  // namespace fusedraw::simt
