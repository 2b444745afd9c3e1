// SPDX-License-Identifier: Apache-2.0
#include "verify.cuh"

#include "launch.h"

namespace fusedraw::cuda {
namespace {

const char* position_laws(const VerifyCall& call, bool of_draft, const VerifySpace& space,
                          Stream stream) {
  switch (of_draft ? call.draft.x.dtype : call.target.x.dtype) {
    case DType::kBFloat16:
      return launch_position_laws<BFloat16>(call, of_draft, space, stream);
    case DType::kFloat16:
      return launch_position_laws<Float16>(call, of_draft, space, stream);
    default:
      return launch_position_laws<float>(call, of_draft, space, stream);
  }
}

const char* last_tokens(const VerifyCall& call, const VerifySpace& space, Stream stream) {
  switch (call.target.x.dtype) {
    case DType::kBFloat16:
      return launch_last_tokens<BFloat16>(call, space, stream);
    case DType::kFloat16:
      return launch_last_tokens<Float16>(call, space, stream);
    default:
      return launch_last_tokens<float>(call, space, stream);
  }
}

}  // namespace

int64_t verify_workspace(const VerifyCall& call) { return plan_verify(call, nullptr).bytes; }
const char* launch_verify(const VerifyCall& call, void* workspace, void* stream) {
  if (call.x.rows == 0) return nullptr;
  const Stream s = static_cast<Stream>(stream);
  const VerifySpace space = plan_verify(call, workspace);
  for (const bool of_draft : {true, false})
    if (const char* error = position_laws(call, of_draft, space, s)) return error;
  const int64_t verdicts = (call.x.rows + kThreads - 1) / kThreads;
  if (const char* error = launch(verdict_kernel, verify_grid(verdicts), kThreads, s, call, space))
    return error;
  return last_tokens(call, space, s);
}

}  // namespace fusedraw::cuda
