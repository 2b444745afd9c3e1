# SPDX-License-Identifier: Apache-2.0
"""The filters of `sample` on their own: as masked logits, or as renormalised probabilities."""

import torch
from torch import Tensor

from ._checks import LOGIT_DTYPES, PROB_DTYPES, call, check_choice, check_mask, check_rows, should_raise
from ._device import kernel_device, move
from ._ops import filter as filter_op
from ._params import (
    COLUMNS,
    MODE_KEEP_ZERO_WEIGHT,
    MODE_PROBS,
    MODE_RAISE,
    TIES,
    check_lengths,
    check_value,
    check_values,
    pack_values,
)

_KIND_MASK, _KIND_RENORM = 0, 1


def top_k_mask(logits: Tensor, top_k, *, mask=None, ties="index") -> Tensor:
    """Logits with -inf everywhere but at the first `top_k` tokens of the order (x descending, then index).

    Args:
        logits: [B, V] or [V] float32, bfloat16 or float16.
        top_k: int or integer tensor of length 1 or B; 0, -1 or None: all tokens.
        mask: as in `sample`; tokens that it excludes do not count and get -inf.
        ties: "index" (exactly top_k) or "all" (also every token tied with the last one).

    Returns: the shape and dtype of `logits`. A bad row raises ValueError on the CPU and is NaN elsewhere.
    """
    return _filter("top_k_mask", "logits", logits, LOGIT_DTYPES, _KIND_MASK, mask, ties, top_k=top_k)


def top_p_mask(logits: Tensor, top_p, *, temperature=1.0, mask=None, ties="index") -> Tensor:
    """Logits with -inf everywhere but at the shortest prefix of the order whose probability is at least
    `top_p`.

    Arguments and result as in `top_k_mask`; `top_p` and `temperature` are numbers or tensors of length 1 or
    B.
    """
    rule = {"top_p": top_p, "temperature": temperature}
    return _filter("top_p_mask", "logits", logits, LOGIT_DTYPES, _KIND_MASK, mask, ties, **rule)


def top_k_renorm(
    probs: Tensor, top_k, *, from_logits=False, temperature=1.0, mask=None, ties="index"
) -> Tensor:
    """Probabilities of the first `top_k` tokens, renormalised to sum 1; 0 for the others.

    Args:
        probs: [B, V] or [V] float32, bfloat16, float16 or float64 (rounded to float32 first), any weights >=
            0; or logits (not float64) with from_logits=True, which alone take a `temperature`.
        The rest: as in `top_k_mask`.

    Returns: float32, the shape of `probs`. A bad row raises ValueError on the CPU and is NaN elsewhere.
    """
    return _renorm("top_k_renorm", probs, from_logits, temperature, mask, ties, top_k=top_k)


def top_p_renorm(
    probs: Tensor, top_p, *, from_logits=False, temperature=1.0, mask=None, ties="index"
) -> Tensor:
    """Probabilities of the shortest prefix of mass `top_p`, renormalised to sum 1; 0 for the others.

    Arguments and result as in `top_k_renorm`.
    """
    return _renorm("top_p_renorm", probs, from_logits, temperature, mask, ties, top_p=top_p)


def _renorm(op, x, from_logits, temperature, mask, ties, **rule):
    if not isinstance(from_logits, bool):
        raise TypeError(f"{op}: from_logits must be a bool, got {type(from_logits).__name__}")
    temperature = check_value(op, "temperature", temperature)
    if from_logits:
        rule["temperature"] = temperature
        return _filter(op, "logits", x, LOGIT_DTYPES, _KIND_RENORM, mask, ties, **rule)
    if isinstance(temperature, Tensor) or temperature != 1.0:
        raise ValueError(
            f"{op}: temperature needs from_logits=True, got temperature={temperature} with probs"
        )
    return _filter(op, "probs", x, PROB_DTYPES, _KIND_RENORM, mask, ties, **rule)


def _filter(op, name, x, dtypes, kind, mask, ties, *, temperature=1.0, top_p=1.0, top_k=0):
    values = check_values(op, (temperature, top_p, 0.0, 0.0, top_k))
    check_choice(op, "ties", ties, TIES)
    check_rows(op, name, x, dtypes)
    one_row = x.dim() == 1
    if one_row:
        x = x.unsqueeze(0)
    check_lengths(op, values, x.shape[0], x.device, COLUMNS)
    check_mask(op, mask, x.shape[0], x.shape[1], x.device)
    home = x.device
    mode = TIES[ties]
    if name == "probs":
        mode |= MODE_PROBS
        x = x.to(torch.float32) if x.dtype == torch.float64 else x
    if op == "top_k_mask":
        mode |= MODE_KEEP_ZERO_WEIGHT
    if should_raise(None, home):
        mode |= MODE_RAISE
    device = kernel_device(home)
    if device != home:
        x, mask, *values = move(device, x, mask, *values)
    out, _ = call(op, filter_op, x, pack_values(x, values), mask, mode, kind)
    if device != home:
        out = out.to(home)
    return out[0] if one_row else out
