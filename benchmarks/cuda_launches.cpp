// SPDX-License-Identifier: Apache-2.0
// The launchers of csrc/cuda, called from Python (cuda_launches.py): each launch runs on the
// executor and is counted, or is only written down with its parameters as a device would get them,
// for the machine code to be executed by others.
#include <algorithm>
#include <cstdint>
#include <cstring>
#include <stdexcept>
#include <string>
#include <vector>

// The launchers call simt::launch_kernel; the executor's own keeps another name.
#define launch_kernel executor_launch_kernel
#include "../csrc/simt/executor.h"
#undef launch_kernel
#include "../csrc/simt/symbols.h"

namespace {

int64_t most_blocks = 0;  // thread blocks of a launch that run, the first ones; 0: all
bool recording = false;   // nothing runs
std::string launched;     // JSON objects, one a launch

std::string hex(const std::vector<uint8_t>& bytes) {
  std::string text;
  for (uint8_t b : bytes) {
    text += "0123456789abcdef"[b >> 4];
    text += "0123456789abcdef"[b & 15];
  }
  return text;
}

// Parameters lie one after another, each at a multiple of its alignment.
template <typename P>
void place(std::vector<uint8_t>& bytes, const P& value) {
  const size_t at = (bytes.size() + alignof(P) - 1) / alignof(P) * alignof(P);
  bytes.resize(at + sizeof(P));
  memcpy(bytes.data() + at, &value, sizeof(P));
}

void note(const std::string& kernel, dim3 grid, int threads, const std::string& more) {
  if (!launched.empty()) launched += ',';
  launched += "{\"kernel\":\"" + kernel + "\",\"blocks\":" + std::to_string(grid.x) +
              ",\"threads\":" + std::to_string(threads) + more + "}";
}

}  // namespace

namespace fusedraw::simt {

template <typename... Parameters, typename... Arguments>
void launch_kernel(void (*kernel)(Parameters...), dim3 grid, int threads, size_t shared_bytes,
                   const Arguments&... arguments) {
  if (grid.y != 1 || grid.z != 1) throw std::runtime_error("a grid of more than one dimension");
  const std::string name = function_name(reinterpret_cast<void*>(kernel));
  if (recording) {
    std::vector<uint8_t> bytes;
    (place<Parameters>(bytes, Parameters(arguments)), ...);
    note(name, grid, threads,
         ",\"shared\":" + std::to_string(shared_bytes) + ",\"parameters\":\"" + hex(bytes) + "\"");
    return;
  }
  dim3 some = grid;
  if (most_blocks > 0) some.x = unsigned(std::min(int64_t(grid.x), most_blocks));
  reset_records();
  executor_launch_kernel(kernel, some, threads, shared_bytes, arguments...);
  const Counts c = records().back().counts;
  note(name, grid, threads,
       ",\"ran\":" + std::to_string(some.x) + ",\"read\":" + std::to_string(c.global_read_bytes) +
           ",\"written\":" + std::to_string(c.global_written_bytes) + ",\"loads16\":" +
           std::to_string(c.loads16) + ",\"sectors\":" + std::to_string(c.sectors));
}

}  // namespace fusedraw::simt

#include "../csrc/cuda/bfloat16.cu"
#include "../csrc/cuda/common.cu"
#include "../csrc/cuda/float16.cu"
#include "../csrc/cuda/float32.cu"
#include "../csrc/cuda/processed_bfloat16.cu"
#include "../csrc/cuda/processed_float16.cu"
#include "../csrc/cuda/processed_float32.cu"

// As sample_ops of csrc/ops calls it, with one row of parameters for all rows.
struct SampleArguments {
  const void* logits;
  int64_t dtype, rows, cols, row_stride;
  double params[fusedraw::kParamColumns];
  const uint64_t* keys;  // [rows, 2]
  int64_t order;
  int64_t* ids;
  float *logp, *entropy;  // null: not asked for
  void* workspace;
};

namespace {

fusedraw::SampleCall call_of(const SampleArguments& a) {
  fusedraw::SampleCall call;
  call.x = {a.logits, fusedraw::DType(a.dtype), a.rows, a.cols, a.row_stride};
  std::copy(a.params, a.params + fusedraw::kParamColumns, call.params.row);
  call.keys.data = a.keys;
  call.options.order = fusedraw::FilterOrder(a.order);
  call.out.ids = a.ids;
  call.out.logp = a.logp;
  call.out.entropy = a.entropy;
  return call;
}

}  // namespace

extern "C" int64_t fusedraw_sample_workspace(const SampleArguments* a) {
  return fusedraw::cuda::sample_workspace(call_of(*a));
}

// What was launched, as JSON; {"error": ...} where that failed. Valid until the next call.
extern "C" const char* fusedraw_sample(const SampleArguments* a, int64_t blocks, int record) {
  static std::string said;
  launched.clear();
  recording = record != 0;
  most_blocks = blocks;
  try {
    const char* error = fusedraw::cuda::launch_sample(call_of(*a), a->workspace, nullptr);
    if (error != nullptr) throw std::runtime_error(error);
    said = "{\"launches\":[" + launched + "]}";
  } catch (const std::exception& e) {
    std::string text = e.what();
    for (char& c : text)
      if (c == '"' || c == '\\' || c == '\n') c = '\'';
    said = "{\"error\":\"" + text + "\"}";
  }
  return said.c_str();
}
