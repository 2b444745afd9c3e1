# SPDX-License-Identifier: Apache-2.0
"""R1's mixing with the uniform distribution: probabilities, coins and frequencies."""

import math
import random

import pytest
from fusedraw import reference as r1
from reference_cases import ALPHA, INF, SPARSE, seeded_row, sparse_row
from scipy.stats import chisquare


def test_chi_square_of_the_mixture():
    x, n = sparse_row(), 4000
    exact = {i: math.exp(x[i] / 0.5) for i in (256, 3, 299, 10)}
    mu = {i: 0.3 / 8 + (0.7 * exact[i] / sum(exact.values()) if i in exact else 0) for i in SPARSE}
    counts, explored = dict.fromkeys(SPARSE, 0), 0
    for seed in range(n):
        out = r1.sample_row(x, temperature=0.5, top_k=4, mix_eps=0.3, mix_support="valid", key=(seed, 17))
        counts[out.id] += 1
        explored += out.explored
        assert out.logp == pytest.approx(math.log(mu[out.id]), abs=1e-6)
    assert chisquare([counts[i] for i in SPARSE], [n * mu[i] for i in SPARSE]).pvalue > ALPHA
    assert chisquare([explored, n - explored], [0.3 * n, 0.7 * n]).pvalue > ALPHA


@pytest.mark.parametrize("support", ["kept", "valid"])
@pytest.mark.parametrize("mix_eps", [0.0, 1e-6, 0.01, 0.5, 1.0])
def test_mu_sums_to_one(support, mix_eps):
    rng = random.Random(9)
    x = seeded_row(rng, 400, scale=8.0)
    eps, order = r1.fl32(mix_eps), sorted((i for i in range(401) if x[i] > -INF), key=lambda i: -x[i])
    law, params = r1.weigh(x, order, 1.0), r1.Params(top_p=0.97, top_k=100)
    kept_ids = r1.kept_set(x, law, params)
    ids = kept_ids if support == "kept" else order
    mu = [r1.mixture_prob(law, kept_ids, ids, eps, i) for i in order]
    assert abs(math.fsum(mu) - 1) < 1e-12 and min(mu) >= 0
    assert all(v >= eps / len(ids) for v, i in zip(mu, order, strict=True) if i in ids)


def test_coin_sets_are_nested_and_share_the_rest():
    x, fired_before = sparse_row(), set()
    base = [r1.sample_row(x, key=(1, k)) for k in range(300)]
    uniform = [r1.sample_row(x, key=(1, k), temperature=INF).id for k in range(300)]
    for eps in (0.0, 1e-3, 0.2, 0.7, 1.0):
        rows = [r1.sample_row(x, key=(1, k), mix_eps=eps) for k in range(300)]
        fired = {k for k, row in enumerate(rows) if row.explored}
        assert fired_before <= fired
        assert all(row.id == (uniform[k] if k in fired else base[k].id) for k, row in enumerate(rows))
        fired_before = fired
    assert len(fired) == 300 and r1.sample_row(x, mix_eps=0.0, forced={(r1.COIN, 0): 0}) == r1.sample_row(x)
    edges = ((2**63 - 1, 0.5, True), (2**63, 0.5, False), (2**64 - 1, 1.0, True), (0, 1e-45, True))
    for r64, eps, fires in edges:
        assert r1.sample_row(x, mix_eps=eps, forced={(r1.COIN, 0): r64}).explored is fires


def test_epsilon_greedy():
    params = {"temperature": 0, "mix_eps": 0.5, "mix_support": "valid"}
    rows = [r1.sample_row(sparse_row(), key=(4, k), **params) for k in range(60)]
    assert {row.id for row in rows if not row.explored} == {256} and len({row.id for row in rows}) > 4
    for row in rows:
        assert row.logp == r1.fl32(math.log(0.5 + 0.5 / 8 if row.id == 256 else 0.5 / 8))
        assert row.logp_full == (0.0 if row.id == 256 else -INF) and row.logp_raw > -5
