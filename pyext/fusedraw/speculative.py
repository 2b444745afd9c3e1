# SPDX-License-Identifier: Apache-2.0
"""verify: speculative decoding. Drafts of a small model accepted or replaced such that the tokens follow the
law of the large one."""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from ._checks import (
    LOGIT_DTYPES,
    MAX_VOCAB,
    call,
    check_check,
    check_choice,
    check_dense,
    check_device,
    check_id_dtype,
    dtype_name,
    mask_width,
    should_raise,
)
from ._device import is_plain, kernel_device, move
from ._params import (
    COLUMNS,
    FILTER_ORDERS,
    MODE_RAISE,
    NEUTRAL,
    TIES,
    HasTensor,
    check_lengths,
    check_value,
    pack_values,
    returned_names,
)
from ._verify_op import DRAFT_SHIFT
from ._verify_op import verify as verify_op
from .keys import make_keys, resolve_keys

_OP = "verify"
_PARAMETERS = ("temperature", "top_k", "top_p", "min_p")
_RETURNS = ("status", "n_accepted", "logp")  # the first two always come


class VerifyOutput(NamedTuple):
    """What `verify` gives for B rows of G drafts. Inputs of one row give [G + 1] and 0-D fields."""

    ids: Tensor  # int64 [B, G + 1]: the emitted tokens, then -1; -1 throughout for a bad row
    n_accepted: Tensor  # int64 [B]: drafts accepted; n_accepted + 1 tokens are emitted (bad row: 0, none)
    status: Tensor  # uint8 [B], see Status
    logp: Tensor | None = (
        None  # float32 [B, G + 1], nats, under the target's law; NaN where nothing is emitted
    )


