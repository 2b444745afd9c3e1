# SPDX-License-Identifier: Apache-2.0
"""R1: the law of stream version 1 (docs/law.md) in Python integers and floats, one short function per rule.

The definition that every kernel is compared with, by equality. One row at a time, standard library only.
Its arithmetic is in reference_arithmetic, its noise in reference_noise; their names are also those of this
module.
"""

import math
from bisect import bisect_right
from dataclasses import dataclass, field
from itertools import accumulate

from .reference_arithmetic import (  # noqa: F401
    ATANH_POLY,
    EXP2_POLY,
    FLT_MAX,
    INF,
    LN2,
    LOG2E,
    NOT_A_NUMBER,
    ONE,
    ceil_mul,
    exp2p,
    exponential,
    fixed,
    fl32,
    fma32,
    fma64,
    log_sum,
    neg_log,
    out32,
    significand,
    split_log,
    weight,
)
from .reference_noise import (  # noqa: F401
    ACCEPT,
    BLOCK,
    COIN,
    CONTROL,
    DRAFT,
    MANY,
    ORDER,
    RECOVERY,
    ROUTE,
    TARGET,
    TOKEN,
    XTC,
    Noise,
    derive_key,
    philox4x32_10,
)

OK, BAD_PARAM, NAN, POS_INF, EMPTY = range(5)  # status of a row
BLOCK_SIZE = 256  # token ids per block of the race
FILTER_ORDERS = ("sequential", "joint", "min_p_first")
TIES, MIX_SUPPORTS = ("index", "all"), ("kept", "valid")


# Weights


def tempered(x, order, temperature):
    """t, by id: the base-2 logit relative to the best; -inf where the token is not valid."""
    t = [-INF] * len(x)
    flat = temperature > 2.0**64
    best, scale = x[order[0]], 0.0 if flat else min(fl32(LOG2E / temperature), FLT_MAX)
    for i in order:
        t[i] = 0.0 if flat else fl32(fl32(x[i] - best) * scale)
    return t


@dataclass
class Weights:
    """The law of a row before any filter, by id. e: float32, relative to the best, 0 where w is 0."""

    order: list
    t: list | None  # None for T = 0 and for probabilities, which have no t
    e: list
    w: list
    greedy: bool = False

    def __post_init__(self):
        self.total = sum(self.w)  # S over valid

    def log_prob(self, i):
        """ln of the normalised weight, not rounded; finite also where t is and w is 0."""
        if self.greedy:
            return 0.0 if i == self.order[0] else -INF
        return self.t[i] * LN2 - log_sum(self.total)


def weigh(x, order, temperature):
    if temperature == 0:
        e = [0.0] * len(x)
        e[order[0]] = 1.0
        return Weights(order, None, e, [fixed(v) for v in e], greedy=True)
    t = tempered(x, order, temperature)
    e = [exp2p(v) if v > -44 else 0.0 for v in t]
    return Weights(order, t, e, [fixed(v) for v in e])


def weigh_probs(p, order):
    e = [0.0] * len(p)
    for i in order:
        e[i] = fl32(p[i] / p[order[0]])
    return Weights(order, None, e, [fixed(v) for v in e])


# Reading a row


@dataclass
class Params:
    """Parameters of a row, as given; numbers are rounded to float32 before anything looks at them."""

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    mix_eps: float = 0.0
    mix_support: str = "kept"
    filter_order: str = "sequential"
    ties: str = "index"

    def __post_init__(self):
        for name in ("temperature", "top_p", "min_p", "mix_eps"):
            setattr(self, name, out32(getattr(self, name)))
        for name, known in (("mix_support", MIX_SUPPORTS), ("filter_order", FILTER_ORDERS), ("ties", TIES)):
            if getattr(self, name) not in known:
                raise ValueError(f"reference: {name} must be one of {known}, got {getattr(self, name)!r}")
        shares_ok = all(0 <= p <= 1 for p in (self.top_p, self.min_p, self.mix_eps))  # False for NaN
        self.bad = not (self.temperature >= 0 and shares_ok and self.top_k >= -1)


def read(x, mask, params, probs=False):
    """(status, x without -0, the order). An excluded token is not looked at; the first status wins."""
    x = [v + 0.0 for v in map(fl32, x)] if probs else [v + 0.0 for v in x]
    seen = [i for i in range(len(x)) if mask is None or mask[i]]
    if params.bad or (probs and any(x[i] < 0 for i in seen)):
        return BAD_PARAM, x, []
    if any(math.isnan(x[i]) for i in seen):
        return NAN, x, []
    if any(x[i] == INF for i in seen):
        return POS_INF, x, []
    valid = [i for i in seen if x[i] > (0 if probs else -INF)]
    order = sorted(valid, key=lambda i: -x[i])  # a stable sort: equal x stay in ascending id
    return (OK if order else EMPTY), x, order


