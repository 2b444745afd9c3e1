// SPDX-License-Identifier: Apache-2.0
// Every operator's schema, one line each. `mode`, `outputs` and `kind` are explained in
// cpu_ops.cpp.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(fusedraw, m) {
  m.def(
      "sample(Tensor logits, Tensor params, Tensor keys, Tensor? mask, int mode, int outputs, "
      "int top_n) -> Tensor[]");
  m.def("row_keys(Tensor logits, int seed, int step) -> Tensor");
  m.def("derive_keys(Tensor seed, Tensor request_ids, Tensor sample_ids, Tensor step) -> Tensor");
  m.def("softmax(Tensor logits, Tensor temperature, Tensor? mask, int mode) -> (Tensor, Tensor)");
  m.def("filter(Tensor x, Tensor params, Tensor? mask, int mode, int kind) -> (Tensor, Tensor)");
  m.def(
      "multinomial(Tensor probs, Tensor keys, int num_samples, bool replacement, int mode) -> "
      "(Tensor, Tensor)");
}
