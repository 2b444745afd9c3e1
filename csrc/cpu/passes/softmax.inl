// SPDX-License-Identifier: Apache-2.0
// softmax and log_softmax of a row, and the mask and renorm operations: a sum, then one writing
// pass.
#pragma once

namespace fusedraw {
namespace {

// The padded last block is computed aside and copied, so that nothing is written past the row.
template <typename Write>
void write_blocks(const Row& r, float* out, Write write) {
  alignas(64) float buffer[kBlock], result[kBlock];
  for (int64_t b = 0; b < r.blocks; ++b) {
    const int64_t rest = r.cols - b * kBlock;
    if (rest >= kBlock) {
      write(b, r.fetch(r, b, buffer), out + b * kBlock);
    } else {
      write(b, r.fetch(r, b, buffer), result);
      memcpy(out + b * kBlock, result, size_t(rest) * sizeof(float));
    }
  }
}

void fill(float* out, int64_t n, float value) {
  for (int64_t i = 0; i < n; ++i) out[i] = value;
}

// q = fl32(2^43 e / D(S)), found without a division. The reciprocal of S / 2^43 is kept as a float
// and a small rest, once a little too large and once a little too small (by 2^-44 of it, well above
// every rounding here): where both give the same float, that is the quotient. Elsewhere, and near
// the end of the range, the division is made.
class Quotient {
 public:
  explicit Quotient(double d) : d_(d) {
    const double inverse = 1.0 / (d * 0x1p-43);
    const float head = float(inverse);
    const double rest = inverse - double(head), slack = inverse * 0x1p-44;
    head_ = V::set(head);
    more_ = V::set(float(rest + slack));
    less_ = V::set(float(rest - slack));
  }
  void store(float* out, V::F e) const {
    const V::F high = V::fma(e, head_, V::mul(e, more_)), low = V::fma(e, head_, V::mul(e, less_));
    const V::M sure =
        V::both(V::eq(high, low), V::either(V::ge(low, V::set(0x1p-100f)), V::eq(e, V::set(0.0f))));
    V::store(out, low);
    if (V::bits(sure) == V::bits(V::all())) return;
    alignas(64) float lanes[V::kLanes];
    V::store(lanes, e);
    for (int i = 0; i < V::kLanes; ++i) out[i] = softmax_of(lanes[i], d_);
  }