# The kept set


def with_ties(order, n, x, ties):
    """The prefix length n, extended over the tokens whose x equals the last one's if ties is 'all'."""
    while ties == "all" and 0 < n < len(order) and x[order[n]] == x[order[n - 1]]:
        n += 1
    return n


def nucleus(order, w, top_p):
    """Length of the shortest non-empty prefix of weight >= ceil(top_p * S), S the weight of `order`."""
    sums = list(accumulate(w[i] for i in order))
    threshold = ceil_mul(top_p, sums[-1])
    return next(n for n, reached in enumerate(sums, 1) if reached >= threshold)


def kept_set(x, law, params, keep_weightless=False):
    """K in the order. `keep_weightless` is top_k_mask's: the prefix itself, whatever its weights."""
    if law.greedy:
        return law.order[:1]
    order, w, floor = law.order, law.w, ceil_mul(params.min_p, ONE)
    if params.filter_order == "min_p_first":
        order = [i for i in order if w[i] >= floor]
    n = len(order)
    if params.top_k > 0:
        n = with_ties(order, min(n, params.top_k), x, params.ties)
    if params.top_p < 1:
        over = order if params.filter_order == "joint" else order[:n]
        n = min(n, with_ties(over, nucleus(over, w, params.top_p), x, params.ties))
    return [i for i in order[:n] if w[i] >= floor and (w[i] > 0 or keep_weightless)]


# The draw


