// SPDX-License-Identifier: Apache-2.0
// What a row's logits pass through before the law sees them: bias, penalties, suppressed ids.
//
// Edits are sparse. Each touched token gets a Mark from the row's lists of ids, then a new value by
// edited_value(): float32, every operation rounded once, whatever the type of the row.
#pragma once

#include "rules.h"

namespace fusedraw {

// Ids of every row: padded (no offsets; [rows, length], negative ids are padding) or CSR. A
// row_stride or offsets_stride of 0 gives all rows the same list.
struct IdLists {
  const void* ids = nullptr;  // null: no list
  bool wide = true;           // int64, else int32
  const int64_t* offsets = nullptr;
  int64_t offsets_stride = 0;
  int64_t length = 0, row_stride = 0;  // padded
  int64_t total = 0;                   // CSR: number of ids; offsets beyond are cut to it
};

struct IdRange {
  int64_t begin = 0, end = 0;
};
FD_FN int64_t clipped(int64_t i, int64_t total) { return i < 0 ? 0 : i > total ? total : i; }
FD_FN IdRange ids_of(const IdLists& l, int64_t row) {
  if (l.ids == nullptr) return {};
  if (l.offsets == nullptr) return {row * l.row_stride, row * l.row_stride + l.length};
  const int64_t* o = l.offsets + row * l.offsets_stride;
  return {clipped(o[0], l.total), clipped(o[1], l.total)};
}
FD_FN int64_t id_at(const IdLists& l, int64_t i) {
  return l.wide ? static_cast<const int64_t*>(l.ids)[i] : static_cast<const int32_t*>(l.ids)[i];
}

// The lists of a call. `values` belongs to the ids of `bias`.
struct EditsView {
  IdLists history, prompt, suppress, bias;
  const float* values = nullptr;
};
FD_FN bool any_edits(const EditsView& e) {
  return e.history.ids || e.prompt.ids || e.suppress.ids || e.bias.ids;
}

struct Penalties {
  float repetition = 1.0f, frequency = 0.0f, presence = 0.0f;
};

// What the lists say of one token.
enum MarkFlag : uint8_t { kSeen = 1, kBiased = 2, kSuppressed = 4 };
struct Mark {
  float bias = 0.0f;
  int32_t count = 0;  // in the history
  uint8_t flags = 0;
};

// Adds one entry of a list to its token's mark. False: BAD_PARAM.
FD_FN bool mark_bias(Mark& m, float bias) {
  const bool ok = !(m.flags & kBiased) && bias < inf32();  // twice, NaN, +inf: no
  m.flags |= kBiased;
  m.bias = bias;
  return ok;
}

// The value that takes the place of x; -inf where the token is removed.
FD_FN float edited_value(float x, const Mark& m, const Penalties& p) {
  if (m.flags & kSuppressed || m.bias == -inf32()) return -inf32();
  float y = x;
  if (m.flags & kBiased) y = y + m.bias;
  if (m.flags & kSeen) {  // one of the two factors is 1: no branch on the sign, hard to predict
    const bool divide = y > 0.0f;
    y = y * (divide ? 1.0f : p.repetition) / (divide ? p.repetition : 1.0f);
  }
  if (m.count > 0) {
    y = y - p.frequency * float(m.count);
    y = y - p.presence;
  }
  return y + 0.0f;
}

}  // namespace fusedraw
