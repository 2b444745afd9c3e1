# SPDX-License-Identifier: Apache-2.0
"""edit_logits: bias, penalties and removed tokens in place, as `sample` sees a row before it filters."""

import torch
from torch import Tensor

from ._checks import check_mask, check_rows
from ._drawing import Extras, check_extras
from ._edits import fold_masks, pack_lists
from ._params import check_lengths
from ._rules import NAMES, OFF, check_rules


def edit_logits(
    logits: Tensor,
    *,
    repetition_penalty=None,
    frequency_penalty=None,
    presence_penalty=None,
    history=None,
    prompt=None,
    logit_bias=None,
    suppress=None,
    mask=None,
    deny_mask=None,
) -> Tensor:
    """The edited logits that `sample` with the same arguments draws from, for everything else that takes
    logits: `token_logprob`, `softmax`, a loss. In plain torch operations, differentiable in `logits`.

    Args: as in `sample`. An id of V and more raises on the CPU; on other devices and in compiled code, which
        do not look, its row becomes NaN. (`sample` gives such a row BAD_PARAM.)

    Returns: float32 of the shape of `logits`; -inf where a token is removed or not allowed.

    Raises: TypeError, ValueError: as `sample`.
    """
    op = "edit_logits"
    check_rows(op, "logits", logits)
    penalties = (repetition_penalty, frequency_penalty, presence_penalty)
    rules = (*OFF[:-3], *penalties)
    check_extras(op, Extras(rules, history=history, prompt=prompt))
    one_row = logits.dim() == 1
    x = logits.unsqueeze(0) if one_row else logits
    rows, vocab = x.shape
    rules = check_rules(op, rules)
    check_lengths(op, rules, rows, x.device, NAMES)
    check_mask(op, mask, rows, vocab, x.device)
    allowed = fold_masks(op, mask, deny_mask, rows, vocab, x.device)
    lists = pack_lists(op, x, one_row, history, prompt, suppress, logit_bias)
    named = {
        "history": (lists.history, lists.history_offsets),
        "prompt": (lists.prompt, lists.prompt_offsets),
        "suppress": (lists.suppress, lists.suppress_offsets),
        "logit_bias": (lists.bias, lists.bias_offsets),
    }
    looks = x.device.type == "cpu" and not torch.compiler.is_compiling()
    if looks:
        _check_ids(op, named, vocab)
    repetition, frequency, presence = (_column(x, value) for value in rules[-3:])

    y = x.to(torch.float32)
    if lists.bias is not None:
        bias = _spread(x, lists.bias, lists.bias_offsets, lists.bias_values, y.new_zeros((rows, vocab)))
        y = y + bias
        y = y.masked_fill(bias == -torch.inf, -torch.inf)
    count = _count(x, lists.history, lists.history_offsets)
    seen = count + _count(x, lists.prompt, lists.prompt_offsets) > 0
    y = torch.where(seen, torch.where(y > 0, y / repetition, y * repetition), y)
    y = torch.where(count > 0, y - frequency * count - presence, y)
    y = y.masked_fill(_count(x, lists.suppress, lists.suppress_offsets) > 0, -torch.inf)
    if allowed is not None:
        y = y.masked_fill(~_as_bool(allowed, vocab), -torch.inf)
    if not looks:
        for ids, offsets in named.values():
            if ids is not None:
                outside = _spread(x, ids, offsets, (ids >= vocab).float(), y.new_zeros(y.shape))
                y = y.masked_fill((outside > 0).any(1, keepdim=True), torch.nan)
    return y[0] if one_row else y


def _check_ids(op, named, vocab):
    for name, (ids, _) in named.items():
        if ids is not None and ids.numel() > 0 and (most := int(ids.max())) >= vocab:
            raise ValueError(f"{op}: {name} must hold ids in [0, {vocab}), got {most}")


def _column(x, value):
    if isinstance(value, Tensor):
        return value.detach().reshape(-1, 1).to(torch.float32)
    return x.new_ones((1, 1), dtype=torch.float32) * value


def _count(x, ids, offsets):
    """float32 [B or 1, V]: how often each id stands in a list; 0-D where there is none."""
    if ids is None:
        return x.new_zeros((), dtype=torch.float32)
    ones = x.new_ones(ids.shape, dtype=torch.float32)
    return _spread(x, ids, offsets, ones, x.new_zeros(x.shape, dtype=torch.float32))


def _spread(x, ids, offsets, values, to):
    """Adds values at (row, id); negative ids are padding."""
    rows = x.shape[0]
    if rows == 0:
        return to
    if offsets is None:
        where = ids.expand(rows, -1)
        keep = where >= 0
        return to.scatter_add_(1, where.clamp(0, x.shape[1] - 1).long(), values.expand(rows, -1) * keep)
    if offsets.shape[0] == 2 and rows != 1:  # one list for all rows
        return _spread(x[:1], ids, offsets, values, to[:1])
    row = torch.repeat_interleave(
        torch.arange(rows, device=x.device), offsets.diff(), output_size=ids.shape[0]
    )
    keep = ids >= 0
    place = (row, ids.clamp(0, x.shape[1] - 1).long())
    return to.index_put_(place, values.where(keep, values.new_zeros(())), True)


def _as_bool(mask, vocab):
    if mask.dtype is torch.bool:
        return mask
    bits = torch.arange(32, device=mask.device, dtype=torch.int32)
    return (mask.unsqueeze(-1) >> bits & 1).flatten(-2)[..., :vocab].bool()
