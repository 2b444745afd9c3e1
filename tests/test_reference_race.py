# SPDX-License-Identifier: Apache-2.0
"""R1's draw: recomputed with libm's logarithms, under forced noise, and by its frequencies."""

import math
import random

import pytest
from fusedraw import reference as r1
from reference_cases import ALPHA, INF, NAN, SPARSE, seeded_row, sparse_row
from scipy.stats import chisquare


def test_race_agrees_with_libm_logarithms():
    """The draw, recomputed with math.log1p: it differs only if two values nearly coincide."""
    rng = random.Random(7)
    for step in range(150):
        x = seeded_row(rng, rng.choice((5, 255, 256, 257, 700)))
        out = r1.sample_row(x, temperature=0.7, top_k=rng.choice((0, 40)), key=(99, step), domain=r1.DRAFT)
        order = sorted((i for i in range(len(x)) if x[i] > -INF), key=lambda i: (-x[i], i))
        law, noise = r1.weigh(x, order, 0.7), r1.Noise((99, step), r1.DRAFT)

        def score(purpose, i, weight, noise=noise):
            return -math.log1p(-(noise.r64(purpose, i) + 0.5) / 2**64) / weight

        sums = {}
        for i in out.kept:
            sums[i >> 8] = sums.get(i >> 8, 0) + law.w[i]
        block = min(sums, key=lambda b: score(1, b, sums[b]))
        inside = [i for i in out.kept if i >> 8 == block]
        assert out.id == min(inside, key=lambda i: score(2, i, law.w[i]))
        assert out.rank == order.index(out.id)


def test_race_under_forced_noise():
    x, most = [0.0] * 600, 2**64 - 1
    first = {(r1.BLOCK, b): 5 for b in range(3)} | {(r1.TOKEN, i): 5 for i in range(600)}
    assert r1.sample_row(x, forced=first).id == 0  # equal noise and weights: the lower block and id
    assert r1.sample_row(x, forced=first | {(r1.BLOCK, 1): 4}).id == 256
    assert r1.sample_row(x, forced=first | {(r1.BLOCK, 2): 4}).id == 0  # 88 tokens: 4.5 / 88 > 5.5 / 256
    assert r1.sample_row(x, forced=first | {(r1.BLOCK, 2): 0, (r1.TOKEN, 599): 0}).id == 599
    assert r1.sample_row(x, forced=first | {(r1.TOKEN, i): most for i in range(255)}).id == 255
    # the smallest noise cannot lift what is masked or filtered; the largest cannot lose to nothing
    for i, params in ((1, {"mask": [j != 1 for j in range(600)]}), (2, {"top_k": 2})):
        low = {(r1.TOKEN, i): 0} | {(r1.BLOCK, 0): 0}
        assert r1.sample_row(x, forced=low, **params).id != i
    only = {(r1.BLOCK, 1): most, (r1.TOKEN, 300): most, (r1.BLOCK, 0): 0, (r1.TOKEN, 0): 0}
    assert r1.sample_row([-INF] * 300 + [-7.0], forced=only).id == 300


def test_draw_ignores_padding_and_shift_by_value():
    rng = random.Random(8)
    for step in range(20):
        x = seeded_row(rng, 300)
        plain = r1.sample_row(x, key=(5, step), top_p=0.9)
        assert r1.sample_row(x + [-INF] * 213, key=(5, step), top_p=0.9) == plain
        mask = [True] * len(x) + [False] * 3
        assert r1.sample_row([*x, NAN, INF, 9.0], key=(5, step), top_p=0.9, mask=mask) == plain


def expected_law(law, ids):
    total = sum(law.w[i] for i in ids)
    return [law.w[i] / total for i in ids]


def test_chi_square_of_the_race():
    ids, n = sorted(SPARSE), 20000
    x = sparse_row()
    law = r1.weigh(x, sorted(ids, key=lambda i: -x[i]), 1.0)
    exact = [math.exp(x[i]) for i in ids]
    for ours, true in zip(expected_law(law, ids), exact, strict=True):
        assert ours == pytest.approx(true / sum(exact), rel=3e-7)
    counts = dict.fromkeys(ids, 0)
    for offset in range(n):
        counts[r1.race(r1.Noise((2024, offset)), law.w, ids)] += 1
    assert chisquare(list(counts.values()), [n * p / sum(exact) for p in exact]).pvalue > ALPHA
