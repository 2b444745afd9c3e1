# SPDX-License-Identifier: Apache-2.0
"""R1 of `route` (docs/law.md, section 17): the k experts of a token and their weights, in Python integers and
floats. The definition that every engine is compared with, by equality. Standard library only.
"""

import math
from dataclasses import dataclass, field

from . import reference as r1
from .reference import BAD_PARAM, EMPTY, INF, NAN, NOT_A_NUMBER, OK, POS_INF, ROUTE

NOISES, SCORES = ("none", "gumbel", "jitter"), ("softmax", "sigmoid")
SCALE = r1.fl32(r1.LOG2E)  # c of T = 1
RACE_FLOOR = -1000  # t below this has no float64 weight


@dataclass
class RouteResult:
    """Of one token; the defaults are a bad row's. Weights are float32 values."""

    status: int
    ids: list = field(default_factory=list)
    weights: list = field(default_factory=list)
    explored: bool = False


# Scores


def sigmoid(x):
    """1 / (1 + 2^-|t|) or its complement, float32; never 0 for a finite x."""
    e = r1.exp2p(max(r1.fl32(-abs(x) * SCALE), -126.0))
    return r1.fl32((e if x < 0 else 1.0) / r1.fl32(1.0 + e))


def scores(x, score):
    """float32 scores of all experts at T = 1; 0 where the logit is -inf."""
    if score == "sigmoid":
        return [sigmoid(v) if v > -INF else 0.0 for v in x]
    return r1.softmax_row(x)[1]


def jittered(noise, x, i, jitter):
    """x_i times a factor uniform on [1 - jitter, 1 + jitter]."""
    high = noise.r64(ROUTE, i) >> 32
    factor = r1.fma32(jitter, r1.fl32(float(high - 2**31)) * 2.0**-31, 1.0)
    return max(r1.fl32(x * factor), -r1.FLT_MAX)


# The choice


def arrival(noise, t, x, i):
    """Sort key of expert i in a race at base-2 logit t: without a weight it comes last, by its logit."""
    if t < RACE_FLOOR:
        return 1, -x, i
    return 0, noise.exponential(ROUTE, i) / math.ldexp(r1.significand(t), math.floor(t)), i


def choose(noise, x, order, k, mode, temperature, jitter, score, bias, explored):
    """The k chosen ids, first choice first."""
    if explored:
        keys = [arrival(noise, 0.0, x[i], i) for i in order]
    elif mode == "gumbel" and temperature > 0:
        t = r1.tempered(x, order, temperature)
        keys = [arrival(noise, t[i], x[i], i) for i in order]
    elif mode == "jitter":
        keys = [(-jittered(noise, x[i], i, jitter), i) for i in order]
    elif bias is not None:
        s = scores(x, score)
        keys = [(-r1.fl32(s[i] + bias[i]), i) for i in order]
    else:
        return order[:k]
    return [key[-1] for key in sorted(keys)[:k]]


# The weights


def weights_of(x, ids, score, renormalise):
    """float32 weights of the chosen experts, from the logits alone. An expert without a logit weighs 0."""
    if not renormalise:
        s = scores(x, score)
        return [s[i] for i in ids]
    if score == "sigmoid":
        return r1.renorm_row([sigmoid(x[i]) if x[i] > -INF else 0.0 for i in ids])[1]
    return r1.softmax_row([x[i] for i in ids])[1]


def read(x, k, params_ok, bias, replay):
    """(status, x without -0, the order); the first status that holds."""
    x = [v + 0.0 for v in x]
    bias_ok = bias is None or all(math.isfinite(b) for b in bias)
    if not (params_ok and bias_ok and all(0 <= i < len(x) for i in replay or ())):
        return BAD_PARAM, x, []
    if any(math.isnan(v) for v in x):
        return NAN, x, []
    if any(v == INF for v in x):
        return POS_INF, x, []
    order = sorted((i for i, v in enumerate(x) if v > -INF), key=lambda i: -x[i])
    enough = len(order) >= k if replay is None else any(x[i] > -INF for i in replay)
    return (OK if enough else EMPTY), x, order


def route_row(
    x,
    k,
    *,
    noise="none",
    score="softmax",
    renormalise=True,
    temperature=1.0,
    jitter=0.0,
    mix_eps=0.0,
    bias=None,
    replay=None,
    key=(0, 0),
    forced=None,
):
    """The route of one token from x, float32 logits of its experts.

    bias: float32 per expert or None; replay: recorded ids to weigh instead of choosing; key: (seed, offset);
    forced: see reference.Noise.
    """
    temperature, jitter, mix_eps = (r1.out32(v) for v in (temperature, jitter, mix_eps))
    params_ok = temperature >= 0 and 0 <= jitter <= 1 and 0 <= mix_eps <= 1
    status, x, order = read(x, k, params_ok, bias, replay)
    if status != OK:
        return RouteResult(status, [-1] * k, [NOT_A_NUMBER] * k)
    explored, ids = False, replay
    if replay is None:
        source = r1.Noise(key, forced=forced or {})
        explored = r1.coin_fires(source, mix_eps)
        ids = choose(source, x, order, k, noise, temperature, jitter, score, bias, explored)
    return RouteResult(OK, list(ids), weights_of(x, ids, score, renormalise), explored)
