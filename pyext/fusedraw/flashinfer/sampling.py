# SPDX-License-Identifier: Apache-2.0
"""The functions of `flashinfer.sampling` (flashinfer-python 0.7.2) by name, signature and default.

Rows are [B, V] float32, bfloat16, float16 or float64 (counted as float32). Ids are int32 [B], or of the
dtype of `indices` [N], with which draw i reads row indices[i] and that row's parameters. `top_k`, `top_p` and
`min_p` are numbers or tensors with one value per row. Ties at the edge of a filter are all kept. A
`generator` is asked for one uint64 seed per call; or `seed` and `offset` are ints, or int64 or uint64
tensors, [1] or one for each draw. `return_valid` gives (ids, bool [B]: the row could be drawn from);
`check_nan` makes any NaN a ValueError.

What differs from flashinfer:

    here                                                           | flashinfer
    -------------------------------------------------------------- | ----------------------------------------
    CPU and CUDA, the same ids on both                             | CUDA only
    -------------------------------------------------------------- | ----------------------------------------
    random numbers of the law of this package: the same seed gives | cuRAND's Philox
    other ids than there                                           |
    -------------------------------------------------------------- | ----------------------------------------
    a seed tensor [B]: a row's noise is that of its seed and       | the row's place counts too: a request
    offset, wherever it stands (so two rows with equal ones share  | moved in the batch draws anew
    it)                                                            |
    -------------------------------------------------------------- | ----------------------------------------
    an int, or a tensor [1]: row r has the noise of request r of   | the same idea
    that seed                                                      |
    -------------------------------------------------------------- | ----------------------------------------
    seed without offset, offset without seed, or either beside a   | what was given is ignored
    generator: ValueError                                          |
    -------------------------------------------------------------- | ----------------------------------------
    without a seed the generator moves on by one 64-bit draw       | by a step that depends on B and V
    -------------------------------------------------------------- | ----------------------------------------
    weights need not sum to 1: everything is relative to the row's | what is missing from 1 falls to the last
    sum                                                            | token, and top_p counts absolute mass
    -------------------------------------------------------------- | ----------------------------------------
    edges of filters exact, in integers; draws exact to 2^-64      | sums in float32, uniforms of 32 bits
    -------------------------------------------------------------- | ----------------------------------------
    top_k 0 or -1, top_p 1, min_p 0: off. Others outside top_k >=  | not checked
    1 and [0, 1]: numbers ValueError, tensors a bad row            |
    -------------------------------------------------------------- | ----------------------------------------
    top_k_first keeps all ties of the k-th weight                  | exactly k where k <= 256 and V >= 65536
    -------------------------------------------------------------- | ----------------------------------------
    a bad row (NaN, +inf, negative weight, nothing to draw):       | id 0 and False where nothing is left,
    ValueError on the CPU, id -1 elsewhere; with return_valid id 0 | undefined for the others
    and False                                                      |
    -------------------------------------------------------------- | ----------------------------------------
    an index outside the rows: ValueError on the CPU               | reads other memory
    -------------------------------------------------------------- | ----------------------------------------
    weights below 2^-44 of the row's largest are never drawn       | drawn where float32 sums let them
    -------------------------------------------------------------- | ----------------------------------------
    softmax at temperature 0: 1 at the first maximum               | uniform, NaN at -inf
    -------------------------------------------------------------- | ----------------------------------------
    deterministic, is_deterministic, enable_pdl: without effect,   | they choose kernels
    every result is deterministic                                  |
    -------------------------------------------------------------- | ----------------------------------------
    top_k_renorm_probs takes float64 (as float32)                  | refuses it
    -------------------------------------------------------------- | ----------------------------------------
    chain_speculative_sampling: one uniform for a draft token, for | a second one for the rejected token, in
    both counts                                                    | the count of accepted ones
    -------------------------------------------------------------- | ----------------------------------------
    the counts are added in place to int32 and int64               | to int32; other types are copied
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real
from typing import Any

import torch
from torch import Tensor

from .. import filters
from .._checks import LOGIT_DTYPES, PROB_DTYPES, check_device, dtype_name
from .._noise import control_uniform
from ..sampling import sample_probs
from ..softmax import softmax as softmax_of_rows
from ..status import Status
from ._rows import INDEX_DTYPES, check_matrix, draw, named, row_keys

_ORDERS = {"top_k_first": "sequential", "joint": "joint"}
_TEMPERATURE_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def softmax(
    logits: Tensor, temperature: Tensor | float | None = None, enable_pdl: bool | None = None
) -> Tensor:
    """Probabilities float32 [B, V] of `logits / temperature`; a row with NaN, +inf or nothing finite is NaN.

    Args:
        logits: [B, V].
        temperature: a number >= 0, None for 1, or a floating tensor [B].
        enable_pdl: without effect.
    """
    op = "softmax"
    check_matrix(op, "logits", logits)
    if temperature is None:
        temperature = 1.0
    if isinstance(temperature, Tensor):
        if temperature.dtype not in _TEMPERATURE_DTYPES:
            raise ValueError(f"{op}: temperature must be floating, got {dtype_name(temperature.dtype)}")
        if tuple(temperature.shape) != (logits.shape[0],):
            raise ValueError(
                f"{op}: temperature must be [{logits.shape[0]}], got shape {list(temperature.shape)}"
            )
        check_device(op, "temperature", temperature, logits.device)
    elif isinstance(temperature, bool) or not isinstance(temperature, Real):
        raise TypeError(f"{op}: temperature must be a number or a tensor, got {type(temperature).__name__}")
    x = logits.to(torch.float32) if logits.dtype == torch.float64 else logits
    return softmax_of_rows(x, temperature, check="status")


def sampling_from_logits(
    logits: Tensor,
    indices: Tensor | None = None,
    deterministic: bool = True,
    generator: torch.Generator | None = None,
    check_nan: bool = False,
    seed: int | Tensor | None = None,
    offset: int | Tensor | None = None,
) -> Tensor:
    """Ids drawn from softmax(logits)."""
    return draw("sampling_from_logits", "logits", logits, indices, generator, check_nan, seed, offset)


def sampling_from_probs(
    probs: Tensor,
    indices: Tensor | None = None,
    deterministic: bool = True,
    generator: torch.Generator | None = None,
    check_nan: bool = False,
    seed: int | Tensor | None = None,
    offset: int | Tensor | None = None,
    return_valid: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """Ids drawn from rows of weights."""
    op = "sampling_from_probs"
    return draw(op, "probs", probs, indices, generator, check_nan, seed, offset, return_valid)


def top_p_sampling_from_probs(
    probs: Tensor,
    top_p: Tensor | float,
    indices: Tensor | None = None,
    deterministic: bool = True,
    generator: torch.Generator | None = None,
    check_nan: bool = False,
    seed: int | Tensor | None = None,
    offset: int | Tensor | None = None,
    return_valid: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """As `sampling_from_probs`, from the tokens that less than `top_p` of the mass lies strictly above."""
    op = "top_p_sampling_from_probs"
    return draw(op, "probs", probs, indices, generator, check_nan, seed, offset, return_valid, top_p=top_p)


def top_k_sampling_from_probs(
    probs: Tensor,
    top_k: Tensor | int,
    indices: Tensor | None = None,
    deterministic: bool = True,
    generator: torch.Generator | None = None,
    check_nan: bool = False,
    seed: int | Tensor | None = None,
    offset: int | Tensor | None = None,
    return_valid: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """As `sampling_from_probs`, from the tokens that fewer than `top_k` others lie strictly above."""
    op = "top_k_sampling_from_probs"
    return draw(op, "probs", probs, indices, generator, check_nan, seed, offset, return_valid, top_k=top_k)


def min_p_sampling_from_probs(
    probs: Tensor,
    min_p: Tensor | float,
    indices: Tensor | None = None,
    deterministic: bool = True,
    generator: torch.Generator | None = None,
    check_nan: bool = False,
    seed: int | Tensor | None = None,
    offset: int | Tensor | None = None,
    return_valid: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """As `sampling_from_probs`, from the tokens of at least `min_p` times the largest weight."""
    op = "min_p_sampling_from_probs"
    return draw(op, "probs", probs, indices, generator, check_nan, seed, offset, return_valid, min_p=min_p)


def top_k_top_p_sampling_from_logits(
    logits: Tensor,
    top_k: Tensor | int,
    top_p: Tensor | float,
    indices: Tensor | None = None,
    filter_apply_order: str = "top_k_first",
    deterministic: bool = True,
    generator: torch.Generator | None = None,
    check_nan: bool = False,
    seed: int | Tensor | None = None,
    offset: int | Tensor | None = None,
) -> Tensor:
    """Ids drawn from softmax(logits) after top-k and top-p: the mass of top-p is that of what top-k left
    ("top_k_first") or of the whole row ("joint")."""
    op = "top_k_top_p_sampling_from_logits"
    rules = _top_k_top_p(op, top_k, top_p, filter_apply_order)
    return draw(op, "logits", logits, indices, generator, check_nan, seed, offset, **rules)


def top_k_top_p_sampling_from_probs(
    probs: Tensor,
    top_k: Tensor | int,
    top_p: Tensor | float,
    indices: Tensor | None = None,
    filter_apply_order: str = "top_k_first",
    deterministic: bool = True,
    generator: torch.Generator | None = None,
    check_nan: bool = False,
    seed: int | Tensor | None = None,
    offset: int | Tensor | None = None,
    return_valid: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """As `top_k_top_p_sampling_from_logits`, from rows of weights."""
    op = "top_k_top_p_sampling_from_probs"
    rules = _top_k_top_p(op, top_k, top_p, filter_apply_order)
    return draw(op, "probs", probs, indices, generator, check_nan, seed, offset, return_valid, **rules)


def top_p_renorm_probs(probs: Tensor, top_p: Tensor | float, is_deterministic: bool = False) -> Tensor:
    """float32 [B, V]: probabilities of what top-p keeps, of sum 1; 0 elsewhere."""
    return _filtered("top_p_renorm_probs", "probs", probs, filters.top_p_renorm, top_p)


top_p_renorm_prob = top_p_renorm_probs


def top_k_renorm_probs(probs: Tensor, top_k: Tensor | int, is_deterministic: bool = False) -> Tensor:
    """[B, V] of the dtype of `probs`: probabilities of what top-k keeps, of sum 1; 0 elsewhere."""
    return _filtered("top_k_renorm_probs", "probs", probs, filters.top_k_renorm, top_k).to(probs.dtype)


top_k_renorm_prob = top_k_renorm_probs


def top_k_mask_logits(logits: Tensor, top_k: Tensor | int) -> Tensor:
    """[B, V] of the dtype of `logits` (float32, bfloat16 or float16): what top-k keeps, -inf elsewhere."""
    return _filtered("top_k_mask_logits", "logits", logits, filters.top_k_mask, top_k, LOGIT_DTYPES)


def chain_speculative_sampling(
    draft_probs,
    draft_token_ids,
    target_probs,
    maybe_output_accepted_token_num: Tensor | None = None,
    maybe_output_emitted_draft_token_num: Tensor | None = None,
    deterministic: bool = True,
    generator: torch.Generator | None = None,
    seed: int | Tensor | None = None,
    offset: int | Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Speculative sampling along a chain: draft tokens kept with probability min(1, target / draft), then one
    token from the rest.

    The acceptance is exact to 2^-53. The token after a rejection is drawn from max(0, target - draft), taken
    in float64 and rounded to float32: to 2^-24 of each probability.

    Args:
        draft_probs: [B, n, V], rows that sum to 1.
        draft_token_ids: int32 or int64 [B, n], drawn from them.
        target_probs: [B, n + 1, V], rows that sum to 1.
        maybe_output_accepted_token_num: int32 or int64 [B], to which the number of draft tokens that pass,
            each on its own, is added.
        maybe_output_emitted_draft_token_num: the same for the number of those before the first that does not.

    Returns: int32 [B, n + 1] ids (the accepted ones, one drawn, then -1), and the two counts [B] (int32 where
        none was given).
    """
    op = "chain_speculative_sampling"
    _check_chain(op, draft_probs, draft_token_ids, target_probs)
    rows, length, _ = draft_probs.shape
    device = target_probs.device
    counts = [
        torch.zeros(rows, dtype=torch.int32, device=device)
        if given is None
        else _check_count(op, given, rows, device)
        for given in (maybe_output_accepted_token_num, maybe_output_emitted_draft_token_num)
    ]
    keys = _position_keys(op, rows, length + 1, device, generator, seed, offset)
    ids = draft_token_ids.to(torch.int64).unsqueeze(-1)
    p = draft_probs.gather(-1, ids).squeeze(-1).to(torch.float64)
    q = target_probs[:, :length].gather(-1, ids).squeeze(-1).to(torch.float64)
    noise = control_uniform(keys[:, :length].reshape(-1, 2), [0]).view(rows, length)
    passes = noise * p < q
    before = passes.to(torch.int32).cumprod(1).sum(1)  # [B]: draft tokens before the first that fails
    counts[0] += passes.sum(1)
    counts[1] += before

    at = before.view(-1, 1, 1).expand(-1, 1, target_probs.shape[-1])
    rest = target_probs.gather(1, at).squeeze(1).to(torch.float64)
    if length:
        drafted = draft_probs.gather(1, at.clamp(max=length - 1)).squeeze(1).to(torch.float64)
        rest = torch.where((before < length).unsqueeze(1), (rest - drafted).clamp(min=0), rest)
    drawn = sample_probs(
        rest,
        keys=keys.gather(1, before.view(-1, 1, 1).expand(-1, 1, 2)).squeeze(1),
        domain="recovery",
        returns=("status",),
        check="status",
    )
    if drawn.ids.is_cpu and bool((drawn.status != Status.OK).any()):
        row = int((drawn.status != Status.OK).nonzero()[0])
        name = Status(int(drawn.status[row])).name
        raise ValueError(
            f"{op}: row {row} has status {name} at position {int(before[row])}: nothing to draw from"
        )
    out = torch.full((rows, length + 1), -1, dtype=torch.int32, device=device)
    places = torch.arange(length + 1, device=device)
    out[:, :length] = torch.where(places[:length] < before.unsqueeze(1), draft_token_ids.to(torch.int32), -1)
    out.scatter_(1, before.unsqueeze(1).to(torch.int64), drawn.ids.to(torch.int32).unsqueeze(1))
    return out, counts[0], counts[1]


