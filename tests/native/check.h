// SPDX-License-Identifier: Apache-2.0
// A case on every engine: the outputs of all equal to those of R2, the inputs as they were.
#pragma once

#include "cases.h"
#include "engine_list.h"

namespace native {

// "" or what went wrong. The memories are the caller's; `reference` holds R2's outputs afterwards.
inline std::string check_case(const Case& made, const Memory& inputs, Memory& reference,
                              Memory& outputs, const Pool& pool, int row_threads = 1) {
  static const std::vector<const Engine*> all = available_engines();
  const uint64_t before = inputs.hash();
  reference.fill = 0x5a;  // what neither writes is no match
  outputs.fill = 0xa5;
  reference.reset();
  const Results expected = made.run({*all[0], Pool{}}, reference);
  std::string wrong = made.absurd(expected);
  for (size_t i = 1; wrong.empty() && i < all.size(); ++i) {
    outputs.reset();
    wrong = difference(made.run({*all[i], pool, row_threads}, outputs), expected);
    if (!wrong.empty()) wrong = std::string(all[i]->name) + ": " + wrong;
  }
  if (wrong.empty() && inputs.hash() != before) wrong = "an input was written to";
  return wrong.empty() ? wrong : made.about + ": " + wrong;
}

}  // namespace native
