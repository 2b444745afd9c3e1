// SPDX-License-Identifier: Apache-2.0
// An engine: one implementation of the law for one instruction set, as a table of row functions.
#pragma once

#include "token_logprob.h"
#include "call.h"
#include "mixture.h"
#include "route.h"
#include "verify.h"

namespace fusedraw {

// The caller's thread pool, lent to an engine that splits one long row over its blocks.
struct Pool {
  int threads = 1;
  void* context = nullptr;
  // Runs task(argument, i) for i in [0, n), perhaps concurrently; returns when all are done.
  void (*run)(void* context, int64_t n, void (*task)(void*, int64_t), void* argument) = nullptr;
};

struct Engine {
  const char* name;
  bool (*available)();
  void (*sample_row)(const SampleCall&, int64_t row, const Pool&);
  void (*softmax_row)(const SoftmaxCall&, int64_t row, const Pool&);
  void (*filter_row)(const FilterCall&, int64_t row, const Pool&);
  void (*multinomial_row)(const MultinomialCall&, int64_t row, const Pool&);
  void (*token_logprob_row)(const TokenLogprobCall&, int64_t row, const Pool&);
  void (*token_logprob_grad_row)(const TokenLogprobGradCall&, int64_t row, const Pool&);
  void (*mixture_row)(const MixtureCall&, int64_t row, const Pool&);
  void (*route_row)(const RouteCall&, int64_t row, const Pool&);
  void (*verify_row)(const VerifyCall&, int64_t row, const Pool&);
  // Hash of the weights of all floats whose bits lie in [begin, end); see docs/law.md.
  uint64_t (*weight_hash)(uint32_t begin, uint32_t end);
};

// FNV-style combination used by weight_hash: order of the floats matters, width of the lanes not.
FD_FN uint64_t hash_step(uint64_t h, uint64_t w) { return (h ^ w) * 0x100000001b3ull; }
constexpr uint64_t kHashSeed = 0xcbf29ce484222325ull;

}  // namespace fusedraw
