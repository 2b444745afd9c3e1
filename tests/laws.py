# SPDX-License-Identifier: Apache-2.0
"""Laws that draws are compared with, and the comparison: bins, G-tests, their power.

The expected law comes from R1, in integers (`law_of`), or for long rows without filters from the same
integers by the compiled weight function (`plain_law`), which the tests hold equal to R1's.
"""

import math

import fusedraw
import numpy as np
import torch
from engines import BF16, INF, C, make_mode, make_params, sample
from fusedraw import reference as r1
from scipy import stats

ALPHA, POWER, DISTORTION = 1e-6, 0.999, 2e-4
DRAWS = 1_000_000
MIN_EXPECTED = 20  # of a bin; lighter ones are merged


def power(draws, df, divergence=DISTORTION):
    """Probability that a G-test of `df` rejects at ALPHA when the true law has this KL divergence (nats)."""
    return stats.ncx2.sf(stats.chi2.isf(ALPHA, df), df, 2 * draws * divergence)


def smallest_divergence(draws, df):
    """The KL divergence (nats) that a G-test at ALPHA detects with probability POWER."""
    low, high = 0.0, 1e6 / draws
    while power(draws, df, high) < POWER:
        high *= 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if power(draws, df, middle) < POWER else (low, middle)
    return high


def smallest_tv(draws, df):
    """The same as a total variation, of a law tilted up on half its mass and down on the other half."""
    return math.sqrt(smallest_divergence(draws, df) / 2)


def g_test(counts, expected):
    """(p-value, degrees of freedom); bins that are too light are merged into one."""
    heavy = expected >= MIN_EXPECTED
    rest, rest_expected = counts[~heavy].sum(), expected[~heavy].sum()
    counts, expected = counts[heavy], expected[heavy]
    if rest_expected >= MIN_EXPECTED:
        counts, expected = torch.cat([counts, rest[None]]), torch.cat([expected, rest_expected[None]])
    elif rest_expected > 0 and len(counts) > 0:
        least = expected.argmin()
        counts[least] += rest
        expected[least] += rest_expected
    if len(counts) < 2:
        return 1.0, 0
    g = 2 * torch.xlogy(counts, counts / expected).sum().item()
    return stats.chi2.sf(g, len(counts) - 1).item(), len(counts) - 1


def law_of(x, probs=False, mix_support="kept", mix_eps=0.0, **params):
    """The probability of every token, float64, from R1's integers."""
    params = r1.Params(mix_support=mix_support, mix_eps=mix_eps, **params)
    _, x, order = r1.read(x, None, params, probs)
    law = r1.weigh_probs(x, order) if probs else r1.weigh(x, order, params.temperature)
    kept = r1.kept_set(x, law, params)
    support = kept if mix_support == "kept" else order
    p = torch.zeros(len(x), dtype=torch.float64)
    total = sum(law.w[i] for i in kept)
    for i in kept:
        p[i] = (1 - params.mix_eps) * law.w[i] / total
    for i in support:
        p[i] += params.mix_eps / len(support)
    return p


def plain_law(x, temperature=1.0):
    """law_of without filters, for rows of any length: logits [V] of any type, float64 [V].

    t in float32 as R1 has it, the weight of each distinct t by the compiled weight function, an exact sum.
    """
    x = x.detach().cpu().float().numpy()
    scale = np.float32(min(r1.fl32(r1.LOG2E / r1.fl32(temperature)), r1.FLT_MAX))
    valid = x > -INF
    t = (x[valid] - x[valid].max()) * scale
    distinct, place, repeats = np.unique(t, return_inverse=True, return_counts=True)
    w = [C.weight(v) for v in distinct.tolist()]
    total = sum(a * n for a, n in zip(w, repeats.tolist(), strict=True))
    p = np.zeros(len(x))
    p[valid] = np.array([a / total for a in w])[place]
    return torch.from_numpy(p)


