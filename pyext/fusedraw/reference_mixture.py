# SPDX-License-Identifier: Apache-2.0
"""R1 of `mixture`: several models as one law ("Several models" in docs/law.md), one row at a time.

Every combination gives one row of float32 values, and `sample_row` of `fusedraw.reference` draws from it:
relative probabilities for the arithmetic mean, logits for all others.
"""

import math
from dataclasses import dataclass, field

from . import reference as r1
from .reference import BAD_PARAM, INF, LN2, NOT_A_NUMBER, OK, ONE, fl32, fma32, out32

ARITHMETIC, GEOMETRIC, CFG, CONTEXT_AWARE, CONTRASTIVE = COMBINATIONS = (
    *("arithmetic", "geometric", "cfg", "context_aware", "contrastive"),
)
MEANS = (ARITHMETIC, GEOMETRIC)
LOG2_POLY = [
    float.fromhex(h)
    for h in (
        *("0x1.321deep-4", "-0x1.60a018p-3", "0x1.bcb2f0p-3", "-0x1.f24f12p-3", "0x1.2711eep-2"),
        *("-0x1.712f74p-2", "0x1.ec71b6p-2", "-0x1.7154b4p-1", "0x1.715476p+0"),
    )
]


def log2p(y):
    """log2 of a normal float32 in float32: y = z * 2^k, z in [3/4, 3/2), one Horner scheme in z - 1."""
    z, k = r1.split_log(y)
    s, poly = z - 1, LOG2_POLY[0]  # the difference is exact
    for coefficient in LOG2_POLY[1:]:
        poly = fma32(poly, s, coefficient)
    return fma32(s, poly, float(k))


# Weights


def bad_weights(weights, how):
    """Whether weights, rounded to float32, are BAD_PARAM. Means: a_m; others: (strength, plausibility)."""
    if how in MEANS:
        return not all(0 <= a < INF for a in weights) or not any(a > 0 for a in weights)
    strength, plausibility = weights
    finite = math.isfinite(strength) and math.isfinite(pair_coefficient(strength, how))
    return not (finite and 0 <= plausibility <= 1)


def pair_coefficient(strength, how):
    """b of x_0 + b * (x_1 - x_0)."""
    return fl32(1 - strength) if how == CFG else -strength


def linear_terms(weights, how, members):
    """(base, [(m, b_m)]): the members that enter a combination of logits, in order, the base apart."""
    if how != GEOMETRIC:
        b = pair_coefficient(weights[0], how)
        return 0, [(1, b)] if b != 0 else []
    total = 0.0
    for a in weights:
        total += a
    base = next(m for m in range(members) if weights[m] > 0)
    b = [fl32(a / total) for a in weights]
    return base, [(m, b[m]) for m in range(members) if m != base and b[m] != 0]


# Combined rows, by id


def shares(law):
    """e of a member by id, 0 where its integer weight is 0."""
    return [e if w > 0 else 0.0 for e, w in zip(law.e, law.w, strict=True)]


def arithmetic(laws, weights):
    """Relative probabilities: sum of c_m e_m, within the range of the e_m that it is a mean of."""
    ratios = [a / float(law.total) for a, law in zip(weights, laws, strict=True)]
    total = 0.0
    for ratio in ratios:
        total += ratio
    parts = [(fl32(r / total), shares(law)) for r, law in zip(ratios, laws, strict=True)]
    parts = [(c, e) for c, e in parts if c > 0]
    row = []
    for i in range(len(laws[0].w)):
        (first, e), *others = parts
        p = fl32(first * e[i])
        for c, e in others:
            p = fma32(c, e[i], p)
        these = [e[i] for _, e in parts]
        row.append(min(max(p, min(these)), max(these)))
    return row


