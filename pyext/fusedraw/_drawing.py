# SPDX-License-Identifier: Apache-2.0
"""The whole road of a draw: what `sample`, `sample_probs` and `Sampler` take where their fast paths do not
lead, and the checks that these share with it."""

from typing import NamedTuple

import torch
from torch import Tensor

from ._checks import (
    LOGIT_DTYPES,
    PROB_DTYPES,
    call,
    check_keys,
    check_mask,
    check_rows,
    should_raise,
)
from ._device import is_plain, kernel_device, move
from ._edits import fold_masks, pack_lists
from ._ops import sample as sample_op
from ._ops import sample_processed as processed_op
from ._params import MODE_RAISE, check_lengths, check_values, pack_options, pack_values, plan_of_numbers
from ._rules import MODE_TEMPERATURE_LAST, NAMES, check_rules, is_neutral, packed_numbers
from .keys import make_keys, resolve_keys

_WHOLE_BATCH = ("kept_ids", "kept_offsets")  # CSR: has no first row to take


class SampleOutput(NamedTuple):
    """Ids and what else was asked for; None where not asked. A 1-D input gives 0-D fields ([n] for top_*)."""

    ids: Tensor  # int64 [B], -1 for a bad row
    status: Tensor | None = None  # uint8 [B], see Status
    logp: Tensor | None = None  # float32 [B], nats: log-probability under the exact behaviour policy
    logp_full: Tensor | None = None  # float32 [B]: tempered, untruncated
    logp_raw: Tensor | None = None  # float32 [B]: untruncated at T = 1
    entropy: Tensor | None = None  # float32 [B], nats, of the tempered, untruncated law
    varentropy: Tensor | None = None  # float32 [B], nats^2
    margin: Tensor | None = None  # float32 [B]: first minus second logit, +inf if there is one
    n_kept: Tensor | None = None  # int64 [B]: tokens that the filters keep
    kept_mass: Tensor | None = None  # float32 [B]: their share of the untruncated law
    rank: Tensor | None = None  # int64 [B]: valid tokens before the drawn one
    explored: Tensor | None = None  # bool [B]: the coin of mix_eps fired
    kept_ids: Tensor | None = None  # int32 [sum of n_kept], ascending within a row
    kept_offsets: Tensor | None = None  # int64 [B + 1]: row r has kept_ids[offsets[r]:offsets[r + 1]]
    top_ids: Tensor | None = None  # int64 [B, top_n]: the first of the order, -1 where missing
    top_logps: Tensor | None = None  # float32 [B, top_n]: their logp_raw, -inf where missing

    def __repr__(self) -> str:
        fields = [
            f"{name}={value!r}" for name, value in zip(self._fields, self, strict=True) if value is not None
        ]
        return f"SampleOutput({', '.join(fields)})"


class Extras(NamedTuple):
    """What a draw takes beyond its five parameters, as given; None: off."""

    rules: tuple  # in the order of _rules.NAMES
    temperature_last: bool | None = None
    history: object = None
    prompt: object = None
    suppress: object = None
    logit_bias: object = None
    deny_mask: object = None


def draw_any(op, x, values, options, mask, keys, seed, step, generator, extras=None):
    """All checks first; tensor parameters, edits and rules, one row, other devices, compiled graphs.

    values: in the order of _params.COLUMNS; options: as pack_options takes them; extras: an Extras, for
    logits only.
    """
    plan = plan_of_numbers(op, values, options) if _may_remember(x) else None
    if plan is None:
        values = check_values(op, values)
        mode, outputs, fields, top_n = pack_options(op, *options)
    else:  # checked, and nothing to pack
        values = ()
        mode, outputs, fields, top_n = plan.device_mode, plan.outputs, plan.names, plan.top_n
    check_call(op, x, values, None if extras else mask, None)
    one_row = x.dim() == 1
    if one_row:
        x = x.unsqueeze(0)
    home = x.device
    if should_raise(options[-1], home):
        mode |= MODE_RAISE
    if extras is not None:
        rules, lists, mask = _prepared(op, x, one_row, mask, extras)
        if extras.temperature_last:
            mode |= MODE_TEMPERATURE_LAST
    if keys is not None:
        keys = resolve_keys(op, x, keys, seed, step, generator, one_row)
    device = kernel_device(home)
    if device != home:
        x, mask, keys, seed, step, *values = move(device, x, mask, keys, seed, step, *values)
    if keys is None:
        keys = make_keys(op, x, seed, step, generator)
    params = pack_values(x, values) if plan is None else plan.params
    if extras is None:
        out = call(op, sample_op, x, params, keys, mask, mode, outputs, top_n)
    else:
        if not isinstance(rules, Tensor):
            rules = pack_values(x, move(device, *rules))
        lists = move(device, *lists)
        out = call(op, processed_op, x, params, rules, keys, mask, *lists, mode, outputs, top_n)
    if device != home:
        out = [tensor.to(home) for tensor in out]
    out = dict(zip(fields, out, strict=True))
    if one_row:
        out = {name: field if name in _WHOLE_BATCH else field[0] for name, field in out.items()}
    return out["ids"] if len(out) == 1 else SampleOutput(**out)


def _may_remember(x) -> bool:
    """Whether packed numbers may be real tensors on the CPU: not beside fakes and subclasses."""
    return not torch.compiler.is_compiling() and is_plain(x)


def _prepared(op, x, one_row, mask, extras):
    """(rules, packed or checked; the lists of the op; one mask)."""
    check_extras(op, extras)
    rows, device = x.shape[0], x.device
    rules = packed_numbers(op, extras.rules) if _may_remember(x) else None
    if rules is None:
        rules = check_rules(op, extras.rules)
        check_lengths(op, rules, rows, device, NAMES)
    mask = fold_masks(op, mask, extras.deny_mask, rows, x.shape[1], device)
    check_mask(op, mask, rows, x.shape[1], device)
    lists = pack_lists(op, x, one_row, extras.history, extras.prompt, extras.suppress, extras.logit_bias)
    return rules, lists, mask


def check_extras(op, extras) -> None:
    """Penalties have the lists that they need."""
    if not isinstance(extras.temperature_last, (bool, type(None))):
        raise TypeError(
            f"{op}: temperature_last must be a bool, got {type(extras.temperature_last).__name__}"
        )
    penalties = dict(zip(NAMES, extras.rules, strict=True))
    if extras.history is None:
        for name in ("frequency_penalty", "presence_penalty"):
            if not is_neutral(name, penalties[name]):
                raise ValueError(f"{op}: {name} needs history, the ids drawn so far")
        if extras.prompt is None and not is_neutral("repetition_penalty", penalties["repetition_penalty"]):
            raise ValueError(f"{op}: repetition_penalty needs history or prompt")


def check_call(op, x, values, mask, keys) -> None:
    """Raise what is wrong with the metadata of a call, if anything is."""
    probs = op == "sample_probs"
    check_rows(op, "probs" if probs else "logits", x, PROB_DTYPES if probs else LOGIT_DTYPES)
    rows = x.shape[0] if x.dim() == 2 else 1
    if values:  # none: all numbers
        check_lengths(op, values, rows, x.device)
    check_mask(op, mask, rows, x.shape[-1], x.device)
    if keys is not None:
        check_keys(op, keys, rows, x.device)