def verify(
    draft_ids: Tensor,
    draft_logits: Tensor,
    target_logits: Tensor,
    *,
    temperature=1.0,
    top_k=0,
    top_p=1.0,
    min_p=0.0,
    filter_order="sequential",
    ties="index",
    mask=None,
    draft_temperature=None,
    draft_top_k=None,
    draft_top_p=None,
    draft_min_p=None,
    draft_filter_order=None,
    draft_ties=None,
    draft_mask=None,
    n_draft=None,
    keys=None,
    seed=None,
    step=0,
    generator=None,
    returns=(),
    check=None,
) -> VerifyOutput:
    """Accept a row's drafts in turn; replace the first that is not by a draw from what the target has left.

    The emitted tokens follow the target's law exactly as if `sample` had drawn each of them from the target
    alone, whatever the draft model is; a better one only has more of its drafts accepted. With p the target's
    law at a position (temperature and filters applied, as in `sample`) and q the draft's, draft d is accepted
    with probability min(1, p(d) / q(d)). The first that is not gives way to a draw from max(0, p - q),
    normalised, and the row ends there. After the last draft comes one more token, an ordinary draw from p.
    (Leviathan et al. 2023, Chen et al. 2023; decided in integers, see docs/law.md, section 20: the same bits
    for every batch size, thread count, instruction set and device.)

    A round of decoding, drafts first. Position j uses the row's key with its offset j further:

        for j in range(G):  # each draft seen by the draft model before the next
            ids[:, j] = fusedraw.sample(draft_logits[:, j], seed=s, step=t + j, domain="draft")
        out = fusedraw.verify(ids, draft_logits, target_logits, seed=s, step=t)
        t = t + out.n_accepted + 1  # per row: pass a tensor of steps from here on

    The last token is then that of `sample(target_logits[:, G], seed=s, step=t + G)`, to the bit, and so is
    every token at temperature 0.

    Args:
        draft_ids: int64 or int32 [B, G], or [G] for one row; G may be 0. Drawn from the draft's law as given
            here: an id outside [0, V) or one that this law cannot give makes the row BAD_PARAM.
        draft_logits: [B, G, V] or [G, V], float32, bfloat16 or float16, any strides: what the draft model
            said where it drew.
        target_logits: [B, G + 1, V] or [G + 1, V]: what the target says after each number of drafts. The two
            may differ in dtype. 1 <= V <= 2^33.
        temperature, top_k, top_p, min_p, filter_order, ties: the target's law, as in `sample`. Numbers, or
            tensors of length 1 or B.
        mask: tokens that may be drawn, bool or int32 words as in `sample`: [V], [B, V] or, one a position,
            [B, G + 1, V] (words: ceil(V / 32) in the place of V). For one row [V] or [G + 1, V].
        draft_temperature, draft_top_k, draft_top_p, draft_min_p, draft_filter_order, draft_ties: the draft's
            law. None: the target's.
        draft_mask: what the drafts were drawn with, [V], [B, V] or [B, G, V]. None: `mask`. All True: none.
        n_draft: int64 or int32 [B], 0 to G: how many drafts each row really has; what lies behind is not
            looked at. None: G. It may depend on drafts before, but not on the ones that it leaves out.
        keys: uint64 or int64 [B, 2] per row (see derive_keys). Or seed, step, or generator, as in `sample`:
            the ones with which draft 0 was drawn.
        returns: "logp" adds the log-probability of each emitted token under the target's law. ("status" and
            "n_accepted" always come.)
        check: "raise" (default on the CPU): a bad row raises ValueError; "status" (default elsewhere, no
            sync): it gets ids -1 and a status.

    Not offered: mix_eps, and the rules of `sample` beyond these. Bias and penalties: give the logits as
    `edit_logits` returns them, the drafts' too where they were drawn so.

    Positions are read in turn, draft before target, and none after the last emitted token: what is wrong
    there is not seen.

    Returns:
        VerifyOutput.

    Raises:
        TypeError: a wrong type or dtype; ValueError: a wrong shape, device, range or name, a bad row.
    """
    check_check(_OP, check)
    law = (temperature, top_k, top_p, min_p, filter_order, ties)
    of_draft = (draft_temperature, draft_top_k, draft_top_p, draft_min_p, draft_filter_order, draft_ties)
    values, draft_values, mode, wants_logp, packed = _settings_of(*law, *of_draft, returns)
    one_row = isinstance(target_logits, Tensor) and target_logits.dim() == 2
    if one_row:
        draft_ids, draft_logits, target_logits = _unsqueezed(draft_ids, draft_logits, target_logits)
        mask, draft_mask = (_mask_of_one_row(m) for m in (mask, draft_mask))
        if isinstance(n_draft, Tensor) and n_draft.dim() == 0:
            n_draft = n_draft.unsqueeze(0)
    rows, drafts = _check_logits(draft_logits, target_logits)
    home = target_logits.device
    draft_ids = _check_ids("draft_ids", draft_ids, (rows, drafts), home)
    if n_draft is not None:
        n_draft = _check_ids("n_draft", n_draft, (rows,), home)
    vocab = target_logits.shape[2]
    _check_mask("mask", mask, (rows, drafts + 1), vocab, home)
    _check_mask("draft_mask", draft_mask, (rows, drafts), vocab, home)
    if draft_mask is None and mask is not None:
        draft_mask = mask[:, :drafts] if mask.dim() == 3 and mask.shape[1] != 1 else mask
    if packed is None:
        for given, prefix in ((values, ""), (draft_values, "draft_")):
            check_lengths(_OP, given, rows, home, [prefix + name for name in COLUMNS])
    x = target_logits[:, 0]  # [B, V], for what goes by rows
    if keys is not None:
        keys = resolve_keys(_OP, x, keys, seed, step, generator, one_row)
    if should_raise(check, home):
        mode |= MODE_RAISE
    tensors = [draft_ids, draft_logits, target_logits, draft_mask, mask, n_draft, keys, seed, step]
    device = kernel_device(home)
    if device != home:
        tensors = move(device, *tensors)
        values, draft_values = move(device, *values), move(device, *draft_values)
        x = tensors[2][:, 0]
    draft_ids, draft_logits, target_logits, draft_mask, mask, n_draft, keys, seed, step = tensors
    if keys is None:
        keys = make_keys(_OP, x, seed, step, generator)
    if packed is None or not is_plain(x):
        packed = (pack_values(x, draft_values), pack_values(x, values))
    arguments = (draft_ids, draft_logits, target_logits, *packed, keys, draft_mask, mask, n_draft)
    ids, n_accepted, status, logp = call(_OP, verify_op, *arguments, mode, wants_logp)
    out = VerifyOutput(ids, n_accepted, status, logp if wants_logp else None)
    if device != home:
        out = VerifyOutput(*move(home, *out))
    if one_row:
        logp = out.logp if out.logp is None else out.logp[0]
        out = VerifyOutput(out.ids[0], out.n_accepted[0], out.status[0], logp)
    return out


class _Settings(NamedTuple):
    """What a call says of both laws, checked."""

    values: tuple  # of the target, in the order of COLUMNS
    draft_values: tuple
    mode: int
    wants_logp: bool
    packed: tuple | None = None  # the draft's and the target's row for the op, where all are numbers


def _settings_of(*given) -> _Settings:
    """Settings that are all numbers and names are checked and packed once."""
    if not torch.compiler.is_compiling():
        try:
            return _cached_settings(*given)
        except (HasTensor, TypeError):  # TypeError: something unhashable, or a wrong type that is named below
            pass
    return _check_settings(*given)


