# SPDX-License-Identifier: Apache-2.0
"""The ops as torch knows them: handles, fake kernels (shapes and dtypes only), and the backwards of softmax
and token_logprob.

The schemas and the real kernels are registered by `_C` (csrc/ops). Every op is a pure function of its
arguments: the noise comes in as keys, so there is no generator state to functionalise, capture or replay.
"""

import torch
from torch.library import Library, fallthrough_kernel, get_ctx, register_autograd, register_fake

from . import _C  # noqa: F401  (its import registers the ops)

sample = torch.ops.fusedraw.sample.default
# What calling `sample` calls, without the Python frame around it.
sample_now = getattr(sample, "_op", sample)
sample_processed = torch.ops.fusedraw.sample_processed.default
derive_keys = torch.ops.fusedraw.derive_keys.default
row_keys = torch.ops.fusedraw.row_keys.default
softmax = torch.ops.fusedraw.softmax.default
filter = torch.ops.fusedraw.filter.default
multinomial = torch.ops.fusedraw.multinomial.default
token_logprob = torch.ops.fusedraw.token_logprob.default
token_logprob_backward = torch.ops.fusedraw.token_logprob_backward.default
mixture = torch.ops.fusedraw.mixture.default

# dtypes of the outputs of `sample`, by bit; kept (bit 11) is apart: its length is data.
_OUTPUT_DTYPES = (
    torch.uint8,  # status
    *[torch.float32] * 6,  # logp logp_full logp_raw entropy varentropy margin
    torch.int64,  # n_kept
    torch.float32,  # kept_mass
    torch.int64,  # rank
    torch.bool,  # explored
)
_KEPT_BIT = 11
# More outputs of `mixture`: two for each member and row, two for each row.
_BY_MEMBER_BITS, _BY_ROW_BITS = (12, 13), (14, 15)
_RENORM = 1  # kind of `filter`
_LOG = 1  # mode bit of `softmax`
_SAVED_COLUMNS = 9  # of `token_logprob`, core/token_logprob.h
_UNIFORM_ABOVE = 2.0**64  # law: such a temperature counts as inf


@register_fake("fusedraw::sample")
def _fake_sample(logits, params, keys, mask, mode, outputs, top_n):
    _check_devices("sample", logits, keys, mask)
    _check_by_value("sample", logits, params)
    return _fake_sampled(logits, outputs, top_n)


@register_fake("fusedraw::sample_processed")
def _fake_sample_processed(logits, params, rules, keys, mask, *lists_and_options):
    *lists, _, outputs, top_n = lists_and_options
    _check_devices("sample", logits, keys, mask, *lists)
    _check_by_value("sample", logits, params)
    _check_by_value("sample", logits, rules)
    return _fake_sampled(logits, outputs, top_n)


def _fake_sampled(logits, outputs, top_n):
    rows = logits.shape[0]
    out = _fake_draw(logits, outputs)
    if top_n > 0:
        out.append(logits.new_empty((rows, top_n), dtype=torch.int64))
        out.append(logits.new_empty((rows, top_n), dtype=torch.float32))
    return out


@register_fake("fusedraw::mixture")
def _fake_mixture(members, weights, params, keys, mask, how, mode, outputs):
    first = members[0]
    _check_devices("mixture", *members, keys, mask)
    _check_by_value("mixture", first, params)
    _check_by_value("mixture", first, weights)
    rows = first.shape[0]
    out = _fake_draw(first, outputs)
    for bits, shape in ((_BY_MEMBER_BITS, (len(members), rows)), (_BY_ROW_BITS, (rows,))):
        out += [first.new_empty(shape, dtype=torch.float32) for bit in bits if outputs >> bit & 1]
    return out


@register_fake("fusedraw::derive_keys")
def _fake_derive_keys(seed, request_ids, sample_ids, step):
    _check_devices("derive_keys", request_ids, seed, sample_ids, step)
    rows = 1
    for part in (seed, request_ids, sample_ids, step):
        length = part.shape[0]
        # No max(): a symbolic length is never compared with 1, which would pin it.
        if not (isinstance(length, int) and length == 1):
            rows = length
    return request_ids.new_empty((rows, 2), dtype=torch.int64)


@register_fake("fusedraw::row_keys")
def _fake_row_keys(logits, seed, step):
    return logits.new_empty((logits.shape[0], 2), dtype=torch.int64)


@register_fake("fusedraw::softmax")
def _fake_softmax(logits, temperature, mask, mode):
    _check_devices("softmax", logits, mask)
    _check_by_value("softmax", logits, temperature)
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return logits.new_empty(logits.shape, dtype=dtype), _fake_status(logits)


@register_fake("fusedraw::filter")
def _fake_filter(x, params, mask, mode, kind):
    _check_devices("filter", x, mask)
    _check_by_value("filter", x, params)
    dtype = torch.float32 if kind == _RENORM else x.dtype
    return x.new_empty(x.shape, dtype=dtype), _fake_status(x)


@register_fake("fusedraw::multinomial")
def _fake_multinomial(probs, keys, num_samples, replacement, mode):
    _check_devices("multinomial", probs, keys)
    return probs.new_empty((probs.shape[0], num_samples), dtype=torch.int64), _fake_status(probs)


@register_fake("fusedraw::token_logprob")
def _fake_token_logprob(logits, ids, params, mask, kept_ids, kept_offsets, mode, entropy):
    _check_devices("token_logprob", logits, ids, mask, kept_ids, kept_offsets)
    _check_by_value("token_logprob", logits, params)
    rows = logits.shape[0]
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    return (
        logits.new_empty((rows,), dtype=dtype),
        logits.new_empty((rows if entropy else 0,), dtype=dtype),
        _fake_status(logits),
        logits.new_empty((rows, _SAVED_COLUMNS), dtype=torch.float64),
    )