def _position_keys(op, rows, length, device, generator, seed, offset) -> Tensor:
    """int64 [rows, length, 2], apart from the keys of the other functions, whose sample id is 0."""
    if seed is None and offset is None:  # one word of the generator, then as a given seed
        word = row_keys(op, 1, device, generator, None, None)
        seed, offset = word.view(torch.int64)[:, 0], torch.zeros(1, dtype=torch.int64, device=device)
        generator = None
    keys = [row_keys(op, rows, device, generator, seed, offset, sample_ids=1 + i) for i in range(length)]
    return torch.stack([k.view(torch.int64) for k in keys], 1)


def _filtered(op, name, x, function: Callable, threshold, dtypes=PROB_DTYPES) -> Tensor:
    """Rows [B, V] through a filter of ours, flashinfer's ties."""
    check_matrix(op, name, x, dtypes)
    return named(op, function, x, threshold, ties="all")


def _top_k_top_p(op, top_k, top_p, filter_apply_order) -> dict[str, Any]:
    if filter_apply_order not in _ORDERS:
        raise ValueError(
            f"{op}: filter_apply_order must be 'top_k_first' or 'joint', got {filter_apply_order!r}"
        )
    return {"top_k": top_k, "top_p": top_p, "filter_order": _ORDERS[filter_apply_order]}


