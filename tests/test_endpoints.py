# SPDX-License-Identifier: Apache-2.0
"""The ends of the noise, forced: the least and the largest value of every purpose, ties between equal values,
and thresholds met exactly. Every result against R1 and on every engine, and against what it must be."""

import math

import pytest
import torch
from engines import (
    ALL,
    F32,
    HALVING,
    INF,
    TIES,
    C,
    forced,
    make_keys,
    make_mode,
    make_params,
    on_every_engine,
    op,
    sample,
)
from fusedraw import reference as r1
from fusedraw._threads import threads
from operations_r1 import sample_r1

LEAST, MOST = 0, 2**64 - 1
BLOCK, TOKEN, COIN, MANY, ORDER = r1.BLOCK, r1.TOKEN, r1.COIN, r1.MANY, r1.ORDER
# Paths to a draw: the lazy race over a row, over a cut row, over a list of candidates, and with weights of 1.
# In the rows below these filters drop tokens 9, 10 and 11 at most.
DROPPED = slice(9, 12)
PATHS = {
    "row": lambda size: {},
    "list": lambda size: {"top_k": size - 3},
    "cut": lambda size: {"min_p": 1e-6},
    "nucleus": lambda size: {"top_p": 1 - 2.0**-24},
    "exploring": lambda size: {"mix_eps": 1.0},
}


def draw(x, noise, outputs=ALL, mode=0, **params):
    """The drawn id (or all outputs) with this noise, which R1 and every engine must agree on."""
    x = torch.as_tensor(x, dtype=F32)[None]
    arguments = (x, make_params(**params), make_keys(1, 5), None, mode, outputs)
    expected = sample_r1(*arguments, forced_noise=noise)
    with forced(noise):
        return on_every_engine(sample, *arguments, expected=expected)


def drawn(x, noise, **options):
    return draw(x, noise, **options)["ids"].item()


def test_exponential_ends():
    assert C.exponential(LEAST) == 2.0**-65 and C.exponential(MOST) == 53 * r1.LN2


