// SPDX-License-Identifier: Apache-2.0
#include "verify.h"

#include <map>

#include "reference.h"
#include "sorted_row.h"

namespace fusedraw::reference {
namespace {

// The weights of what a position keeps, by id.
struct Law {
  uint8_t status = kOk;
  std::map<int64_t, uint64_t> weights;
  u128 sum = 0;

  uint64_t at(int64_t id) const {
    const auto found = weights.find(id);
    return found == weights.end() ? 0 : found->second;
  }
};

Law law_at(const VerifySide& side, const RowParams& params, int64_t row, int64_t position) {
  Law law;
  const SortedRow sorted =
      read_row(row_at(side.x, row, position), mask_at(side.mask, row, position), 0,
               params.temperature, false);
  law.status = sorted.status;
  if (law.status != kOk) return law;
  for (const Token& t : kept_set(sorted, make_plan(params, side.options))) law.weights[t.id] = t.w;
  for (const auto& [id, w] : law.weights) law.sum += w;
  return law;
}

// The race of the residuals: the block first, then the token within it.
int64_t recover(const Noise& noise, const Law& target, const Law& draft) {
  std::map<int64_t, u128> left, blocks;
  for (const auto& [id, w] : target.weights)
    if (const u128 r = residual(w, target.sum, draft.at(id), draft.sum); r > 0) {
      left[id] = r;
      blocks[id / kBlock] += r;
    }
  const auto first = [&noise](uint32_t purpose, const std::map<int64_t, u128>& runners) {
    int64_t winner = -1;
    double best = 0;
    for (const auto& [id, mass] : runners) {
      const double e = exponential(noise_r64(noise, purpose, id)) / to_double(mass);
      if (winner < 0 || e < best) best = e, winner = id;
    }
    return winner;
  };
  const int64_t block = first(kPurposeBlock, blocks);
  std::map<int64_t, u128> inside;
  for (const auto& [id, r] : left)
    if (id / kBlock == block) inside[id] = r;
  return first(kPurposeToken, inside);
}

// An ordinary draw of the target at a position.
RowResult bonus(const VerifyCall& call, const double* params, int64_t row, int64_t position) {
  const Noise noise = position_noise(call, row, position, kTarget);
  const uint64_t key[2] = {noise.seed, noise.offset};
  SampleCall draw;
  draw.x = row_at(call.target.x, row, position);
  draw.mask = mask_at(call.target.mask, row, position);
  draw.params.data = params;
  draw.keys.data = key;
  draw.options = call.target.options;
  draw.forced = call.forced;
  draw.n_forced = call.n_forced;
  return reference_draw(draw, 0);
}

}  // namespace

void verify_row(const VerifyCall& call, int64_t row, const Pool&) {
  const double* of_target = call.target.params.data + row * call.target.params.row_stride;
  const double* of_draft = call.draft.params.data + row * call.draft.params.row_stride;
  RowParams target_params, draft_params;
  const int64_t n = drafts_of(call, row), at = row * (call.drafts + 1);
  if (!read_side(of_target, target_params) || !read_side(of_draft, draft_params) || n < 0)
    return store_verdict(call, row, kBadParam, 0);
  for (int64_t j = 0; j < n; ++j) {
    const int64_t id = call.draft_ids[row * call.drafts + j];
    if (id < 0 || id >= call.x.cols) return store_verdict(call, row, kBadParam, 0);
    const Law draft = law_at(call.draft, draft_params, row, j);
    if (draft.status != kOk) return store_verdict(call, row, draft.status, 0);
    if (draft.at(id) == 0) return store_verdict(call, row, kBadParam, 0);
    const Law target = law_at(call.target, target_params, row, j);
    if (target.status != kOk) return store_verdict(call, row, target.status, 0);
    const uint64_t r64 = noise_r64(position_noise(call, row, j, kAccept), kPurposeCoin, 0);
    const bool accepted = accepts(r64, target.at(id), target.sum, draft.at(id), draft.sum);
    const int64_t emitted =
        accepted ? id : recover(position_noise(call, row, j, kRecovery), target, draft);
    call.ids[at + j] = emitted;
    if (call.logp) call.logp[at + j] = mixture_log_prob(target.at(emitted), target.sum, 0.0f, 0);
    if (!accepted) return store_verdict(call, row, kOk, j);
  }
  const RowResult drawn = bonus(call, of_target, row, n);
  call.ids[at + n] = drawn.id;
  if (call.logp) call.logp[at + n] = drawn.logp;
  store_verdict(call, row, drawn.status, n);
}

}  // namespace fusedraw::reference
