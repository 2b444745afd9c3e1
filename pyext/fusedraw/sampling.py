# SPDX-License-Identifier: Apache-2.0
"""sample, sample_probs: one token id per row, and by-products of the same launch on request."""

import torch
from torch import Tensor

from ._checks import explain
from ._device import HAS_CUDA
from ._drawing import Extras, SampleOutput, check_call, draw_any
from ._ops import sample_now as sample_op
from ._params import HasTensor, cached_plan, mix_eps_of
from .keys import make_keys, reject_beside_keys

is_compiling = torch.compiler.is_compiling


def sample(
    logits: Tensor,
    *,
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    min_p=0.0,
    mix_eps=0.0,
    exploit=None,
    mix_support="kept",
    filter_order="sequential",
    ties="index",
    mask=None,
    keys=None,
    seed=None,
    step=0,
    generator=None,
    domain="target",
    returns=(),
    top_n=0,
    check=None,
    repetition_penalty=None,
    frequency_penalty=None,
    presence_penalty=None,
    history=None,
    prompt=None,
    logit_bias=None,
    suppress=None,
    deny_mask=None,
    top_n_sigma=None,
    typical_p=None,
    epsilon_cutoff=None,
    eta_cutoff=None,
    xtc_threshold=None,
    xtc_probability=None,
    temperature_last=None,
):
    """Draw one token id per row: temperature, top-k, top-p, min-p, then a mixture with the uniform law.

    The draw is exact and a pure function of (logits of the row, parameters of the row, key of the row), see
    docs/law.md: the same bits for every batch size, thread count, instruction set and device.

    Args:
        logits: [B, V] or [V] float32, bfloat16 or float16, 1 <= V <= 2^33, any strides. -inf is never drawn.
        temperature: >= 0; 0 is greedy (lowest index on ties, filters do nothing), inf uniform over finite
            logits.
        top_k: keep the first k tokens of the order; 0, -1 or None: off. More than V means V.
        top_p: in [0, 1]: keep the shortest non-empty prefix of that mass; 1 or None: off.
        min_p: in [0, 1]: keep tokens of at least min_p times the largest weight; 0 or None: off.
        mix_eps: in [0, 1]: weight of the uniform law, `mu = (1 - mix_eps) * pi + mix_eps * uniform`.
        exploit: in [0, 1]: another way to say mix_eps = 1 - exploit; give one of the two.
        mix_support: "kept" or "valid": what the uniform law covers.
        filter_order: "sequential" (top-k, top-p of what is left, min-p: Hugging Face's order), "joint" or
            "min_p_first" (vLLM's order).
        ties: "index" (exactly k, lowest index first) or "all" (keep every token tied with the last one kept).
        mask: bool [V] or [B, V], True = allowed, or int32 [ceil(V/32)] or [B, ceil(V/32)], bit set = allowed.
        keys: uint64 or int64 [B, 2] = (seed, offset) per row (see derive_keys). Or, instead of keys:
        seed, step: ints (or int64 tensors of length 1 or B); the key of row r is that of derive_keys(seed, r,
            0, step), so the position in the batch counts and the caller advances `step`.
        generator: a torch.Generator that is asked for one uint64 seed per call. With none of the three,
            torch's default generator is.
        domain: "target", "draft", "accept" or "recovery": disjoint noise, for speculative decoding.
        returns: names out of status, logp, logp_full, logp_raw, entropy, varentropy, margin, n_kept,
            kept_mass, rank, explored, kept.
        top_n: also give the first n tokens of the order and their log-probabilities; at most 2^20.
        check: "raise" (default on the CPU): a bad row raises ValueError; "status" (default elsewhere, no
            sync): it gets id -1 and a status. In a compiled graph "raise" raises the op's RuntimeError.
        repetition_penalty: > 0: a logit above 0 is divided by it, another multiplied, once for each token of
            `history` or `prompt` (Keskar et al. 2019, as in transformers).
        frequency_penalty, presence_penalty: finite: x - frequency * count, then x - presence, where count > 0
            is how often the token stands in `history`.
        history, prompt: ids drawn so far, ids of the prompt: int32 or int64 [B, L] ([L] for a single row),
            negative ones are padding, or a pair (ids [N], offsets int64 [B + 1]).
        logit_bias: {id: number} for all rows, a list of B such dicts, or tensors (ids int [N], values float32
            [N], offsets int64 [B + 1], or [2] for all rows). Added; -inf removes a token. No id twice in a
            row.
        suppress: ids never drawn: a list or a 1-D tensor for all rows, [B, L], or a pair (ids, offsets).
        deny_mask: as `mask`, True or a set bit = denied. May stand beside a `mask` of the same kind.
        top_n_sigma: >= 0 (0: off): keep logits of at least max - n * sigma, sigma the standard deviation of
            the row's valid logits (Tang et al. 2024). The first of the filters.
        typical_p: in [0, 1] (1: off): keep the tokens whose surprise lies nearest to the mean, up to this
            mass (Meister et al. 2023). It and what follows look at what is left after min-p.
        epsilon_cutoff: in [0, 1] (0: off): keep p >= epsilon, p over what is left; the best always.
        eta_cutoff: in [0, 1] (0: off): keep p >= min(eta, sqrt(eta) * exp(-entropy)) (Hewitt et al. 2022).
        xtc_threshold, xtc_probability: in [0, 1] (0.1; 0: off): with this probability drop all tokens of
            p >= threshold but the least likely of them ("exclude top choices").
        temperature_last: True: the filters see T = 1; the draw and what it reports see T.

    Edits (penalties, bias, what is removed) come before everything else, in float32, each operation rounded
    once: bias, then repetition, frequency, presence. From repetition_penalty on, None means off.

    On CUDA nothing waits for the device but check="raise" and returns=("kept",), whose answer it has to see,
    and what the caller brings from the CPU: a `generator` of it. A CUDA graph can capture the call; numbers
    are constants of the graph, tensors (keys, parameters, mask, seed, step) are read at replay.

    Each of temperature, top_k, top_p, min_p, mix_eps, the penalties and the rules is a number or a tensor of
    length 1 or B on the device of `logits` and is rounded to float32 first; numbers out of range raise,
    tensors give the status BAD_PARAM.

    Returns:
        int64 [B] ids (0-D for 1-D logits), or a SampleOutput when `returns` or `top_n` ask for more.

    Raises:
        TypeError: a wrong type or dtype (float64 logits too); ValueError: a wrong shape, device, range or
            name, a bad row; OverflowError: a step outside int64 and uint64.
    """
    if exploit is not None:
        mix_eps = mix_eps_of("sample", mix_eps, exploit)
    values = (temperature, top_p, min_p, mix_eps, top_k)
    options = (mix_support, filter_order, ties, domain, returns, top_n, check)
    if (
        history is None
        and logit_bias is None
        and suppress is None
        and deny_mask is None
        and prompt is None
        and repetition_penalty is None
        and frequency_penalty is None
        and presence_penalty is None
        and top_n_sigma is None
        and typical_p is None
        and epsilon_cutoff is None
        and eta_cutoff is None
        and xtc_probability is None
        and xtc_threshold is None
        and temperature_last is None
    ):
        return _draw("sample", logits, values, options, mask, keys, seed, step, generator)
    rules = (
        *(top_n_sigma, typical_p, epsilon_cutoff, eta_cutoff, xtc_threshold, xtc_probability),
        *(repetition_penalty, frequency_penalty, presence_penalty),
    )
    extras = Extras(rules, temperature_last, history, prompt, suppress, logit_bias, deny_mask)
    return draw_any("sample", logits, values, options, mask, keys, seed, step, generator, extras)


