# SPDX-License-Identifier: Apache-2.0
"""Draws follow the law: G-tests, tail counts, independence, at stated size and power.

Seeds are fixed, so a test passes always or never. ALPHA = 1e-6 for each p-value. A G-test has DRAWS = 10^6
draws (FILTERED where 257 bins are the most). `power` says what that detects, and every test asserts it: a
distortion of the law by 1 % in total variation (KL 2e-4), with probability 0.999. The expected law comes from
R1, in integers.
"""

import math

import fusedraw
import pytest
import torch
from engines import (
    BF16,
    ENGINES,
    F32,
    INF,
    bits_of,
    engine,
    forced,
    make_keys,
    make_mode,
    make_params,
    multinomial,
    on_every_engine,
    sample,
)
from fusedraw import reference as r1
from operations_r1 import sample_r1
from scipy import stats

ALPHA, POWER, DISTORTION = 1e-6, 0.999, 2e-4
DRAWS = 1_000_000
FILTERED = PAIRS = 600_000  # enough for 256 bins, and for a 16 x 16 table
MIN_EXPECTED = 20  # of a bin; lighter ones are merged


def power(draws, df, divergence=DISTORTION):
    """Probability that a G-test of `df` rejects at ALPHA when the true law has this KL divergence (nats)."""
    return stats.ncx2.sf(stats.chi2.isf(ALPHA, df), df, 2 * draws * divergence)


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
    """No token outside the support; a G-test in every binning."""
    assert ids.min() >= 0 and ids.max() < len(p)
    counts = torch.bincount(ids, minlength=len(p)).double()
    assert counts[p == 0].sum() == 0, f"{label}: outside the support"
    assert abs(p.sum().item() - 1) < 1e-12
    for name, bins in binnings(p):
        n_bins = int(bins.max()) + 1
        seen = torch.zeros(n_bins, dtype=torch.float64).index_add_(0, bins, counts)
        expected = torch.zeros(n_bins, dtype=torch.float64).index_add_(0, bins, p * len(ids))
        value, df = g_test(seen, expected)
        assert df < 1024 and (df == 0 or power(len(ids), df) >= POWER), f"{label}: {name}: too little power"
        assert value > ALPHA, f"{label}: {name}: p = {value:.3g} at {df} degrees of freedom"


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
        "two spikes": lambda: torch.full((size,), -3.0).index_fill(
            0, torch.tensor([size // 2, size - 1]), 4.0
        ),
        "tied": lambda: (3 * torch.randn(size, generator=g)).round().to(BF16),
    }[law]()


# The law without and with filters


@pytest.mark.parametrize("size", [2, 7, 64, 257, 4099])
@pytest.mark.parametrize("law", ["uniform", "zipf", "normal", "wide", "two spikes", "tied"])
def test_law(law, size):
    x = logits(law, size)
    ids = draw(x, make_params(0.9), keys_of(1))["ids"]
    check_law(ids, law_of(x.float().tolist(), temperature=0.9), f"{law}, V = {size}")


FILTERS = {
    "top_k": {"top_k": 9},
    "top_p": {"top_p": 0.9},
    "min_p": {"min_p": 0.02},
    "top_k, top_p": {"top_k": 40, "top_p": 0.8},
    "joint": {"top_k": 40, "top_p": 0.8, "filter_order": "joint"},
    "min_p_first": {"min_p": 0.05, "top_p": 0.9, "filter_order": "min_p_first"},
    "everything": {"top_k": 50, "top_p": 0.95, "min_p": 0.01, "temperature": 1.3},
    "mixture": {"mix_eps": 0.3},
    "mixture over kept": {"mix_eps": 0.25, "top_k": 30, "top_p": 0.9},
    "mixture over valid": {"mix_eps": 0.25, "top_k": 30, "top_p": 0.9, "mix_support": "valid"},
    "exploring only": {"mix_eps": 1.0, "mix_support": "valid", "top_k": 3},
    "greedy or exploring": {"mix_eps": 0.5, "mix_support": "valid", "temperature": 0.0},
    "infinite temperature": {"temperature": INF, "top_k": 300},
}


def split_options(options):
    """(params, mode) of keyword arguments."""
    modes = {"filter_order": "order", "ties": "ties", "mix_support": "support"}
    mode = make_mode(**{modes[k]: v for k, v in options.items() if k in modes})
    return make_params(**{k: v for k, v in options.items() if k not in modes}), mode


@pytest.mark.parametrize("name", FILTERS)
def test_law_with_filters(name):
    x = logits("wide" if "top_p" in name else "normal", 400)
    x[5::50] = -INF
    params, mode = split_options(FILTERS[name])
    ids = draw(x, params, keys_of(2, FILTERED), mode)["ids"]
    check_law(ids, law_of(x.tolist(), **FILTERS[name]), name)


@pytest.mark.parametrize("name", ["top_p", "mixture over kept", "min_p"])
def test_law_of_probabilities(name):
    p = torch.softmax(logits("wide", 400), -1) * 2.5
    params, mode = split_options(FILTERS[name])
    ids = draw(p, params, keys_of(3, FILTERED), mode | make_mode(probs=True))["ids"]
    check_law(ids, law_of(p.tolist(), probs=True, **FILTERS[name]), name)


def test_the_test_detects_one_percent():
    """check_law refuses draws from a law that is 1 % off in total variation, and from 24-bit shortcuts."""
    x = logits("normal", 257)
    ids = draw(x, make_params(), keys_of(1))["ids"]
    p = law_of(x.tolist())
    check_law(ids, p)
    g = torch.Generator().manual_seed(1)
    sign = torch.where(torch.rand(257, generator=g) < 0.5, -1.0, 1.0).double()
    tilted = p * (1 + 0.02 * sign)
    tilted /= tilted.sum()
    assert 0.005 < (tilted - p).abs().sum() / 2 < 0.011
    with pytest.raises(AssertionError, match="p = "):
        check_law(ids, tilted)
    with pytest.raises(AssertionError, match="outside"):
        check_law(ids, torch.cat([p[:-1] / p[:-1].sum(), torch.zeros(1).double()]))
    with pytest.raises(AssertionError):
        check_law(torch.where(ids % 16 == 7, 6, ids), p)


# Mixing


@pytest.mark.parametrize("support", ["kept", "valid"])
def test_coins_are_nested(support):
    """fired(e1) is a subset of fired(e2); where the coin is the same, so is the token."""
    x, keys = logits("normal", 300), keys_of(4, 200_000)
    mode = make_mode(support=support)
    shares = [0.0, 2.0**-12, 0.01, 0.3, 0.9, 1.0]
    outs = [
        draw(x, make_params(0.8, 0.9, mix_eps=e), keys, mode, bits_of("explored", "rank")) for e in shares
    ]
    fired = [out["explored"] for out in outs]
    exploit, explore = outs[0]["ids"], outs[-1]["ids"]
    assert not fired[0].any() and fired[-1].all()
    for i, share in enumerate(shares):
        n = int(fired[i].sum())
        assert stats.binomtest(n, len(keys), share).pvalue > ALPHA
        assert torch.equal(outs[i]["ids"], torch.where(fired[i], explore, exploit))
        assert all((fired[j] & ~fired[i]).sum() == 0 for j in range(i))


# The tail. At V = 2^20 a token at gap g has 2^20 - 1 companions; their mass is as large as it can be.


def detectable(draws, mass):
    """The least share of a tail of this mass whose loss is seen with probability POWER."""
    low = stats.binom.ppf(ALPHA / 2, draws, mass) - 1
    losses = [d / 100 for d in range(1, 101)]
    return next((d for d in losses if stats.binom.cdf(low, draws, mass * (1 - d)) >= POWER), math.inf)


# (gap in nats, draws, loss that must be seen)
TAILS = [(10, 10_000, 0.02), (18, 50_000, 0.3), (24, 375_000, 1.0)]


@pytest.mark.parametrize("gap, draws, loss", TAILS)
def test_tail(gap, draws, loss):
    size, head = 1 << 20, 777_777
    x = torch.full((size,), -float(gap), dtype=BF16)
    x[head] = 0.0
    w = r1.weight(r1.fl32(-gap * r1.fl32(r1.LOG2E)))
    mass = (size - 1) * w / (r1.ONE + (size - 1) * w)
    assert detectable(draws, mass) <= loss
    ids = draw(x, make_params(), keys_of(gap, draws))["ids"]
    tail = ids[ids != head]
    assert stats.binomtest(len(tail), draws, mass).pvalue > ALPHA
    for bins in (tail % 16, tail >> 16, tail // 256 % 16):
        counts = torch.bincount(bins, minlength=16).double()
        value, _ = g_test(counts, torch.full((16,), len(tail) / 16).double())
        assert value > ALPHA


@pytest.mark.parametrize("gap", [10, 18, 24, 28, 30])
def test_a_tail_token_wins_when_its_noise_is_small_enough(gap):
    """One token at the gap in a block of its own: it wins exactly while its block's E is below a threshold
    that is w / S of the head's. R1 and every engine switch at the same r64, found by bisection."""
    size, token = 1000, 700
    x = torch.full((1, size), -INF)
    x[0, 3], x[0, token] = 0.0, -float(gap)
    keys, block = make_keys(1), (r1.BLOCK, token // 256)

    def winner(r64):
        noise = {block: r64, (r1.BLOCK, 0): 1 << 63}
        with forced(noise):
            plain = sample_r1(x, None, keys, outputs=0, forced_noise=noise)
            return on_every_engine(sample, x, None, keys, outputs=0, expected=plain)["ids"].item()

    low, high = 0, (1 << 64) - 1
    assert winner(low) == token and winner(high) == 3
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if winner(middle) == token else (low, middle)
    share = r1.weight(r1.fl32(-gap * r1.fl32(r1.LOG2E))) / r1.ONE
    assert math.isclose(-math.log1p(-low / 2**64), share * math.log(2), rel_tol=1e-6)


# Independence: pairs of draws in a 16 x 16 table


def check_independent(first, second, label):
    table = torch.bincount(first * 16 + second, minlength=256).double()
    value, df = g_test(table, torch.full((256,), len(first) / 256).double())
    assert power(len(first), df) >= POWER and value > ALPHA, f"{label}: p = {value:.3g}"


def pairs_by(axis, n):
    """(keys, keys) whose draws must not depend on each other."""
    even = torch.arange(0, 2 * n, 2)
    raw = {
        "seed of the key": lambda i: torch.stack([i, torch.zeros_like(i)], 1),
        "offset of the key": lambda i: torch.stack([torch.full_like(i, 3), i], 1),
        "high word of the seed": lambda i: torch.stack([i << 32, torch.zeros_like(i)], 1),
        "high word of the offset": lambda i: torch.stack([torch.zeros_like(i), i << 32], 1),
    }
    derived = {
        "step": lambda i: fusedraw.derive_keys(1, 5, step=i),
        "request": lambda i: fusedraw.derive_keys(1, i),
        "sample": lambda i: fusedraw.derive_keys(1, 5, i),
        "seed": lambda i: fusedraw.derive_keys(i, 5),
    }
    make = {**raw, **derived}[axis]
    return make(even).view(torch.int64), make(even + 1).view(torch.int64)


@pytest.mark.parametrize(
    "axis",
    [
        *("step", "request", "sample", "seed", "seed of the key", "offset of the key"),
        *("high word of the seed", "high word of the offset"),
    ],
)
def test_neighbours_are_independent(axis):
    x = torch.zeros(16)
    first, second = (draw(x, None, keys)["ids"] for keys in pairs_by(axis, PAIRS))
    check_independent(first, second, axis)


def test_domains_are_independent():
    x, keys = torch.zeros(16), keys_of(6, PAIRS)
    ids = [draw(x, None, keys, make_mode(domain=d))["ids"] for d in range(4)]
    for i in range(4):
        for j in range(i):
            check_independent(ids[i], ids[j], f"domains {i} and {j}")


def test_block_place_and_coin_are_independent():
    x, keys = torch.zeros(16 * 256), keys_of(7)
    out = draw(x, make_params(mix_eps=0.5), keys, 0, bits_of("explored"))
    block, place, coin = out["ids"] // 256, out["ids"] % 256, out["explored"].long()
    check_independent(block, place % 16, "block and place")
    check_independent(block, place // 16, "block and place")
    for name, token in (("block", block), ("place", place % 16)):
        counts = torch.bincount(coin * 16 + token, minlength=32).double()
        value, _ = g_test(counts, torch.full((32,), DRAWS / 32).double())
        assert value > ALPHA, f"coin and {name}"


def test_rows_of_a_seeded_batch_are_independent():
    """Sampling by seed and step: row r and row r + 1, step t and step t + 1."""
    x = torch.zeros(2000, 16)
    ids = torch.stack([fusedraw.sample(x, seed=9, step=t) for t in range(600)])
    check_independent(ids[:, ::2].flatten(), ids[:, 1::2].flatten(), "rows")
    check_independent(ids[::2].flatten(), ids[1::2].flatten(), "steps")


# multinomial


def test_multinomial_with_replacement():
    for size, law in ((257, "normal"), (4099, "zipf")):
        p = torch.softmax(logits(law, size), -1)
        ids = multinomial(p[None], make_keys(1, size), DRAWS, True)["ids"][0]
        check_law(ids, law_of(p.tolist(), probs=True), f"V = {size}")
    ids = multinomial(torch.ones(1, 16), make_keys(1, 1), 2 * PAIRS, True)["ids"][0]
    check_independent(ids[::2], ids[1::2], "draws of one row")
    ids = multinomial(torch.ones(1, 16).expand(PAIRS, 16), keys_of(8, PAIRS), 2, True)["ids"]
    check_independent(ids[:, 0], ids[:, 1], "two draws")


def test_multinomial_single_is_the_race():
    p, keys = torch.softmax(logits("normal", 700), -1)[None], keys_of(9, 50_000)
    p = p.expand(len(keys), -1)
    one = multinomial(p, keys, 1, True)["ids"][:, 0]
    assert torch.equal(one, sample(p, None, keys, mode=make_mode(probs=True), outputs=0)["ids"])
    assert torch.equal(one, multinomial(p, keys, 1, False)["ids"][:, 0])


@pytest.mark.parametrize("size, n", [(4, 2), (5, 3), (3, 3)])
def test_multinomial_without_replacement(size, n):
    """Every ordered outcome: p_i, then p_j / (1 - p_i), and so on."""
    p = torch.arange(1.0, size + 1) / 7
    weights = [r1.fixed(r1.fl32(v / p[-1].item())) for v in p.tolist()]
    ids = multinomial(p[None].expand(DRAWS, -1), keys_of(10), n, False)["ids"]
    assert (ids.sort(1).values.diff(dim=1) > 0).all()
    codes = (ids * size ** torch.arange(n)).sum(1)
    expected = torch.zeros(size**n, dtype=torch.float64)
    for code in range(size**n):
        chosen = [code // size**j % size for j in range(n)]
        if len(set(chosen)) == n:
            left, chance = sum(weights), 1.0
            for i in chosen:
                chance *= weights[i] / left
                left -= weights[i]
            expected[code] = chance * DRAWS
    counts = torch.bincount(codes, minlength=size**n).double()
    value, df = g_test(counts, expected)
    assert df == math.perm(size, n) - 1 and value > ALPHA and power(DRAWS, df) >= POWER


# Stability


def test_small_noise_on_logits_flips_few_draws():
    """Coupled draws: the share that changes is of the order of the change of the law (at most 3 times)."""
    x, keys = logits("wide", 4099), keys_of(11, 200_000)
    g = torch.Generator().manual_seed(2)
    moved = x + 2e-3 * torch.randn(len(x), generator=g)
    flips = (draw(x, None, keys)["ids"] != draw(moved, None, keys)["ids"]).double().mean().item()
    distance = (law_of(x.tolist()) - law_of(moved.tolist())).abs().sum().item() / 2
    assert 0 < flips <= 3 * distance


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_draws_these(name):
    """The first draws of the tests above are the same on every engine; the law then holds for all."""
    keys = keys_of(1, 3000)
    for law, size in (("wide", 257), ("zipf", 4099)):
        x = logits(law, size).to(F32)
        best = draw(x, make_params(0.9), keys)["ids"]
        with engine(name):
            assert torch.equal(draw(x, make_params(0.9), keys)["ids"], best)
