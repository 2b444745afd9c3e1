// SPDX-License-Identifier: Apache-2.0
// From the tensors of an operator to the call of an engine, for every device alike: all checks of
// metadata, views of the inputs, new outputs on the device of the rows.
//
// Each struct keeps the tensors alive that its call points into. Rows and outputs are as in
// schema.h; what a device adds (engine or launch, kept sets, bad rows) is in cpu_ops.cpp and
// cuda_ops.cpp.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <initializer_list>
#include <optional>
#include <tuple>
#include <vector>

#include "../core/mixture.h"
#include "checks.h"

namespace fusedraw {

using torch::headeronly::ScalarType;
using OptionalTensor = std::optional<Tensor>;

// Bits of `outputs`, in the order in which the operator returns them.
enum OutputBit {
  kStatusBit = 1 << 0,
  kLogpBit = 1 << 1,
  kLogpFullBit = 1 << 2,
  kLogpRawBit = 1 << 3,
  kEntropyBit = 1 << 4,
  kVarentropyBit = 1 << 5,
  kMarginBit = 1 << 6,
  kNKeptBit = 1 << 7,
  kKeptMassBit = 1 << 8,
  kRankBit = 1 << 9,
  kExploredBit = 1 << 10,
  kKeptBit = 1 << 11,
  kLogitsOnlyBits = kLogpFullBit | kLogpRawBit | kEntropyBit | kVarentropyBit,
  kAllBits = (1 << 12) - 1,
  // Of mixture alone.
  kMemberLogpBit = 1 << 12,
  kMemberEntropyBit = 1 << 13,
  kMeanEntropyBit = 1 << 14,
  kMutualInformationBit = 1 << 15,
  kMixtureBits = kStatusBit | kLogpBit | kEntropyBit | kNKeptBit | kKeptMassBit | kRankBit |
      kExploredBit | kKeptBit | kMemberLogpBit | kMemberEntropyBit | kMeanEntropyBit |
      kMutualInformationBit,
};

Tensor new_tensor(std::initializer_list<int64_t> shape, ScalarType dtype, const Device& device);

template <typename T>
T* data(const Tensor& t) {
  return static_cast<T*>(t.mutable_data_ptr());
}

// What comes back from a draw, in the order of its operator.
struct DrawResults {
  std::vector<Tensor> results;     // up to the kept sets
  std::vector<Tensor> after_kept;  // behind them
  OptionalTensor status, n_kept;   // of `results`
};

// The lists of sample_processed, in the order of its schema.
struct EditTensors {
  OptionalTensor history, history_offsets, prompt, prompt_offsets, suppress, suppress_offsets, bias,
      bias_offsets, bias_values;
};

struct SampleTensors : DrawResults {
  SampleTensors(const Tensor& logits, const Tensor& params, const Tensor& keys,
                const OptionalTensor& mask, int64_t mode_bits, int64_t outputs, int64_t top_n,
                bool processed = false);
  // Adds what sample_processed has beyond sample.
  void add_rules(const Tensor& rules, const EditTensors& edits);

  Mode mode;
  const char* op;
  Tensor x;
  Device device;
  bool wants_kept;
  SampleCall call;  // without `kept`

 private:
  Tensor mask_, params_, keys_;
  std::vector<Tensor> held_;
};

struct MixtureTensors : DrawResults {
  MixtureTensors(const std::vector<Tensor>& members, const Tensor& weights, const Tensor& params,
                 const Tensor& keys, const OptionalTensor& mask, int64_t how, int64_t mode_bits,
                 int64_t outputs);

  Mode mode;
  const char* op = "mixture";
  std::vector<Tensor> members;
  Device device;
  bool wants_kept;
  MixtureCall call;  // without `kept`

 private:
  Tensor mask_, weights_, params_, keys_;
};

struct SoftmaxTensors {
  SoftmaxTensors(const Tensor& logits, const Tensor& temperature, const OptionalTensor& mask,
                 const Mode& mode);

  const char* op;
  Tensor x;
  Device device;
  SoftmaxCall call;
  Tensor out, status;

 private:
  Tensor mask_;
};

struct FilterTensors {
  FilterTensors(const Tensor& values, const Tensor& params, const OptionalTensor& mask,
                const Mode& mode, int64_t kind);

  const char* op;
  Tensor x;
  Device device;
  FilterCall call;
  Tensor out, status;

 private:
  Tensor mask_, params_;
};

struct MultinomialTensors {
  MultinomialTensors(const Tensor& probs, const Tensor& keys, int64_t num_samples,
                     bool replacement);

  const char* op = "multinomial";
  Tensor x;
  Device device;
  MultinomialCall call;
  Tensor ids, status;

 private:
  Tensor keys_;
};

// The four parts of derive_keys in the order of its schema, stride 0 where one serves all rows.
struct DeriveTensors {
  DeriveTensors(const Tensor& seed, const Tensor& request_ids, const Tensor& sample_ids,
                const Tensor& step);

  const char* op = "derive_keys";
  Device device;
  int64_t rows = 1;
  const int64_t* part[4];
  int64_t stride[4];
};

// int64 [rows of logits, 2], to be filled.
Tensor new_row_keys(const Tensor& logits);

// softmax of float64 rows on the CPU: the formula in double, for gradient checks. No promise of
// bits.
std::tuple<Tensor, Tensor> softmax_double(const Tensor& logits, const Tensor& temperature,
                                          const OptionalTensor& mask, const Mode& mode);

}  // namespace fusedraw
