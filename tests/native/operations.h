// SPDX-License-Identifier: Apache-2.0
// The operators as cases, and what their runs share.
#pragma once

#include <functional>
#include <sstream>

#include "../../csrc/cpu/fp_env.h"
#include "cases.h"

namespace native {

// draws.cpp
std::unique_ptr<Case> make_sample(Inputs& in);
std::unique_ptr<Case> make_processed(Inputs& in);
std::unique_ptr<Case> make_mixture(Inputs& in);
std::unique_ptr<Case> make_multinomial(Inputs& in);
// whole_rows.cpp
std::unique_ptr<Case> make_softmax(Inputs& in);
std::unique_ptr<Case> make_filter(Inputs& in);
std::unique_ptr<Case> make_token_logprob(Inputs& in);
std::unique_ptr<Case> make_route(Inputs& in);
std::unique_ptr<Case> make_verify(Inputs& in);

// task(i) for i in [0, n) on std::threads, each in the floating-point mode of the law.
void on_threads(int threads, int64_t n, const std::function<void(int64_t)>& task);

template <typename Call>
void run_rows(const Call& call, void (*row)(const Call&, int64_t, const Pool&), const Runner& r) {
  if (r.row_threads > 1) {
    on_threads(r.row_threads, call.x.rows, [&](int64_t i) { row(call, i, r.pool); });
    return;
  }
  FpEnv mode;
  for (int64_t i = 0; i < call.x.rows; ++i) row(call, i, r.pool);
}

template <typename T>
T* add(Results& to, Memory& memory, const char* name, int64_t n) {
  const size_t bytes = size_t(n) * sizeof(T);
  T* const p = static_cast<T*>(memory.take(bytes, sizeof(T)));
  to.push_back({std::is_same<T, float>::value ? Output::kFloat32 : Output::kExact, name, p, bytes});
  return p;
}
// Of the type of the rows.
inline void* add_row_typed(Results& to, Memory& memory, const char* name, DType t, int64_t n) {
  constexpr Output::Kind kKinds[] = {Output::kFloat32, Output::kBFloat16, Output::kFloat16};
  const size_t bytes = size_t(n * size_of(t));
  void* const p = memory.take(bytes, size_t(size_of(t)));
  to.push_back({kKinds[int(t)], name, p, bytes});
  return p;
}

// No id out of [0, cols), none that the mask excludes; -1 is "nothing".
inline std::string absurd_id(int64_t id, const RowsView& x, const MaskView& mask, int64_t row) {
  if (id == -1 || (id >= 0 && id < x.cols && mask_allows(mask, row, id))) return "";
  return "id " + std::to_string(id) + " in row " + std::to_string(row);
}

// The same for several ids a row, whose output comes first; mask_of(row, place): of one row.
template <typename MaskOf>
std::string first_absurd(const Results& r, const RowsView& x, int64_t per_row, MaskOf mask_of) {
  const int64_t* const ids = static_cast<const int64_t*>(r[0].data);
  std::string wrong;
  for (int64_t i = 0; wrong.empty() && i < x.rows * per_row; ++i)
    wrong = absurd_id(ids[i], x, mask_of(i / per_row, i % per_row), 0);
  return wrong;
}
inline std::string first_absurd(const Results& r, const RowsView& x, int64_t per_row) {
  return first_absurd(r, x, per_row, [](int64_t, int64_t) { return MaskView{}; });
}

inline std::string shape_of(const RowsView& x) {
  constexpr const char* kNames[] = {"float32", "bfloat16", "float16"};
  std::ostringstream text;
  text << kNames[int(x.dtype)] << " [" << x.rows << ", " << x.cols << "] stride " << x.row_stride;
  return text.str();
}

}  // namespace native
