# SPDX-License-Identifier: Apache-2.0
"""What the functions of `sampling` share: rows by index, keys from seed and offset, one draw."""

from __future__ import annotations

import torch
from torch import Tensor

from .._checks import PROB_DTYPES, check_device, check_rows, dtype_name
from .._device import kernel_device
from ..keys import _int_word, keys_for, make_keys
from ..sampling import sample, sample_probs
from ..status import Status

INDEX_DTYPES = (torch.int32, torch.int64)
SEED_DTYPES = (torch.int64, torch.uint64)


def draw(op, name, x, indices, generator, check_nan, seed, offset, return_valid=False, **rules):
    """Ids of the dtype of `indices` (int32 without) from rows of "probs" or "logits", whichever `name` says.

    Returns: ids [B], or with `return_valid` (ids, valid bool [B]), where a bad row gives id 0 and False.
    """
    check_matrix(op, name, x)
    if check_nan and bool(x.isnan().any()):
        raise ValueError(f"{op}: {name} must have no NaN (check_nan=True), got some")
    if x.dtype == torch.float64:
        x = x.to(torch.float32)
    dtype = torch.int32
    if indices is not None:
        x, rules = _shared_rows(op, x, indices, rules)
        dtype = indices.dtype
    if seed is None and offset is None:
        rules["generator"] = generator
    else:
        rules["keys"] = row_keys(op, x.shape[0], x.device, generator, seed, offset)
    if return_valid:
        rules |= {"returns": ("status",), "check": "status"}
    out = named(op, sample if name == "logits" else sample_probs, x, ties="all", **rules)
    if not return_valid:
        return out.to(dtype)
    return out.ids.clamp(min=0).to(dtype), out.status == Status.OK


def row_keys(op, rows, device, generator, seed, offset, sample_ids=0) -> Tensor:
    """Keys uint64 [rows, 2]. One seed: row r is its request r. A seed for each row: no place counts."""
    if (seed is None) != (offset is None):
        raise ValueError(
            f"{op}: give seed and offset together, got {'offset' if seed is None else 'seed'} alone"
        )
    if seed is None:
        numbered = torch.empty((), device=kernel_device(device)).expand(rows, 1)
        return make_keys(op, numbered, None, 0, generator).to(device).view(torch.uint64)
    if generator is not None:
        raise ValueError(f"{op}: give generator, or seed and offset, got all three")
    if isinstance(seed, Tensor) != isinstance(offset, Tensor):
        raise ValueError(f"{op}: seed and offset must both be tensors or both be ints")
    own_seeds = False
    if isinstance(seed, Tensor):
        for name, value in (("seed", seed), ("offset", offset)):
            if value.dtype not in SEED_DTYPES:
                raise ValueError(
                    f"{op}: {name} tensor must be int64 or uint64, got {dtype_name(value.dtype)}"
                )
            if value.dim() != 1 or value.shape[0] not in (1, rows):
                raise ValueError(f"{op}: {name} tensor must be [1] or [{rows}], got {list(value.shape)}")
            check_device(op, name, value, device)
        own_seeds = seed.shape[0] == rows
    else:
        offset = _int_word(op, "offset", offset)
    requests = torch.arange(rows, device=device)
    return keys_for(op, seed, requests * 0 if own_seeds else requests, sample_ids, offset)


def check_matrix(op, name, x, dtypes=PROB_DTYPES) -> None:
    check_rows(op, name, x, dtypes)
    if x.dim() != 2:
        raise ValueError(f"{op}: {name} must be [B, V], got shape {list(x.shape)}")


def named(op, function, *arguments, **options):
    """The result of a function of ours, its errors under the name that was called."""
    try:
        return function(*arguments, **options)
    except (TypeError, ValueError) as error:
        _, _, what = str(error).partition(": ")
        raise type(error)(f"{op}: {what or error}") from None


def _shared_rows(op, x, indices, rules):
    """Row indices[i] of `x` for draw i, and its parameters, which belong to rows of `x`."""
    if not isinstance(indices, Tensor) or indices.dtype not in INDEX_DTYPES:
        got = dtype_name(indices.dtype) if isinstance(indices, Tensor) else type(indices).__name__
        raise TypeError(f"{op}: indices must be an int32 or int64 tensor, got {got}")
    if indices.dim() != 1:
        raise ValueError(f"{op}: indices must be 1-D, got shape {list(indices.shape)}")
    check_device(op, "indices", indices, x.device)
    rows = x.shape[0]
    if x.is_cpu and len(indices) and not 0 <= int(indices.min()) <= int(indices.max()) < rows:
        raise ValueError(
            f"{op}: indices must be in [0, {rows}), got {int(indices.min())} to {int(indices.max())}"
        )
    shared = {}
    for name, value in rules.items():
        if isinstance(value, Tensor) and value.numel() != 1:
            if tuple(value.shape) != (rows,):
                raise ValueError(
                    f"{op}: {name} must be [{rows}], one per row of the input, got {list(value.shape)}"
                )
            value = value[indices]
        shared[name] = value
    # One row for all is a view of it; else the rows are copied.
    return (x.expand(len(indices), -1) if rows == 1 else x[indices]), shared
