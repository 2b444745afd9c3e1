# SPDX-License-Identifier: Apache-2.0
"""mixture: one token per row from several models, and what each of them says about it."""

import functools
import math
import numbers
from typing import NamedTuple

import torch
from torch import Tensor

from ._checks import (
    LOGIT_DTYPES,
    call,
    check_choice,
    check_device,
    check_keys,
    check_mask,
    check_rows,
    dtype_name,
    explain,
    listing,
    should_raise,
)
from ._device import is_plain, kernel_device, move
from ._ops import mixture as mixture_op
from ._params import (
    MODE_RAISE,
    OUTPUT_BITS,
    HasTensor,
    check_lengths,
    check_value,
    check_values,
    mix_eps_of,
    output_fields,
    pack_options,
    pack_values,
    returned_names,
)
from .keys import make_keys, reject_beside_keys, resolve_keys

_OP = "mixture"
MODES = {"arithmetic": 0, "geometric": 1, "cfg": 2, "context_aware": 3, "contrastive": 4}
MAX_MEMBERS = 32
_MEANS = ("arithmetic", "geometric")
_NOT_OF_MIXTURES = ("logp_full", "logp_raw", "varentropy", "margin")
# Bit of each output, in the order in which the op returns them: some of those of `sample`, and its own.
_BITS = {
    **{name: bit for name, bit in OUTPUT_BITS.items() if name not in _NOT_OF_MIXTURES},
    **{"member_logp": 12, "member_entropy": 13, "mean_entropy": 14, "mutual_information": 15},
}
_BY_MEMBER = ("member_logp", "member_entropy")
_WHOLE_BATCH = ("kept_ids", "kept_offsets")
_WEIGHT_DTYPES = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


class MixtureOutput(NamedTuple):
    """Ids and what else was asked for; None where not asked. 1-D members give 0-D fields (member_*: [M])."""

    ids: Tensor  # int64 [B], -1 for a bad row
    status: Tensor | None = None  # uint8 [B], see Status
    logp: Tensor | None = None  # float32 [B], nats: log-probability under the exact behaviour policy
    entropy: Tensor | None = None  # float32 [B], nats, of the combined law at T, untruncated
    n_kept: Tensor | None = None  # int64 [B]: tokens that the filters keep
    kept_mass: Tensor | None = None  # float32 [B]: their share of the untruncated law
    rank: Tensor | None = None  # int64 [B]: valid tokens before the drawn one
    explored: Tensor | None = None  # bool [B]: the coin of mix_eps fired
    kept_ids: Tensor | None = None  # int32 [sum of n_kept], ascending within a row
    kept_offsets: Tensor | None = None  # int64 [B + 1]
    member_logp: Tensor | None = None  # float32 [M, B]: each member's of the drawn token at T, untruncated
    member_entropy: Tensor | None = None  # float32 [M, B], nats: each member's at T, untruncated
    mean_entropy: Tensor | None = None  # float32 [B]: the weighted mean of these
    mutual_information: Tensor | None = None  # float32 [B], nats, >= 0: entropy - mean_entropy

    def __repr__(self) -> str:
        fields = [
            f"{name}={value!r}" for name, value in zip(self._fields, self, strict=True) if value is not None
        ]
        return f"MixtureOutput({', '.join(fields)})"