def sample_probs(
    probs: Tensor,
    *,
    top_k=0,
    top_p=1.0,
    min_p=0.0,
    mix_eps=0.0,
    exploit=None,
    mix_support="kept",
    filter_order="sequential",
    ties="index",
    mask=None,
    keys=None,
    seed=None,
    step=0,
    generator=None,
    domain="target",
    returns=(),
    check=None,
):
    """Like `sample`, from probabilities or any weights >= 0 (they need not sum to 1).

    Args:
        probs: [B, V] or [V] float32, bfloat16, float16 or float64 (rounded to float32 first). A negative one
            makes the row BAD_PARAM, a row of zeros EMPTY.
        returns: names out of status, logp, margin, n_kept, kept_mass, rank, explored, kept.
        The rest: as in `sample`.
    """
    if isinstance(probs, Tensor) and probs.dtype is torch.float64:
        probs = probs.to(torch.float32)
    if exploit is not None:
        mix_eps = mix_eps_of("sample_probs", mix_eps, exploit)
    values = (1.0, top_p, min_p, mix_eps, top_k)
    options = (mix_support, filter_order, ties, domain, returns, 0, check)
    return _draw("sample_probs", probs, values, options, mask, keys, seed, step, generator)


def _draw(op, x, values, options, mask, keys, seed, step, generator):
    """Plain numbers and plain tensors on a device of ours: one cache look-up and one op, which checks devices
    and shapes. All else: draw_any."""
    plan = None
    if (
        not is_compiling()
        and x.__class__ is Tensor
        and (x.is_cpu or (HAS_CUDA and x.is_cuda))
        and x.dim() == 2
        and (mask is None or mask.__class__ is Tensor)
        and (keys is None or keys.__class__ is Tensor)
    ):
        try:
            plan = cached_plan(op, *values, *options)
        except (HasTensor, TypeError):  # TypeError: something unhashable, or a wrong type that is named below
            plan = None
    if plan is None:
        return draw_any(op, x, values, options, mask, keys, seed, step, generator)
    try:
        if keys is None:
            if seed is None:  # a refused call must not advance the generator
                check_call(op, x, (), mask, None)
            keys = make_keys(op, x, seed, step, generator)
        elif seed is not None or generator is not None or step.__class__ is not int or step:
            reject_beside_keys(op, seed, step, generator)
        mode = plan.cpu_mode if x.is_cpu else plan.device_mode
        out = sample_op(x, plan.params, keys, mask, mode, plan.outputs, plan.top_n)
    except RuntimeError as error:
        failure = error
    else:
        return out[0] if plan.bare else SampleOutput(**dict(zip(plan.names, out, strict=True)))
    raise explain(op, failure, check_call, op, x, values, mask, keys)