 private:
  V::F head_, more_, less_;
  double d_;
};

// Blocks of probabilities e / d; tokens below exp2p's range (t < -126) and padding give 0.
template <typename Lanes>
void logit_quotients(const Lanes& lanes, const float* x, const Quotient& quotient, float* out) {
  const V::F floor = V::set(-126.0f);
  for (int j = 0; j < kVecs; j += kGroup) {
    const Group raw = scaled_gaps(load_group(x, j), lanes.m, lanes.c);
    const Group t = map(raw, [&](V::F v) { return V::max(v, floor); });
    const Group e = Lanes::exp2(t);
    float* p = out + j * V::kLanes;
    quotient.store(p, V::keep(V::ge(raw.a, floor), e.a));
    quotient.store(p + V::kLanes, V::keep(V::ge(raw.b, floor), e.b));
    quotient.store(p + 2 * V::kLanes, V::keep(V::ge(raw.c, floor), e.c));
    quotient.store(p + 3 * V::kLanes, V::keep(V::ge(raw.d, floor), e.d));
  }
}
void quotient_block(const WeightRule& rule, const float* x, float block_max,
                    const Quotient& quotient, float pad, float* out) {
  if (rule.kind == WeightKind::kLogits) {
    if (top_weight(rule, block_max) <= 0.5f)
      logit_quotients(LowLogitLanes(rule), x, quotient, out);
    else
      logit_quotients(LogitLanes(rule), x, quotient, out);
    return;
  }
  const V::F nothing = V::set(pad);
  with_lanes(rule, [&](auto lanes) {
    for (int j = 0; j < kBlock; j += V::kLanes) {
      const V::F v = V::load(x + j);
      quotient.store(out + j, V::keep(V::gt(v, nothing), lanes(v)));
    }
    return 0;
  });
}

void log_block(const WeightRule& rule, const float* x, double ls, float* out) {
  const V::F m = V::set(rule.m), c = V::set(rule.c);
  const bool uniform = rule.kind == WeightKind::kUniform;
  for (int j = 0; j < kBlock; j += V::kLanes) {
    const V::F v = V::load(x + j);
    V::F t = V::mul(V::sub(v, m), c);
    if (uniform) t = V::select(V::gt(v, V::set(-inf32())), V::set(0.0f), v);
    V::store_log(out + j, t, ls);
  }
}

void softmax_checked(const SoftmaxCall& call, int64_t row, float temperature, const Pool& pool,
                     Scratch& scratch, float* out) {
  Row r = open_row(call.x, call.mask, row, false, scratch);
  call.status[row] = scan_row(r, pool);
  if (call.status[row] != kOk) {
    fill(out, r.cols, nan32());
    return;
  }
  if (temperature == 0.0f) {
    fill(out, r.cols, call.log ? -inf32() : 0.0f);
    out[first_token(r)] = call.log ? 0.0f : 1.0f;
    return;
  }
  r.rule = weight_rule(r.rule.m, temperature, false);
  const u128 s = row_sums(r, r.rule, Moments::kNone, pool, scratch).s;
  const Quotient quotient(to_double(s));
  const double ls = log_sum(s);
  write_blocks(r, out, [&](int64_t b, const float* x, float* to) {
    if (call.log)
      log_block(r.rule, x, ls, to);
    else
      quotient_block(r.rule, x, r.block_max[b], quotient, r.pad, to);
  });
}

void softmax_row(const SoftmaxCall& call, int64_t row, const Pool& pool) {
  const float temperature = float(call.temperature[row * call.temperature_stride]);
  float* out = call.out + row * call.x.cols;
  if (!(temperature >= 0.0f)) {
    call.status[row] = kBadParam;
    fill(out, call.x.cols, nan32());
    return;
  }
  Scratch& scratch = Scratch::of_this_thread();
  softmax_checked(call, row, temperature, pool, scratch, out);
  scratch.trim();
}

template <typename T>
void mask_row(const FilterCall& call, int64_t row, const Row* r, const Cut& cut) {
  const T* from = static_cast<const T*>(call.x.data) + row * call.x.row_stride;
  T* to = static_cast<T*>(call.out) + row * call.x.cols;
  T excluded;
  set_neg_inf(excluded);
  if (r == nullptr) {  // a bad row
    T bad;
    set_nan(bad);
    for (int64_t i = 0; i < call.x.cols; ++i) to[i] = bad;
    return;
  }
  alignas(64) float buffer[kBlock];
  for (int64_t b = 0; b < r->blocks; ++b) {
    const int64_t first = b * kBlock;
    const int64_t n = r->cols - first < kBlock ? r->cols - first : kBlock;
    const float* x = r->fetch(*r, b, buffer);
    const float least = smallest_valid(*r);
    for (int64_t i = 0; i < n; ++i) {
      const bool kept = x[i] >= least && keeps(cut, x[i], first + i);
      to[first + i] = kept ? from[first + i] : excluded;
    }
  }
}

void mask_by_type(const FilterCall& call, int64_t row, const Row* r, const Cut& cut) {
  if (call.x.dtype == DType::kFloat32)
    mask_row<float>(call, row, r, cut);
  else if (call.x.dtype == DType::kBFloat16)
    mask_row<BFloat16>(call, row, r, cut);
  else
    mask_row<Float16>(call, row, r, cut);
}

void renorm_row(const FilterCall& call, int64_t row, const Row& r, const Plan& plan,
                const Kept& k) {
  float* out = static_cast<float*>(call.out) + row * call.x.cols;
  if (plan.greedy) {
    fill(out, r.cols, 0.0f);
    out[k.cut.last] = 1.0f;
    return;
  }
  const Quotient quotient(to_double(k.listed ? list_sum(k.list, r.rule) : kept_sum(r, k.cut)));
  alignas(64) float cut_buffer[kBlock];
  write_blocks(r, out, [&](int64_t b, const float* x, float* to) {
    if (!block_alive(r, k.cut, b)) {
      fill(to, kBlock, 0.0f);
      return;
    }
    quotient_block(r.rule, cut_block(r, k.cut, b, x, cut_buffer), r.block_max[b], quotient, r.pad,
                   to);
  });
}

void filter_checked(const FilterCall& call, int64_t row, const RowParams& params, const Pool& pool,
                    Scratch& scratch) {
  Row r = open_row(call.x, call.mask, row, call.options.probs, scratch);
  call.status[row] = scan_row(r, pool);
  if (call.status[row] != kOk) return;
  const Plan plan = make_plan(params, call.options);
  r.rule = weight_rule(r.rule.m, plan.greedy ? 1.0f : params.temperature, call.options.probs);
  Kept k = choose_kept(r, plan, pool, scratch);
  // K keeps only tokens with weight, unless the operation says otherwise.
  if (!plan.greedy && plan.post_weight == 1)
    narrow(k, r, Cut{smallest_with_weight(r.rule, 1), kAllTies});
  if (call.renorm)
    renorm_row(call, row, r, plan, k);
  else
    mask_by_type(call, row, &r, k.cut);
}

void filter_row(const FilterCall& call, int64_t row, const Pool& pool) {
  RowParams params;
  call.status[row] = kBadParam;
  if (read_params(call.params.data + row * call.params.row_stride, params)) {
    Scratch& scratch = Scratch::of_this_thread();
    filter_checked(call, row, params, pool, scratch);
    scratch.trim();
  }
  if (call.status[row] == kOk) return;
  if (call.renorm)
    fill(static_cast<float*>(call.out) + row * call.x.cols, call.x.cols, nan32());
  else
    mask_by_type(call, row, nullptr, Cut{0.0f, 0});
}

}  // namespace
}  // namespace fusedraw