def mixture(
    members,
    weights=None,
    mode="arithmetic",
    *,
    strength=None,
    plausibility=None,
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
    check=None,
):
    """Draw one token id per row from several models, combined into one law without a copy of any of them.

    With x_m the logits of member m and p_m their softmax at `temperature`, the law is by `mode`:

    - "arithmetic": sum of a_m p_m, an ensemble. A token that one member excludes keeps the probability that
      the others give it.
    - "geometric": product of p_m^a_m, normalised (logarithmic opinion pool, product of experts).
    - "cfg": x_1 + strength (x_0 - x_1), classifier-free guidance (Sanchez et al. 2023). Members: conditional,
      unconditional. Strength 1 is the conditional one alone.
    - "context_aware": x_0 + strength (x_0 - x_1), context-aware decoding (Shi et al. 2023). Members: with the
      context, without. Strength 0 is the one with context alone.
    - "contrastive": x_0 + strength (x_0 - x_1) where p_0 >= plausibility * max p_0 at T = 1: contrastive
      decoding (Li et al. 2022) in the form of O'Brien and Lewis (2023). Members: expert, amateur.

    Filters and mix_eps apply to that law as in `sample`: combine, truncate, renormalise, explore. In all
    modes but the first, a token that is -inf in one of the members that count is never drawn. Identical
    members give the draws of `sample` on one of them (docs/law.md says where ties can differ).

    Args:
        members: [M, B, V] or [M, V] tensor, or a sequence of M tensors [B, V] or [V] of one shape and dtype:
            float32, bfloat16 or float16; 1 <= M <= 32, and M = 2 for the modes with a strength.
        weights: for the first two modes: M numbers >= 0, or a tensor [M] or [B, M]; only their ratios count.
            None: all equal. A member of weight 0 does not enter the law, but its logits must be sound.
        mode: the name of the combination.
        strength: for the other modes: a finite number, or a tensor of length 1 or B.
        plausibility: for "contrastive": in [0, 1], a number or a tensor of length 1 or B; default 0.1.
        temperature: >= 0, of every member before they are combined; in all modes but the first that is the
            same as of the combination. 0 with "arithmetic": each member votes for its first token, and the
            draw is among the votes.
        exploit: as in `sample`: 1 - mix_eps, in its place.
        mask: as in `sample`; a token that is not allowed is looked at in no member.
        returns: names out of status, logp, entropy, n_kept, kept_mass, rank, explored, kept, member_logp,
            member_entropy, mean_entropy (the first two modes) and mutual_information ("arithmetic": how much
            the members disagree, the generalised Jensen-Shannon divergence).
        The rest: as in `sample`.

    Returns:
        int64 [B] ids (0-D for 1-D members), or a MixtureOutput when `returns` asks for more.

    Raises:
        TypeError: a wrong type or dtype. ValueError: members of different V or B, too few or too many,
        weights that do not fit, are negative, NaN, infinite or all 0, and what `sample` raises. The data of
        tensors is not looked at here: a row of bad weights is BAD_PARAM, and one in which a member is bad has
        the status of the first such member.
    """
    if isinstance(weights, list):
        weights = tuple(weights)
    if exploit is not None:
        mix_eps = mix_eps_of(_OP, mix_eps, exploit)
    values = (temperature, top_p, min_p, mix_eps, top_k)
    options = (mix_support, filter_order, ties, domain, check)
    law = (mode, weights, strength, plausibility)
    if isinstance(members, Tensor) and members.dim() == 3:
        members = members.unbind(0)
    if keys is None or keys.__class__ is Tensor:
        plan = _plan_of(members, law, values, options, returns, mask)
        if plan is not None:
            return _draw_planned(plan, members, mask, keys, (seed, step, generator), law, values)
    return _draw_any(members, law, values, options, returns, mask, keys, seed, step, generator)


class _Plan(NamedTuple):
    """A call's settings that are all numbers and names, checked and packed."""

    weights: Tensor
    params: Tensor
    mode_bits: int
    outputs: int
    fields: tuple
    check: str | None


@functools.lru_cache(maxsize=512, typed=True)
def _cached_plan(n_members, law, types, values, options, returns) -> _Plan:
    if any(isinstance(value, Tensor) for value in (*law, *values)):
        raise HasTensor
    mode, weights, strength, plausibility = law
    check_choice(_OP, "mode", mode, MODES)
    _check_count(mode, n_members)
    host = torch.device("cpu")
    packed = _check_weights(mode, weights, strength, plausibility, n_members, 1, host)
    mix_support, filter_order, ties, domain, check = options
    mode_bits, _, _, _ = pack_options(_OP, mix_support, filter_order, ties, domain, (), 0, check)
    outputs, fields = _pack_returns(mode, returns)
    values = check_values(_OP, values)
    with torch.inference_mode(False):
        rows = [torch.tensor([row], dtype=torch.float64, device=host) for row in (packed, values)]
    if any(type(row) is not Tensor for row in rows):  # a mode is active that makes fakes
        raise HasTensor
    return _Plan(rows[0], rows[1], mode_bits, outputs, fields, check)


def _plan_of(members, law, values, options, returns, mask):
    """The cached plan of plain rows and plain numbers; None: take the whole road."""
    if torch.compiler.is_compiling() or not isinstance(members, (list, tuple)):
        return None
    if not all(is_plain(x) and x.dim() == 2 for x in members):
        return None
    if mask is not None and mask.__class__ is not Tensor:
        return None
    weights = law[1]
    # True == 1 == 1.0, and they are not the same parameter.
    types = (*map(type, law[2:]), *map(type, values), *map(type, weights if type(weights) is tuple else ()))
    try:
        return _cached_plan(len(members), law, types, values, options, returns)
    except (HasTensor, TypeError):  # TypeError: something unhashable, or a wrong type that is named below
        return None


