# SPDX-License-Identifier: Apache-2.0
"""R1's softmax, mask, renorm and multinomial, by hand and by frequencies."""

import itertools
import math
import random

import pytest
from fusedraw import reference as r1
from reference_cases import ALPHA, HALVING, INF, LADDER, same, seeded_row
from scipy.stats import chisquare


def test_softmax_rows():
    rng = random.Random(11)
    x = seeded_row(rng, 500, scale=4.0)
    p, logs = r1.softmax_row(x, 0.9)[1], r1.softmax_row(x, 0.9, log=True)[1]
    assert abs(math.fsum(p) - 1) < 1e-6
    for value, log, logit in zip(p, logs, x, strict=True):
        if logit == -INF:
            assert value == 0 and log == -INF
        else:
            assert log == pytest.approx(math.log(value), abs=3e-6)
    assert r1.softmax_row(LADDER, HALVING)[1] == [0.5, 0.25, 0.125, 0.125]
    deep = r1.softmax_row([0.0, -100.0, -126.0, -127.0], HALVING)
    assert deep == (r1.OK, [1.0, 2.0**-100, 2.0**-126, 0.0])  # no integer weight, but a probability
    assert r1.softmax_row([0.0, -127.0], HALVING, log=True)[1][1] == r1.fl32(-127 * math.log(2))
    assert r1.softmax_row([0.0, 5.0, 0.0], mask=[True, False, True])[1] == [0.5, 0.0, 0.5]


def test_mask_and_renorm_rows():
    assert r1.mask_row([1.0, -0.0, 3.0], top_k=2, keep_weightless=True) == (r1.OK, [1.0, -INF, 3.0])
    assert same(r1.mask_row([-1.0, -0.0], top_k=1)[1][1], -0.0)
    assert r1.mask_row(LADDER, top_p=0.75, temperature=HALVING)[1] == [0.0, -1.0, -INF, -INF]
    p = [0.125, 0.5, 0.125, 0.25]
    assert r1.renorm_row(p, top_k=3)[1] == [r1.fl32(1 / 7), r1.fl32(4 / 7), 0.0, r1.fl32(2 / 7)]
    assert r1.renorm_row(p, top_k=3, ties="all")[1] == p
    assert r1.renorm_row(p, top_p=0.5)[1] == [0.0, 1.0, 0.0, 0.0]
    assert r1.renorm_row(LADDER, top_k=2, from_logits=True, temperature=HALVING)[1] == [
        r1.fl32(2 / 3),
        r1.fl32(1 / 3),
        0.0,
        0.0,
    ]
    assert r1.renorm_row(LADDER, top_k=2, from_logits=True, temperature=0)[1] == [1.0, 0.0, 0.0, 0.0]


def test_multinomial_with_replacement():
    p = [0.0, 3.0, 0.0, 1.0, 2.0, 0.0]
    draws = r1.multinomial_row(p, 12000, replacement=True, key=(6, 6))[1]
    assert set(draws) == {1, 3, 4}
    assert chisquare([draws.count(i) for i in (1, 3, 4)], [6000, 2000, 4000]).pvalue > ALPHA
    most = 2**64 - 1
    ends = {(r1.MANY, 0): 0, (r1.MANY, 1): 0, (r1.MANY, 2): most, (r1.MANY, 3): most}
    assert r1.multinomial_row(p, 2, replacement=True, forced=ends) == (r1.OK, [1, 4])
    # R = 2^127 is half of the mass exactly: the running sum 3 of 6 does not exceed it
    half = {(r1.MANY, 0): 0, (r1.MANY, 1): 2**63, (r1.MANY, 2): most, (r1.MANY, 3): 2**63 - 1}
    assert r1.multinomial_row([1.0, 1.0], 2, replacement=True, forced=half) == (r1.OK, [1, 0])


def test_multinomial_without_replacement():
    p = [0.0, 3.0, 0.0, 1.0, 2.0]
    assert r1.multinomial_row(p, 5, key=(1, 2))[0] == r1.EMPTY
    assert sorted(r1.multinomial_row(p, 5, key=(1, 2))[1]) == [-1, -1, 1, 3, 4]
    pairs = [tuple(r1.multinomial_row(p, 2, key=(12, k))[1]) for k in range(6000)]
    # P(a, b) = p_a p_b / (1 - p_a), with p = 1/2, 1/6, 1/3
    share = {1: 3 / 6, 3: 1 / 6, 4: 2 / 6}
    law = {(a, b): share[a] * share[b] / (1 - share[a]) for a, b in itertools.permutations(share, 2)}
    assert chisquare([pairs.count(pair) for pair in law], [6000 * v for v in law.values()]).pvalue > ALPHA
    equal = {(r1.ORDER, i): 9 for i in range(4)}
    assert r1.multinomial_row([1.0] * 4, 3, forced=equal) == (r1.OK, [0, 1, 2])


def test_multinomial_of_one_is_the_race():
    p = [r1.fl32(random.Random(13).random()) for _ in range(400)]
    for k in range(20):
        assert r1.multinomial_row(p, 1, key=(3, k)) == (r1.OK, [r1.sample_row(p, probs=True, key=(3, k)).id])
