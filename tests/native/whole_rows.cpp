// SPDX-License-Identifier: Apache-2.0
#include <algorithm>
#include <cmath>

#include "operations.h"

namespace native {
namespace {

struct SoftmaxCase : Case {
  SoftmaxCall call;
  Results run(const Runner& r, Memory& memory) const override {
    SoftmaxCall c = call;
    Results results;
    c.out = add<float>(results, memory, "out", c.x.rows * c.x.cols);
    c.status = add<uint8_t>(results, memory, "status", c.x.rows);
    run_rows(c, r.engine.softmax_row, r);
    return results;
  }
};

struct FilterCase : Case {
  FilterCall call;
  Results run(const Runner& r, Memory& memory) const override {
    FilterCall c = call;
    Results results;
    const DType out = c.renorm ? DType::kFloat32 : c.x.dtype;
    c.out = add_row_typed(results, memory, "out", out, c.x.rows * c.x.cols);
    c.status = add<uint8_t>(results, memory, "status", c.x.rows);
    run_rows(c, r.engine.filter_row, r);
    return results;
  }
};

// Forward, then backward on the same engine. What the forward leaves for the backward is the
// engine's own.
struct TokenLogprobCase : Case {
  TokenLogprobCall call;
  bool entropy = false;
  const float *grad_logp = nullptr, *grad_entropy = nullptr;
  Results run(const Runner& r, Memory& memory) const override {
    TokenLogprobCall c = call;
    Results results;
    c.logp = add<float>(results, memory, "logp", c.x.rows);
    if (entropy) c.entropy = add<float>(results, memory, "entropy", c.x.rows);
    c.status = add<uint8_t>(results, memory, "status", c.x.rows);
    c.saved = static_cast<double*>(memory.take(size_t(c.x.rows * kSavedColumns) * 8, 8));
    run_rows(c, r.engine.token_logprob_row, r);
    TokenLogprobGradCall g;
    g.x = c.x;
    g.mask = c.mask;
    g.ids = c.ids;
    g.kept = c.kept;
    g.saved = c.saved;
    g.grad_logp = grad_logp;
    g.grad_entropy = entropy ? grad_entropy : nullptr;
    g.grad = add_row_typed(results, memory, "grad", c.x.dtype, c.x.rows * c.x.cols);
    run_rows(g, r.engine.token_logprob_grad_row, r);
    return results;
  }
};

struct RouteCase : Case {
  RouteCall call;
  Results run(const Runner& r, Memory& memory) const override {
    RouteCall c = call;
    Results results;
    c.ids = add<int64_t>(results, memory, "ids", c.x.rows * c.k);
    c.weights = add<float>(results, memory, "weights", c.x.rows * c.k);
    c.status = add<uint8_t>(results, memory, "status", c.x.rows);
    c.explored = add<bool>(results, memory, "explored", c.x.rows);
    run_rows(c, r.engine.route_row, r);
    return results;
  }
  std::string absurd(const Results& r) const override { return first_absurd(r, call.x, call.k); }
};

struct VerifyCase : Case {
  VerifyCall call;
  bool logp = false;
  Results run(const Runner& r, Memory& memory) const override {
    VerifyCall c = call;
    Results results;
    const int64_t n = c.x.rows * (c.drafts + 1);
    c.ids = add<int64_t>(results, memory, "ids", n);
    c.n_accepted = add<int64_t>(results, memory, "n_accepted", c.x.rows);
    c.status = add<uint8_t>(results, memory, "status", c.x.rows);
    if (logp) c.logp = add<float>(results, memory, "logp", n);
    run_rows(c, r.engine.verify_row, r);
    return results;
  }
  std::string absurd(const Results& r) const override {
    return first_absurd(r, call.x, call.drafts + 1, [this](int64_t row, int64_t position) {
      return mask_at(call.target.mask, row, position);
    });
  }
};

Options some_filters(Source& s) {
  Options o;
  o.order = FilterOrder(s.byte() % 3);
  o.ties_all = s.flip();
  return o;
}

constexpr double kTemperatures[] = {1, 0.7, 1.5, 0, INFINITY, 1e-30, 1e-45, 0x1p64, 1e-39};

}  // namespace

std::unique_ptr<Case> make_softmax(Inputs& in) {
  auto made = std::make_unique<SoftmaxCase>();
  SoftmaxCall& c = made->call;
  c.log = in.s.flip();
  const int64_t rows = in.s.between(1, 4), cols = in.some_cols(rows);
  const DType dtype = in.some_dtype();
  const NumbersView<1> t = in.numbers<1>(rows, 1, [&](int) { return in.number(kTemperatures); });
  c.temperature = t.data;
  c.temperature_stride = t.row_stride;
  c.mask = in.mask(rows, cols);
  c.x = in.rows(rows, cols, dtype, false);
  made->about = shape_of(c.x) + (c.log ? " log" : "");
  return made;
}

std::unique_ptr<Case> make_filter(Inputs& in) {
  auto made = std::make_unique<FilterCase>();
  FilterCall& c = made->call;
  c.options = some_filters(in.s);
  c.renorm = in.s.flip();
  c.options.probs = in.s.one_in(3);
  c.options.keep_zero = !c.renorm && in.s.one_in(3);
  const int64_t rows = in.s.between(1, 4), cols = in.some_cols(rows);
  const DType dtype = in.some_dtype();
  c.params = in.params(rows, false);
  c.mask = in.mask(rows, cols);
  c.x = in.rows(rows, cols, dtype, c.options.probs);
  made->about = shape_of(c.x) + (c.renorm ? " renorm" : "");
  return made;
}

std::unique_ptr<Case> make_token_logprob(Inputs& in) {
  auto made = std::make_unique<TokenLogprobCase>();
  TokenLogprobCall& c = made->call;
  c.options = some_filters(in.s);
  c.options.mix_valid = in.s.flip();
  made->entropy = in.s.flip();
  const int64_t rows = in.s.between(1, 4), cols = in.some_cols(rows);
  const DType dtype = in.some_dtype();
  c.params = in.params(rows);
  c.ids = in.ids(rows, cols);
  c.kept = in.kept_sets(rows, cols, c.ids);
  c.mask = in.mask(rows, cols);
  made->grad_logp = in.floats(rows);
  made->grad_entropy = in.floats(rows);
  c.x = in.rows(rows, cols, dtype, false);
  made->about = shape_of(c.x) + (c.kept.offsets ? " replay" : "");
  return made;
}

std::unique_ptr<Case> make_route(Inputs& in) {
  auto made = std::make_unique<RouteCase>();
  RouteCall& c = made->call;
  c.options.noise = RouteNoise(in.s.byte() % 3);
  const int bits = in.s.byte();
  c.options.sigmoid = bits & 1;
  c.options.renormalise = bits & 2;
  const int64_t rows = in.s.between(1, 4);
  const int64_t cols = std::min<int64_t>(in.some_cols(rows), kMaxExperts);
  const DType dtype = in.some_dtype();
  c.k = in.s.one_in(8) ? cols : std::min<int64_t>(cols, in.s.between(1, 70));
  constexpr double kJitter[] = {0, 0.01, 0.5, 1}, kEps[] = {0, 0, 0.3, 1};
  c.params = in.numbers<kParamColumns>(rows, kRouteColumns, [&](int column) {
    if (column == kRouteTemperature) return in.number(kTemperatures);
    return in.number(column == kRouteJitter ? kJitter : kEps);
  });
  const bool none = c.options.noise == RouteNoise::kNone;
  if (in.s.one_in(6)) c.replay = in.ids(rows * c.k, cols);
  if (none && in.s.flip()) c.bias = in.floats(cols);
  if (!(none || c.replay) || in.s.flip()) c.keys = in.keys(rows);
  c.x = in.rows(rows, cols, dtype, false);
  made->about = shape_of(c.x) + ", k " + std::to_string(c.k) + (c.replay ? " replay" : "");
  return made;
}

std::unique_ptr<Case> make_verify(Inputs& in) {
  auto made = std::make_unique<VerifyCase>();
  VerifyCall& c = made->call;
  const int64_t rows = in.s.between(1, 3), cols = in.some_cols(rows);
  c.drafts = in.s.between(0, 3);
  c.x.rows = rows;
  c.x.cols = cols;
  made->logp = in.s.flip();
  const DType dtype = in.some_dtype(), other = in.s.one_in(4) ? in.some_dtype() : dtype;
  for (VerifySide* side : {&c.target, &c.draft}) {
    side->options = some_filters(in.s);
    side->params = in.params(rows, in.s.one_in(32));
    const int64_t positions = c.drafts + (side == &c.target ? 1 : 0);
    side->mask = in.positions_mask(rows, positions, cols);
    side->x = in.positions(rows, positions, cols, side == &c.target ? dtype : other);
  }
  int64_t* const ids = in.ids(rows * c.drafts, cols);
  c.draft_ids = ids;
  // Often the draft's likeliest token, which its law can give whatever its filters are.
  if (c.drafts > 0 && in.s.flip()) {
    for (int64_t i = 0; i < rows * c.drafts; ++i) {
      const RowsView x = row_at(c.draft.x, i / c.drafts, i % c.drafts);
      const MaskView mask = mask_at(c.draft.mask, i / c.drafts, i % c.drafts);
      float most = -inf32();
      for (int64_t j = 0; j < cols; ++j) {
        const float v = x.dtype == DType::kFloat32 ? static_cast<const float*>(x.data)[j]
                        : x.dtype == DType::kBFloat16
                            ? widen(static_cast<const BFloat16*>(x.data)[j])
                            : widen(static_cast<const Float16*>(x.data)[j]);
        if (!mask_allows(mask, 0, j) || !(v > most)) continue;
        most = v;
        ids[i] = j;
      }
    }
  }
  if (in.s.one_in(3)) {
    int64_t* const n = in.array<int64_t>(rows);
    for (int64_t i = 0; i < rows; ++i)
      n[i] = in.s.one_in(32) ? int64_t(in.s.word()) : in.s.between(0, c.drafts);
    c.n_draft = n;
  }
  c.keys = in.keys(rows);
  made->about = "[" + std::to_string(rows) + ", " + std::to_string(c.drafts) + ", " +
                std::to_string(cols) + "]";
  return made;
}

}  // namespace native
