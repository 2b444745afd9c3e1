# SPDX-License-Identifier: Apache-2.0
"""The mixture mu = (1 - mix_eps) * pi + mix_eps * uniform(U): its ends to the bit, its sum on the integers,
its uniform part, the probabilities that it returns. Elsewhere: frequencies under filters and coins on one row
(test_statistics.py), coins on generated rows (test_comparing_coupled.py)."""

import math
from fractions import Fraction

import fusedraw
import pytest
import torch
from engines import (
    ALL,
    BF16,
    ENGINES,
    SUPPORTS,
    assert_same,
    bits_of,
    engine,
    forced,
    make_keys,
    make_mode,
    make_params,
    on_every_engine,
    sample,
)
from fusedraw import reference as r1
from hypothesis import given
from hypothesis import strategies as st
from row_kinds import make_rows
from scipy import stats
from strategies import examples, row_batches, seeds

ALPHA = 1e-6
ZEROS = (0.0, -0.0, 2.0**-150, -(2.0**-150))  # all are 0 in float32
FILTERS = st.fixed_dictionaries(
    {
        "temperature": st.sampled_from([0.0, 0.7, 1.0, math.inf]),
        "top_k": st.sampled_from([0, 1, 5, 40]),
        "top_p": st.sampled_from([1.0, 0.9, 0.5]),
        "min_p": st.sampled_from([0.0, 0.05]),
    }
)


def law_of(x, filters):
    """(weights, kept ids, valid ids) of one row, from R1."""
    params = r1.Params(**filters)
    _, x, order = r1.read(x.tolist(), None, params)
    law = r1.weigh(x, order, params.temperature)
    return law, r1.kept_set(x, law, params), order


# mix_eps = 0


@examples(60)
@given(batch=row_batches(), filters=FILTERS, share=st.sampled_from([0.3, 1.0]))
def test_no_share_is_no_mixture(batch, filters, share):
    """However 0 is written and whatever the mixture would cover, every output is the same to the bit; also in
    rows beside others that explore."""

    def run(mix_eps, support="kept", rows=batch.x, keys=batch.keys, mask=batch.mask):
        params = make_params(**filters).repeat(len(mix_eps), 1)
        params[:, 3] = torch.tensor(mix_eps, dtype=torch.float64)
        return sample(rows, params, keys, mask, make_mode(support=support), ALL & ~bits_of("kept"))

    expected = run([0.0])
    for zero in ZEROS:
        for support in SUPPORTS:
            on_every_engine(run, [zero], support, expected=expected)
    n = len(batch.x)
    mask = None if batch.mask is None else batch.mask.expand(n, -1).repeat(2, 1)
    beside = run([share] * n + [0.0] * n, "kept", batch.x.repeat(2, 1), batch.keys.repeat(2, 1), mask)
    assert_same({name: value[n:] for name, value in beside.items()}, expected)
    assert not expected["explored"].any()


@examples(40)
@given(kind=st.sampled_from(["normal", "peaked", "tied", "holes"]), seed=seeds, filters=FILTERS)
def test_no_share_is_the_plain_race(kind, seed, filters):
    """What is drawn at mix_eps = 0 is the race of the law's own weights, in which there is no coin."""
    x, keys = make_rows(kind, 1, 300, seed), make_keys(20, seed)
    law, kept, _ = law_of(x[0], filters)
    expected = [r1.race(r1.Noise((seed, offset)), law.w, kept) for seed, offset in keys.tolist()]
    assert fusedraw.sample(x.expand(20, -1), keys=keys, mix_eps=0.0, **filters).tolist() == expected


def test_no_coin_fires_at_no_share():
    """With the least noise there is, the coin of the least share fires and that of 0 does not."""
    x, keys = make_rows("peaked", 8, 600), make_keys(8)
    for name in ENGINES:
        with engine(name), forced({(r1.COIN, 0): 0}):
            none = sample(x, make_params(mix_eps=0.0), keys, outputs=bits_of("explored"))
            least = sample(x, make_params(mix_eps=2.0**-149), keys, outputs=bits_of("explored"))
        assert not none["explored"].any() and least["explored"].all(), name


