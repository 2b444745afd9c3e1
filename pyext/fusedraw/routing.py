# SPDX-License-Identifier: Apache-2.0
"""route: the k experts (or heads) of each token, their weights, and how often each expert was chosen."""

import numbers
from typing import NamedTuple

import torch
from torch import Tensor

from ._checks import (
    call,
    check_check,
    check_choice,
    check_device,
    check_id_dtype,
    check_rows,
    should_raise,
)
from ._device import kernel_device, move
from ._params import MODE_RAISE, check_lengths, check_value, pack_values
from ._route_op import NOISES, RENORMALISE, SCORES
from ._route_op import route as route_op
from .keys import make_keys, resolve_keys

MAX_EXPERTS = 4096  # a row lies in the shared memory of one warp
_COLUMNS = ("temperature", "jitter", "mix_eps")


class RouteOutput(NamedTuple):
    """What `route` gives for T tokens, E experts and k choices. A 1-D input gives [k] and 0-D fields."""

    ids: Tensor  # int64 [T, k], first choice first; -1 throughout for a bad row
    weights: Tensor  # float32 [T, k], differentiable in the logits; NaN for a bad row
    counts: Tensor  # int64 [E]: how many tokens chose each expert, bad rows apart
    status: Tensor  # uint8 [T], see Status
    explored: Tensor  # bool [T]: the coin of mix_eps fired


def route(
    logits: Tensor,
    k: int,
    *,
    noise="none",
    temperature=1.0,
    jitter=0.01,
    mix_eps=0.0,
    score="softmax",
    renormalise=True,
    bias=None,
    keys=None,
    seed=None,
    step=0,
    generator=None,
    replay_ids=None,
    check=None,
) -> RouteOutput:
    """Choose k of E experts per token, at random on purpose where asked, and weigh them by the logits.

    Noise decides who is chosen and never enters the weights: those are scores of the given logits at
    temperature 1. The choice is a pure function of (logits, parameters and key of the token), see
    docs/law.md, section 17: the same bits for every batch, thread count, instruction set and device.

    Args:
        logits: [T, E] or [E] float32, bfloat16 or float16, 1 <= E <= 4096, any strides. An expert at -inf is
            never chosen.
        k: experts per token, 1 <= k <= E. They come in the order of the choice; ties go to the lower index.
        noise: "none": the k largest logits. "gumbel": k draws without replacement from
            softmax(logits / temperature), each from what is left (Plackett-Luce; Kool et al. 2019). "jitter":
            the k largest of logits * u, u uniform on [1 - jitter, 1 + jitter] per expert. (The Switch
            Transformer multiplies the router's input so; `route` sees its output.)
        temperature: >= 0, of "gumbel" alone; 0 is no noise, inf uniform. It does not touch the weights.
        jitter: in [0, 1], of "jitter" alone.
        mix_eps: in [0, 1]: with this probability a token explores: its experts are k distinct uniform ones.
            So 1 is uniform balancing. What fires at one value fires at every larger one.
        score: "softmax" over the row, or "sigmoid" of each logit: what the weights are made of.
        renormalise: divide the weights of a token by their sum. With k = 1 they are then 1, whose gradient
            is 0: a router of one expert learns with renormalise=False.
        bias: float32, bfloat16 or float16 [E], finite: added to the scores for the choice, not for the
            weights (DeepSeek-V3's balancing without an auxiliary loss); needs noise="none".
        keys: uint64 or int64 [T, 2] per token (see derive_keys; give each layer its own, e.g. as
            sample_ids). Or seed, step, or generator, as in `sample`. Not looked at where nothing is drawn.
        replay_ids: int64 or int32 [T, k]: recorded ids to take instead of choosing; weights, gradient and
            counts are of these and of the logits given now. Nothing is drawn; repeats are not looked for.
        check: "raise" (default on the CPU): a bad row raises ValueError; "status" (default elsewhere).

    A row is bad with NaN or +inf in it, with fewer than k experts to choose from, with a parameter out of
    range, or with a replayed id outside [0, E).

    `weights` is differentiable in the logits (the ids are constants). Not offered: groups of experts (set the
    logits of excluded ones to -inf), capacity limits, auxiliary losses (`counts` and `fusedraw.softmax` are
    their parts). Temperature, jitter and mix_eps are numbers or tensors of length 1 or T.
    """
    op = "route"
    check_check(op, check)
    check_choice(op, "noise", noise, NOISES)
    check_choice(op, "score", score, SCORES)
    if not isinstance(renormalise, bool):
        raise TypeError(f"{op}: renormalise must be a bool, got {type(renormalise).__name__}")
    check_rows(op, "logits", logits)
    one_row = logits.dim() == 1
    x = logits.unsqueeze(0) if one_row else logits
    k = _check_k(op, k, x.shape[1])
    values = _check_parameters(op, x, noise, temperature, jitter, mix_eps)
    bias = _check_bias(op, bias, noise, x)
    replay_ids = _check_replay(op, replay_ids, k, x, one_row)
    draws = replay_ids is None and (noise != "none" or isinstance(mix_eps, Tensor) or values[2] > 0)
    home = x.device
    if keys is not None:
        keys = resolve_keys(op, x, keys, seed, step, generator, one_row)
    mode = NOISES[noise] | SCORES[score] | (RENORMALISE if renormalise else 0)
    if should_raise(check, home):
        mode |= MODE_RAISE
    device = kernel_device(home)
    if device != home:
        moved = move(device, x, *values, bias, replay_ids, keys, seed, step)
        x, *values, bias, replay_ids, keys, seed, step = moved
    if not draws:
        keys = None
    elif keys is None:
        keys = make_keys(op, x, seed, step, generator)
    params = pack_values(x, values)
    weights, ids, *rest = call(op, route_op, x, params, keys, bias, replay_ids, k, mode)
    out = RouteOutput(ids, weights, *rest)
    if device != home:
        out = RouteOutput(*move(home, *out))
    if one_row:
        out = RouteOutput(out.ids[0], out.weights[0], out.counts, out.status[0], out.explored[0])
    return out


