// SPDX-License-Identifier: Apache-2.0
// A row as blocks of 256 float32 values, and the one pass that every operation begins with.
//
// Only this file knows dtypes, masks and the partial last block: excluded tokens and the padding
// read as `pad` (-inf for logits, 0 for probabilities), which never changes a draw.
#pragma once

namespace fusedraw {
namespace {

constexpr int kVecs = kBlock / V::kLanes;

struct Row {
  const void* data = nullptr;      // the row, in its own type
  const void* tail = nullptr;      // the padded last block, or null when V % 256 == 0
  const uint32_t* mask = nullptr;  // packed bits padded to whole blocks, or null
  const char* ahead = nullptr;     // the row that this thread reads next, or null
  int64_t block_bytes = 0;         // of a block in it
  int64_t cols = 0, blocks = 0;
  float pad = 0.0f;
  bool probs = false;
  // Widens block b into out; returns out, or the row itself where nothing has to be done.
  const float* (*fetch)(const Row&, int64_t b, float* out) = nullptr;
  void (*scan)(const Row&, int64_t begin, int64_t end, struct ScanPart&) = nullptr;

  void (*edit)(const Row&, const struct MarkedToken*, int32_t* starts, struct Edit*,
               uint8_t* stale) = nullptr;

  // Of a row with edits (edits.inl); `fetch` is then made of fetch_plain.
  const MarkedToken* marks = nullptr;
  Edit* edits = nullptr;
  int32_t* edit_starts = nullptr;  // [blocks + 1]
  uint8_t* stale = nullptr;        // [blocks]
  int32_t n_edits = 0;
  Penalties penalties;
  const float* (*fetch_plain)(const Row&, int64_t b, float* out) = nullptr;

  // Of a row cut from above (late_rules.inl); `fetch` is then made of fetch_below.
  const float* (*fetch_below)(const Row&, int64_t b, float* out) = nullptr;
  Ceiling ceiling;

