// SPDX-License-Identifier: Apache-2.0
// Groups a warp's accesses into requests and counts their sectors and bank conflicts.
#include "request_log.h"

#include <algorithm>

#include "sanitizers.h"

namespace fusedraw::simt {

namespace {
constexpr int kLanes = 32, kBanks = 32;
constexpr size_t kMostEntries = 1 << 16;
// Of one lane's access, which is of a struct if it is more than two; what lies beyond is not
// counted.
constexpr int kMostSectors = 15;
constexpr int kWidest = 16;  // bytes of a shared access; a wider one counts as this
constexpr int kSectorShift = 5, kBankShift = 2;
}  // namespace

// A lane that never meets the others, as one that spins does, is counted by itself in the end.
void RequestLog::make_room(Lane& lane, Counts& counts) {
  if (lane.n >= kMostEntries) return flush(counts);
  const TsanIgnore ignore;
  lane.entries.resize(std::max<size_t>(64, 2 * lane.entries.size()));
}

void RequestLog::flush(Counts& counts) {
  size_t least = ~size_t(0), most = 0;
  for (const Lane& l : lanes_)
    if (l.n) {
      least = std::min(least, l.n);
      most = std::max(most, l.n);
    }
  if (!most) return;
  const Entry* by_lane[kLanes];
  // As long as all lanes with anything did the same: requests as they stand.
  size_t i = 0;
  for (; i < least; ++i) {
    const Entry* first = nullptr;
    bool all_alike = true;
    for (int lane = 0; lane < kLanes; ++lane) {
      const Lane& l = lanes_[lane];
      by_lane[lane] = l.n ? &l.entries[i] : nullptr;
      if (!l.n) continue;
      if (!first) first = by_lane[lane];
      all_alike &= alike(*first, *by_lane[lane]);
    }
    if (!all_alike) break;
    count(by_lane, counts);
  }
  if (i < most) {
    const TsanIgnore ignore;
    items_.clear();
    for (int lane = 0; lane < kLanes; ++lane)
      for (size_t k = i; k < lanes_[lane].n; ++k)
        items_.push_back({&lanes_[lane].entries[k], uint32_t(lane), uint32_t(k)});
    std::sort(items_.begin(), items_.end(), [](const Item& a, const Item& b) {
      if (!alike(*a.entry, *b.entry)) return before(*a.entry, *b.entry);
      return a.lane != b.lane ? a.lane < b.lane : a.occurrence < b.occurrence;
    });
    for (size_t k = 0, n = 0; k < items_.size(); ++k) {
      const bool same = k && alike(*items_[k].entry, *items_[k - 1].entry) &&
                        items_[k].lane == items_[k - 1].lane;
      n = same ? n + 1 : 0;
      items_[k].occurrence = uint32_t(n);
    }
    std::sort(items_.begin(), items_.end(), [](const Item& a, const Item& b) {
      if (!alike(*a.entry, *b.entry)) return before(*a.entry, *b.entry);
      return a.occurrence != b.occurrence ? a.occurrence < b.occurrence : a.lane < b.lane;
    });
    for (size_t k = 0; k < items_.size();) {
      std::fill_n(by_lane, kLanes, nullptr);
      const Item& first = items_[k];
      for (; k < items_.size() && alike(*items_[k].entry, *first.entry) &&
             items_[k].occurrence == first.occurrence;
           ++k)
        by_lane[items_[k].lane] = items_[k].entry;
      count(by_lane, counts);
    }
  }
  clear();
}

void RequestLog::count(const Entry* const* by_lane, Counts& counts) {
  // One place may be an atomic on either kind of memory, even in one request.
  bool global = false, shared = false;
  for (int lane = 0; lane < kLanes; ++lane)
    if (by_lane[lane]) (by_lane[lane]->shared ? shared : global) = true;
  if (global) count_sectors(by_lane, counts);
  if (shared) count_banks(by_lane, counts);
}

void RequestLog::count_sectors(const Entry* const* by_lane, Counts& counts) {
  uintptr_t sectors[kLanes * (kMostSectors + 1)];
  int n = 0;
  bool sorted = true;
  const auto add = [&](uintptr_t s) {
    if (n && sectors[n - 1] == s) return;
    sorted &= !n || sectors[n - 1] < s;
    sectors[n++] = s;
  };
  for (int lane = 0; lane < kLanes; ++lane) {
    const Entry* e = by_lane[lane];
    if (!e || e->shared) continue;
    const uintptr_t first = e->address >> kSectorShift,
                    last = (e->address + e->bytes - 1) >> kSectorShift;
    for (uintptr_t s = first; s <= last && s <= first + kMostSectors; ++s) add(s);
  }
  if (!sorted) {
    std::sort(sectors, sectors + n);
    n = int(std::unique(sectors, sectors + n) - sectors);
  }
  ++counts.global_requests;
  counts.sectors += uint64_t(n);
}

// Lanes of up to 4 bytes are served together, of 8 bytes a half warp at a time, of 16 a quarter. A
// bank serves one word at a time, to any number of lanes.
void RequestLog::count_banks(const Entry* const* by_lane, Counts& counts) {
  ++counts.shared_requests;
  uint16_t bytes = 0;  // the same in all lanes
  for (int lane = 0; lane < kLanes; ++lane)
    if (by_lane[lane]) bytes = by_lane[lane]->bytes;
  for (int first = 0; first < kLanes;) {
    const int together = bytes <= 4 ? kLanes : bytes <= 8 ? 16 : 8;
    uintptr_t words[kWidest / 4 * kLanes];
    int next[kWidest / 4 * kLanes], head[kBanks], in_bank[kBanks] = {}, n = 0, most = 0;
    std::fill_n(head, kBanks, -1);
    for (int lane = first; lane < std::min(kLanes, first + together); ++lane) {
      const Entry* e = by_lane[lane];
      if (!e || !e->shared) continue;
      bool found = false;
      for (uint16_t b = 0; b < std::min<int>(e->bytes, kWidest); b = uint16_t(b + 4)) {
        const uintptr_t word = (e->address + b) >> kBankShift;
        const int bank = int(word % kBanks);
        int k = head[bank];
        while (k >= 0 && words[k] != word) k = next[k];
        if (k >= 0) {
          found = true;
          continue;
        }
        words[n] = word;
        next[n] = head[bank];
        head[bank] = n++;
        most = std::max(most, ++in_bank[bank]);
      }
      counts.shared_atomic_collisions += found && e->access == Access::kAtomic;
    }
    if (most > 1) counts.bank_conflicts += uint64_t(most - 1);
    first += together;
  }
}

}  // namespace fusedraw::simt