def race(noise, w, ids):
    """The exponential race over `ids`, all of positive weight: between blocks, then within the winner."""
    sums = {}
    for i in ids:
        sums[i // BLOCK_SIZE] = sums.get(i // BLOCK_SIZE, 0) + w[i]
    block = min(sums, key=lambda b: (noise.exponential(BLOCK, b) / float(sums[b]), b))
    inside = [i for i in ids if i // BLOCK_SIZE == block]
    return min(inside, key=lambda i: (noise.exponential(TOKEN, i) / float(w[i]), i))


def coin_fires(noise, mix_eps):
    return noise.r64(COIN, 0) < ceil_mul(mix_eps, 1 << 64)


def mixed(noise, law, kept, support, mix_eps):
    """(id, explored): the race over K, or where the coin fires the same race with all weights 1 over U."""
    explored = coin_fires(noise, mix_eps)
    return (race(noise, [1] * len(law.w), support) if explored else race(noise, law.w, kept)), explored


def mixture_prob(law, kept, support, mix_eps, i):
    """mu(i), float64; what the draw's probability is, exploration included."""
    first = float(law.w[i]) / float(sum(law.w[j] for j in kept)) if i in kept else 0.0
    mu = (1 - mix_eps) * first
    if mix_eps > 0 and i in support:
        mu += mix_eps / len(support)
    return min(mu, 1.0)


# By-products


def entropies(law):
    """(entropy, varentropy) in nats of the tempered, untruncated law."""
    if law.greedy:
        return 0.0, 0.0
    g_sum = h_sum = 0
    for t, e, w in zip(law.t, law.e, law.w, strict=True):
        if w > 0:
            g = fl32(-t * e)
            g_sum, h_sum = g_sum + fixed(g), h_sum + fixed(fl32(g * -t))
    mean, square = float(g_sum) / float(law.total), float(h_sum) / float(law.total)
    return log_sum(law.total) + LN2 * mean, max(0.0, LN2 * LN2 * (square - mean * mean))


@dataclass
class RowResult:
    """What a row gives back; the defaults are a bad row's. Floats are float32 values, None if not offered."""

    status: int
    id: int = -1
    logp: float = NOT_A_NUMBER
    logp_full: float | None = NOT_A_NUMBER
    logp_raw: float | None = NOT_A_NUMBER
    entropy: float | None = NOT_A_NUMBER
    varentropy: float | None = NOT_A_NUMBER
    margin: float = NOT_A_NUMBER
    n_kept: int = 0
    kept_mass: float = NOT_A_NUMBER
    rank: int = 0
    explored: bool = False
    kept: list = field(default_factory=list)
    top_ids: list = field(default_factory=list)
    top_logps: list = field(default_factory=list)


def sample_row(
    x, *, mask=None, key=(0, 0), domain=TARGET, top_n=0, probs=False, forced=None, choose=None, **params
):
    """One draw and all its by-products from x, float32 values: logits, or probabilities with probs=True.

    params: temperature, top_k, top_p, min_p, mix_eps, mix_support, filter_order, ties (see Params);
    mask: one truth value per token, True = allowed; key: (seed, offset); forced: see Noise;
    choose(x, law, params, noise): K where more rules count than kept_set knows (reference_rules).
    """
    params = Params(**params)
    status, x, order = read(x, mask, params, probs)
    not_offered = {"logp_full": None, "logp_raw": None, "entropy": None, "varentropy": None} if probs else {}
    if status != OK:
        n = 0 if probs else top_n
        return RowResult(status, top_ids=[-1] * n, top_logps=[NOT_A_NUMBER] * n, **not_offered)
    law = weigh_probs(x, order) if probs else weigh(x, order, params.temperature)
    noise = Noise(key, domain, forced or {})
    kept = sorted(choose(x, law, params, noise) if choose else kept_set(x, law, params))
    if not kept:  # temperature_last (reference_rules): what is left weighs nothing at T
        return RowResult(EMPTY, top_ids=[-1] * top_n, top_logps=[NOT_A_NUMBER] * top_n)
    support = kept if params.mix_support == "kept" else sorted(order)
    drawn, explored = mixed(noise, law, kept, support, params.mix_eps)
    kept_sum = sum(law.w[i] for i in kept)
    out = RowResult(
        status,
        drawn,
        **not_offered,
        explored=explored,
        kept=kept,
        n_kept=len(kept),
        rank=order.index(drawn),
        logp=out32(-neg_log(mixture_prob(law, kept, support, params.mix_eps, drawn))),
        margin=out32(x[order[0]] - x[order[1]]) if len(order) > 1 else INF,
        kept_mass=out32(float(kept_sum) / float(law.total)),
    )
    if not probs:
        raw = law if params.temperature == 1 else weigh(x, order, 1.0)
        out.logp_full, out.logp_raw = out32(law.log_prob(drawn)), out32(raw.log_prob(drawn))
        out.entropy, out.varentropy = map(out32, entropies(law))
        missing = max(0, top_n - len(order))
        out.top_ids = order[:top_n] + [-1] * missing
        out.top_logps = [out32(raw.log_prob(i)) for i in order[:top_n]] + [-INF] * missing
    return out


# Whole rows: each returns (status, values); a bad row is all NaN


def softmax_row(x, temperature=1.0, mask=None, log=False):
    """softmax or log_softmax of the valid tokens; 0 or -inf elsewhere."""
    params = Params(temperature=temperature)
    status, x, order = read(x, mask, params)
    if status != OK:
        return status, [NOT_A_NUMBER] * len(x)
    law, values = weigh(x, order, params.temperature), [-INF if log else 0.0] * len(x)
    for i in order:
        e = law.e[i] if law.greedy else exp2p(law.t[i])
        values[i] = out32(law.log_prob(i) if log else ONE * e / float(law.total))
    return status, values


def mask_row(x, *, mask=None, keep_weightless=False, **params):
    """x inside K, -inf elsewhere. top_k_mask: top_k, keep_weightless=True; top_p_mask: top_p, temperature."""
    params = Params(**params)
    status, clean, order = read(x, mask, params)
    if status != OK:
        return status, [NOT_A_NUMBER] * len(x)
    kept = set(kept_set(clean, weigh(clean, order, params.temperature), params, keep_weightless))
    return status, [v if i in kept else -INF for i, v in enumerate(x)]


def renorm_row(x, *, mask=None, from_logits=False, **params):
    """Probabilities over K, 0 elsewhere, from probabilities or from logits (top_k_renorm, top_p_renorm)."""
    params = Params(**params)
    status, x, order = read(x, mask, params, probs=not from_logits)
    if status != OK:
        return status, [NOT_A_NUMBER] * len(x)
    law = weigh(x, order, params.temperature) if from_logits else weigh_probs(x, order)
    kept, values = kept_set(x, law, params), [0.0] * len(x)
    kept_sum = float(sum(law.w[i] for i in kept))
    for i in kept:
        values[i] = out32(ONE * law.e[i] / kept_sum)
    return status, values


def multinomial_row(p, num_samples, replacement=False, key=(0, 0), forced=None):
    """(status, ids): num_samples ids from probabilities. Ids that cannot be had are -1, with status EMPTY."""
    status, p, order = read(p, None, Params(), probs=True)
    if status != OK:
        return status, [-1] * num_samples
    noise, w = Noise(key, TARGET, forced or {}), weigh_probs(p, order).w
    ids = [i for i in range(len(w)) if w[i] > 0]
    if num_samples == 1:
        return status, [race(noise, w, ids)]
    if replacement:
        sums = list(accumulate(w))
        return status, [bisect_right(sums, noise.r128(j) * sums[-1] >> 128) for j in range(num_samples)]
    first = sorted(ids, key=lambda i: (noise.exponential(ORDER, i) / float(w[i]), i))[:num_samples]
    missing = num_samples - len(first)
    return (EMPTY if missing else OK), first + [-1] * missing