@register_fake("fusedraw::token_logprob_backward")
def _fake_token_logprob_backward(grad_logp, grad_entropy, logits, ids, mask, kept_ids, kept_offsets, saved):
    others = (grad_entropy, logits, ids, mask, kept_ids, kept_offsets, saved)
    _check_devices("token_logprob_backward", grad_logp, *others)
    return logits.new_empty(logits.shape)


def _fake_draw(x, outputs):
    """Ids, and what of each row the bits of `sample` name."""
    rows = x.shape[0]
    out = [x.new_empty((rows,), dtype=torch.int64)]
    for bit, dtype in enumerate(_OUTPUT_DTYPES):
        if outputs >> bit & 1:
            out.append(x.new_empty((rows,), dtype=dtype))
    if outputs >> _KEPT_BIT & 1:
        out.append(x.new_empty((get_ctx().new_dynamic_size(),), dtype=torch.int32))
        out.append(x.new_empty((rows + 1,), dtype=torch.int64))
    return out


def _check_devices(op, first, *others):
    # One meta tensor among real ones brings a call here: without this, it would return uninitialised memory.
    for other in others:
        if other is not None and other.device != first.device:
            raise RuntimeError(f"{op}: all tensors must be on {first.device}, got one on {other.device}")


def _check_by_value(op, x, params):
    """Parameters lie where the rows lie; one row of them may be on the CPU beside CUDA rows."""
    if not (x.device.type == "cuda" and params.device.type == "cpu" and params.shape[0] == 1):
        _check_devices(op, x, params)


def _fake_status(x):
    return x.new_empty((x.shape[0],), dtype=torch.uint8)


def _save_for_softmax(ctx, inputs, output):
    logits, temperature, _, mode = inputs
    out, status = output
    ctx.save_for_backward(out, status, temperature)
    ctx.log = bool(mode & _LOG)
    ctx.dtype = logits.dtype


def _softmax_backward(ctx, grad, _):
    """d softmax = p (g - <g, p>) / T and d log_softmax = (g - p sum(g)) / T, over the tokens that have a
    weight.

    Zero where the output does not move with the logits: T = 0 (one-hot), T = inf (uniform), masked and -inf
    tokens, bad rows.
    """
    out, status, temperature = ctx.saved_tensors
    t = temperature.to(torch.float32).to(torch.float64).reshape(-1, 1)
    if t.device != out.device:  # one number on the CPU: as a 0-D tensor it goes along without a copy
        t = out.new_ones((1, 1), dtype=torch.float64) * t.reshape(())
    live = (status == 0).reshape(-1, 1) & (t > 0) & (t <= _UNIFORM_ABOVE)
    # 1 / T of a subnormal T is beyond float32: capped, as the law caps its own factor, so that 0 * scale
    # stays 0.
    scale = torch.where(live, (1 / t).clamp(max=torch.finfo(out.dtype).max), 0.0).to(out.dtype)
    if ctx.log:
        moves = live & (out > -torch.inf)
        g = torch.where(moves, grad, 0.0)
        inner = g - torch.where(moves, out, -torch.inf).exp() * g.sum(dim=-1, keepdim=True)
    else:
        moves = live & (out > 0)
        p = torch.where(moves, out, 0.0)
        g = torch.where(moves, grad, 0.0)
        inner = p * (g - (p * g).sum(dim=-1, keepdim=True))
    return (inner * scale).to(ctx.dtype), None, None, None


register_autograd("fusedraw::softmax", _softmax_backward, setup_context=_save_for_softmax)


def _save_for_token_logprob(ctx, inputs, output):
    logits, ids, _, mask, kept_ids, kept_offsets, _, entropy = inputs
    _, _, status, saved = output
    ctx.mark_non_differentiable(status, saved)
    ctx.set_materialize_grads(False)  # what is not used brings None, not a tensor of zeros
    ctx.save_for_backward(logits, ids, mask, kept_ids, kept_offsets, saved)
    ctx.entropy = entropy


def _token_logprob_backward(ctx, grad_logp, grad_entropy, *_):
    """d logp / d logits with the kept set held fixed, and d entropy / d logits: docs/law.md, section 15."""
    logits, ids, mask, kept_ids, kept_offsets, saved = ctx.saved_tensors
    dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    if not ctx.entropy:
        grad_entropy = None
    if grad_logp is None:
        grad_logp = logits.new_zeros((logits.shape[0],), dtype=dtype)
    grad = token_logprob_backward(grad_logp, grad_entropy, logits, ids, mask, kept_ids, kept_offsets, saved)
    return grad, None, None, None, None, None, None, None


register_autograd("fusedraw::token_logprob", _token_logprob_backward, setup_context=_save_for_token_logprob)


def _no_second_derivative(ctx, grad):
    raise RuntimeError("token_logprob: second derivatives are not implemented")


register_autograd("fusedraw::token_logprob_backward", _no_second_derivative)

# The other ops are not differentiable: under autograd they give plain tensors. Without this, torch would hang
# a node on their float outputs that warns on backward. Kept alive here: the registration ends with the
# object.
_autograd = Library("fusedraw", "IMPL", "Autograd")
for _name in ("sample", "sample_processed", "derive_keys", "row_keys", "filter", "multinomial", "mixture"):
    _autograd.impl(_name, fallthrough_kernel)