def _draw_planned(plan: _Plan, members, mask, keys, noise, law, values):
    """One op, which checks devices and shapes."""
    first = members[0]
    try:
        if keys is None:
            if noise[0] is None:  # a refused call must not advance the generator
                _check_call(members, law, values, mask, None)
            keys = make_keys(_OP, first, *noise)
        else:
            reject_beside_keys(_OP, *noise)
        mode_bits = plan.mode_bits
        if should_raise(plan.check, first.device):
            mode_bits |= MODE_RAISE
        how = MODES[law[0]]
        out = mixture_op(members, plan.weights, plan.params, keys, mask, how, mode_bits, plan.outputs)
    except RuntimeError as error:
        failure = error
    else:
        return out[0] if len(out) == 1 else MixtureOutput(**dict(zip(plan.fields, out, strict=True)))
    raise explain(_OP, failure, _check_call, members, law, values, mask, keys)


def _check_call(members, law, values, mask, keys) -> None:
    """Raise what is wrong with the metadata of a call, if anything is."""
    members = _check_members(members, law[0])
    first = members[0]
    rows = first.shape[0] if first.dim() == 2 else 1
    check_lengths(_OP, values, rows, first.device)
    check_mask(_OP, mask, rows, first.shape[-1], first.device)
    if keys is not None:
        check_keys(_OP, keys, rows, first.device, first.dim() == 1)


def _draw_any(members, law, values, options, returns, mask, keys, seed, step, generator):
    """The whole road: all checks first, tensor parameters, one row, other devices, compiled graphs."""
    mode = law[0]
    check_choice(_OP, "mode", mode, MODES)
    members = _check_members(members, mode)
    values = check_values(_OP, values)
    mode_bits, _, _, _ = pack_options(_OP, *options[:4], (), 0, options[4])
    outputs, fields = _pack_returns(mode, returns)
    _check_call(members, law, values, mask, keys)
    one_row = members[0].dim() == 1
    if one_row:
        members = [x.unsqueeze(0) for x in members]
    first = members[0]
    home = first.device
    weights = _check_weights(*law, len(members), first.shape[0], home)
    if keys is not None:
        keys = resolve_keys(_OP, first, keys, seed, step, generator, one_row)
    if should_raise(options[4], home):
        mode_bits |= MODE_RAISE
    device = kernel_device(home)
    if device != home:
        members = move(device, *members)
        mask, keys, seed, step, *values = move(device, mask, keys, seed, step, *values)
        weights = weights.to(device) if isinstance(weights, Tensor) else move(device, *weights)
        first = members[0]
    if keys is None:
        keys = make_keys(_OP, first, seed, step, generator)
    params = pack_values(first, values)
    packed = weights if isinstance(weights, Tensor) else pack_values(first, weights)
    out = call(_OP, mixture_op, members, packed, params, keys, mask, MODES[mode], mode_bits, outputs)
    if device != home:
        out = [tensor.to(home) for tensor in out]
    named = dict(zip(fields, out, strict=True))
    if one_row:
        named = {name: _first_row(name, field) for name, field in named.items()}
    return named["ids"] if len(named) == 1 else MixtureOutput(**named)


def _first_row(name: str, field: Tensor) -> Tensor:
    if name in _WHOLE_BATCH:
        return field
    return field[:, 0] if name in _BY_MEMBER else field[0]


def _check_members(members, mode: str) -> list:
    """The members as a list of tensors of one shape, dtype and device."""
    if isinstance(members, Tensor):
        if members.dim() not in (2, 3):
            raise ValueError(f"{_OP}: members must be [M, V] or [M, B, V], got shape {list(members.shape)}")
        members = list(members.unbind(0))
    elif not isinstance(members, (list, tuple)):
        raise TypeError(
            f"{_OP}: members must be a tensor or a sequence of tensors, got {type(members).__name__}"
        )
    _check_count(mode, len(members))
    for i, x in enumerate(members):
        check_rows(_OP, f"members[{i}]", x, LOGIT_DTYPES)
        first = members[0]
        if x.dtype != first.dtype:
            raise TypeError(
                f"{_OP}: members must have one dtype, got {dtype_name(first.dtype)} for members[0] and "
                f"{dtype_name(x.dtype)} for members[{i}]"
            )
        if x.dim() == first.dim() and x.shape[-1] != first.shape[-1]:
            raise ValueError(
                f"{_OP}: members must have one V (the same vocabulary), got V = {first.shape[-1]} for "
                f"members[0] and V = {x.shape[-1]} for members[{i}]"
            )
        if x.shape != first.shape:
            raise ValueError(
                f"{_OP}: members must have one shape, got {list(first.shape)} for members[0] and "
                f"{list(x.shape)} for members[{i}]"
            )
        check_device(_OP, f"members[{i}]", x, first.device)
    return list(members)