def _check_k(op: str, k, experts: int) -> int:
    if isinstance(k, bool) or not isinstance(k, (int, numbers.Integral)):
        raise TypeError(f"{op}: k must be an int, got {type(k).__name__}")
    if experts > MAX_EXPERTS:
        raise ValueError(f"{op}: logits must have at most {MAX_EXPERTS} experts, got {experts}")
    k = int(k)
    if not 1 <= k <= experts:
        raise ValueError(f"{op}: k must be between 1 and the number of experts, {experts}, got {k}")
    return k


def _check_parameters(op: str, x: Tensor, noise: str, temperature, jitter, mix_eps) -> tuple:
    for name, value in zip(_COLUMNS, (temperature, jitter, mix_eps), strict=True):
        if value is None:
            raise TypeError(f"{op}: {name} must be a number or a tensor, got NoneType")
    values = (
        check_value(op, "temperature", temperature),
        check_value(op, "jitter", jitter),
        check_value(op, "mix_eps", mix_eps),
    )
    if noise != "gumbel" and (isinstance(temperature, Tensor) or values[0] != 1):
        raise ValueError(
            f"{op}: temperature needs noise='gumbel', got temperature={temperature} and {noise!r}"
        )
    check_lengths(op, values, x.shape[0], x.device, _COLUMNS)
    return values


def _check_bias(op: str, bias, noise: str, x: Tensor):
    if bias is None:
        return None
    check_rows(op, "bias", bias)
    if tuple(bias.shape) != (x.shape[1],):
        raise ValueError(f"{op}: bias must be [{x.shape[1]}], one per expert, got shape {list(bias.shape)}")
    check_device(op, "bias", bias, x.device)
    if noise != "none":
        raise ValueError(f"{op}: bias needs noise='none', got {noise!r}")
    return bias.detach().to(torch.float32)


def _check_replay(op: str, ids, k: int, x: Tensor, one_row: bool):
    if ids is None:
        return None
    check_id_dtype(op, "replay_ids", ids)
    if one_row and ids.dim() == 1:
        ids = ids.unsqueeze(0)
    if tuple(ids.shape) != (x.shape[0], k):
        raise ValueError(f"{op}: replay_ids must be [{x.shape[0]}, {k}], got shape {list(ids.shape)}")
    check_device(op, "replay_ids", ids, x.device)
    return ids.to(torch.int64)
