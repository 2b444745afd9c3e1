// SPDX-License-Identifier: Apache-2.0
// The gradient of a token's score, written in one pass: exponentials are computed again rather than
// kept.
#pragma once

namespace fusedraw {
namespace {

Group all_of(float x) {
  const V::F v = V::set(x);
  return {v, v, v, v};
}
Group minus(const Group& x, const Group& y) {
  return map(x, y, [](V::F v, V::F w) { return V::sub(v, w); });
}
GroupMask both(const GroupMask& m, const GroupMask& n) {
  return {V::both(m.a, n.a), V::both(m.b, n.b), V::both(m.c, n.c), V::both(m.d, n.d)};
}

// A gradient larger than the caches is written past them: to fetch what is overwritten anyway would
// be a third of the memory traffic.
constexpr int64_t kStreamBytes = 4 << 20;

template <bool kStream>
void store_group(float* out, const Group& y) {
  constexpr auto put = kStream ? V::stream : V::store;
  put(out, y.a);
  put(out + V::kLanes, y.b);
  put(out + 2 * V::kLanes, y.c);
  put(out + 3 * V::kLanes, y.d);
}

// Of a block of which K holds what is not padding, logp alone. Products are masked, not factors: a
// slope may be infinite.
template <bool kStream>
void kept_slopes(const RowSlopes& s, const float* kept, float* out) {
  const LogitLanes lanes(s.kept_rule);
  const Group each = all_of(s.each), zero = all_of(0.0f);
  for (int j = 0; j < kVecs; j += kGroup) {
    const Group e = lanes(load_group(kept, j));
    const Group p = keep_product(above(e, V::set(kNoWeight)), each, e);
    store_group<kStream>(out + j * V::kLanes, minus(zero, p));
  }
}

// Of a block `x`, of which K holds what is not padding in `kept` (null: nothing), with entropy.
template <bool kStream>
void all_slopes(const RowSlopes& s, const float* x, const float* kept, float* out) {
  const LogitLanes lanes(s.rule);
  const Group each = all_of(s.each), spread = all_of(s.spread), zero = all_of(0.0f);
  const V::F mean = V::set(s.mean), least = V::set(-kFltMax);
  for (int j = 0; j < kVecs; j += kGroup) {
    const Group t = lanes.t(load_group(x, j)), e = LogitLanes::exp2(t);
    const GroupMask weighs = above(e, V::set(kNoWeight));
    const Group gap = map(e, add(t, mean), [](V::F v, V::F w) { return V::mul(v, w); });
    const Group h = keep_product(weighs, spread, gap);
    Group p = zero;
    if (kept != nullptr)
      p = minus(zero, keep_product(both(weighs, at_least(load_group(kept, j), least)), each, e));
    store_group<kStream>(out + j * V::kLanes, minus(p, h));
  }
}

bool holds_any(const float* x, float least) {
  const V::F lo = V::set(least);
  for (int j = 0; j < kVecs; ++j)
    if (V::any(V::ge(V::load(x + j * V::kLanes), lo))) return true;
  return false;
}

template <typename T>
void store_slopes(const float* from, T* to, int64_t n) {
  for (int64_t i = 0; i < n; ++i) round_to(from[i], to[i]);
}

// Every block of the row; of a replayed one, what the entropy moves.
template <typename T>
void write_slopes(const Row& r, const RowSlopes& s, bool replays, bool stream, T* out) {
  alignas(64) float buffer[kBlock], cut_buffer[kBlock], result[kBlock];
  for (int64_t b = 0; b < r.blocks; ++b) {
    const int64_t rest = r.cols - b * kBlock, n = rest < kBlock ? rest : kBlock;
    T* to = out + b * kBlock;
    const float* x = r.fetch(r, b, buffer);
    if (s.spread == 0.0f && !holds_any(x, s.cut.lo)) {
      memset(to, 0, size_t(n) * sizeof(T));
      continue;
    }
    float* direct = result;
    if constexpr (sizeof(T) == sizeof(float))
      if (n == kBlock) direct = to;
    const float* kept = replays ? nullptr : cut_block(r, s.cut, b, x, cut_buffer);
    const bool past = stream && direct != result;
    if (s.spread == 0.0f)
      past ? kept_slopes<true>(s, kept, direct) : kept_slopes<false>(s, kept, direct);
    else
      past ? all_slopes<true>(s, x, kept, direct) : all_slopes<false>(s, x, kept, direct);
    if (direct == result) store_slopes(result, to, n);
  }
  if (stream) V::stream_fence();
}

// The kept tokens of a replayed row, over what the entropy left there.
template <typename T>
void write_listed(const TokenLogprobGradCall& call, int64_t row, const RowSlopes& s, T* out) {
  const KeptIds kept = kept_ids_of(call.kept, row);
  const T* x = static_cast<const T*>(call.x.data) + row * call.x.row_stride;
  for (int64_t j = 0; j < kept.n; ++j) {
    const int64_t id = kept.ids[j];
    if (!mask_allows(call.mask, row, id)) continue;
    const float v = widen(x[id]) + 0.0f;
    if (v > -inf32()) round_to(kept_slope(s, v) - entropy_slope(s, v), out[id]);
  }
}

template <typename T>
void grad_typed(const TokenLogprobGradCall& call, int64_t row, Scratch& scratch) {
  const RowSlopes s = row_slopes(call, row);
  T* out = static_cast<T*>(call.grad) + row * call.x.cols;
  const bool logp_moves = s.own != 0.0f || s.each != 0.0f, replays = call.kept.offsets != nullptr;
  if (s.spread == 0.0f && (replays || !logp_moves)) {
    memset(out, 0, size_t(call.x.cols) * sizeof(T));
  } else {
    const Row r = open_row(call.x, call.mask, row, false, scratch, false);
    const int64_t bytes = call.x.rows * call.x.cols * int64_t(sizeof(T));
    const bool aligned = reinterpret_cast<uintptr_t>(out) % (V::kLanes * sizeof(float)) == 0;
    write_slopes(r, s, replays, bytes >= kStreamBytes && aligned, out);
  }
  if (!logp_moves) return;
  if (replays) write_listed(call, row, s, out);
  const int64_t id = call.ids[row];
  const float x = widen(static_cast<const T*>(call.x.data)[row * call.x.row_stride + id]) + 0.0f;
  round_to(s.own - entropy_slope(s, x), out[id]);
}

void token_logprob_grad_row(const TokenLogprobGradCall& call, int64_t row, const Pool&) {
  Scratch& scratch = Scratch::of_this_thread();
  switch (call.x.dtype) {
    case DType::kBFloat16:
      grad_typed<BFloat16>(call, row, scratch);
      break;
    case DType::kFloat16:
      grad_typed<Float16>(call, row, scratch);
      break;
    default:
      grad_typed<float>(call, row, scratch);
  }
  scratch.trim();
}

}  // namespace
}  // namespace fusedraw