def _check_count(mode: str, n_members: int) -> None:
    if not 1 <= n_members <= MAX_MEMBERS:
        raise ValueError(f"{_OP}: members must be 1 to {MAX_MEMBERS}, got {n_members}")
    if mode not in _MEANS and n_members != 2:
        raise ValueError(f"{_OP}: mode {mode!r} takes two members, got {n_members}")


def _pack_returns(mode: str, returns):
    """(output bits, fields of MixtureOutput in the op's order)."""
    returns = returned_names(_OP, returns, _BITS)
    if "mutual_information" in returns and mode != "arithmetic":
        raise ValueError(f"{_OP}: mutual_information needs mode 'arithmetic', got {mode!r}")
    if "mean_entropy" in returns and mode not in _MEANS:
        raise ValueError(f"{_OP}: mean_entropy needs mode {listing(map(repr, _MEANS))}, got {mode!r}")
    return output_fields(returns, _BITS)


def _check_weights(mode, weights, strength, plausibility, n_members, rows, device):
    """What pack_values takes, or a float64 tensor [1 or B, columns]."""
    if mode in _MEANS:
        for name, value in (("strength", strength), ("plausibility", plausibility)):
            if value is not None:
                raise ValueError(f"{_OP}: {name} is for other modes than {mode!r}, got {value!r}")
        if weights is None:
            return (1.0,) * n_members
        if isinstance(weights, Tensor):
            return _weight_tensor(weights, n_members, rows, device)
        return _weight_numbers(weights, n_members)
    if weights is not None:
        raise ValueError(f"{_OP}: mode {mode!r} takes a strength and no weights, got weights")
    if strength is None:
        raise ValueError(f"{_OP}: mode {mode!r} needs a strength")
    if mode != "contrastive" and plausibility is not None:
        raise ValueError(f"{_OP}: plausibility is for mode 'contrastive', got {plausibility!r}")
    if plausibility is None:
        plausibility = 0.1 if mode == "contrastive" else 0.0
    pair = (_check_strength(strength), check_value(_OP, "plausibility", plausibility))
    check_lengths(_OP, pair, rows, device, ("strength", "plausibility"))
    return pair


def _check_strength(strength):
    if isinstance(strength, Tensor):
        if strength.dtype not in _WEIGHT_DTYPES:
            names = listing(map(dtype_name, _WEIGHT_DTYPES))
            raise TypeError(f"{_OP}: strength tensor must be {names}, got {dtype_name(strength.dtype)}")
        return strength
    if isinstance(strength, bool) or not isinstance(strength, numbers.Real):
        raise TypeError(f"{_OP}: strength must be a number or a tensor, got {type(strength).__name__}")
    if not abs(strength) <= torch.finfo(torch.float32).max:
        raise ValueError(f"{_OP}: strength must be finite, got {strength}")
    return float(strength)


def _weight_numbers(weights, n_members: int) -> tuple:
    if not isinstance(weights, (list, tuple)):
        raise TypeError(
            f"{_OP}: weights must be a sequence of numbers or a tensor, got {type(weights).__name__}"
        )
    if len(weights) != n_members:
        raise ValueError(f"{_OP}: weights must be {n_members}, one a member, got {len(weights)}")
    for a in weights:
        if isinstance(a, bool) or not isinstance(a, numbers.Real):
            raise TypeError(f"{_OP}: weights must hold numbers, got {type(a).__name__}")
        if not 0 <= float(a) <= torch.finfo(torch.float32).max or math.isnan(a):
            raise ValueError(f"{_OP}: weights must be finite and >= 0, got {a}")
    if not any(torch.tensor([float(a) for a in weights], dtype=torch.float32).tolist()):
        raise ValueError(f"{_OP}: some weight must be > 0, got {list(weights)}")
    return tuple(float(a) for a in weights)


def _weight_tensor(weights: Tensor, n_members: int, rows: int, device) -> Tensor:
    if weights.dtype not in _WEIGHT_DTYPES:
        names = listing(map(dtype_name, _WEIGHT_DTYPES))
        raise TypeError(f"{_OP}: weights tensor must be {names}, got {dtype_name(weights.dtype)}")
    shape = tuple(weights.shape)
    if shape != (n_members,) and shape != (1, n_members) and shape != (rows, n_members):
        raise ValueError(
            f"{_OP}: weights must be [{n_members}] or [{rows}, {n_members}], got shape {list(weights.shape)}"
        )
    check_device(_OP, "weights", weights, device)
    return weights.detach().reshape(-1, n_members).to(torch.float64)
