# SPDX-License-Identifier: Apache-2.0
"""Paired comparison: intervals that cover a known law, exact p-values."""

import dataclasses
import math
from fractions import Fraction

import numpy
import pytest
import torch
from engines import INF
from fusedraw.comparing import (
    compare,
)
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from strategies import examples


def sign_flip_p(differences):
    """The exact two-sided p-value, by all 2^n signs in rational numbers."""
    values = [Fraction(d) for d in differences]
    sums = [Fraction(0)]
    for value in values:
        sums = [total + sign * value for total in sums for sign in (1, -1)]
    lower = sum(s <= sum(values) for s in sums)
    upper = sum(s >= sum(values) for s in sums)
    return min(1.0, 2 * min(lower, upper) / len(sums))


def test_known_answer():
    a, b = [1.0, 2.0, 4.0, 8.0, 3.0], [2.0, 2.0, 7.0, 9.0, 2.0]
    got = compare(a, b)
    differences = [1, 0, 3, 1, -1]
    assert got.n == 5 and got.difference == pytest.approx(0.8)
    assert (got.mean_a, got.mean_b) == pytest.approx((3.6, 4.4))
    assert got.win_rate == pytest.approx(3.5 / 5)
    assert got.effect_size == pytest.approx(0.8 / numpy.std(differences, ddof=1))
    assert got.p_value == pytest.approx(sign_flip_p(differences))
    assert got.low < got.difference < got.high and str(got).startswith("+0.8 [")


@examples(20)
@given(st.lists(st.integers(-5, 5), min_size=2, max_size=8))
def test_exact_p_values(differences):
    got = compare([0.0] * len(differences), [float(d) for d in differences], resamples=999)
    assert got.p_value == pytest.approx(sign_flip_p(differences))


def test_order_seed_and_shift():
    g = torch.Generator().manual_seed(1)
    a, b = torch.rand(30, generator=g), torch.rand(30, generator=g)
    got, turned = compare(a, b, seed=5), compare(b, a, seed=5)
    assert compare(a, b, seed=5) == got != compare(a, b, seed=6)
    assert (turned.low, turned.high) == pytest.approx((-got.high, -got.low))
    assert turned.p_value == pytest.approx(got.p_value) and turned.win_rate == pytest.approx(1 - got.win_rate)
    shared = 100 * torch.rand(30, generator=g).double()  # a hard prompt is hard for both: pairs cancel it
    moved = compare(a + shared, b + shared, seed=5)
    assert (moved.difference, moved.low, moved.high) == pytest.approx(
        (got.difference, got.low, got.high), abs=1e-9
    )


def test_several_draws_of_a_prompt_are_one_unit():
    """Copies of the draws of a prompt add no prompts: nothing changes."""
    g = torch.Generator().manual_seed(2)
    a, b = torch.rand(12, 3, generator=g).double(), torch.rand(12, 3, generator=g).double()
    got, more = compare(a, b), compare(a.repeat(1, 5), b.repeat(1, 5))
    for name, value in dataclasses.asdict(got).items():
        assert getattr(more, name) == pytest.approx(value), name
    assert got.n == 12 and compare(a.mean(1), b.mean(1)).low == pytest.approx(got.low)


def test_differences_that_are_all_equal():
    same = compare([1.0, 2.0, 3.0], [1.0, 2.0, 3.0])
    assert (same.difference, same.low, same.high, same.p_value) == (0, 0, 0, 1) and math.isnan(
        same.effect_size
    )
    shifted = compare([1.0, 2.0, 3.0], [2.0, 3.0, 4.0])
    assert (shifted.low, shifted.high, shifted.effect_size) == (1, 1, INF)
    assert shifted.p_value == pytest.approx(2 / 8)


@pytest.mark.parametrize("method", ["BCa", "percentile"])
def test_the_interval_covers_a_known_law(method):
    """400 experiments of 40 pairs whose mean difference is 0.3: 95 % intervals hold it in 91 to 98 % of them.

    Of a method that covers 95 %, fewer than 364 hits have probability 3e-4, more than 393 2e-4. Draws of a
    prompt that counted as pairs of their own make the interval too short: it holds it in under 75 %.
    """
    rng = numpy.random.default_rng(11)
    hits = naive_hits = 0
    for experiment in range(400):
        prompt = rng.normal(0.3, 1.0, (40, 1))  # the effect on each prompt, around the true mean
        difference = prompt + rng.normal(0, 0.5, (40, 4))
        base = rng.normal(0, 5, (40, 1)).repeat(4, 1)
        options = {"resamples": 999, "method": method, "seed": experiment}
        got = compare(base, base + difference, **options)
        naive = compare(base.reshape(-1), (base + difference).reshape(-1), **options)
        hits += got.low <= 0.3 <= got.high
        naive_hits += naive.low <= 0.3 <= naive.high
    assert 364 <= hits <= 393 and naive_hits < 300


def test_p_values_of_no_difference_are_uniform():
    """200 experiments without a difference: skewed scores, but exchangeable within each pair."""
    rng = numpy.random.default_rng(12)
    p = [compare(*rng.exponential(1.0, (2, 25)), resamples=499, seed=i).p_value for i in range(200)]
    assert stats.kstest(p, "uniform").pvalue > 1e-4