# One block or token at an end


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("block", [0, 1, 3, 4])
def test_block_noise_at_its_ends(path, block):
    """The least noise wins, however light the block; the largest loses, however heavy, but not alone."""
    size = 1030
    here, options = slice(block * 256, block * 256 + 256), PATHS[path](size)
    x = torch.zeros(size)
    x[here], x[DROPPED] = -8.0, -20.0
    assert drawn(x, {(BLOCK, block): LEAST}, **options) // 256 == block
    x = torch.full((size,), -12.0)
    x[here], x[DROPPED] = 0.0, -20.0
    others = {(BLOCK, b): 1 << 40 for b in range(5)}
    assert drawn(x, {**others, (BLOCK, block): MOST}, **options) // 256 != block
    x[:] = -INF
    x[block * 256 + 2] = 0.0
    assert drawn(x, {(BLOCK, block): MOST}, **options) == block * 256 + 2


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("token", [256, 257, 300, 383, 384, 510, 511, 512, 519])
def test_token_noise_at_its_ends(path, token):
    x, options = torch.zeros(520), PATHS[path](520)
    x[token], x[DROPPED] = -10.0, -20.0
    here = {(BLOCK, token // 256): LEAST}
    assert drawn(x, {**here, (TOKEN, token): LEAST}, **options) == token
    x[:], x[token], x[DROPPED] = -10.0, 0.0, -20.0
    others = {(TOKEN, i): 1 << 40 for i in range(520)}
    assert drawn(x, {**here, **others, (TOKEN, token): MOST}, **options) != token
    x[:], x[token] = -INF, 0.0
    assert drawn(x, {**here, (TOKEN, token): MOST}, **options) == token


def test_a_weight_of_one_unit_can_win():
    """The lightest token there is, 2^-43 of the best: reachable, in another block and beside the best."""
    gap = -43.49
    assert r1.weight(r1.fl32(gap)) == 1
    for token in (1, 999):
        x = torch.full((1000,), -INF)
        x[0], x[token] = 0.0, gap
        noise = {(BLOCK, 3): LEAST, (TOKEN, token): LEAST, (BLOCK, 0): MOST - 1, (TOKEN, 0): MOST}
        out = draw(x, noise, temperature=HALVING)
        assert out["ids"].item() == token and out["rank"].item() == 1
        assert math.isclose(out["logp"].item(), -43 * math.log(2), rel_tol=1e-6)


@pytest.mark.parametrize("value", [LEAST, MOST])
@pytest.mark.parametrize("path", PATHS)
def test_all_noise_at_one_end(path, value):
    """Everything equal: the heaviest block, then the heaviest token, wins."""
    size = 1030
    x = torch.zeros(size)
    x[700:720], x[DROPPED] = 1.0, -20.0
    noise = {(BLOCK, b): value for b in range(5)} | {(TOKEN, i): value for i in range(size)}
    noise[COIN, 0] = LEAST
    token = 0 if path == "exploring" else 700
    assert drawn(x, noise, **PATHS[path](size)) == token


# Ties


@pytest.mark.parametrize("value", [LEAST, 12345, 1 << 40, 1 << 63, MOST])
@pytest.mark.parametrize("path", PATHS)
def test_equal_values_go_to_the_lower_index(path, value):
    """Equal E / w, wherever the two are: in one lane, in neighbouring lanes, in other vectors, in blocks."""
    size = 1100
    x, options = torch.zeros(size), PATHS[path](size)
    x[-3:] = -20.0  # in the last block, which is lighter anyway
    for a, b in ((0, 1), (3, 19), (0, 16), (7, 255), (128, 129), (31, 32), (254, 255)):
        noise = {(BLOCK, 2): LEAST} | {(TOKEN, 512 + i): MOST for i in range(256)}
        noise |= {(TOKEN, 512 + a): value, (TOKEN, 512 + b): value}
        assert drawn(x, noise, **options) == 512 + (0 if value == MOST else a)
    for a, b in ((0, 1), (0, 3), (1, 2), (2, 3)):
        noise = {(BLOCK, i): MOST for i in range(5)} | {(BLOCK, a): value, (BLOCK, b): value}
        assert drawn(x, noise, **options) // 256 == (0 if value == MOST else a)


@pytest.mark.parametrize("swap", [False, True])
def test_equal_quotients_of_unequal_blocks(swap):
    """Noise 3 over mass 3 equals noise 1 over mass 1, exactly."""
    assert C.exponential(1) == 3 * C.exponential(0)
    heavy, light = (700, 300) if swap else (300, 700)  # in blocks 2 and 1, or 1 and 2
    x = torch.full((1000,), -INF)
    x[heavy : heavy + 3], x[light] = 0.0, 0.0
    noise = {(BLOCK, heavy // 256): 1, (BLOCK, light // 256): 0}
    for path in ({}, {"top_k": 4}, {"min_p": 0.5}, {"mix_eps": 1.0}):
        assert drawn(x, noise, **path) // 256 == 1


def test_ties_on_long_rows_and_threads():
    """Blocks far apart, in parts of different threads."""
    x = torch.zeros(300_000)
    noise = {(BLOCK, 77): 5, (BLOCK, 900): 5, (BLOCK, 1171): 5}
    with threads(2), forced(noise):
        out = on_every_engine(sample, x[None], make_params(), make_keys(1), None, 0, 0)
    assert out["ids"].item() // 256 == 77


@pytest.mark.parametrize("ties", TIES)
def test_equal_logits_by_index(ties):
    """The order among equal logits, -0 and +0 included: greedy, top-k and top-p take the lowest ids."""
    x = torch.tensor([-1.0, 0.0, -0.0, 0.0, -0.0, -2.0])
    out = draw(x, {}, mode=make_mode(ties=ties), temperature=0.0)
    assert out["ids"].item() == 1 and out["margin"].item() == 0
    for params, n in (({"top_k": 3}, 3), ({"top_p": 0.6}, 3), ({"top_k": 2}, 2)):
        kept = draw(x, {}, mode=make_mode(ties=ties), **params)["kept_ids"].tolist()
        assert kept == ([1, 2, 3, 4] if ties == "all" else [1, 2, 3][:n])


# The coin


@pytest.mark.parametrize(
    "eps, r64, fires",
    [
        (0.0, LEAST, False),
        (1e-45, LEAST, True),  # ceil(eps * 2^64) is 1
        (1e-45, 1, False),
        (2.0**-64, LEAST, True),
        (2.0**-64, 1, False),
        (2.0**-63, 1, True),
        (2.0**-63, 2, False),
        (0.5, 2**63 - 1, True),
        (0.5, 2**63, False),
        (1 - 2.0**-24, 2**64 - 2**40 - 1, True),
        (1 - 2.0**-24, 2**64 - 2**40, False),
        (1 - 2.0**-24, MOST, False),
        (1.0, MOST, True),
        (1.0, LEAST, True),
    ],
)
@pytest.mark.parametrize("support", ["kept", "valid"])
def test_coin(eps, r64, fires, support):
    for params in ({}, {"top_k": 2}, {"temperature": 0.0}):
        out = draw(
            torch.arange(5.0), {(COIN, 0): r64}, mode=make_mode(support=support), mix_eps=eps, **params
        )
        assert out["explored"].item() is fires


# Many draws from one row


def many(p, noise, n, replacement):
    p = torch.as_tensor(p, dtype=F32)
    key = (3, 4)
    expected = torch.tensor(r1.multinomial_row(p.tolist(), n, replacement, key, noise)[1])

    def ids():
        return {"ids": op.multinomial(p[None], torch.tensor([key]), n, replacement, 0)[0][0]}

    with forced(noise):
        return on_every_engine(ids, expected={"ids": expected})["ids"].tolist()


def words(j, r128):
    """R_j as the forced values of its two halves."""
    return {(MANY, 2 * j): r128 & MOST, (MANY, 2 * j + 1): r128 >> 64}


@pytest.mark.parametrize("zeros", [0, 1, 255, 256, 300, 513])
def test_with_replacement_at_the_ends(zeros):
    """R = 0 gives the first token with weight, R = 2^128 - 1 the last; zeros around do not matter."""
    p = [0.0] * zeros + [0.25, 0.5, 0.25] + [0.0] * zeros
    noise = words(0, 0) | words(1, 2**128 - 1) | words(2, 1) | words(3, 2**128 - 2) | words(4, 2**127)
    assert many(p, noise, 5, True) == [zeros, zeros + 2, zeros, zeros + 2, zeros + 1]
    light = [0.0] * zeros + [2.0**-43, 1.0, 2.0**-43] + [1e-30] * zeros  # 1 unit; below half a unit
    assert many(light, noise, 3, True) == [zeros, zeros + 2, zeros]


@pytest.mark.parametrize("size", [3, 256, 257, 700])
def test_with_replacement_at_the_thresholds(size):
    """R where floor(R S / 2^128) is the last unit of a token's stretch, or the first of the next one's."""
    g = torch.Generator().manual_seed(size)
    p = torch.rand(size, generator=g)
    p[torch.rand(size, generator=g) < 0.2] = 0.0
    p[0] = p[-1] = 0.3
    weights = [r1.fixed(r1.fl32(v / p.max().item())) for v in p.tolist()]
    total = sum(weights)
    noise, expected, running = {}, [], 0
    picked = [i for i in range(size) if weights[i]]
    for n, i in enumerate(picked[:-1]):
        running = sum(weights[: i + 1])
        first = -(-running * 2**128 // total)  # the least R that reaches `running`
        noise |= words(2 * n, first - 1) | words(2 * n + 1, first)
        expected += [i, picked[n + 1]]
    assert many(p, noise, len(expected), True) == expected


def test_without_replacement_at_the_ends():
    p = [1.0] * 6 + [0.0] + [1.0] * 600
    order = many(p, {(ORDER, 500): LEAST, (ORDER, 3): MOST}, len(p), False)
    assert order[0] == 500 and order[-2:] == [3, -1] and 6 not in order
    tied = {(ORDER, i): LEAST for i in (2, 17, 33, 256, 300, 606)}
    assert many(p, tied, 6, False) == [2, 17, 33, 256, 300, 606]
    assert many(p, tied, 3, False) == [2, 17, 33]
    assert many(p, {(ORDER, i): MOST for i in range(607)}, 5, False) == [0, 1, 2, 3, 4]
    three_to_one = [1.0, 3.0, 0.0, 3.0, 1.0]  # noise 3 over mass 3 equals noise 1 over mass 1
    weights = [r1.fixed(r1.fl32(v / 3)) for v in three_to_one]
    noise = {(ORDER, 0): 0, (ORDER, 1): 1, (ORDER, 3): 1, (ORDER, 4): 0}
    quotients = [C.exponential(noise[ORDER, i]) / weights[i] for i in (0, 1, 3, 4)]
    assert many(three_to_one, noise, 4, False) == sorted(
        (0, 1, 3, 4), key=lambda i: (quotients[(0, 1, 3, 4).index(i)], i)
    )


def test_forced_noise_ends():
    """Forcing is for every key and domain, the first entry of a pair counts, and an empty list ends it."""
    x = torch.zeros(50, 16)
    keys = make_keys(50, 2)
    free = sample(x, None, keys, outputs=0)["ids"]
    for domain in range(4):
        with forced({(TOKEN, 5): LEAST}):
            assert (sample(x, None, keys, mode=domain << 4, outputs=0)["ids"] == 5).all()
    C.force_noise([(TOKEN, 9, LEAST), (TOKEN, 9, MOST)])
    try:
        assert (on_every_engine(sample, x, None, keys, outputs=0)["ids"] == 9).all()
    finally:
        C.force_noise([])
    assert torch.equal(sample(x, None, keys, outputs=0)["ids"], free)
