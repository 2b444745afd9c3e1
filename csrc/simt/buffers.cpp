// SPDX-License-Identifier: Apache-2.0
// Looks an access up among the declared ranges; the last one hit is tried first.
#include "buffers.h"

#include <algorithm>
#include <iterator>
#include <memory>

#include "engine.h"

namespace fusedraw::simt {

namespace {

struct Declared {
  uintptr_t begin, end;
  unsigned flags;
  std::string name;
  std::shared_ptr<std::vector<uint8_t>> written;  // per byte, of an uninitialised range
};
struct Range {
  uintptr_t begin, end;
  unsigned flags;
  const Declared* first;
  std::vector<const Declared*> uninitialised;
};
struct Registry {
  int scopes = 0;
  std::vector<Declared> declared;
  std::vector<Range> ranges;  // sorted, disjoint; built from `declared` when a launch begins
  bool stale = false;
};

Registry& registry() {
  static thread_local Registry r;
  return r;
}

// Of the launch that runs.
Registry* in_use = nullptr;
const Range* last_hit[3];  // by kind of access

void build(Registry& r) {
  r.ranges.clear();
  std::vector<const Declared*> sorted;
  for (const Declared& d : r.declared) sorted.push_back(&d);
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const Declared* a, const Declared* b) { return a->begin < b->begin; });
  for (const Declared* d : sorted) {
    if (r.ranges.empty() || d->begin >= r.ranges.back().end) {
      r.ranges.push_back({d->begin, d->end, d->flags, d, {}});
    } else {
      Range& range = r.ranges.back();
      range.end = std::max(range.end, d->end);
      range.flags |= d->flags;
    }
    if (d->written) r.ranges.back().uninitialised.push_back(d);
  }
  r.stale = false;
}

const Range* find(uintptr_t at) {
  const auto& ranges = in_use->ranges;
  auto it = std::upper_bound(ranges.begin(), ranges.end(), at,
                             [](uintptr_t a, const Range& r) { return a < r.begin; });
  if (it == ranges.begin()) return nullptr;
  --it;
  return at < it->end ? &*it : nullptr;
}

std::string bytes_text(size_t n) { return std::to_string(n) + (n == 1 ? " byte" : " bytes"); }

const char* verb(Access access) {
  return access == Access::kRead ? "reads" : access == Access::kWrite ? "writes" : "changes";
}

[[noreturn]] void out_of_bounds(uintptr_t at, size_t bytes, Access access) {
  // A neighbour further off than this is none, unless it is the only one.
  constexpr uintptr_t kNear = 1 << 20;
  const auto& ranges = in_use->ranges;
  const auto next = std::upper_bound(ranges.begin(), ranges.end(), at,
                                     [](uintptr_t a, const Range& r) { return a < r.begin; });
  std::string text = std::string(verb(access)) + " " + bytes_text(bytes) + " at " +
                     show_address(reinterpret_cast<const void*>(at)) + ": out of bounds";
  const auto size_of = [](const Range& r) { return " (" + bytes_text(r.end - r.begin) + ")"; };
  const bool after_one = next != ranges.begin(), before_one = next != ranges.end();
  if (after_one && (!before_one || at < std::prev(next)->end + kNear)) {
    const Range& r = *std::prev(next);
    text += ", ends " + bytes_text(at + bytes - r.end) + " past the end of " + r.first->name +
            size_of(r);
  }
  if (before_one && (!after_one || next->begin < at + kNear))
    text += ", begins " + bytes_text(next->begin - at) + " before " + next->first->name +
            size_of(*next);
  fail(text);
}

void check_written(const Range& r, uintptr_t at, size_t bytes, Access access) {
  const TsanIgnore ignore;
  for (const Declared* d : r.uninitialised) {
    if (at < d->begin || at + bytes > d->end) continue;
    uint8_t* written = d->written->data() + (at - d->begin);
    if (access != Access::kWrite && std::find(written, written + bytes, 0) != written + bytes)
      fail(std::string(verb(access)) + " " + bytes_text(bytes) + " at " +
           std::to_string(at - d->begin) + " into " + d->name + ", which nothing has written");
    if (access != Access::kRead) std::fill_n(written, bytes, uint8_t(1));
  }
}

}  // namespace

Buffers::Buffers() : outer_(registry().declared.size()) { ++registry().scopes; }

Buffers::~Buffers() {
  Registry& r = registry();
  --r.scopes;
  r.declared.resize(outer_);
  r.stale = true;
}

void Buffers::declare(const void* p, size_t bytes, unsigned flags, const std::string& name) {
  if (!p || !bytes) return;
  Registry& r = registry();
  Declared d{uintptr_t(p), uintptr_t(p) + bytes, flags, name, nullptr};
  if (flags & kUninitialised) d.written = std::make_shared<std::vector<uint8_t>>(bytes, uint8_t(0));
  r.declared.push_back(d);
  r.stale = true;
}

void Buffers::initialised(const void* p, size_t bytes) {
  const uintptr_t begin = uintptr_t(p), end = begin + bytes;
  for (Declared& d : registry().declared)
    if (d.written)
      for (uintptr_t at = std::max(begin, d.begin); at < std::min(end, d.end); ++at)
        (*d.written)[at - d.begin] = 1;
}

bool Buffers::active() { return registry().scopes > 0; }

void begin_global_checks() {
  Registry& r = registry();
  in_use = r.scopes ? &r : nullptr;
  if (in_use && r.stale) build(r);
  std::fill(std::begin(last_hit), std::end(last_hit), nullptr);
}

void check_global(const void* p, size_t bytes, size_t alignment, Access access) {
  const uintptr_t at = uintptr_t(p);
  if (at & (alignment - 1))
    fail(std::string(verb(access)) + " " + bytes_text(bytes) + " at " + show_address(p) +
         ": misaligned, not a multiple of " + std::to_string(alignment));
  if (!in_use) return;
  const Range*& hit = last_hit[int(access)];
  if (!hit || at < hit->begin || at + bytes > hit->end) {
    hit = find(at);
    if (!hit || at + bytes > hit->end) out_of_bounds(at, bytes, access);
  }
  if (access != Access::kWrite && !(hit->flags & kRead))
    fail(std::string(verb(access)) + " " + show_address(p) + " in " + hit->first->name +
         ", which may not be read");
  if (access != Access::kRead && !(hit->flags & kWrite))
    fail(std::string(verb(access)) + " " + show_address(p) + " in " + hit->first->name +
         ", which may not be written");
  if (!hit->uninitialised.empty()) check_written(*hit, at, bytes, access);
}

}  // namespace fusedraw::simt