def test_the_argument_left_out_is_no_share():
    x, keys = make_rows("normal", 6, 500), make_keys(6)
    options = {"temperature": 0.8, "top_p": 0.95, "keys": keys, "returns": ("logp", "entropy", "explored")}
    expected = fusedraw.sample(x, **options)._asdict()
    for zero in (
        0,
        None,
        -0.0,
        torch.zeros(6),
        torch.zeros(1, dtype=BF16),
        torch.zeros((), dtype=torch.int64),
    ):
        for support in SUPPORTS:
            got = fusedraw.sample(x, mix_eps=zero, mix_support=support, **options)._asdict()
            for name, value in expected.items():
                assert value is None or torch.equal(got[name], value), (name, zero)


# mix_eps = 1


@pytest.mark.parametrize("support", SUPPORTS)
@pytest.mark.parametrize(
    "filters",
    [{}, {"top_k": 40}, {"top_p": 0.9, "temperature": 0.7}, {"temperature": 0.0}, {"temperature": math.inf}],
    ids=str,
)
def test_a_whole_share_is_uniform(filters, support):
    """G-test of 200,000 draws over U, all of U reached and nothing else, and log-probability -ln |U|."""
    draws = 200_000
    x = make_rows("peaked", 1, 260)
    x[0, 7::20] = -math.inf
    _, kept, valid = law_of(x[0], filters)
    ids = sorted(kept if support == "kept" else valid)
    keys = fusedraw.derive_keys(5, torch.arange(draws)).view(torch.int64)
    rows = x.expand(draws, -1)
    out = fusedraw.sample(
        rows, keys=keys, mix_eps=1.0, mix_support=support, returns=("logp", "explored"), **filters
    )
    counts = torch.bincount(out.ids, minlength=260)
    assert out.explored.all() and counts.nonzero().squeeze(1).tolist() == ids
    assert out.logp.unique().tolist() == [pytest.approx(-math.log(len(ids)), abs=1e-6)]
    if len(ids) > 1:
        test = stats.power_divergence(counts[ids].numpy(), lambda_="log-likelihood")
        assert test.pvalue > ALPHA


# The sum


@examples(40)
@given(
    kind=st.sampled_from(["normal", "peaked", "tied", "holes", "huge", "cliff", "sunken", "ramp"]),
    seed=seeds,
    size=st.sampled_from([1, 2, 31, 256, 257, 400]),
    filters=FILTERS,
    mix_eps=st.sampled_from([0.0, 1e-6, 0.01, 0.5, 1 - 2.0**-24, 1.0]),
    support=st.sampled_from(SUPPORTS),
)
def test_mu_sums_to_one(kind, seed, size, filters, mix_eps, support):
    """Exactly, in the law's integers; within 1e-12 as the float64 numbers whose logarithm is returned."""
    x = make_rows(kind, 1, size, seed)
    law, kept, valid = law_of(x[0], filters)
    covered = kept if support == "kept" else valid
    share, total = Fraction(r1.fl32(mix_eps)), sum(law.w[i] for i in kept)
    exact = dict.fromkeys(valid, Fraction(0))
    for i in kept:
        exact[i] += (1 - share) * Fraction(law.w[i], total)
    for i in covered:
        exact[i] += share / len(covered)
    assert sum(exact.values()) == 1
    mu = {i: r1.mixture_prob(law, kept, covered, float(share), i) for i in valid}
    assert abs(math.fsum(mu.values()) - 1) < 1e-12
    for i, value in mu.items():
        assert value == pytest.approx(float(exact[i]), rel=1e-12)


@pytest.mark.parametrize("support", SUPPORTS)
def test_returned_probabilities_sum_to_one(support):
    """Draws until every token of the support has been seen: their returned probabilities make up 1."""
    size, draws = 24, 40_000
    x = make_rows("normal", 1, size, 3)
    keys = fusedraw.derive_keys(6, torch.arange(draws))
    options = {"top_k": 12, "mix_eps": 0.2, "mix_support": support, "returns": ("logp",)}
    out = fusedraw.sample(x.expand(draws, -1), keys=keys, **options)
    first = {int(i): float(logp) for i, logp in zip(out.ids, out.logp, strict=True)}
    assert len(first) == (12 if support == "kept" else size)
    # float32 logarithms: half an ulp of values up to 8, times mu
    assert math.fsum(map(math.exp, first.values())) == pytest.approx(1, abs=2.0**-21)
    counts = torch.bincount(out.ids, minlength=size)
    ids = sorted(first)
    expected = torch.tensor([math.exp(first[i]) for i in ids], dtype=torch.float64)
    observed = counts[ids].double()
    g = 2 * torch.xlogy(observed, observed / (expected * draws)).sum().item()
    assert stats.chi2.sf(g, len(ids) - 1) > ALPHA
