// SPDX-License-Identifier: Apache-2.0
// Arguments of a call, of whatever the operators let through: made by a source, laid out in a
// memory.
#pragma once

#include "../../csrc/core/engine.h"
#include "memory.h"
#include "source.h"

namespace native {

using namespace fusedraw;

// What a caller fixes of a case; the rest the source decides.
struct Fixed {
  int operation = -1, dtype = -1;
  int64_t cols = 0;
};

class Inputs {
 public:
  Inputs(Source& source, Memory& memory, const Fixed& fixed)
      : s(source), memory_(memory), fixed_(fixed) {}

  // Of `rows` rows in all: the long ones are few.
  int64_t some_cols(int64_t rows);
  DType some_dtype();
  RowsView rows(int64_t n, int64_t cols, DType dtype, bool probs);
  PositionsView positions(int64_t n, int64_t positions, int64_t cols, DType dtype);
  MaskView mask(int64_t rows, int64_t cols);
  PositionsMask positions_mask(int64_t rows, int64_t positions, int64_t cols);
  KeysView keys(int64_t rows);
  IdLists lists(int64_t rows, int64_t cols, bool csr);
  KeptSetsView kept_sets(int64_t rows, int64_t cols, const int64_t* ids);
  int64_t* ids(int64_t n, int64_t cols);  // most of them in [0, cols)
  float* floats(int64_t n);

  // [1 or rows, columns]; `tables` gives the usual values of each column.
  template <int kMost, typename Table>
  NumbersView<kMost> numbers(int64_t rows, int columns, Table number_of) {
    NumbersView<kMost> v;
    const int64_t n = s.flip() ? rows : 1;
    double* const p = array<double>(n * columns);
    for (int64_t i = 0; i < n; ++i)
      for (int c = 0; c < columns; ++c) p[i * columns + c] = number_of(c);
    v.data = p;
    v.row_stride = n > 1 ? columns : 0;
    return v;
  }
  ParamsView params(int64_t rows, bool mixes = true);
  // A value of the table, or any in [0, 1), or any bits.
  template <size_t kN>
  double number(const double (&table)[kN]) {
    return number(table, kN);
  }
  double number(const double* table, size_t n);

  template <typename T>
  T* array(int64_t n) {
    return static_cast<T*>(memory_.take(size_t(n) * sizeof(T), sizeof(T), s.byte() % 16));
  }

  Source& s;

 private:
  void fill(void* to, DType dtype, int64_t n, bool probs);
  int64_t stride(int64_t width);
  void fill_mask(const MaskView& m, void* to, int64_t n, int64_t width);

  Memory& memory_;
  const Fixed fixed_;
};

}  // namespace native