  float* group_max = nullptr;  // [blocks, V::kLanes]; null: not wanted (greedy rows)
  float* block_max = nullptr;  // [blocks]
  WeightRule rule;
};

struct ScanPart {
  float max;
  bool nan, negative;
};

template <typename T>
const T* block_data(const Row& r, int64_t b) {
  return r.tail != nullptr && b == r.blocks - 1 ? static_cast<const T*>(r.tail)
                                                : static_cast<const T*>(r.data) + b * kBlock;
}

// Asks for block b of the next row while this one keeps the processor busy: the first pass over a
// row waits for memory, a pass that sums weights does not.
void prefetch_ahead(const Row& r, int64_t b) {
  if (r.ahead == nullptr) return;
  const char* p = r.ahead + b * r.block_bytes;
  for (int64_t i = 0; i < r.block_bytes; i += 64) __builtin_prefetch(p + i, 0, 2);
}
void look_ahead(Row& r, const RowsView& v, int64_t row) {
  if (row + 1 >= v.rows) return;
  const int64_t size = v.dtype == DType::kFloat32 ? 4 : 2;
  r.ahead = static_cast<const char*>(v.data) + (row + 1) * v.row_stride * size;
  r.block_bytes = kBlock * size;
}

template <typename T, bool kMasked>
V::F load_lanes(const Row& r, const T* p, int64_t b, int j) {
  V::F x = V::load(p + j * V::kLanes);
  if (kMasked) {
    constexpr int kPerWord = 32 / V::kLanes;
    const uint32_t word = r.mask[b * (kBlock / 32) + j / kPerWord];
    x = V::select(V::from_bits(word >> (j % kPerWord * V::kLanes)), x, V::set(r.pad));
  }
  return x;
}

template <typename T, bool kMasked>
const float* fetch_block(const Row& r, int64_t b, float* out) {
  const T* p = block_data<T>(r, b);
  if constexpr (!kMasked && sizeof(T) == sizeof(float)) return reinterpret_cast<const float*>(p);
  for (int j = 0; j < kVecs; ++j) V::store(out + j * V::kLanes, load_lanes<T, kMasked>(r, p, b, j));
  return out;
}

template <typename T, bool kMasked>
void edit_values(const Row& r, const MarkedToken* tokens, int32_t* ends, Edit* to, uint8_t* stale);

// One read of the row: lane and block maxima, NaN, and for probabilities a negative value.
template <typename T, bool kMasked, bool kProbs>
void scan_blocks(const Row& r, int64_t begin, int64_t end, ScanPart& part) {
  // Several chains each: one comparison takes as long as four loads.
  V::M ordered[4] = {V::all(), V::all(), V::all(), V::all()}, negative = V::none();
  V::F all = V::set(-inf32());
  alignas(64) float ring[V::kLanes * V::kLanes];
  for (int64_t b = begin; b < end; ++b) {
    const T* p = block_data<T>(r, b);
    V::F m[4];
    for (V::F& lane : m) lane = V::set(-inf32());
#pragma GCC unroll 8
    for (int j = 0; j < kVecs; j += 4) {
      V::F x[4];
#pragma GCC unroll 2
      for (int i = 0; i < 4; i += 2) {
        if (kMasked) {
          x[i] = load_lanes<T, kMasked>(r, p, b, j + i);
          x[i + 1] = load_lanes<T, kMasked>(r, p, b, j + i + 1);
        } else {  // which lane a value falls into does not matter here
          V::load_any_order(p + (j + i) * V::kLanes, x[i], x[i + 1]);
        }
      }
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) m[i] = V::max(x[i], m[i]);  // a NaN in x is dropped here
      V::M* chain = ordered + j / 4 % 2 * 2;
      chain[0] = V::still_ordered(chain[0], x[0], x[1]);
      chain[1] = V::still_ordered(chain[1], x[2], x[3]);
      if (kProbs)
        for (int i = 0; i < 4; ++i) negative = V::either(negative, V::gt(V::set(0.0f), x[i]));
    }
    const V::F lanes = V::max(V::max(m[0], m[1]), V::max(m[2], m[3]));
    all = V::max(lanes, all);
    // Block maxima come from kLanes blocks at a time. Where nobody wants the lane maxima, the same
    // few lines of cache take them.
    const int64_t place = (b - begin) % V::kLanes, first = b - place;
    float* rows = r.group_max != nullptr ? r.group_max + first * V::kLanes : ring;
    V::store(rows + place * V::kLanes, lanes);
    if (place == V::kLanes - 1)
      V::reduce_max_rows(rows, r.block_max + first);
    else if (b == end - 1)
      for (int64_t i = 0; i <= place; ++i)
        r.block_max[first + i] = V::reduce_max(V::load(rows + i * V::kLanes));
  }
  const V::M no_nan = V::both(V::both(ordered[0], ordered[1]), V::both(ordered[2], ordered[3]));
  part = {V::reduce_max(all), V::bits(no_nan) != V::bits(V::all()), V::any(negative)};
}

template <typename T, bool kMasked>
void bind(Row& r) {
  r.fetch = fetch_block<T, kMasked>;
  r.edit = edit_values<T, kMasked>;
  r.scan = r.probs ? scan_blocks<T, kMasked, true> : scan_blocks<T, kMasked, false>;
}

template <typename T>
void open_typed(Row& r, const T* data, Scratch& scratch, int place, int places) {
  r.data = data;
  if (const int64_t rest = r.cols % kBlock; rest != 0) {
    void* room = scratch.array<float>(Scratch::kTail, size_t(kBlock * places)) + kBlock * place;
    T* tail = static_cast<T*>(room);
    memcpy(tail, data + r.cols - rest, size_t(rest) * sizeof(T));
    for (int64_t i = rest; i < kBlock; ++i) {
      tail[i] = T{};
      if (!r.probs) set_neg_inf(tail[i]);
    }
    r.tail = tail;
  }
  if (r.mask != nullptr)
    bind<T, true>(r);
  else
    bind<T, false>(r);
}

const uint32_t* pack_mask(const MaskView& m, int64_t row, int64_t cols, Scratch& scratch) {
  if (m.kind == MaskView::Kind::kNone) return nullptr;
  const int64_t words = (cols + kBlock - 1) / kBlock * (kBlock / 32);
  uint32_t* out = scratch.array<uint32_t>(Scratch::kMaskWords, size_t(words));
  memset(out, 0, size_t(words) * 4);
  if (m.kind == MaskView::Kind::kBits) {
    memcpy(out, static_cast<const uint32_t*>(m.data) + row * m.row_stride,
           size_t((cols + 31) / 32) * 4);
    if (cols % 32 != 0) out[cols / 32] &= (1u << cols % 32) - 1;
    return out;
  }
  const uint8_t* from = static_cast<const uint8_t*>(m.data) + row * m.row_stride;
  int64_t i = 0;
  for (; i + 32 <= cols; i += 32) out[i / 32] = V::nonzero(from + i);
  for (; i < cols; ++i) out[i / 32] |= uint32_t(from[i] != 0) << (i % 32);
  return out;
}

// Of several rows that are open together, in whatever types, each has a place for its last block;
// all share the room for block maxima.
Row open_row(const RowsView& v, const MaskView& mask, int64_t row, bool probs, Scratch& scratch,
             bool groups = true, int place = 0, int places = 1) {
  Row r;
  r.cols = v.cols;
  r.blocks = (v.cols + kBlock - 1) / kBlock;
  r.probs = probs;
  r.pad = probs ? 0.0f : -inf32();
  r.mask = pack_mask(mask, row, v.cols, scratch);
  if (groups) r.group_max = scratch.array<float>(Scratch::kGroupMax, size_t(r.blocks * V::kLanes));
  // Readers take whole vectors of block maxima: the padding must not count.
  r.block_max = scratch.array<float>(Scratch::kBlockMax, size_t(r.blocks + V::kLanes * 2));
  for (int i = 0; i < 2 * V::kLanes; ++i) r.block_max[r.blocks + i] = -inf32();
  const int64_t offset = row * v.row_stride;
  switch (v.dtype) {
    case DType::kBFloat16:
      open_typed(r, static_cast<const BFloat16*>(v.data) + offset, scratch, place, places);
      break;
    case DType::kFloat16:
      open_typed(r, static_cast<const Float16*>(v.data) + offset, scratch, place, places);
      break;
    default:
      open_typed(r, static_cast<const float*>(v.data) + offset, scratch, place, places);
  }
  return r;
}

// Splits [0, blocks) over the pool's threads; serial when there is one.
constexpr int kMaxParts = 64;
struct Parts {
  int n;
  int64_t per;
};
Parts split_blocks(int64_t blocks, const Pool& pool) {
  int n = pool.threads < kMaxParts ? pool.threads : kMaxParts;
  if (n < 1) n = 1;
  const int64_t per = (blocks + n - 1) / n;
  return {int((blocks + per - 1) / per), per};
}
void run_parts(const Parts& parts, const Pool& pool, void (*task)(void*, int64_t), void* argument) {
  if (parts.n == 1)
    task(argument, 0);
  else
    pool.run(pool.context, parts.n, task, argument);
}

struct ScanTask {
  const Row* row;
  Parts parts;
  ScanPart part[kMaxParts];
  static void run(void* argument, int64_t i) {
    ScanTask& t = *static_cast<ScanTask*>(argument);
    const int64_t begin = i * t.parts.per, end = begin + t.parts.per;
    t.row->scan(*t.row, begin, end < t.row->blocks ? end : t.row->blocks, t.part[i]);
  }
};

float apply_edits(Row& r);
bool holds_nan(const Row& r);

// The first pass. Returns the status; sets rule.m.
uint8_t scan_row(Row& r, const Pool& pool) {
  ScanTask task;
  task.row = &r;
  task.parts = split_blocks(r.blocks, pool);
  run_parts(task.parts, pool, ScanTask::run, &task);
  float m = -inf32();
  bool nan = false, negative = false;
  for (int i = 0; i < task.parts.n; ++i) {
    m = m > task.part[i].max ? m : task.part[i].max;
    nan |= task.part[i].nan;
    negative |= task.part[i].negative;
  }
  if (r.n_edits > 0) {
    m = apply_edits(r);
    nan = nan && holds_nan(r);
  }
  r.rule.m = m + 0.0f;
  if (negative) return kBadParam;
  if (nan) return kNan;
  if (m == inf32()) return kPosInf;
  return m == -inf32() || (r.probs && m == 0.0f) ? kEmpty : kOk;
}

// The smallest x that counts as valid.
float smallest_valid(const Row& r) { return r.probs ? float_of(1u) : -kFltMax; }

// The first place of a value that occurs; a multiple of kLanes elements is read.
int64_t first_equal(const float* a, float value) {
  const V::F v = V::set(value);
  for (int64_t i = 0;; i += V::kLanes)
    if (const uint32_t hit = V::bits(V::eq(V::load(a + i), v)); hit != 0)
      return i + __builtin_ctz(hit);
}

// The first token of the order: the lowest id with x = m.
int64_t first_token(const Row& r) {
  const int64_t b = first_equal(r.block_max, r.rule.m);
  alignas(64) float buffer[kBlock];
  return b * kBlock + first_equal(r.fetch(r, b, buffer), r.rule.m);
}

}  // namespace
}  // namespace fusedraw
