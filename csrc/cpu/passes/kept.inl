// SPDX-License-Identifier: Apache-2.0
// What a row keeps, while it is being narrowed.
#pragma once

namespace fusedraw {
namespace {

// K of a row: the cut, and a list of all its tokens where one was short enough.
struct Kept {
  Cut cut;
  Cut base;           // what the filters chose from
  bool whole = true;  // nothing was cut
  bool listed = false;
  List list;
};

bool keeps_all(const Row& r, const Cut& cut) {
  return cut.lo <= smallest_valid(r) && cut.last == kAllTies;
}

void narrow(Kept& k, const Row& r, const Cut& by) {
  k.cut = stricter(k.cut, by);
  k.whole = keeps_all(r, k.cut);
  if (k.listed && !k.whole) cut_list(k.list, k.cut);
}

}  // namespace
}  // namespace fusedraw
