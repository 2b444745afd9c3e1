// SPDX-License-Identifier: Apache-2.0
#include <algorithm>

#include "operations.h"

namespace native {
namespace {

// Kept ids of each row, each with room of its own.
struct KeptRows {
  struct Row {
    int32_t* p = nullptr;
    int64_t n = 0;
  };
  Memory* memory = nullptr;
  std::vector<Row> rows;
  static int32_t* reserve(void* context, int64_t row, int64_t n) {
    KeptRows& kept = *static_cast<KeptRows*>(context);
    int32_t* const p = static_cast<int32_t*>(kept.memory->take(size_t(n) * 4, 4));
    kept.rows[size_t(row)] = {p, n};
    return p;
  }
};

// What a draw is asked for: the bits of the operators' `outputs`.
enum { kStatus = 1, kKept = 1 << 11, kLogits = 1 << 2 | 1 << 3 | 1 << 4 | 1 << 5, kAllBits = 4095 };

void add_outputs(SampleOutputs& o, int64_t rows, uint32_t bits, int64_t top_n, Memory& m,
                 Results& to) {
  o.ids = add<int64_t>(to, m, "ids", rows);
  o.status = add<uint8_t>(to, m, "status", rows);
  float** const numbers[] = {&o.logp,    &o.logp_full,  &o.logp_raw,
                             &o.entropy, &o.varentropy, &o.margin};
  constexpr const char* kNames[] = {"logp",    "logp_full",  "logp_raw",
                                    "entropy", "varentropy", "margin"};
  for (int i = 0; i < 6; ++i)
    if (bits >> (1 + i) & 1) *numbers[i] = add<float>(to, m, kNames[i], rows);
  if (bits >> 7 & 1) o.n_kept = add<int64_t>(to, m, "n_kept", rows);
  if (bits >> 8 & 1) o.kept_mass = add<float>(to, m, "kept_mass", rows);
  if (bits >> 9 & 1) o.rank = add<int64_t>(to, m, "rank", rows);
  if (bits >> 10 & 1) o.explored = add<bool>(to, m, "explored", rows);
  if (top_n == 0) return;
  o.top_n = top_n;
  o.top_ids = add<int64_t>(to, m, "top_ids", rows * top_n);
  o.top_logps = add<float>(to, m, "top_logps", rows * top_n);
}

template <typename Call>
Results run_draw(Call call, void (*row)(const Call&, int64_t, const Pool&), uint32_t bits,
                 int64_t top_n, const Runner& runner, Memory& memory, Results results = {}) {
  add_outputs(call.out, call.x.rows, bits, top_n, memory, results);
  KeptRows kept;
  kept.memory = &memory;
  kept.rows.resize(size_t(call.x.rows));
  if (bits & kKept) call.out.kept = {&kept, KeptRows::reserve};
  run_rows(call, row, runner);
  for (const KeptRows::Row& r : kept.rows)
    results.push_back({Output::kExact, "kept", r.p, size_t(r.n) * 4});
  return results;
}

std::string absurd_draw(const Results& r, size_t first, const RowsView& x, const MaskView& mask) {
  const int64_t* const ids = static_cast<const int64_t*>(r[first].data);
  const uint8_t* const status = static_cast<const uint8_t*>(r[first + 1].data);
  for (int64_t i = 0; i < x.rows; ++i) {
    const std::string wrong = absurd_id(ids[i], x, mask, i);
    if (!wrong.empty()) return wrong;
    if ((ids[i] == -1) != (status[i] != kOk)) return "status of row " + std::to_string(i);
  }
  return "";
}

Options some_options(Source& s) {
  Options o;
  o.order = FilterOrder(s.byte() % 3);
  const int bits = s.byte();
  o.ties_all = bits & 1;
  o.mix_valid = bits & 2;
  o.domain = uint32_t(bits >> 2 & 3);
  return o;
}

int64_t some_rows(Source& s) { return s.between(1, 4); }

struct SampleCase : Case {
  SampleCall call;
  uint32_t bits = 0;
  int64_t top_n = 0;
  Results run(const Runner& r, Memory& memory) const override {
    return run_draw(call, r.engine.sample_row, bits, top_n, r, memory);
  }
  std::string absurd(const Results& r) const override {
    return absurd_draw(r, 0, call.x, call.mask);
  }
};

std::unique_ptr<SampleCase> sample_case(Inputs& in, bool ruled) {
  auto made = std::make_unique<SampleCase>();
  SampleCall& c = made->call;
  c.options = some_options(in.s);
  c.options.probs = !ruled && in.s.one_in(4);
  const int64_t rows = some_rows(in.s), cols = in.some_cols(rows);
  const DType dtype = in.some_dtype();
  c.params = in.params(rows);
  made->bits = (in.s.one_in(3) ? 0xffffu : in.s.word16()) & kAllBits;
  if (in.s.flip()) made->top_n = in.s.between(1, std::min<int64_t>(cols + 2, 40));
  if (c.options.probs) {
    made->bits &= ~uint32_t(kLogits);
    made->top_n = 0;
  }
  c.keys = in.keys(rows);
  c.mask = in.mask(rows, cols);
  if (ruled) {
    c.ruled = true;
    c.options.temperature_last = in.s.one_in(3);
    constexpr double kSigma[] = {0, 0, 0.3, 1, 2, 1e9},
                     kShare[] = {0, 1e-7, 3e-4, 0.01, 0.1, 0.9, 1},
                     kTypical[] = {1, 1, 1, 0.1, 0.3, 0.9, 0},
                     kOff[] = {0, 0, 0, 3e-4, 0.01, 0.3, 1}, kRepeat[] = {1, 1.1, 0.7, 10},
                     kAmount[] = {0, 0.5, -0.25, 1e30};
    c.rules = in.numbers<kRuleColumns>(rows, kRuleColumns, [&](int column) {
      if (column == kTopNSigma) return in.number(kSigma);
      if (column == kTypicalP) return in.number(kTypical);
      if (column == kXtcThreshold) return in.number(kShare);
      if (column == kRepetition) return in.number(kRepeat);
      return column < kRepetition ? in.number(kOff) : in.number(kAmount);
    });
    c.edits.history = in.lists(rows, cols, false);
    c.edits.prompt = in.lists(rows, cols, false);
    c.edits.suppress = in.lists(rows, cols, false);
    c.edits.bias = in.lists(rows, cols, true);
    if (c.edits.bias.ids) c.edits.values = in.floats(c.edits.bias.total);
  }
  c.x = in.rows(rows, cols, dtype, c.options.probs);
  made->about = shape_of(c.x) + (c.options.probs ? " probabilities" : "");
  return made;
}

struct MixtureCase : Case {
  MixtureCall call;
  uint32_t bits = 0;
  Results run(const Runner& r, Memory& memory) const override {
    MixtureCall c = call;
    const int64_t n = c.members * c.x.rows;
    Results results;
    if (bits >> 12 & 1) c.member_logp = add<float>(results, memory, "member_logp", n);
    if (bits >> 13 & 1) c.member_entropy = add<float>(results, memory, "member_entropy", n);
    if (bits >> 14 & 1) c.mean_entropy = add<float>(results, memory, "mean_entropy", c.x.rows);
    if (bits >> 15 & 1)
      c.mutual_information = add<float>(results, memory, "mutual_information", c.x.rows);
    return run_draw(c, r.engine.mixture_row, bits & kAllBits, 0, r, memory, results);
  }
  std::string absurd(const Results& r) const override {
    size_t first = 0;
    for (int bit = 12; bit < 16; ++bit) first += bits >> bit & 1;
    return absurd_draw(r, first, call.x, call.mask);
  }
};

}  // namespace

std::unique_ptr<Case> make_sample(Inputs& in) { return sample_case(in, false); }
std::unique_ptr<Case> make_processed(Inputs& in) { return sample_case(in, true); }

std::unique_ptr<Case> make_mixture(Inputs& in) {
  auto made = std::make_unique<MixtureCase>();
  MixtureCall& c = made->call;
  c.how = Combination(in.s.byte() % 5);
  c.options = some_options(in.s);
  c.options.probs = c.how == Combination::kArithmetic;
  const bool mean = is_mean(c.how);
  c.members = !mean             ? 2
              : in.s.one_in(16) ? int(in.s.between(1, kMaxMembers))
                                : int(in.s.between(1, 4));
  const int64_t rows = some_rows(in.s), cols = in.some_cols(rows * c.members);
  const DType dtype = in.some_dtype();
  uint32_t offered = 1u << 1 | 1u << 4 | 15u << 7 | kKept | 3u << 12;
  if (mean) offered |= 1u << 14;
  if (c.how == Combination::kArithmetic) offered |= 1u << 15;
  made->bits = (in.s.one_in(3) ? 0xffffu : in.s.word16()) & offered;
  constexpr double kShares[] = {0, 1, 0.5, 0.3, 2}, kStrength[] = {0, 1.5, -2, 1, 1e30},
                   kPlausible[] = {0, 0.1, 1, 1e-9};
  c.weights = in.numbers<kMaxMembers>(rows, weight_columns(c.how, c.members), [&](int column) {
    return mean ? in.number(kShares) : column == 0 ? in.number(kStrength) : in.number(kPlausible);
  });
  c.params = in.params(rows);
  c.keys = in.keys(rows);
  c.mask = in.mask(rows, cols);
  for (int m = 0; m < c.members; ++m) c.member[m] = in.rows(rows, cols, dtype, false);
  c.x = c.member[0];
  made->about = shape_of(c.x) + ", how " + std::to_string(int(c.how)) + ", members " +
                std::to_string(c.members);
  return made;
}

namespace {

struct MultinomialCase : Case {
  MultinomialCall call;
  Results run(const Runner& r, Memory& memory) const override {
    MultinomialCall c = call;
    Results results;
    c.ids = add<int64_t>(results, memory, "ids", c.x.rows * c.num_samples);
    c.status = add<uint8_t>(results, memory, "status", c.x.rows);
    run_rows(c, r.engine.multinomial_row, r);
    return results;
  }
  std::string absurd(const Results& r) const override {
    return first_absurd(r, call.x, call.num_samples);
  }
};

}  // namespace

std::unique_ptr<Case> make_multinomial(Inputs& in) {
  auto made = std::make_unique<MultinomialCase>();
  MultinomialCall& c = made->call;
  c.num_samples = in.s.flip() ? 1 : in.s.one_in(16) ? in.s.between(60, 2000) : in.s.between(2, 60);
  c.replacement = in.s.flip();
  const int64_t rows = some_rows(in.s), cols = in.some_cols(rows);
  const DType dtype = in.some_dtype();
  c.keys = in.keys(rows);
  c.x = in.rows(rows, cols, dtype, true);
  made->about = shape_of(c.x) + ", " + std::to_string(c.num_samples) + " draws" +
                (c.replacement ? " with replacement" : "");
  return made;
}

}  // namespace native
