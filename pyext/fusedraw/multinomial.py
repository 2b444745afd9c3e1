# SPDX-License-Identifier: Apache-2.0
"""multinomial: several draws from each row of weights, the stand-in for torch.multinomial."""

import numbers

import torch
from torch import Tensor

from ._checks import PROB_DTYPES, call, check_check, check_rows, dtype_name, should_raise
from ._device import kernel_device, move
from ._ops import multinomial as multinomial_op
from ._params import MODE_RAISE
from .keys import make_keys, resolve_keys


def multinomial(
    input: Tensor,
    num_samples: int,
    replacement: bool = False,
    *,
    generator=None,
    out=None,
    keys=None,
    seed=None,
    step=0,
    check=None,
) -> Tensor:
    """Draw `num_samples` ids per row of weights; the same arguments as torch.multinomial, and ours for the
    key.

    Args:
        input: [B, V] or [V] float32, bfloat16, float16 or float64 (rounded to float32 first), weights >= 0 of
            any sum. A weight of 0 is never drawn; nor is one below 2^-44 of the largest.
        num_samples: >= 1. One draw is that of `sample_probs`. More, with replacement: independent draws.
            Without: in the order in which they were drawn.
        replacement: whether an id may come twice.
        out: int64 tensor of the result's shape to write to.
        keys, seed, step, generator: as in `sample`.
        check: "raise" (default on the CPU): a bad row raises ValueError, and so does one with
            fewer than `num_samples` weights to draw without replacement; "status" (default elsewhere): the
            missing ids are -1.

    Returns: int64 [B, num_samples], or [num_samples] for 1-D input.
    """
    op = "multinomial"
    check_check(op, check)
    check_rows(op, "input", input, PROB_DTYPES)
    if isinstance(num_samples, bool) or not isinstance(num_samples, (int, numbers.Integral)):
        raise TypeError(f"{op}: num_samples must be an int, got {type(num_samples).__name__}")
    if num_samples < 1:
        raise ValueError(f"{op}: num_samples must be >= 1, got {num_samples}")
    if not isinstance(replacement, bool):
        raise TypeError(f"{op}: replacement must be a bool, got {type(replacement).__name__}")
    one_row = input.dim() == 1
    x = input.unsqueeze(0) if one_row else input
    if out is not None:
        _check_out(op, out, (num_samples,) if one_row else (x.shape[0], num_samples), input)
    home = x.device
    mode = MODE_RAISE if should_raise(check, home) else 0
    if keys is not None:
        keys = resolve_keys(op, x, keys, seed, step, generator, one_row)
    device = kernel_device(home)
    if device != home:
        x, keys, seed, step = move(device, x, keys, seed, step)
    if x.dtype == torch.float64:
        x = x.to(torch.float32)
    if keys is None:
        keys = make_keys(op, x, seed, step, generator)
    ids, _ = call(op, multinomial_op, x, keys, num_samples, replacement, mode)
    if one_row:
        ids = ids[0]
    if out is not None:
        return out.copy_(ids)
    return ids.to(home)


def _check_out(op: str, out, shape, input: Tensor) -> None:
    if not isinstance(out, Tensor):
        raise TypeError(f"{op}: out must be a torch.Tensor, got {type(out).__name__}")
    if out.dtype != torch.int64 or tuple(out.shape) != tuple(shape) or out.device != input.device:
        raise ValueError(
            f"{op}: out must be int64 {list(shape)} on {input.device}, "
            f"got {dtype_name(out.dtype)} {list(out.shape)} on {out.device}"
        )
    if out.numel() and out.untyped_storage().data_ptr() == input.untyped_storage().data_ptr():
        raise ValueError(f"{op}: out must not share memory with input, got two views of one storage")
