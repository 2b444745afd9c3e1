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
from laws import (
    ALPHA,
    AXES,
    DRAWS,
    POWER,
    check_independent,
    check_law,
    detectable,
    draw,
    g_test,
    keys_of,
    law_of,
    logits,
    ordered_law,
    pairs_by,
    plain_law,
    power,
    split_options,
)
from operations_r1 import sample_r1
from scipy import stats

FILTERED = PAIRS = 600_000  # enough for 256 bins, and for a 16 x 16 table


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
    "top_k, top_p": {"top_k": 40, "top_p": 0.8},  # one token is left; 21 in the next
    "top_k, top_p, flat": {"top_k": 40, "top_p": 0.8, "temperature": 3.0},
    "top_p, flat": {"top_p": 0.9, "temperature": 3.0},
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


def test_laws_of_long_rows_are_those_of_r1():
    for law, size, temperature in (
        ("wide", 700, 0.9),
        ("tied", 300, 1.0),
        ("zipf", 500, 2.5),
        ("normal", 2, 1),
    ):
        x = logits(law, size)
        x[5::50] = -INF
        assert torch.equal(plain_law(x, temperature), law_of(x.float().tolist(), temperature=temperature))


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


@pytest.mark.parametrize("axis", AXES)
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
    """Every ordered outcome."""
    p = torch.arange(1.0, size + 1) / 7
    ids = multinomial(p[None].expand(DRAWS, -1), keys_of(10), n, False)["ids"]
    assert (ids.sort(1).values.diff(dim=1) > 0).all()
    codes = (ids * size ** torch.arange(n)).sum(1)
    expected = DRAWS * ordered_law(law_of(p.tolist(), probs=True), n)
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
