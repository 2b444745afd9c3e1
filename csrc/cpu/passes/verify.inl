// SPDX-License-Identifier: Apache-2.0
// One row of `verify`: drafts accepted in turn, until one is not or all are. A draft costs two
// weights and the sums of both laws, and these only to within a proven error where that decides; a
// race is run once a row.
//
// The race of the residuals is that of race.inl with two rows: what the target gives a block bounds
// its residual from above, then a float32 estimate of the residual itself does; only blocks that
// neither rules out are added up exactly.
#pragma once

namespace fusedraw {
namespace {

// One model at a position.
struct Reading {
  Row row;
  KeptLaw law;   // its sum where it is known
  Estimate sum;  // which lies between
  bool known = true;
};

void settle(Reading& r, const Pool& pool, Scratch& scratch) {
  if (r.known) return;
  r.law.sum = row_sums(r.row, r.law.rule, Moments::kNone, pool, scratch).s;
  r.sum = {r.law.sum, r.law.sum};
  r.known = true;
}

uint8_t read_position(const VerifySide& side, const RowParams& params, int64_t row,
                      int64_t position, int place, const Pool& pool, Scratch& scratch,
                      Reading& out) {
  const Plan plan = make_plan(params, side.options);
  Row& r = out.row;
  r = open_row(row_at(side.x, row, position), mask_at(side.mask, row, position), 0, false, scratch,
               !plan.greedy, place, 2);
  if (const uint8_t status = scan_row(r, pool); status != kOk) return status;
  r.rule = weight_rule(r.rule.m, plan.greedy ? 1.0f : params.temperature, false);
  const Kept kept = choose_kept(r, plan, pool, scratch);
  out.law = {r.rule, kept.cut, 0};
  if (kept.whole && !plan.greedy) {
    out.known = false;
    out.sum = estimate_sum<false>(r, kept.cut, List(), 0, pool, scratch);
    if (out.sum.most == 0) settle(out, pool, scratch);
  } else {
    out.law.sum = weight_of_kept(r, plan, kept, Sums{}, false);
    out.sum = {out.law.sum, out.law.sum};
  }
  return kOk;
}

uint64_t weight_at(const Reading& r, int64_t id) {
  return kept_weight(r.law, value_of(r.row, id), id);
}

// Both readings share the room for packed masks and block maxima: the draft's go elsewhere.
void set_aside(Row& r, Scratch& scratch) {
  const size_t maxima = size_t(r.blocks + 2 * V::kLanes), words = size_t(r.blocks) * (kBlock / 32);
  float* own = scratch.array<float>(Scratch::kDraftMax, maxima);
  memcpy(own, r.block_max, maxima * sizeof(float));
  r.block_max = own;
  if (r.mask == nullptr) return;
  uint32_t* mask = scratch.array<uint32_t>(Scratch::kDraftMask, words);
  memcpy(mask, r.mask, words * sizeof(uint32_t));
  r.mask = mask;
}

struct Residual {
  const Reading *target, *draft;
  float ratio;  // at most S / Q
  double unit;  // of the bounds: 2^43 Q
};

Residual residual_of(const Reading& target, const Reading& draft) {
  const double q = to_double(draft.law.sum);
  return {&target, &draft, float(to_double(target.law.sum) / q) * kShrink, q * 0x1p43};
}

// What a reading keeps of a block.
const float* kept_block(const Reading& r, int64_t b, float* buffer) {
  return kept_block(r.row, r.law.cut, b, buffer);
}
void block_weights_at(const Reading& r, int64_t b, uint64_t* w) {
  alignas(64) float buffer[kBlock];
  const float* x = kept_block(r, b, buffer);
  with_lanes(r.law.rule, [&](auto lanes) {
    for (int i = 0; i < kBlock; i += V::kLanes) V::store_fixed43(w + i, lanes(V::load(x + i)));
    return 0;
  });
}

// Every residual of block b, and their sum.
u128 block_residuals(const Residual& f, int64_t b, u128* each) {
  alignas(64) uint64_t w[kBlock], v[kBlock];
  block_weights_at(*f.target, b, w);
  block_weights_at(*f.draft, b, v);
  u128 sum = 0;
  for (int i = 0; i < kBlock; ++i)
    sum += each[i] = residual(w[i], f.target->law.sum, v[i], f.draft->law.sum);
  return sum;
}

// At least the sum of block b's residuals, in units of 2^43 Q. With e and d the relative weights of
// both laws, a residual is at most e - d S / Q and what rounding two weights to integers adds.
float most_residual(const Residual& f, int64_t b) {
  alignas(64) float buffer[2][kBlock];
  const float* x = kept_block(*f.target, b, buffer[0]);
  const float* y = kept_block(*f.draft, b, buffer[1]);
  const V::F grow = V::set(kGrow), ratio = V::set(f.ratio), none = V::set(0.0f);
  const V::F slack = V::set(kNoWeight * (1.0f + f.ratio) * kGrow);
  V::F sum = none;
  with_lanes(f.target->law.rule, [&](auto target) {
    return with_lanes(f.draft->law.rule, [&](auto draft) {
      for (int i = 0; i < kBlock; i += V::kLanes) {
        const V::F e = target(V::load(x + i)), d = draft(V::load(y + i));
        const V::F most = V::sub(V::add(V::mul(e, grow), slack), V::mul(d, ratio));
        sum = V::add(sum, V::keep(V::gt(e, V::set(kNoWeight)), V::max(most, none)));
      }
      return 0;
    });
  });
  return V::reduce_add(sum) * kGrow;
}

// The block of the least E / residual. Some block has one, since both laws have the same total;
// should a row change meanwhile, one that exists is given.
int64_t recovered_block(const Residual& f, const Noise& noise, Scratch& scratch) {
  const Row& r = f.target->row;
  const size_t padded = size_t(r.blocks + 2 * V::kLanes);
  float* bounds = scratch.array<float>(Scratch::kBound, padded);
  uint32_t* words = scratch.array<uint32_t>(Scratch::kNoiseWords, padded);
  const int64_t start = block_bounds(Field{&r, f.target->law.cut, false}, noise, bounds, words);
  Winner best;
  float limit = inf32();
  u128 each[kBlock];
  const auto examine = [&](int64_t b) {
    const float most = most_residual(f, b);
    if (most == 0.0f || float(words[b]) * (0x1p-32f * kShrink) / (most * kGrow) > limit) return;
    const u128 mass = block_residuals(f, b, each);
    if (mass == 0) return;
    const double value = exponential(noise_r64(noise, kPurposeBlock, b)) / to_double(mass);
    if (!best.better(value, b)) return;
    best.value = value;
    best.id = b;
    limit = float(value * f.unit) * kGrow;
  };
  if (start >= 0) examine(start);
  for (int64_t first = 0; first < r.blocks; first += V::kLanes) {
    uint32_t open = V::bits(V::ge(V::set(limit), V::load(bounds + first)));
    for (; open != 0; open &= open - 1) {
      const int64_t b = first + __builtin_ctz(open);
      if (b < r.blocks && b != start && bounds[b] <= limit && bounds[b] < inf32()) examine(b);
    }
  }
  return best.id < 0 ? 0 : best.id;
}

int64_t recovered_token(const Residual& f, const Noise& noise, int64_t b) {
  u128 each[kBlock];
  block_residuals(f, b, each);
  alignas(64) uint32_t words[kBlock + 2 * V::kLanes], low[kBlock + 2 * V::kLanes];
  noise_words(noise, kPurposeToken, b * kBlock, kBlock, words, low);
  Winner best;
  for (int i = 0; i < kBlock; ++i) {
    if (each[i] == 0) continue;
    const uint64_t r64 = uint64_t(words[i]) << 32 | low[i];
    const double d = to_double(each[i]);
    if (best.id >= 0 && uniform_open(r64) * (1.0 - 0x1p-48) / d > best.value) continue;
    const double value = exponential(r64) / d;
    if (!best.better(value, b * kBlock + i)) continue;
    best.value = value;
    best.id = b * kBlock + i;
  }
  return best.id < 0 ? b * kBlock : best.id;
}

// One draft, emitted where it is accepted, and else the token in its place.
uint8_t verify_draft(const VerifyCall& call, const RowParams& target_params,
                     const RowParams& draft_params, int64_t row, int64_t position, const Pool& pool,
                     Scratch& scratch, bool& accepted) {
  const int64_t id = call.draft_ids[row * call.drafts + position];
  if (id < 0 || id >= call.x.cols) return kBadParam;
  Reading draft, target;
  // The target last: the race needs its block maxima.
  if (const uint8_t status =
          read_position(call.draft, draft_params, row, position, 0, pool, scratch, draft);
      status != kOk)
    return status;
  const uint64_t v = weight_at(draft, id);
  if (v == 0) return kBadParam;
  set_aside(draft.row, scratch);
  if (const uint8_t status =
          read_position(call.target, target_params, row, position, 1, pool, scratch, target);
      status != kOk)
    return status;
  uint64_t w = weight_at(target, id);
  const uint64_t r64 = noise_r64(position_noise(call, row, position, kAccept), kPurposeCoin, 0);
  // As it is for the least p / q, and for the largest; only where they differ by the exact one.
  accepted = accepts(r64, w, target.sum.most, v, draft.sum.least);
  if (!accepted) {
    const bool open = accepts(r64, w, target.sum.least, v, draft.sum.most);
    settle(target, pool, scratch);
    settle(draft, pool, scratch);
    accepted = open && accepts(r64, w, target.law.sum, v, draft.law.sum);
  }
  int64_t emitted = id;
  if (!accepted) {
    const Residual f = residual_of(target, draft);
    const Noise noise = position_noise(call, row, position, kRecovery);
    emitted = recovered_token(f, noise, recovered_block(f, noise, scratch));
    w = weight_at(target, emitted);
  }
  const int64_t at = row * (call.drafts + 1) + position;
  call.ids[at] = emitted;
  if (call.logp) {
    settle(target, pool, scratch);
    call.logp[at] = kept_log_prob(target.law, w);
  }
  return kOk;
}

// After the last draft: an ordinary draw.
uint8_t draw_bonus(const VerifyCall& call, const RowParams& params, int64_t row, int64_t position,
                   const Pool& pool, Scratch& scratch) {
  const Noise noise = position_noise(call, row, position, kTarget);
  const uint64_t key[2] = {noise.seed, noise.offset};
  const int64_t at = row * (call.drafts + 1) + position;
  SampleCall draw;
  draw.x = row_at(call.target.x, row, position);
  draw.mask = mask_at(call.target.mask, row, position);
  draw.keys.data = key;
  draw.options = call.target.options;
  draw.forced = call.forced;
  draw.n_forced = call.n_forced;
  draw.out.logp = call.logp;  // says that it is wanted
  RowResult res;
  sample_checked(draw, 0, params, LateRules{}, pool, scratch, res);
  call.ids[at] = res.id;
  if (call.logp) call.logp[at] = res.logp;
  return res.status;
}

void verify_row(const VerifyCall& call, int64_t row, const Pool& pool) {
  RowParams target, draft;
  const int64_t n = drafts_of(call, row);
  if (!read_side(call.target.params.data + row * call.target.params.row_stride, target) ||
      !read_side(call.draft.params.data + row * call.draft.params.row_stride, draft) || n < 0)
    return store_verdict(call, row, kBadParam, 0);
  Scratch& scratch = Scratch::of_this_thread();
  uint8_t status = kOk;
  bool accepted = true;
  int64_t j = 0;
  for (; j < n && accepted && status == kOk; j += accepted)
    status = verify_draft(call, target, draft, row, j, pool, scratch, accepted);
  if (status == kOk && accepted) status = draw_bonus(call, target, row, n, pool, scratch);
  scratch.trim();
  store_verdict(call, row, status, j);
}

}  // namespace
}  // namespace fusedraw
