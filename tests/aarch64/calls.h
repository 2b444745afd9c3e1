// SPDX-License-Identifier: Apache-2.0
// The operators: arguments of a call to an engine's call, and its results as fields.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "../../csrc/core/engine.h"
#include "../../csrc/cpu/fp_env.h"
#include "fields.h"

// For benchmarks/perf_check.py: a dump of counts for each call, under valgrind; elsewhere nothing.
#if __has_include(<valgrind/callgrind.h>)
#include <valgrind/callgrind.h>
#else
#define CALLGRIND_TOGGLE_COLLECT
#define CALLGRIND_DUMP_STATS
#endif

namespace golden {

using namespace fusedraw;

// Views of arguments

inline DType dtype_of(const Field& f) {
  if (f.type < kFloat32 || f.type > kFloat16) throw std::runtime_error("not a type of logits");
  return DType(f.type - kFloat32);
}

inline RowsView rows_of(const Field& f,
                        int64_t first = 0) {  // [B, V]; or of [M, B, V] the rows of a member
  const size_t n = f.dims.size();
  RowsView v;
  v.dtype = dtype_of(f);
  v.rows = f.dims[n - 2];
  v.cols = v.row_stride = f.dims[n - 1];
  v.data = f.data<uint8_t>() + first * v.rows * v.cols * kSize[f.type];
  return v;
}

inline MaskView mask_of(const Field& f) {
  MaskView m;
  if (!f) return m;
  m.kind = f.type == kInt32 ? MaskView::Kind::kBits : MaskView::Kind::kBool;
  m.data = f.data<uint8_t>();
  m.row_stride = f.dims.size() > 1 && f.dims[0] > 1 ? f.dims[1] : 0;
  return m;
}

template <int kMost>
NumbersView<kMost> numbers_of(const Field& f) {
  NumbersView<kMost> v;
  v.data = f.data<double>();
  v.row_stride = f.dims[0] > 1 ? f.dims[1] : 0;
  return v;
}

inline KeysView keys_of(const Field& f) {
  KeysView k;
  k.data = f.data<uint64_t>();
  return k;
}

inline IdLists list_of(const Field& ids, const Field& offsets) {
  IdLists l;
  if (!ids || ids.numel() == 0) return l;
  l.ids = ids.data<uint8_t>();
  l.wide = ids.type == kInt64;
  if (offsets) {
    l.offsets = offsets.data<int64_t>();
    l.offsets_stride = offsets.dims[0] > 2 ? 1 : 0;
    l.total = ids.numel();
  } else {
    l.length = ids.dims[1];
    l.row_stride = ids.dims[0] > 1 ? ids.dims[1] : 0;
  }
  return l;
}

inline Options options_of(int64_t mode) {
  Options o;
  o.order = FilterOrder(mode & 3);
  o.ties_all = mode & 4;
  o.mix_valid = mode & 8;
  o.domain = uint32_t(mode >> 4 & 3);
  o.probs = mode & 64;
  o.keep_zero = mode & 256;
  o.temperature_last = mode & 512;
  return o;
}

// Kept ids of each row, then one CSR pair.
struct KeptRows {
  std::vector<std::vector<int32_t>> rows;
  static int32_t* reserve(void* context, int64_t row, int64_t n) {
    auto& ids = static_cast<KeptRows*>(context)->rows[size_t(row)];
    ids.resize(size_t(n));
    return ids.data();
  }
  void store(Results& to) const {
    std::vector<int32_t> all;
    std::vector<int64_t> offsets = {0};
    for (const auto& row : rows) {
      all.insert(all.end(), row.begin(), row.end());
      offsets.push_back(int64_t(all.size()));
    }
    std::copy(all.begin(), all.end(), to.add<int32_t>(kInt32, {int64_t(all.size())}));
    std::copy(offsets.begin(), offsets.end(), to.add<int64_t>(kInt64, {int64_t(offsets.size())}));
  }
};

// Outputs are named by bits, as the operators name them.
template <typename Call>
void add_draw_outputs(Call& call, int64_t bits, KeptRows& kept, Results& to) {
  const int64_t rows = call.x.rows;
  SampleOutputs& o = call.out;
  o.ids = to.add<int64_t>(kInt64, {rows});
  const auto asked = [&](int bit) { return bits >> bit & 1; };
  if (asked(0)) o.status = to.add<uint8_t>(kByte, {rows});
  float** const numbers[] = {&o.logp,    &o.logp_full,  &o.logp_raw,
                             &o.entropy, &o.varentropy, &o.margin};
  for (int i = 0; i < 6; ++i)
    if (asked(1 + i)) *numbers[i] = to.add<float>(kFloat32, {rows});
  if (asked(7)) o.n_kept = to.add<int64_t>(kInt64, {rows});
  if (asked(8)) o.kept_mass = to.add<float>(kFloat32, {rows});
  if (asked(9)) o.rank = to.add<int64_t>(kInt64, {rows});
  if (asked(10)) o.explored = to.add<bool>(kByte, {rows});
  if (asked(11)) {
    kept.rows.resize(size_t(rows));
    o.kept = {&kept, KeptRows::reserve};
  }
}

template <typename Call>
void run_rows(const Call& call, void (*row)(const Call&, int64_t, const Pool&)) {
  const Pool serial;
  FpEnv mode;
  CALLGRIND_TOGGLE_COLLECT;
  for (int64_t i = 0; i < call.x.rows; ++i) row(call, i, serial);
  CALLGRIND_TOGGLE_COLLECT;
  CALLGRIND_DUMP_STATS;
}

// The operators. Arguments as in csrc/ops/schema.h, absent ones as such.

// sample: logits params keys mask mode outputs top_n. sample_processed has rules behind params, and
// nine fields of lists before mode.
inline void sample(const Engine& engine, const Fields& a, bool processed, Results& to) {
  SampleCall c;
  size_t at = 0;
  c.x = rows_of(a[at++]);
  c.params = numbers_of<kParamColumns>(a[at++]);
  if (processed) {
    c.ruled = true;
    c.rules = numbers_of<kRuleColumns>(a[at++]);
  }
  c.keys = keys_of(a[at++]);
  c.mask = mask_of(a[at++]);
  if (processed) {
    IdLists* const lists[] = {&c.edits.history, &c.edits.prompt, &c.edits.suppress, &c.edits.bias};
    for (IdLists* list : lists) {
      *list = list_of(a[at], a[at + 1]);
      at += 2;
    }
    c.edits.values = a[at++].data<float>();
  }
  c.options = options_of(a[at].number());
  const int64_t bits = a[at + 1].number(), top_n = a[at + 2].number();
  KeptRows kept;
  add_draw_outputs(c, bits, kept, to);
  std::vector<int64_t> top_ids(size_t(c.x.rows * top_n));
  std::vector<float> top_logps(top_ids.size());
  if (top_n > 0) {
    c.out.top_ids = top_ids.data();
    c.out.top_logps = top_logps.data();
    c.out.top_n = top_n;
  }
  run_rows(c, engine.sample_row);
  if (bits >> 11 & 1) kept.store(to);
  if (top_n == 0) return;
  std::copy(top_ids.begin(), top_ids.end(), to.add<int64_t>(kInt64, {c.x.rows, top_n}));
  std::copy(top_logps.begin(), top_logps.end(), to.add<float>(kFloat32, {c.x.rows, top_n}));
}

inline void softmax(const Engine& engine, const Fields& a, Results& to) {
  SoftmaxCall c;
  c.x = rows_of(a[0]);
  c.temperature = a[1].data<double>();
  c.temperature_stride = a[1].dims[0] > 1 ? 1 : 0;
  c.mask = mask_of(a[2]);
  c.log = a[3].number() & 1;
  c.out = to.add<float>(kFloat32, {c.x.rows, c.x.cols});
  c.status = to.add<uint8_t>(kByte, {c.x.rows});
  run_rows(c, engine.softmax_row);
}

inline void filter(const Engine& engine, const Fields& a, Results& to) {
  FilterCall c;
  c.x = rows_of(a[0]);
  c.params = numbers_of<kParamColumns>(a[1]);
  c.mask = mask_of(a[2]);
  c.options = options_of(a[3].number());
  c.renorm = a[4].number() == 1;
  c.out = to.add<uint8_t>(c.renorm ? kFloat32 : a[0].type, {c.x.rows, c.x.cols});
  c.status = to.add<uint8_t>(kByte, {c.x.rows});
  run_rows(c, engine.filter_row);
}

inline void multinomial(const Engine& engine, const Fields& a, Results& to) {
  MultinomialCall c;
  c.x = rows_of(a[0]);
  c.keys = keys_of(a[1]);
  c.num_samples = a[2].number();
  c.replacement = a[3].number();
  c.ids = to.add<int64_t>(kInt64, {c.x.rows, c.num_samples});
  c.status = to.add<uint8_t>(kByte, {c.x.rows});
  run_rows(c, engine.multinomial_row);
}

// logits ids params mask kept_ids kept_offsets mode entropy, then the gradients of its backward.
inline void token_logprob(const Engine& engine, const Fields& a, Results& to) {
  TokenLogprobCall c;
  c.x = rows_of(a[0]);
  c.ids = a[1].data<int64_t>();
  c.params = numbers_of<kParamColumns>(a[2]);
  c.mask = mask_of(a[3]);
  if (a[4]) c.kept = {a[4].data<int32_t>(), a[5].data<int64_t>(), a[4].numel()};
  c.options = options_of(a[6].number());
  const bool entropy = a[7].number();
  c.logp = to.add<float>(kFloat32, {c.x.rows});
  float* const h = to.add<float>(kFloat32, {entropy ? c.x.rows : 0});
  if (entropy) c.entropy = h;
  c.status = to.add<uint8_t>(kByte, {c.x.rows});
  std::vector<double> saved(size_t(c.x.rows * kSavedColumns));
  c.saved = saved.data();
  run_rows(c, engine.token_logprob_row);

  TokenLogprobGradCall g;
  g.x = c.x;
  g.mask = c.mask;
  g.ids = c.ids;
  g.kept = c.kept;
  g.saved = saved.data();
  g.grad_logp = a[8].data<float>();
  g.grad_entropy = a[9].data<float>();
  g.grad = to.add<uint8_t>(a[0].type, {c.x.rows, c.x.cols});
  run_rows(g, engine.token_logprob_grad_row);
}

// members ([M, B, V]) weights params keys mask how mode outputs.
inline void mixture(const Engine& engine, const Fields& a, Results& to) {
  MixtureCall c;
  c.members = int(a[0].dims[0]);
  for (int m = 0; m < c.members; ++m) c.member[m] = rows_of(a[0], m);
  c.x = c.member[0];
  c.weights = numbers_of<kMaxMembers>(a[1]);
  c.params = numbers_of<kParamColumns>(a[2]);
  c.keys = keys_of(a[3]);
  c.mask = mask_of(a[4]);
  c.how = Combination(a[5].number());
  c.options = options_of(a[6].number());
  c.options.probs = c.how == Combination::kArithmetic;
  const int64_t bits = a[7].number(), rows = c.x.rows;
  KeptRows kept;
  Results after;
  add_draw_outputs(c, bits, kept, to);
  if (bits >> 12 & 1) c.member_logp = after.add<float>(kFloat32, {c.members, rows});
  if (bits >> 13 & 1) c.member_entropy = after.add<float>(kFloat32, {c.members, rows});
  if (bits >> 14 & 1) c.mean_entropy = after.add<float>(kFloat32, {rows});
  if (bits >> 15 & 1) c.mutual_information = after.add<float>(kFloat32, {rows});
  run_rows(c, engine.mixture_row);
  if (bits >> 11 & 1) kept.store(to);
  std::move(after.fields.begin(), after.fields.end(), std::back_inserter(to.fields));
}

// logits params keys bias replay k mode.
inline void route(const Engine& engine, const Fields& a, Results& to) {
  RouteCall c;
  c.x = rows_of(a[0]);
  c.params = numbers_of<kParamColumns>(a[1]);
  if (a[2]) c.keys = keys_of(a[2]);
  c.bias = a[3].data<float>();
  c.replay = a[4].data<int64_t>();
  c.k = a[5].number();
  const int64_t mode = a[6].number();
  c.options.noise = RouteNoise(mode & 3);
  c.options.sigmoid = mode & 4;
  c.options.renormalise = mode & 8;
  c.weights = to.add<float>(kFloat32, {c.x.rows, c.k});
  c.ids = to.add<int64_t>(kInt64, {c.x.rows, c.k});
  int64_t* const counts = to.add<int64_t>(kInt64, {c.x.cols});
  c.status = to.add<uint8_t>(kByte, {c.x.rows});
  c.explored = to.add<bool>(kByte, {c.x.rows});
  run_rows(c, engine.route_row);
  for (int64_t i = 0; i < c.x.rows * c.k; ++i)
    if (c.ids[i] >= 0) ++counts[c.ids[i]];
}

VerifySide side_of(const Field& x, const Field& mask, const Field& params, int64_t mode) {
  VerifySide s;
  s.x.data = x.data<uint8_t>();
  s.x.dtype = dtype_of(x);
  s.x.rows = x.dims[0];
  s.x.positions = x.dims[1];
  s.x.cols = s.x.position_stride = x.dims[2];
  s.x.row_stride = x.dims[1] * x.dims[2];
  s.mask.mask = mask_of(mask);  // the same for all positions
  s.params = numbers_of<kParamColumns>(params);
  s.options = options_of(mode & 7);
  return s;
}

// draft_ids draft target draft_params params keys draft_mask mask n_draft mode logp.
inline void verify(const Engine& engine, const Fields& a, Results& to) {
  VerifyCall c;
  const int64_t mode = a[9].number();
  c.draft = side_of(a[1], a[6], a[3], mode >> 3);
  c.target = side_of(a[2], a[7], a[4], mode);
  c.x.rows = c.target.x.rows;
  c.x.cols = c.target.x.cols;
  c.draft_ids = a[0].data<int64_t>();
  c.drafts = a[0].dims[1];
  c.keys = keys_of(a[5]);
  c.n_draft = a[8].data<int64_t>();
  c.ids = to.add<int64_t>(kInt64, {c.x.rows, c.drafts + 1});
  c.n_accepted = to.add<int64_t>(kInt64, {c.x.rows});
  c.status = to.add<uint8_t>(kByte, {c.x.rows});
  c.logp = to.add<float>(kFloat32, {c.x.rows, c.drafts + 1});
  run_rows(c, engine.verify_row);
}

inline void run_call(const Engine& engine, int64_t op, const Fields& a, Results& to) {
  switch (op) {  // the order of golden_file.OPERATORS
    case 0:
      return sample(engine, a, false, to);
    case 1:
      return sample(engine, a, true, to);
    case 2:
      return softmax(engine, a, to);
    case 3:
      return filter(engine, a, to);
    case 4:
      return multinomial(engine, a, to);
    case 5:
      return token_logprob(engine, a, to);
    case 6:
      return mixture(engine, a, to);
    case 7:
      return route(engine, a, to);
    case 8:
      return verify(engine, a, to);
    default:
      throw std::runtime_error("no such operator");
  }
}

}  // namespace golden
