// SPDX-License-Identifier: Apache-2.0
// The CUDA kernels without torch: draws all|sample SCHEDULE... runs every operator, or that one, on
// a few generated rows under each schedule and compares with the reference engine. Exit code 1:
// something differs.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "../../csrc/cuda/launch.h"
#include "../../csrc/reference/reference.h"
#include "../../csrc/simt/executor.h"

namespace {

using namespace fusedraw;

int failures = 0;

void check(const char* what, bool truth) {
  if (truth) return;
  fprintf(stderr, "differs: %s\n", what);
  ++failures;
}
template <typename T>
bool same_bits(const std::vector<T>& a, const std::vector<T>& b) {
  return a.size() == b.size() && memcmp(a.data(), b.data(), a.size() * sizeof(T)) == 0;
}
void check_launch(const char* error) { check(error ? error : "", error == nullptr); }

struct Workspace {
  explicit Workspace(int64_t bytes) : memory(size_t(bytes) + 256) {}
  void* get() {
    return reinterpret_cast<void*>((reinterpret_cast<uintptr_t>(memory.data()) + 255) &
                                   ~uintptr_t{255});
  }
  std::vector<uint8_t> memory;
};

// Rows of bfloat16 between 0 and 8, about normal; as probabilities just as good.
struct Rows {
  Rows(int64_t rows, int64_t cols) : x(size_t(rows * cols)), keys(size_t(2 * rows)) {
    uint64_t state = uint64_t(cols);
    const auto next = [&state] {
      state = state * 6364136223846793005u + 1442695040888963407u;
      return uint32_t(state >> 33);
    };
    for (uint16_t& bits : x) {
      const float sum = float(next() % 1024 + next() % 1024 + next() % 1024 + next() % 1024);
      bits = uint16_t(bits_of(sum / 512.0f) >> 16);
    }
    for (uint64_t& key : keys) key = uint64_t(next()) << 32 | next();
    view = {x.data(), DType::kBFloat16, rows, cols, cols};
  }
  std::vector<uint16_t> x;
  std::vector<uint64_t> keys;
  RowsView view;
};

struct Drawn {
  explicit Drawn(int64_t rows)
      : ids(size_t(rows)),
        n_kept(ids),
        rank(ids),
        top_ids(size_t(rows * kTop)),
        status(size_t(rows)),
        floats(size_t(rows * (7 + kTop))) {}
  SampleOutputs view() {
    const int64_t n = int64_t(ids.size());
    SampleOutputs o;
    o.ids = ids.data();
    o.n_kept = n_kept.data();
    o.rank = rank.data();
    o.status = status.data();
    float** const each[] = {&o.logp,   &o.logp_full, &o.logp_raw,  &o.entropy,
                            &o.margin, &o.kept_mass, &o.varentropy};
    float* at = floats.data();
    for (float** f : each) {
      *f = at;
      at += n;
    }
    o.top_ids = top_ids.data();
    o.top_logps = at;
    o.top_n = kTop;
    return o;
  }
  bool operator==(const Drawn& o) const {
    return same_bits(ids, o.ids) && same_bits(n_kept, o.n_kept) && same_bits(rank, o.rank) &&
           same_bits(top_ids, o.top_ids) && same_bits(status, o.status) &&
           same_bits(floats, o.floats);
  }
  static constexpr int64_t kTop = 3;
  std::vector<int64_t> ids, n_kept, rank, top_ids;
  std::vector<uint8_t> status;
  std::vector<float> floats;
};

template <typename Call>
void by_reference(void (*row_of)(const Call&, int64_t, const Pool&), const Call& call) {
  for (int64_t r = 0; r < call.x.rows; ++r) row_of(call, r, Pool{});
}

// Lists and rules that all rows share.
struct Processing {
  explicit Processing(int64_t cols) : history(500), prompt(40) {
    for (size_t i = 0; i < history.size(); ++i) history[i] = int64_t(i * i * 7 % size_t(cols));
    for (size_t i = 0; i < prompt.size(); ++i) prompt[i] = int64_t(i * 11);
  }
  void add_to(SampleCall& call) const {
    const auto list = [](const std::vector<int64_t>& ids) {
      IdLists l;
      l.ids = ids.data();
      l.length = int64_t(ids.size());
      return l;
    };
    call.ruled = true;
    call.edits.history = list(history);
    call.edits.prompt = list(prompt);
    call.edits.bias = list(prompt);
    call.edits.bias.offsets = offsets;
    call.edits.bias.total = offsets[1];
    call.edits.values = values;
    call.rules.data = rules;
  }
  std::vector<int64_t> history, prompt;
  int64_t offsets[2] = {0, 3};
  float values[3] = {1.5f, -2.0f, 0.5f};
  double rules[kRuleColumns] = {2.0, 0.9, 1e-4, 1e-3, 0.02, 1.0, 1.2, 0.1, 0.05};
};

void draw(const Rows& rows, double temperature, double top_p, double top_k, bool processed) {
  const double table[kParamColumns] = {temperature, top_p, 0.0, 0.25, top_k};
  const Processing processing(rows.view.cols);
  SampleCall call;
  call.x = rows.view;
  call.params.data = table;
  call.keys.data = rows.keys.data();
  if (processed) processing.add_to(call);
  Drawn expected(rows.view.rows), got(rows.view.rows);
  call.out = expected.view();
  by_reference(reference_engine().sample_row, call);
  call.out = got.view();
  Workspace space(cuda::sample_workspace(call));
  check_launch(cuda::launch_sample(call, space.get(), nullptr));
  check(processed ? "sample_processed" : "sample", got == expected);
  std::vector<int64_t> offsets(size_t(rows.view.rows + 1));
  check_launch(cuda::launch_kept_offsets(call.out.n_kept, rows.view.rows, offsets.data(), nullptr));
  std::vector<int32_t> ids(size_t(offsets.back()), -1);
  check_launch(cuda::launch_kept_ids(call, space.get(), offsets.data(), ids.data(), nullptr));
  for (int32_t id : ids) check("kept", id >= 0);
}

void softmax(const Rows& rows) {
  const double temperature = 0.7;
  std::vector<float> expected(rows.x.size()), got(rows.x.size());
  SoftmaxCall call;
  call.x = rows.view;
  call.temperature = &temperature;
  call.out = expected.data();
  std::vector<uint8_t> status(size_t(rows.view.rows), 0xff);
  call.status = status.data();
  by_reference(reference_engine().softmax_row, call);
  call.out = got.data();
  Workspace space(cuda::softmax_workspace(call));
  check_launch(cuda::launch_softmax(call, space.get(), nullptr));
  check("softmax", same_bits(got, expected));
}

void mask(const Rows& rows) {
  const double table[kParamColumns] = {1.0, 0.5, 0.0, 0.0, 70.0};
  std::vector<uint16_t> expected(rows.x.size()), got(rows.x.size());
  FilterCall call;
  call.x = rows.view;
  call.params.data = table;
  call.out = expected.data();
  std::vector<uint8_t> status(size_t(rows.view.rows), 0xff);
  call.status = status.data();
  by_reference(reference_engine().filter_row, call);
  call.out = got.data();
  Workspace space(cuda::filter_workspace(call));
  check_launch(cuda::launch_filter(call, space.get(), nullptr));
  check("filter", same_bits(got, expected));
}

void multinomial(const Rows& rows, int64_t n, bool replacement) {
  std::vector<int64_t> expected(size_t(n * rows.view.rows)), got(expected);
  MultinomialCall call;
  call.x = rows.view;
  call.keys.data = rows.keys.data();
  call.num_samples = n;
  call.replacement = replacement;
  call.ids = expected.data();
  std::vector<uint8_t> status(size_t(rows.view.rows), 0xff);
  call.status = status.data();
  by_reference(reference_engine().multinomial_row, call);
  call.ids = got.data();
  Workspace space(cuda::multinomial_workspace(call));
  check_launch(cuda::launch_multinomial(call, space.get(), nullptr));
  check("multinomial", same_bits(got, expected));
}

// A draft from one half of the rows, a target of both halves: the first draft that is accepted, and
// the first that is replaced.
void verify(const Rows& rows) {
  const double table[kParamColumns] = {0.8, 0.9, 0.0, 0.0, 0};
  VerifyCall call;
  const int64_t cols = int64_t(rows.x.size()) / 2;
  int64_t id = 0;
  call.x.rows = 1;
  call.x.cols = cols;
  call.drafts = 1;
  call.target.x = {rows.x.data(), DType::kBFloat16, 1, 2, cols, 0, cols};
  call.draft.x = {rows.x.data() + cols, DType::kBFloat16, 1, 1, cols, 0, 0};
  call.target.params.data = call.draft.params.data = table;
  call.draft_ids = &id;
  call.keys.data = rows.keys.data();
  bool seen[2] = {};
  for (; id < cols && !(seen[0] && seen[1]); ++id) {
    std::vector<int64_t> ids[2] = {{7, 7}, {7, 7}}, accepted[2] = {{7}, {7}};
    std::vector<float> logp[2] = {{7, 7}, {7, 7}};
    std::vector<uint8_t> status[2] = {{7}, {7}};
    const auto store_at = [&](size_t i) {
      call.ids = ids[i].data();
      call.n_accepted = accepted[i].data();
      call.logp = logp[i].data();
      call.status = status[i].data();
    };
    store_at(0);
    by_reference(reference_engine().verify_row, call);
    if (status[0][0] != kOk || seen[accepted[0][0]]) continue;
    seen[accepted[0][0]] = true;
    store_at(1);
    Workspace space(cuda::verify_workspace(call));
    check_launch(cuda::launch_verify(call, space.get(), nullptr));
    check("verify", same_bits(ids[0], ids[1]) && same_bits(accepted[0], accepted[1]) &&
                        same_bits(logp[0], logp[1]) && status[0] == status[1]);
  }
  check("both kinds of verdicts", seen[0] && seen[1]);
}

}  // namespace

int main(int argc, char** argv) {
  const bool all = argc > 1 && strcmp(argv[1], "all") == 0;
  for (int i = 2; i < argc; ++i) {
    simt::options().schedule = strtoull(argv[i], nullptr, 10);
    simt::options().check_shared = false;  // ThreadSanitizer looks itself
    for (const Rows& rows : {Rows(2, 1000), Rows(1, 33'000)}) {
      draw(rows, 0.8, 0.9, 50, false);
      draw(rows, 0.8, 1.0, 0, true);
      if (!all) continue;
      draw(rows, 0.8, 0.9, 0, false);
      draw(rows, 0.8, 0.9, 50, true);
      softmax(rows);
      mask(rows);
      multinomial(rows, 20, true);
      multinomial(rows, 20, false);
      verify(rows);
    }
  }
  return failures != 0;
}