def _check_chain(op, draft_probs, draft_token_ids, target_probs) -> None:
    given = {"draft_probs": draft_probs, "draft_token_ids": draft_token_ids, "target_probs": target_probs}
    for name, value in given.items():
        if not isinstance(value, Tensor):
            raise TypeError(f"{op}: {name} must be a torch.Tensor, got {type(value).__name__}")
        check_device(op, name, value, target_probs.device)
        if name == "draft_token_ids":
            if value.dtype not in INDEX_DTYPES:
                raise TypeError(f"{op}: {name} must be int32 or int64, got {dtype_name(value.dtype)}")
        elif not value.is_floating_point():
            raise TypeError(f"{op}: {name} must be floating, got {dtype_name(value.dtype)}")
    if draft_probs.dim() != 3:
        raise ValueError(f"{op}: draft_probs must be [B, n, V], got shape {list(draft_probs.shape)}")
    rows, length, vocab = draft_probs.shape
    expected = {"draft_token_ids": (rows, length), "target_probs": (rows, length + 1, vocab)}
    for name, shape in expected.items():
        if tuple(given[name].shape) != shape:
            raise ValueError(f"{op}: {name} must be {list(shape)}, got shape {list(given[name].shape)}")
    ids = draft_token_ids
    if ids.is_cpu and ids.numel() and not 0 <= int(ids.min()) <= int(ids.max()) < vocab:
        raise ValueError(
            f"{op}: draft_token_ids must be in [0, {vocab}), got {int(ids.min())} to {int(ids.max())}"
        )


def _check_count(op, count, rows, device) -> Tensor:
    if not isinstance(count, Tensor) or count.dtype not in INDEX_DTYPES:
        got = dtype_name(count.dtype) if isinstance(count, Tensor) else type(count).__name__
        raise TypeError(f"{op}: a count must be an int32 or int64 tensor, got {got}")
    if tuple(count.shape) != (rows,):
        raise ValueError(f"{op}: a count must be [{rows}], got shape {list(count.shape)}")
    check_device(op, "a count", count, device)
    return count