# typed: True == 1 == 1.0, and they are not the same parameter.
@functools.lru_cache(maxsize=256, typed=True)
def _cached_settings(*given) -> _Settings:
    if any(isinstance(value, Tensor) for value in given):
        raise HasTensor
    settings = _check_settings(*given)
    with torch.inference_mode(False):
        rows = [
            torch.tensor([values], dtype=torch.float64, device="cpu")
            for values in (settings.draft_values, settings.values)
        ]
    if any(type(row) is not Tensor for row in rows):  # a mode is active that makes fakes
        raise HasTensor
    return settings._replace(packed=tuple(rows))


def _check_settings(*given) -> _Settings:
    """Six of the target, six of the draft, and `returns`."""
    law, returns = given[:6], given[12]
    of_draft = [own if own is not None else target for own, target in zip(given[6:12], law, strict=True)]
    mode = _pack_names(law[4:], "") | _pack_names(of_draft[4:], "draft_") << DRAFT_SHIFT
    wants_logp = "logp" in returned_names(_OP, returns, _RETURNS)
    return _Settings(_check_values(law[:4], ""), _check_values(of_draft[:4], "draft_"), mode, wants_logp)


def _pack_names(names, prefix: str) -> int:
    bits = 0
    options = (("filter_order", FILTER_ORDERS), ("ties", TIES))
    for value, (name, choices) in zip(names, options, strict=True):
        check_choice(_OP, prefix + name, value, choices)
        bits |= choices[value]
    return bits


def _check_values(given, prefix: str) -> tuple:
    """The parameters in the order of COLUMNS, what is not offered neutral."""
    named = dict(zip(_PARAMETERS, given, strict=True))
    values = []
    for name in COLUMNS:
        try:
            values.append(check_value(_OP, name, named[name]) if name in named else NEUTRAL[name])
        except (TypeError, ValueError) as error:
            raise type(error)(str(error).replace(f": {name}", f": {prefix}{name}", 1)) from None
    return tuple(values)


def _unsqueezed(*tensors):
    return [t.unsqueeze(0) if isinstance(t, Tensor) else t for t in tensors]


def _mask_of_one_row(mask):
    """[V] as it is, [positions, V] as those of row 0."""
    return mask.unsqueeze(0) if isinstance(mask, Tensor) and mask.dim() == 2 else mask


def _check_logits(draft_logits, target_logits) -> tuple[int, int]:
    """(B, G) of logits that fit each other."""
    for name, x in (("target_logits", target_logits), ("draft_logits", draft_logits)):
        check_dense(_OP, name, x, LOGIT_DTYPES)
    if target_logits.dim() != 3 or target_logits.shape[1] == 0:
        raise ValueError(
            f"{_OP}: target_logits must be [B, G + 1, V] or [G + 1, V], got shape {list(target_logits.shape)}"
        )
    rows, positions, vocab = target_logits.shape
    if not 1 <= vocab <= MAX_VOCAB:
        raise ValueError(f"{_OP}: target_logits must have 1 to 2^33 tokens per row, got {vocab}")
    if tuple(draft_logits.shape) != (rows, positions - 1, vocab):
        raise ValueError(
            f"{_OP}: draft_logits must be [B, G, V] = [{rows}, {positions - 1}, {vocab}] beside "
            f"target_logits [B, G + 1, V], got shape {list(draft_logits.shape)}"
        )
    check_device(_OP, "draft_logits", draft_logits, target_logits.device)
    return rows, positions - 1


def _check_ids(name: str, ids, shape: tuple, device: torch.device) -> Tensor:
    check_id_dtype(_OP, name, ids)
    if tuple(ids.shape) != shape:
        raise ValueError(f"{_OP}: {name} must be {list(shape)}, got shape {list(ids.shape)}")
    check_device(_OP, name, ids, device)
    return ids.to(torch.int64)


def _check_mask(name: str, mask, shape: tuple, vocab: int, device: torch.device) -> None:
    if mask is None:
        return
    width = mask_width(_OP, name, mask, vocab)
    fits = mask.dim() in (1, 2, 3) and mask.shape[-1] == width
    fits = fits and all(n in (1, of) for n, of in zip(mask.shape[:-1], shape, strict=False))
    if not fits:
        raise ValueError(
            f"{_OP}: a {dtype_name(mask.dtype)} {name} must be [{width}], [{shape[0]}, {width}] or "
            f"[{shape[0]}, {shape[1]}, {width}], got shape {list(mask.shape)}"
        )
    check_device(_OP, name, mask, device)
