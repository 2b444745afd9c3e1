// SPDX-License-Identifier: Apache-2.0
// A case: one call of one operator, ready to be run by any engine.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "inputs.h"

namespace native {

// Outputs of one run, in a memory of the caller's. Any NaN equals any NaN.
struct Output {
  enum Kind { kExact, kFloat32, kBFloat16, kFloat16 } kind;
  const char* name;
  const void* data;
  size_t bytes;
};
using Results = std::vector<Output>;

// "" if every bit is the same, else what differs first.
std::string difference(const Results& got, const Results& expected);

struct Runner {
  const Engine& engine;
  Pool pool;            // within a row
  int row_threads = 1;  // std::threads over the rows
};

class Case {
 public:
  virtual ~Case() = default;
  // Runs all rows; outputs go into `memory`, whose buffers they are.
  virtual Results run(const Runner& runner, Memory& memory) const = 0;
  // What cannot be right whatever the law says, or "": an id out of range, or masked.
  virtual std::string absurd(const Results&) const { return ""; }

  std::string about;
};

constexpr int kOperations = 9;
const char* operation_name(int operation);
std::unique_ptr<Case> make_case(Source& source, Memory& inputs, const Fixed& fixed = {});

// A pool without threads: parts one after the other, the last first, so that nothing may hang on
// their order.
Pool pretended_pool(int threads);
// A pool of std::threads that are started for each call.
Pool threaded_pool(int threads);

}  // namespace native