def ordered_law(p, n):
    """float64 [V ** n]: every ordered outcome of n draws without replacement from p [V], p_i, then
    p_j / (1 - p_i), and so on. Token j of an outcome is code // V ** j % V."""
    size, p = len(p), p.tolist()
    law = torch.zeros(size**n, dtype=torch.float64)
    for code in range(size**n):
        chosen = [code // size**j % size for j in range(n)]
        if len(set(chosen)) == n:
            left, chance = 1.0, 1.0
            for i in chosen:
                chance *= p[i] / left
                left -= p[i]
            law[code] = chance
    assert (law > 0).sum() == math.perm(size, n)
    return law


def binnings(p):
    """Ways to look at a law: each token's bin, by name."""
    size = len(p)
    ids = torch.arange(size)
    octave = torch.frexp(p.clamp_min(2.0**-70))[1].long() + 70
    head = p.argsort(descending=True, stable=True)[:64]
    by_mass = 64 + octave
    by_mass[head] = torch.arange(len(head))
    yield "heaviest tokens, then octaves of p", by_mass
    for m in (8, 16, 32, 64):
        if size > m:
            yield f"index mod {m}", ids % m
    if size > 256:
        yield "block", ids // 256
        yield "place in the last block", torch.where(ids >= (size - 1) // 256 * 256, ids % 256 + 1, 0)
    yield "hash", (ids * 2654435761 >> 7) % 256


def check_law(ids, p, label=""):
    """No token outside the support; a G-test in every binning, of which some has more than one bin."""
    assert ids.min() >= 0 and ids.max() < len(p)
    counts = torch.bincount(ids, minlength=len(p)).double()
    assert counts[p == 0].sum() == 0, f"{label}: outside the support"
    assert abs(p.sum().item() - 1) < 1e-12
    tested = (p > 0).sum() == 1
    for name, bins in binnings(p):
        n_bins = int(bins.max()) + 1
        seen = torch.zeros(n_bins, dtype=torch.float64).index_add_(0, bins, counts)
        expected = torch.zeros(n_bins, dtype=torch.float64).index_add_(0, bins, p * len(ids))
        value, df = g_test(seen, expected)
        assert df < 1024 and (df == 0 or power(len(ids), df) >= POWER), f"{label}: {name}: too little power"
        assert value > ALPHA, f"{label}: {name}: p = {value:.3g} at {df} degrees of freedom"
        tested = tested or df > 0
    assert tested, f"{label}: every binning has one bin"


def keys_of(seed, n=DRAWS):
    return fusedraw.derive_keys(seed, torch.arange(n)).view(torch.int64)


def draw(x, params, keys, mode=0, outputs=0):
    """One row drawn from with every key."""
    return sample(x[None].expand(len(keys), -1), params, keys, None, mode, outputs)


def logits(law, size):
    g = torch.Generator().manual_seed(size)
    ranks = torch.randperm(size, generator=g) + 1.0
    return {
        "uniform": lambda: torch.zeros(size),
        "zipf": lambda: -1.1 * ranks.log(),
        "normal": lambda: torch.randn(size, generator=g),
        "wide": lambda: 5 * torch.randn(size, generator=g),
        "head": lambda: torch.zeros(size).index_fill(0, torch.tensor([size // 3]), 18.0),
        "two spikes": lambda: torch.full((size,), -3.0).index_fill(
            0, torch.tensor([size // 2, size - 1]), 4.0
        ),
        "tied": lambda: (3 * torch.randn(size, generator=g)).round().to(BF16),
    }[law]()


def split_options(options):
    """(params, mode) of keyword arguments."""
    modes = {"filter_order": "order", "ties": "ties", "mix_support": "support"}
    mode = make_mode(**{modes[k]: v for k, v in options.items() if k in modes})
    return make_params(**{k: v for k, v in options.items() if k not in modes}), mode


def detectable(draws, mass):
    """The least share of a tail of this mass whose loss is seen with probability POWER."""
    low = stats.binom.ppf(ALPHA / 2, draws, mass) - 1
    losses = [d / 100 for d in range(1, 101)]
    return next((d for d in losses if stats.binom.cdf(low, draws, mass * (1 - d)) >= POWER), math.inf)


def check_independent(first, second, label):
    table = torch.bincount(first * 16 + second, minlength=256).double()
    value, df = g_test(table, torch.full((256,), len(first) / 256).double())
    assert power(len(first), df) >= POWER and value > ALPHA, f"{label}: p = {value:.3g}"


def neighbours(axis, even, seed=1):
    """(keys, keys) at the numbers `even` and right after them, whose draws must not depend on each other."""
    raw = {
        "seed of the key": lambda i: torch.stack([i, torch.full_like(i, seed - 1)], 1),
        "offset of the key": lambda i: torch.stack([torch.full_like(i, 2 + seed), i], 1),
        "high word of the seed": lambda i: torch.stack([i << 32, torch.full_like(i, seed - 1)], 1),
        "high word of the offset": lambda i: torch.stack([torch.full_like(i, seed - 1), i << 32], 1),
    }
    derived = {
        "step": lambda i: fusedraw.derive_keys(seed, 5, step=i),
        "request": lambda i: fusedraw.derive_keys(seed, i),
        "sample": lambda i: fusedraw.derive_keys(seed, 5, i),
        "seed": lambda i: fusedraw.derive_keys(i + (seed - 1 << 40), 5),
    }
    make = {**raw, **derived}[axis]
    return make(even).view(torch.int64), make(even + 1).view(torch.int64)


AXES = (
    *("step", "request", "sample", "seed", "seed of the key", "offset of the key"),
    *("high word of the seed", "high word of the offset"),
)


def pairs_by(axis, n):
    return neighbours(axis, torch.arange(0, 2 * n, 2))


# Speculative decoding


def joint_law(p, q):
    """P(draft, emitted), enumerated: the draft has the law q, what is emitted has p."""
    both = torch.diag(torch.minimum(p, q))
    left = (p - q).clamp(min=0)
    if left.sum() > 1e-12:
        both += torch.outer(q - torch.minimum(p, q), left / left.sum())
    return both