def linear(x, base, terms, least):
    """Logits: x_base + sum of b_m (x_m - x_base); -inf where one of them is, or the base is below `least`."""
    row = []
    for i, start in enumerate(x[base]):
        y = start if start >= least else -INF
        for m, b in terms:
            if y == -INF or x[m][i] == -INF:
                y = -INF
                break
            difference = fl32(x[m][i] - start)
            finite = math.isfinite(difference) and math.isfinite(y)
            y = fma32(b, difference, y) if finite else b * difference + y
        row.append(y)
    return row


def plausible_from(x, order, plausibility):
    """The least logit of the expert that is plausible: min-p at T = 1."""
    w, floor = r1.weigh(x, order, 1.0).w, r1.ceil_mul(plausibility, ONE)
    return min(x[i] for i in order if w[i] >= floor)


# By-products


def entropy_of_member(law):
    """Nats, float64: that of `sample`, not yet rounded."""
    return r1.entropies(law)[0]


def entropy_of_mean(p):
    """Nats, float64, of a row of relative probabilities."""
    total = g_sum = 0
    for v in p:
        w = r1.fixed(v)
        total += w
        if w > 0:
            g_sum += r1.fixed(fl32(-log2p(v) * v))
    return r1.log_sum(total) + LN2 * (float(g_sum) / float(total))


def mean_entropy(laws, weights):
    total = norm = 0.0
    for a, law in zip(weights, laws, strict=True):
        total += a * entropy_of_member(law)
        norm += a
    return total / norm


@dataclass
class MixtureResult:
    """What a row gives back; the defaults are a bad row's. None: not offered by the combination."""

    draw: r1.RowResult
    combined: list = field(default_factory=list)
    member_logp: list = field(default_factory=list)
    member_entropy: list = field(default_factory=list)
    entropy: float = NOT_A_NUMBER
    mean_entropy: float | None = NOT_A_NUMBER
    mutual_information: float | None = NOT_A_NUMBER


def mixture_row(members, weights, how, *, mask=None, key=(0, 0), domain=r1.TARGET, forced=None, **params):
    """One draw from several models and what is said about them.

    members: M rows of V float32 logits; weights: M numbers >= 0, or (strength, plausibility) of a pair; the
    rest as for `sample_row`.
    """
    weights = [out32(a) for a in weights]
    checked = r1.Params(**params)
    status = BAD_PARAM if checked.bad or bad_weights(weights, how) else OK
    x, orders = [], []
    for row in members:
        if status == OK:
            status, clean, order = r1.read(row, mask, checked)
            allowed = set(order)
            x.append([v if i in allowed else -INF for i, v in enumerate(clean)])
            orders.append(order)
    missing = {} if how == ARITHMETIC else {"mutual_information": None}
    missing |= {} if how in MEANS else {"mean_entropy": None}
    nothing = [NOT_A_NUMBER] * len(members)
    if status != OK:
        return MixtureResult(r1.RowResult(status), [], nothing, nothing, **missing)
    laws = [r1.weigh(row, order, checked.temperature) for row, order in zip(x, orders, strict=True)]
    if how == ARITHMETIC:
        combined = arithmetic(laws, weights)
    else:
        contrast = how == CONTRASTIVE
        least = plausible_from(x[0], orders[0], weights[1]) if contrast else -r1.FLT_MAX
        combined = linear(x, *linear_terms(weights, how, len(x)), least)
    probs = how == ARITHMETIC
    draw = r1.sample_row(combined, key=key, domain=domain, forced=forced, probs=probs, **params)
    if draw.status != OK:
        return MixtureResult(draw, combined, nothing, nothing, **missing)
    i = draw.id
    out = MixtureResult(
        draw,
        combined,
        member_logp=[
            out32(law.log_prob(i)) if row[i] > -INF else -INF for law, row in zip(laws, x, strict=True)
        ],
        member_entropy=[out32(entropy_of_member(law)) for law in laws],
        entropy=out32(entropy_of_mean(combined)) if probs else draw.entropy,
        **missing,
    )
    if how in MEANS:
        mean = mean_entropy(laws, weights)
        out.mean_entropy = out32(mean)
        if probs:
            out.mutual_information = out32(max(0.0, entropy_of_mean(combined) - mean))
    return out
