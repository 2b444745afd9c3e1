// SPDX-License-Identifier: Apache-2.0
//
// llama.cpp's candidate array, filled from a row of logits as its own programs do before each call
// of a sampler: one struct a token. Layout: llama_token_data of llama.h.
#include <cstdint>

namespace {

struct TokenData {
  int32_t id;
  float logit;
  float p;
};

}  // namespace

extern "C" void llama_fill(TokenData* out, const float* logits, int64_t vocab) {
  for (int64_t i = 0; i < vocab; ++i) out[i] = {int32_t(i), logits[i], 0.0F};
}
