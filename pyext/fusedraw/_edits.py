# SPDX-License-Identifier: Apache-2.0
"""Lists of token ids that edit logits: what users give, as the tensors that `sample_processed` takes."""

import math
import numbers
from typing import NamedTuple

import torch
from torch import Tensor

from ._checks import as_float, check_device, check_id_dtype, check_mask, check_tensor, dtype_name


class Lists(NamedTuple):
    """The nine arguments of the op, in its order. Ids without offsets are padded [1 or B, L]."""

    history: Tensor | None = None
    history_offsets: Tensor | None = None
    prompt: Tensor | None = None
    prompt_offsets: Tensor | None = None
    suppress: Tensor | None = None
    suppress_offsets: Tensor | None = None
    bias: Tensor | None = None
    bias_offsets: Tensor | None = None
    bias_values: Tensor | None = None


def pack_lists(op: str, x: Tensor, one_row: bool, history, prompt, suppress, logit_bias) -> Lists:
    """Checked, on the device of `x` [B, V]. Tensors must lie there already; Python numbers are brought."""
    if history is None and prompt is None and suppress is None and logit_bias is None:
        return Lists()
    return Lists(
        *_ids(op, "history", history, x, one_row),
        *_ids(op, "prompt", prompt, x, one_row),
        *_suppressed(op, suppress, x, one_row),
        *_bias(op, logit_bias, x),
    )


def _ids(op, name, ids, x, one_row):
    """(ids, offsets or None) of a padded tensor or a CSR pair."""
    if ids is None:
        return None, None
    if isinstance(ids, (tuple, list)):
        if len(ids) != 2 or not all(isinstance(part, Tensor) for part in ids):
            raise TypeError(f"{op}: {name} must be a tensor [B, L] or a pair of tensors (ids, offsets)")
        return _csr(op, name, *ids, x)
    if not isinstance(ids, Tensor):
        raise TypeError(f"{op}: {name} must be a tensor or a pair of tensors, got {type(ids).__name__}")
    _check_ids(op, name, ids, x)
    if ids.dim() == 1 and one_row:
        ids = ids.unsqueeze(0)
    rows = x.shape[0]
    if ids.dim() != 2 or ids.shape[0] not in (1, rows):
        wanted = "[L] or [1, L]" if one_row else f"[{rows}, L]"
        raise ValueError(f"{op}: {name} must be {wanted}, got shape {list(ids.shape)}")
    return ids, None


def _check_ids(op, name, ids, x):
    check_id_dtype(op, name, ids)
    check_device(op, name, ids, x.device)


def _csr(op, name, ids, offsets, x):
    _check_ids(op, name, ids, x)
    check_tensor(op, f"offsets of {name}", offsets)
    rows = x.shape[0]
    if offsets.dtype is not torch.int64:
        raise TypeError(f"{op}: offsets of {name} must be int64, got {dtype_name(offsets.dtype)}")
    check_device(op, f"offsets of {name}", offsets, x.device)
    if ids.dim() != 1 or offsets.dim() != 1 or offsets.shape[0] not in (2, rows + 1):
        raise ValueError(
            f"{op}: {name} must be ids [N] and offsets [{rows + 1}] (or [2] for all rows), got shapes "
            f"{list(ids.shape)} and {list(offsets.shape)}"
        )
    return ids, offsets


def _suppressed(op, suppress, x, one_row):
    if suppress is None:
        return None, None
    if isinstance(suppress, tuple) and any(isinstance(part, Tensor) for part in suppress):
        return _ids(op, "suppress", suppress, x, one_row)
    if isinstance(suppress, Tensor):
        if suppress.dim() == 1:  # for all rows
            suppress = suppress.unsqueeze(0)
        return _ids(op, "suppress", suppress, x, one_row)
    try:
        ids = list(suppress)
    except TypeError:
        raise TypeError(
            f"{op}: suppress must be ids, a tensor or a pair of tensors, got {type(suppress).__name__}"
        ) from None
    for i in ids:
        _check_id(op, "suppress", i, x)
    return torch.tensor([ids], dtype=torch.int64).to(x.device), None


def _check_id(op, name, i, x):
    if isinstance(i, bool) or not isinstance(i, numbers.Integral):
        raise TypeError(f"{op}: {name} must hold token ids (int), got {type(i).__name__}")
    if not 0 <= i < x.shape[-1]:
        raise ValueError(f"{op}: {name} must hold ids in [0, {x.shape[-1]}), got {i}")


def _bias(op, bias, x):
    """(ids, offsets, values) of a dict for all rows, a list of B dicts, or CSR tensors."""
    if bias is None:
        return None, None, None
    if isinstance(bias, tuple):
        if len(bias) != 3 or not all(isinstance(part, Tensor) for part in bias):
            raise TypeError(f"{op}: logit_bias must be a dict, a list of dicts or (ids, values, offsets)")
        ids, values, offsets = bias
        ids, offsets = _csr(op, "logit_bias", ids, offsets, x)
        check_tensor(op, "values of logit_bias", values)
        check_device(op, "values of logit_bias", values, x.device)
        if values.dtype is not torch.float32 or values.shape != ids.shape:
            raise ValueError(
                f"{op}: values of logit_bias must be float32 {list(ids.shape)}, got "
                f"{dtype_name(values.dtype)} {list(values.shape)}"
            )
        return ids, offsets, values
    rows = [bias] if isinstance(bias, dict) else bias
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise TypeError(
            f"{op}: logit_bias must be a dict, a list of dicts or (ids, values, offsets), "
            f"got {type(bias).__name__}"
        )
    if isinstance(bias, list) and len(rows) != x.shape[0]:
        raise ValueError(f"{op}: logit_bias must hold {x.shape[0]} dicts, one a row, got {len(rows)}")
    ids, values, offsets = [], [], [0]
    for row in rows:
        for i, value in row.items():
            _check_id(op, "logit_bias", i, x)
            if isinstance(value, bool) or not isinstance(value, numbers.Real):
                raise TypeError(f"{op}: logit_bias must map ids to numbers, got {type(value).__name__}")
            number = as_float(value)
            if not number < math.inf:
                raise ValueError(f"{op}: logit_bias must be a number or -inf, got {value} for id {i}")
            ids.append(i)
            values.append(number)
        offsets.append(len(ids))
    made = (
        torch.tensor(ids, dtype=torch.int64),
        torch.tensor(offsets, dtype=torch.int64),
        torch.tensor(values, dtype=torch.float32),
    )
    return tuple(part.to(x.device) for part in made)


def fold_masks(op: str, mask, deny, rows: int, vocab: int, device: torch.device):
    """One mask (True or bit set = allowed) of an allowing and a denying one."""
    if deny is None:
        return mask
    try:
        check_mask(op, deny, rows, vocab, device)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("mask must", "deny_mask must")) from None
    allowed = ~deny
    if mask is None:
        return allowed
    check_mask(op, mask, rows, vocab, device)
    if mask.dtype != deny.dtype:
        raise TypeError(
            f"{op}: mask and deny_mask must be of one kind, got {dtype_name(mask.dtype)} and "
            f"{dtype_name(deny.dtype)}"
        )
    return mask & allowed
