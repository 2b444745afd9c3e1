# SPDX-License-Identifier: Apache-2.0
"""R1's by-products of a draw against float64 formulas."""

import math
import random

import pytest
from fusedraw import reference as r1
from reference_cases import HALVING, INF, LADDER, seeded_row


def test_by_products_against_float64_formulas():
    rng = random.Random(10)
    for step in range(20):
        x, temperature = seeded_row(rng, 300, scale=3.0), r1.fl32(rng.uniform(0.3, 2))
        out = r1.sample_row(x, temperature=temperature, top_p=0.8, key=(0, step), top_n=5)
        valid = [i for i in range(len(x)) if x[i] > -INF]
        exact = {i: math.exp((x[i] - max(x)) / temperature) for i in valid}
        total = math.fsum(exact.values())
        p = {i: v / total for i, v in exact.items()}
        raw_total = math.fsum(math.exp(x[i]) for i in valid)
        surprise = {i: -math.log(p[i]) for i in valid}
        entropy = math.fsum(p[i] * surprise[i] for i in valid)
        assert out.entropy == pytest.approx(entropy, rel=2e-6)
        spread = math.fsum(p[i] * (surprise[i] - entropy) ** 2 for i in valid)
        assert out.varentropy == pytest.approx(spread, rel=1e-5)
        assert out.logp_full == pytest.approx(math.log(p[out.id]), abs=2e-6)
        assert out.logp_raw == pytest.approx(x[out.id] - math.log(raw_total), abs=2e-6)
        mass = math.fsum(p[i] for i in out.kept)
        assert out.kept_mass == pytest.approx(mass, rel=1e-6) and mass > 0.8 - 1e-6
        assert out.logp == pytest.approx(math.log(p[out.id] / mass), abs=2e-6)
        ranked = sorted(valid, key=lambda i: (-x[i], i))
        assert out.top_ids == ranked[:5] and out.margin == r1.fl32(x[ranked[0]] - x[ranked[1]])
        assert out.top_logps == pytest.approx([x[i] - math.log(raw_total) for i in ranked[:5]], abs=2e-6)
        assert out.kept == sorted(ranked[: out.n_kept]) and ranked.index(out.id) == out.rank


def test_by_products_of_tiny_rows():
    one = r1.sample_row([-INF, -4.0], top_n=3)
    assert one == r1.RowResult(
        r1.OK, 1, 0.0, 0.0, 0.0, 0.0, 0.0, INF, 1, 1.0, 0, False, [1], [1, -1, -1], [0.0, -INF, -INF]
    )
    assert all(math.copysign(1, v) == 1 for v in (one.logp, one.logp_full, one.logp_raw, one.entropy))
    two = r1.sample_row([7.0, 7.0])
    assert two.logp == two.logp_full == r1.fl32(-math.log(2)) and two.entropy == r1.fl32(math.log(2))
    assert (two.margin, two.varentropy) == (0.0, 0.0)
    halving = r1.sample_row(LADDER, temperature=HALVING)  # p = 1/2, 1/4, 1/8, 1/8: 1.75 bits, variance 0.6875
    assert halving.entropy == r1.fl32(1.75 * math.log(2))
    assert halving.varentropy == r1.fl32(0.6875 * math.log(2) ** 2)


def test_probabilities_offer_no_logit_by_products():
    out = r1.sample_row([0.5, 0.0, 0.25, 0.25], probs=True, key=(1, 1))
    assert out.logp_full is out.logp_raw is out.entropy is out.varentropy is None and out.top_ids == []
    assert out.kept == [0, 2, 3] and out.margin == 0.25
    assert out.logp == r1.fl32(math.log(0.5 if out.id == 0 else 0.25))
