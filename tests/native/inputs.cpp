// SPDX-License-Identifier: Apache-2.0
#include "inputs.h"

#include <cmath>

namespace native {
namespace {

// Lanes, vectors and blocks end here, and what the engines treat apart begins.
constexpr int64_t kEdges[] = {1,   2,   3,    15,   16,   17,   31,   32,   33,   63,  64,
                              65,  127, 128,  129,  255,  256,  257,  511,  512,  513, 767,
                              768, 769, 1023, 1024, 1025, 2047, 2048, 2049, 4095, 4096};
constexpr int64_t kLong[] = {5001, 8193, 20001, 33000};

constexpr double kInfinity = INFINITY;

enum ValueKind { kAnyBits, kBell, kTies, kHoles, kCliff, kSmall, kEqual, kHuge, kSpoiled, kKinds };

float bell(Source& s) {
  const uint64_t w = s.word();
  const int32_t sum = int32_t((w & 0xffff) + (w >> 16 & 0xffff) + (w >> 32 & 0xffff) + (w >> 48));
  return float(sum - 0x20000) * 0x1p-14f;
}

float value_of_kind(Source& s, int kind, float common, bool special) {
  switch (kind) {
    case kAnyBits:
      return float_of(s.word32());
    case kTies:
      return float(int(s.byte() % 17) - 8);
    case kHoles:
      return s.byte() < 180 ? -inf32() : bell(s);
    case kCliff:  // about where weights end below the best
      return special ? 0.0f : -30.5f + float(int(s.byte()) - 128) * 0x1p-8f;
    case kSmall:
      return float_of(s.word32() & 0x807fffffu);
    case kEqual:
      return common;
    case kHuge:
      return float_of((s.word32() & 0x807fffffu) | (235u + s.byte() % 20u) << 23);
    case kSpoiled:
      return special ? common : bell(s);
    default:
      return bell(s);
  }
}

float probability_of_kind(Source& s, int kind, float common, bool special) {
  const float x = value_of_kind(s, kind, common, special);
  if (kind == kAnyBits || kind == kSpoiled) return x;
  if (kind == kBell) return float(s.word32() >> 8 >> s.byte() % 25) * 0x1p-24f;
  return x < 0.0f ? (kind == kHoles ? 0.0f : -x) : x;
}

void store(void* to, DType dtype, int64_t i, float x) {
  switch (dtype) {
    case DType::kFloat32:
      static_cast<float*>(to)[i] = x;
      return;
    case DType::kBFloat16:
      return round_to(x, static_cast<BFloat16*>(to)[i]);
    case DType::kFloat16:
      return round_to(x, static_cast<Float16*>(to)[i]);
  }
}

}  // namespace

int64_t Inputs::some_cols(int64_t rows) {
  const int how = s.byte();
  const int64_t small = s.between(1, 300), edge = s.choose(kEdges);
  if (fixed_.cols > 0) return fixed_.cols;
  if (how < 150) return small;
  if (how < 250) return edge;
  return how < 254 ? s.between(300, 3000) : (s.choose(kLong) + rows - 1) / rows;
}

DType Inputs::some_dtype() {
  const int chosen = s.byte() % 3;
  return DType(fixed_.dtype >= 0 ? fixed_.dtype : chosen);
}

double Inputs::number(const double* table, size_t n) {
  const int how = s.byte();
  if (how < 220) return table[size_t(how) % n];
  if (how < 245) return double(s.word32()) * 0x1p-32;
  return double_of(s.word());
}

int64_t Inputs::stride(int64_t width) { return width + (s.one_in(3) ? s.between(0, 3) : 0); }

void Inputs::fill(void* to, DType dtype, int64_t n, bool probs) {
  const int kind = s.byte() % kKinds;
  constexpr uint32_t kCommon[] = {0u,          0x80000000u, 0x40600000u, 0x7f7fffffu, 0xff7fffffu,
                                  0x7fc00000u, 0x7f800000u, 0xff800000u, 0xffc00001u, 1u};
  const float common = float_of(s.choose(kCommon));
  const int64_t where = n > 0 ? int64_t(s.word32() % uint64_t(n)) : 0;
  for (int64_t i = 0; i < n; ++i) {
    const bool special = i == where;
    store(to, dtype, i,
          probs ? probability_of_kind(s, kind, common, special)
                : value_of_kind(s, kind, common, special));
  }
}

RowsView Inputs::rows(int64_t n, int64_t cols, DType dtype, bool probs) {
  RowsView v;
  v.dtype = dtype;
  v.rows = n;
  v.cols = cols;
  v.row_stride = s.one_in(12) ? 0 : stride(cols);
  const int64_t size = (n - 1) * v.row_stride + cols;
  void* const p = dtype == DType::kFloat32 ? static_cast<void*>(array<float>(size))
                                           : static_cast<void*>(array<uint16_t>(size));
  for (int64_t i = 0; i < n; ++i)
    fill(static_cast<uint8_t*>(p) + i * v.row_stride * size_of(dtype), dtype, cols, probs);
  v.data = p;
  return v;
}

PositionsView Inputs::positions(int64_t n, int64_t positions, int64_t cols, DType dtype) {
  PositionsView v;
  v.dtype = dtype;
  v.rows = n;
  v.positions = positions;
  v.cols = cols;
  v.position_stride = s.one_in(12) ? 0 : stride(cols);
  v.row_stride = s.one_in(12) ? 0 : stride(positions * v.position_stride);
  if (positions == 0) return v;
  const int64_t size = (n - 1) * v.row_stride + (positions - 1) * v.position_stride + cols;
  void* const p = dtype == DType::kFloat32 ? static_cast<void*>(array<float>(size))
                                           : static_cast<void*>(array<uint16_t>(size));
  for (int64_t i = 0; i < n; ++i)
    for (int64_t j = 0; j < positions; ++j)
      fill(static_cast<uint8_t*>(p) + (i * v.row_stride + j * v.position_stride) * size_of(dtype),
           dtype, cols, false);
  v.data = p;
  return v;
}

void Inputs::fill_mask(const MaskView& m, void* to, int64_t n, int64_t width) {
  constexpr int kShares[] = {128, 240, 16, 1, 255, 0};  // of 256
  const int share = s.choose(kShares), end = int(s.between(0, 64));
  const bool any_bits = s.one_in(8);  // what is not 0 is true
  for (int64_t i = 0; i < n; ++i) {
    if (m.kind == MaskView::Kind::kBool) {
      static_cast<uint8_t*>(to)[i] = s.byte() < share ? (any_bits ? s.byte() | 2 : 1) : 0;
    } else {
      uint32_t word = s.word32();
      if (share > 200) word |= s.word32() | s.word32();
      if (share < 50) word &= s.word32() & s.word32();
      static_cast<uint32_t*>(to)[i] = word;
    }
  }
  // All but the first of each row denied, or all but the last.
  if (end > 1) return;
  std::memset(to, 0, size_t(n) * (m.kind == MaskView::Kind::kBool ? 1 : 4));
  const int64_t step = m.row_stride > 0 ? m.row_stride : width;
  for (int64_t i = end == 0 ? 0 : width - 1; i < n; i += step)
    if (m.kind == MaskView::Kind::kBool)
      static_cast<uint8_t*>(to)[i] = 1;
    else
      static_cast<uint32_t*>(to)[i] = 1;
}

MaskView Inputs::mask(int64_t rows, int64_t cols) { return positions_mask(rows, 1, cols).mask; }

PositionsMask Inputs::positions_mask(int64_t rows, int64_t positions, int64_t cols) {
  PositionsMask m;
  const int kind = s.byte() % 4;
  if (kind < 2 || positions == 0) return m;
  const bool bits = kind == 3;
  m.mask.kind = bits ? MaskView::Kind::kBits : MaskView::Kind::kBool;
  const int64_t width = bits ? (cols + 31) / 32 : cols;
  if (positions > 1 && s.flip()) m.position_stride = stride(width);
  if (rows > 1 && s.flip()) m.mask.row_stride = stride((positions - 1) * m.position_stride + width);
  const int64_t n = (rows - 1) * m.mask.row_stride + (positions - 1) * m.position_stride + width;
  void* const p = bits ? static_cast<void*>(array<uint32_t>(n)) : array<uint8_t>(n);
  fill_mask(m.mask, p, n, width);
  m.mask.data = p;
  return m;
}

KeysView Inputs::keys(int64_t rows) {
  constexpr uint64_t kEnds[] = {0, 1, ~0ull, 1ull << 32, (1ull << 32) - 1, 1ull << 63};
  KeysView k;
  uint64_t* const p = array<uint64_t>(2 * rows);
  for (int64_t i = 0; i < 2 * rows; ++i) p[i] = s.one_in(8) ? s.choose(kEnds) : s.word();
  k.data = p;
  return k;
}

int64_t* Inputs::ids(int64_t n, int64_t cols) {
  int64_t* const p = array<int64_t>(n);
  for (int64_t i = 0; i < n; ++i)
    p[i] = s.one_in(32) ? int64_t(s.word()) : int64_t(s.word32() % uint64_t(cols));
  return p;
}

float* Inputs::floats(int64_t n) {
  constexpr float kUsual[] = {0.0f, 1.0f, -1.0f, 0.37f, -2.5e3f, 1e-3f, 40.0f, -0.0f};
  float* const p = array<float>(n);
  for (int64_t i = 0; i < n; ++i) {
    const int how = s.byte();
    p[i] = how < 200 ? kUsual[how % 8] : how < 250 ? bell(s) : float_of(s.word32());
  }
  return p;
}

ParamsView Inputs::params(int64_t rows, bool mixes) {
  constexpr double kT[] = {
      1, 1, 0.7, 1.5, 0, 1.4426950216293335, kInfinity, 1e-3, 1e-30, 1e-45, 0x1p64, 1e30, 5, 1e-39};
  constexpr double kP[] = {1, 1, 1, 0.9, 0.95, 0.5, 0.99, 1e-9, 0, 1 - 0x1p-24, 0.1};
  constexpr double kMin[] = {0, 0, 0, 0.05, 0.5, 0.001, 1, 0x1p-43, 1e-30};
  constexpr double kEps[] = {0, 0, 0, 0.05, 0.5, 1, 1e-6};
  return numbers<kParamColumns>(rows, kParamColumns, [&](int c) -> double {
    if (c == kTemperature) return number(kT);
    if (c == kTopP) return number(kP);
    if (c == kMinP) return number(kMin);
    if (c == kMixEps) return mixes ? number(kEps) : 0.0;
    const int how = s.byte();
    if (how < 100) return 0.0;
    if (how < 200) return double(s.between(1, 300));
    if (how < 230) return double(s.between(300, 40000));
    constexpr double kK[] = {-1, 1, 2, 1e12, 1e300, -2, kInfinity, NAN, 2.5, 0x1p62};
    return s.choose(kK);
  });
}

IdLists Inputs::lists(int64_t rows, int64_t cols, bool csr) {
  IdLists l;
  const int form = s.byte() % 4;
  if (form == 0) return l;
  l.wide = s.flip();
  const bool shared = s.one_in(3);
  const int64_t n = shared ? 1 : rows, most = s.one_in(8) ? 300 : 12;
  int64_t total = 0;
  if (csr || form == 1) {
    int64_t* const o = array<int64_t>(n + 1);
    o[0] = 0;
    for (int64_t i = 0; i < n; ++i) o[i + 1] = total += s.between(0, most);
    l.offsets = o;
    l.offsets_stride = shared ? 0 : 1;
    l.total = total;
  } else {
    l.length = s.between(0, most);
    l.row_stride = shared ? 0 : stride(l.length);
    total = (n - 1) * l.row_stride + l.length;
  }
  if ((l.offsets ? l.total : l.length) == 0) return {};  // as the operators do
  const bool wild = s.one_in(16);
  const auto id = [&]() -> int64_t {
    if (wild) return int64_t(s.word());
    const int64_t any = int64_t(s.word32() % uint64_t(cols + (csr ? 0 : 1)));
    return csr ? any : any - 1;
  };
  if (l.wide) {
    int64_t* const p = array<int64_t>(total);
    for (int64_t i = 0; i < total; ++i) p[i] = id();
    l.ids = p;
  } else {
    int32_t* const p = array<int32_t>(total);
    for (int64_t i = 0; i < total; ++i) p[i] = int32_t(id());
    l.ids = p;
  }
  return l;
}

// As `sample` records them, with the row's own id among them or not; now and then malformed.
KeptSetsView Inputs::kept_sets(int64_t rows, int64_t cols, const int64_t* own) {
  KeptSetsView k;
  if (!s.one_in(3)) return k;
  std::vector<int32_t> all;
  int64_t* const o = array<int64_t>(rows + 1);
  o[0] = 0;
  const bool wild = s.one_in(8);
  for (int64_t i = 0; i < rows; ++i) {
    const int64_t most = s.between(1, 40);
    const bool with_own = s.flip();
    int64_t id = -1;
    for (int64_t j = 0; j < most && id + 1 < cols; ++j) {
      int64_t next = id + 1 + int64_t(s.word32() % uint64_t(cols / most + 1));
      if (with_own && own[i] > id && own[i] <= next) next = own[i];
      if (next >= cols) break;
      all.push_back(int32_t(id = next));
    }
    o[i + 1] = int64_t(all.size());
  }
  if (wild && !all.empty()) all[s.word32() % all.size()] = int32_t(s.word32());
  if (wild && s.flip()) o[s.byte() % uint64_t(rows + 1)] = int64_t(s.word());
  int32_t* const p = array<int32_t>(int64_t(all.size()));
  if (!all.empty()) std::memcpy(p, all.data(), all.size() * sizeof(int32_t));
  k.ids = p;
  k.offsets = o;
  k.size = int64_t(all.size());
  return k;
}

}  // namespace native
