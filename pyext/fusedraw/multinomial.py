# SPDX-License-Identifier: Apache-2.0
"""multinomial: several draws from each row of weights, the stand-in for torch.multinomial."""

import operator

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
        num_samples: an int >= 1, at most V without replacement. One draw is that of `sample_probs`. More,
            with replacement: independent draws. Without: in the order in which they were drawn.
        replacement: whether an id may come twice.
        out: int64 tensor to write to, of the result's shape or empty (then it is resized), on the device of
            `input`.
        keys, seed, step, generator: as in `sample`.
        check: "raise" (default on the CPU): a bad row raises ValueError, and so does one with
            fewer than `num_samples` weights to draw without replacement; "status" (default elsewhere): the
            missing ids are -1.

    Returns: int64 [B, num_samples], or [num_samples] for 1-D input.

    Other than torch.multinomial: a weight of 0 is never drawn, where torch fills up with such ids when it has
    to; errors are ValueError and TypeError, where torch has RuntimeError too (which
    `replacing_torch_multinomial` raises); V may exceed 2^24; an `out` that holds elements of another shape is
    refused, not resized.
    """
    op = "multinomial"
    check_check(op, check)
    check_rows(op, "input", input, PROB_DTYPES)
    if num_samples.__class__ is not int:
        num_samples = _count(op, num_samples)
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
    if mode and not replacement and num_samples > x.shape[1]:
        raise ValueError(
            f"{op}: num_samples must be at most {x.shape[1]}, the tokens of a row, without replacement, "
            f"got {num_samples}"
        )
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
    if out is None:
        return ids.to(home)
    if out.shape != ids.shape:
        out.resize_(ids.shape)
    return out.copy_(ids)


def _count(op: str, num_samples) -> int:
    """`num_samples` as an int; what torch takes for one: any integer type, a 0-D integer tensor."""
    if isinstance(num_samples, torch.SymInt):
        return num_samples  # type: ignore[return-value]
    kind = num_samples.dtype if isinstance(num_samples, Tensor) else type(num_samples)
    if kind not in (torch.bool, bool) and getattr(kind, "__name__", "") not in ("bool", "bool_"):
        try:
            return operator.index(num_samples)
        except TypeError:
            pass
    raise TypeError(f"{op}: num_samples must be an int, got {type(num_samples).__name__}")


def _check_out(op: str, out, shape, input: Tensor) -> None:
    if not isinstance(out, Tensor):
        raise TypeError(f"{op}: out must be a torch.Tensor, got {type(out).__name__}")
    fits = tuple(out.shape) == tuple(shape) or out.numel() == 0
    if out.dtype != torch.int64 or not fits or out.device != input.device:
        raise ValueError(
            f"{op}: out must be int64 {list(shape)}, or empty, on {input.device}, "
            f"got {dtype_name(out.dtype)} {list(out.shape)} on {out.device}"
        )
    if out.numel() and out.untyped_storage().data_ptr() == input.untyped_storage().data_ptr():
        raise ValueError(f"{op}: out must not share memory with input, got two views of one storage")
