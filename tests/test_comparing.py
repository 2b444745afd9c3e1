# SPDX-License-Identifier: Apache-2.0
"""Comparing with and without chance: coupling as a property, sweeps against single calls, intervals that
cover a known law, votes against counting by hand."""

import collections
import dataclasses
import itertools
import math
from fractions import Fraction

import fusedraw
import numpy
import pytest
import torch
from engines import INF, make_keys
from fusedraw.comparing import (
    best_of_n,
    compare,
    coupled,
    keys_of_draws,
    majority_vote,
    pass_at_k,
    sweep,
)
from hypothesis import given
from hypothesis import strategies as st
from row_kinds import make_rows
from scipy import stats
from strategies import epsilons, examples, min_ps, seeds, temperatures, top_ps

ALPHA = 1e-6
NAMES = ("temperature", "top_k", "top_p", "min_p", "mix_eps")


def random_rows(rows, size, seed=0):
    return 2 * torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))


# Coupled draws


@examples(60)
@given(
    kind=st.sampled_from(["normal", "peaked", "tied", "holes"]),
    seed=seeds,
    size=st.integers(1, 900),
    common=st.fixed_dictionaries(
        {
            "temperature": temperatures,
            "top_k": st.integers(0, 60),
            "top_p": top_ps,
            "min_p": min_ps,
            "mix_support": st.sampled_from(["kept", "valid"]),
        }
    ),
    shares=st.lists(epsilons, min_size=2, max_size=4),
)
def test_a_step_differs_only_where_a_coin_fired(kind, seed, size, common, shares):
    x, keys = make_rows(kind, 16, size, seed), make_keys(16, seed)
    got = coupled(x, *[{**common, "mix_eps": share} for share in shares], keys=keys, mask=x.isfinite())
    for a, b in itertools.combinations(range(len(shares)), 2):
        other, once = got.ids[a] != got.ids[b], got.explored[a] != got.explored[b]
        assert not (other & ~once).any()
        fewer, more = (a, b) if shares[a] <= shares[b] else (b, a)
        assert not (got.explored[fewer] & ~got.explored[more]).any()
    assert torch.equal(got.differs, got.ids != got.ids[0])


def test_coins_make_a_difference():
    """The property above is not empty: on peaked rows nearly every coin that fires shows; where the law is
    uniform already none does, since exploring is the same race."""
    for scale, least, most in ((8.0, 0.95, 1.0), (0.0, 0.0, 0.0)):
        got = coupled(scale * random_rows(1, 5000).expand(4000, -1), {}, {"mix_eps": 0.25}, seed=3)
        fired = int(got.explored[1].sum())
        assert stats.binomtest(fired, 4000, 0.25).pvalue > ALPHA
        assert least * fired <= int(got.differs[1].sum()) <= most * fired


def test_coupling_makes_equal_tokens_likelier():
    """Two temperatures: coupled draws agree more often than draws with other keys."""
    x = random_rows(1, 300).expand(4000, -1)
    got = coupled(x, {"temperature": 0.8}, {"temperature": 1.0}, seed=1)
    apart = fusedraw.sample(x, temperature=1.0, seed=2)
    assert (~got.differs[1]).sum() > 3 * (got.ids[0] == apart).sum()


def test_settings_are_those_of_sample():
    """Each setting gives what `sample` gives, whether it comes as a dict or as a Sampler."""
    x, keys = random_rows(6, 200), make_keys(6)
    first = {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "min_p": 0.01, "mix_eps": torch.full((6,), 0.5)}
    options = {"mix_support": "valid", "filter_order": "joint", "ties": "all", "check": "status", "top_n": 3}
    first |= {**options, "returns": ("logp", "entropy")}
    second = {"mix_eps": 0.3, "returns": "explored"}
    got = coupled(x, first, fusedraw.Sampler(**first), second, keys=keys)
    expected = fusedraw.sample(x, **{**first, "returns": ("logp", "entropy", "explored")}, keys=keys)
    for out in got.outs[:2]:
        for name, value in expected._asdict().items():
            mine = getattr(out, name)
            assert (mine is None) if value is None else torch.equal(mine, value), name
    assert torch.equal(got.outs[2].ids, fusedraw.sample(x, mix_eps=0.3, keys=keys))
    assert got.ids.shape == got.explored.shape == got.differs.shape == (3, 6)
    assert not got.differs[:2].any()


def test_rules_of_a_sampler_are_kept():
    """Also where no list comes with the call: a neutral penalty needs none."""
    x, keys = random_rows(6, 200), make_keys(6)
    rules = {"typical_p": 0.6, "top_n_sigma": 2.0, "temperature_last": True, "temperature": 1.5}
    got = coupled(x, rules, fusedraw.Sampler(**rules), keys=keys)
    assert torch.equal(got.ids[0], fusedraw.sample(x, keys=keys, **rules)) and not got.differs.any()


def test_where_keys_come_from():
    x, settings = random_rows(5, 50), ({}, {"mix_eps": 0.5})
    generator, again = (torch.Generator().manual_seed(4) for _ in range(2))
    got = coupled(x, *settings, generator=generator)
    assert torch.equal(got.ids[0], fusedraw.sample(x, generator=again))
    assert torch.equal(generator.get_state(), again.get_state())  # asked once for both settings
    assert torch.equal(
        coupled(x, *settings, seed=3, step=2).ids[1], fusedraw.sample(x, mix_eps=0.5, seed=3, step=2)
    )
    row = coupled(x[0], *settings, keys=make_keys(1)[0])
    assert row.ids.shape == (2,) and row.ids[0] == fusedraw.sample(x[0], keys=make_keys(1)[0])
    assert coupled(x[0], *settings, seed=3).ids[0] == fusedraw.sample(x[0], seed=3)


@pytest.mark.parametrize(
    ("settings", "more", "error", "message"),
    [
        ([{}], {}, ValueError, "at least two settings, got 1"),
        ([{}, 0.5], {}, TypeError, r"settings\[1\] must be a dict or a Sampler, got float"),
        ([{}, {"epsilon": 0.5}], {}, TypeError, r"settings\[1\] may hold temperature, .* got 'epsilon'"),
        ([{}, {"keys": None}], {}, TypeError, "got 'keys'"),
        ([{}, {"domain": "draft"}], {}, ValueError, r"share one domain .* \['draft', 'target'\]"),
        ([{}, {"mix_eps": 1.5}], {}, ValueError, r"mix_eps must be in \[0, 1\], got 1.5"),
        ([{}, {}], {"seed": 1, "keys": make_keys(3)}, ValueError, "coupled: give one of keys, seed"),
        ([{}, {}], {"keys": make_keys(2)}, ValueError, r"coupled: keys must be \[3, 2\]"),
    ],
)
def test_coupled_refuses(settings, more, error, message):
    with pytest.raises(error, match=message):
        coupled(random_rows(3, 9), *settings, **more)


def test_coupled_refuses_before_the_generator_moves():
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    with pytest.raises(TypeError, match="coupled: logits must be"):
        coupled(torch.zeros(3, 9, dtype=torch.float64), {}, {}, generator=generator)
    with pytest.raises(ValueError, match="top_p must be in"):
        coupled(torch.zeros(3, 9), {}, {"top_p": 2}, generator=generator)
    with pytest.raises(ValueError, match="coupled: a bool mask must be"):
        coupled(torch.zeros(3, 9), {}, {}, generator=generator, mask=torch.ones(8, dtype=torch.bool))
    assert torch.equal(generator.get_state(), before)


def chain(table, setting, keys, length):
    """Texts of a Markov chain [rows, length] and where its coins fired; keys [rows, 2], offset = position."""
    token, ids, fired = torch.zeros(len(keys), dtype=torch.int64), [], []
    for step in range(length):
        keys = torch.stack([keys[:, 0], torch.full_like(keys[:, 0], step)], 1)
        out = fusedraw.sample(table[token], keys=keys, returns=("explored",), **setting)
        token = out.ids
        ids.append(token)
        fired.append(out.explored)
    return torch.stack(ids, 1), torch.stack(fired, 1)


def test_texts_part_where_a_coin_fired():
    """Generated texts agree up to the first coin that shows; later they may differ for their contexts."""
    table, keys = random_rows(60, 60, 2), make_keys(500, 3)
    plain, _ = chain(table, {}, keys, 20)
    mixed, fired = chain(table, {"mix_eps": 0.05}, keys, 20)
    parted = (plain != mixed).any(1)
    first = (plain != mixed).int().argmax(1)
    assert 0.4 < parted.double().mean() < 1 - (1 - 0.05) ** 20 + 0.05
    assert fired[parted, first[parted]].all()
    assert ((plain != mixed).sum(1) > 1).any()


# Sweeps


def test_sweep_is_the_product_in_order():
    plan = sweep({"mix_eps": [0, 0.01, 0.1], "top_k": [None, 5]}, rows=4)
    assert plan.shape == (3, 2) and len(plan) == 6
    expected = [{"mix_eps": share, "top_k": k} for share in (0, 0.01, 0.1) for k in (None, 5)]
    assert plan.settings == list(plan) == expected
    assert plan.labels[:2] == ["mix_eps=0, top_k=None", "mix_eps=0, top_k=5"]
    assert plan.parameters["mix_eps"].tolist() == [0] * 8 + [0.01] * 8 + [0.1] * 8
    assert plan.parameters["top_k"].tolist() == ([0] * 4 + [5] * 4) * 3
    assert plan.parameters["top_k"].dtype == torch.int64 and set(plan.parameters) == {"mix_eps", "top_k"}


def test_one_batch_is_each_setting_alone():
    """The batch gives, row by row, what single calls with the same keys give."""
    x, keys = random_rows(5, 400), fusedraw.derive_keys(7, range(5))
    grid = {"temperature": [0.0, 0.8, INF], "top_k": [0, 20], "top_p": [0.9, None]}
    plan = sweep({**grid, "min_p": torch.tensor([0, 0.5]), "mix_eps": (0.0, 0.4)}, rows=5)
    returns = ("logp", "explored")
    out = fusedraw.sample(plan.repeat(x), keys=plan.repeat(keys), **plan.parameters, returns=returns)
    alone = [fusedraw.sample(x, keys=keys, **setting, returns=returns) for setting in plan]
    for name in ("ids", *returns):
        expected = torch.stack([getattr(single, name) for single in alone])
        got = plan.split(getattr(out, name))
        assert got.shape == (3, 2, 2, 2, 2, 5)
        assert torch.equal(got.reshape(48, 5), expected), name
    fired = plan.split(out.explored)
    assert not fired[..., 0, :].any() and fired[..., 1, :].any()


def test_repeat_and_split_are_inverse():
    plan = sweep({"mix_eps": [0, 0.5], "top_p": [0.5, 0.9, 1]}, rows=3)
    x = torch.arange(12).reshape(3, 4)
    back = plan.split(plan.repeat(x))
    assert back.shape == (2, 3, 3, 4) and (back == x).all()
    assert plan.repeat(["a", "b", "c"]) == ["a", "b", "c"] * 6
    assert plan.repeat(make_keys(3).view(torch.uint64)).dtype == torch.uint64


def test_table():
    plan = sweep({"mix_eps": [0, 0.25], "top_k": [0, 5]})
    table = plan.table(distinct=torch.tensor([[0.5, 0.25], [1.0, 2 / 3]]), label=plan.labels)
    assert list(table.columns) == ["mix_eps", "top_k", "distinct", "label"] and len(table) == 4
    assert list(table)[3] == {
        "mix_eps": 0.25, "top_k": 5, "distinct": pytest.approx(2 / 3), "label": "mix_eps=0.25, top_k=5"
    }  # fmt: skip
    lines = str(table).split("\n")
    assert lines[0].split() == ["mix_eps", "top_k", "distinct", "label"] and len(set(map(len, lines))) == 1
    assert lines[4].split()[:3] == ["0.25", "5", "0.6667"]
    with pytest.raises(ValueError, match="table needs 4 values of x, one a setting, got 3"):
        plan.table(x=[1, 2, 3])
    with pytest.raises(ValueError, match="has a parameter 'top_k'"):
        plan.table(top_k=[1, 2, 3, 4])


@pytest.mark.parametrize(
    ("grid", "more", "error", "message"),
    [
        ([0.1], {}, TypeError, "grid must be a dict of lists, got list"),
        ({}, {}, ValueError, "grid must name at least one of temperature, .* got none"),
        ({"epsilon": [0.1]}, {}, ValueError, "grid may name temperature, .* or top_k, got 'epsilon'"),
        ({"filter_order": ["joint"]}, {}, ValueError, "got 'filter_order'"),
        ({"mix_eps": []}, {}, ValueError, "mix_eps must have at least one value"),
        ({"mix_eps": 0.5}, {}, TypeError, "mix_eps must be a list of numbers, got float"),
        ({"mix_eps": "0.5"}, {}, TypeError, "mix_eps must be a list of numbers, got str"),
        ({"mix_eps": [0.5, 1.01]}, {}, ValueError, r"mix_eps must be in \[0, 1\], got 1.01"),
        ({"mix_eps": [math.nan]}, {}, ValueError, r"mix_eps must be in \[0, 1\], got nan"),
        ({"top_k": [5.0]}, {}, TypeError, "top_k must be an int"),
        ({"top_k": [torch.tensor([5])]}, {}, TypeError, "got a list of tensors"),
        ({"top_k": [5]}, {"rows": 0}, ValueError, "rows must be >= 1, got 0"),
        ({"top_k": [5]}, {"rows": 2.0}, TypeError, "rows must be an int, got float"),
    ],
)
def test_sweep_refuses(grid, more, error, message):
    with pytest.raises(error, match=message):
        sweep(grid, **more)


def test_sweep_refuses_rows_of_another_number():
    plan = sweep({"mix_eps": [0, 0.5]}, rows=3)
    for method, x, message in (
        (plan.repeat, torch.zeros(4, 2), r"repeat takes \[3, ...\], got shape \[4, 2\]"),
        (plan.repeat, ["a"], "repeat takes 3 items, got 1"),
        (plan.split, torch.zeros(3), r"split takes \[6, ...\], got shape \[3\]"),
    ):
        with pytest.raises(ValueError, match=message):
            method(x)


# Paired comparison


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


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([1.0, 2.0], [1.0]), ValueError, r"one shape, got \[2\] and \[1\]"),
        (([1.0], [1.0]), ValueError, "at least 2 pairs, got 1"),
        (([], []), ValueError, "not empty"),
        ((1.0, 2.0), ValueError, r"must be \[n, ...\]"),
        (([1.0, math.nan], [1.0, 2.0]), ValueError, "a must be finite, got 1 NaN or infinite"),
        (([1.0, 2.0], [INF, INF]), ValueError, "b must be finite, got 2 NaN"),
        (([[1.0], [2.0, 3.0]], [1.0, 2.0]), TypeError, "a must hold numbers"),
        ((["x", "y"], [1.0, 2.0]), TypeError, "a must hold numbers"),
    ],
)
def test_compare_refuses_scores(arguments, error, message):
    with pytest.raises(error, match="compare: .*" + message):
        compare(*arguments)


@pytest.mark.parametrize(
    ("option", "error", "message"),
    [
        ({"method": "bca"}, ValueError, "method must be 'BCa', 'percentile' or 'basic', got 'bca'"),
        ({"confidence": 95}, ValueError, r"confidence must be in \(0, 1\), got 95"),
        ({"confidence": "95"}, TypeError, "confidence must be a number"),
        ({"resamples": 0}, ValueError, "resamples must be >= 1"),
        ({"seed": -1}, ValueError, "seed must be >= 0"),
        ({"seed": None}, TypeError, "seed must be an int"),
    ],
)
def test_compare_refuses_options(option, error, message):
    with pytest.raises(error, match=message):
        compare([1.0, 2.0], [2.0, 3.0], **option)


# Several draws of a prompt


def test_keys_of_draws():
    got = keys_of_draws(5, [10, 2**64 - 1, 3], 4, step=6)
    expected = [fusedraw.derive_keys(5, r, j, step=6)[0] for r in (10, 2**64 - 1, 3) for j in range(4)]
    assert torch.equal(got.view(torch.int64), torch.stack(expected).view(torch.int64))
    assert got.dtype == torch.uint64 and len({tuple(key) for key in got.tolist()}) == 12
    tensors = torch.tensor([10, -1, 3]).view(torch.uint64)
    for ids in (tensors, [10, 2**64 - 1, 3]):
        again = keys_of_draws(torch.tensor([5, 5, 5]), ids, 4, step=torch.tensor([6, 6, 6]))
        assert torch.equal(again.view(torch.int64), got.view(torch.int64))
    assert torch.equal(
        keys_of_draws(5, range(3), 2).view(torch.int64), keys_of_draws(5, [0, 1, 2], 2).view(torch.int64)
    )
    # one request and several steps: derive_keys widens it, and so does this
    wide = keys_of_draws(5, 7, 2, step=torch.tensor([0, 1]))
    assert torch.equal(wide[2].view(torch.int64), fusedraw.derive_keys(5, 7, 0, step=1)[0].view(torch.int64))
    with pytest.raises(ValueError, match=r"keys_of_draws: n must be in \[1, 2\^32\), got 0"):
        keys_of_draws(5, [1], 0)
    with pytest.raises(TypeError, match="n must be an int"):
        keys_of_draws(5, [1], 2.0)


@examples(60)
@given(st.lists(st.lists(st.integers(-1, 4), min_size=5, max_size=5), min_size=1, max_size=6))
def test_majority_vote_counts(rows):
    got = majority_vote(torch.tensor(rows))
    letters = majority_vote([[None if v < 0 else "abcde"[v] for v in row] for row in rows])
    for i, row in enumerate(rows):
        counts = collections.Counter(v for v in row if v >= 0)  # ties: most_common gives the first seen
        if not counts:
            assert got.answers[i] == got.draw[i] == -1 and got.votes[i] == 0 and math.isnan(got.share[i])
            assert letters.answers[i] is None
            continue
        answer, votes = counts.most_common(1)[0]
        assert (got.answers[i], got.votes[i], got.draw[i]) == (answer, votes, row.index(answer))
        assert got.share[i].item() == votes / counts.total()
        assert got.tied[i] == (list(counts.values()).count(votes) > 1)
        assert letters.answers[i] == "abcde"[answer] and letters.draw[i] == got.draw[i]


def test_ties_of_a_vote_are_broken_by_the_key():
    n = 30_000
    answers = torch.tensor([[7, 5, 5, 9, 7, 9, 2]]).expand(n, -1)
    keys = fusedraw.derive_keys(3, torch.arange(n))
    got = majority_vote(answers, keys=keys)
    counts = [int((got.answers == a).sum()) for a in (7, 5, 9)]
    assert sum(counts) == n and stats.chisquare(counts).pvalue > ALPHA
    assert got.tied.all() and (got.votes == 2).all()
    assert all(got.draw[got.answers == a].unique().tolist() == [i] for a, i in ((7, 0), (5, 1), (9, 3)))
    part = majority_vote(answers[:50].flip(0), keys=keys[:50])
    assert torch.equal(part.answers, got.answers[:50])  # the key decides, not the company
    clear = majority_vote(torch.tensor([[4, 6, 6], [-1, -1, -1]]), keys=keys[:2])
    assert clear.answers.tolist() == [6, -1] and not clear.tied.any()


def test_best_of_n():
    scores = torch.tensor([[0.1, 0.9, 0.3], [2.0, 2.0, 1.0], [-INF, -INF, -5.0], [-INF, -INF, -INF]])
    got = best_of_n(scores)
    assert got.draw.tolist() == [1, 0, 2, 0] and got.score.dtype == torch.float32
    assert torch.equal(got.score, scores.amax(1)) and got.tied.tolist() == [False, True, False, True]
    keys = fusedraw.derive_keys(9, torch.arange(20_000))
    drawn = best_of_n(scores[1:2].expand(20_000, -1), keys=keys).draw
    assert stats.chisquare(torch.bincount(drawn, minlength=3)[:2]).pvalue > ALPHA and drawn.max() == 1
    assert torch.equal(best_of_n(scores[:1].expand(9, -1), keys=keys[:9]).draw, torch.ones(9).long())


def test_pass_at_k_is_the_share_of_subsets():
    for n, c in itertools.product(range(1, 7), range(7)):
        correct = torch.arange(n)[None] < c
        for k in range(1, n + 1):
            subsets = list(itertools.combinations(correct[0].tolist(), k))
            assert pass_at_k(correct, k).item() == sum(map(any, subsets)) / len(subsets)
    many = torch.arange(2000)[None] < 3  # beyond the reach of factorials in floating point
    assert pass_at_k(many, 1000).item() == pytest.approx(1 - 1000 * 999 * 998 / (2000 * 1999 * 1998))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (
            lambda: majority_vote(torch.zeros(2, 3)),
            TypeError,
            "answers must be an integer tensor",
        ),
        (
            lambda: majority_vote(torch.zeros(3).long()),
            ValueError,
            r"must be \[P, n\], n >= 1, got .*\[3\]",
        ),
        (lambda: majority_vote(torch.zeros(3, 0).long()), ValueError, r"got shape \[3, 0\]"),
        (lambda: majority_vote(["abc"]), TypeError, r"answers\[0\] must be a list of answers, got str"),
        (lambda: majority_vote("abc"), TypeError, "tensor or lists of answers, got str"),
        (lambda: majority_vote([[["a"]]]), TypeError, r"answers\[0\] must hold hashable answers"),
        (lambda: majority_vote([["a"]], keys=make_keys(2)), ValueError, r"keys must be \[1, 2\]"),
        (lambda: best_of_n([1.0]), TypeError, "scores must be a torch.Tensor, got list"),
        (lambda: best_of_n(torch.zeros(2, 2).long()), TypeError, "must be a float tensor, got int64"),
        (lambda: best_of_n(torch.tensor([[0.0], [math.nan]])), ValueError, "not be NaN, got some in row 1"),
        (lambda: best_of_n(torch.zeros(2)), ValueError, r"must be \[P, n\]"),
        (lambda: pass_at_k(torch.zeros(2, 3), 1), TypeError, "correct must be a bool tensor, got float32"),
        (lambda: pass_at_k(torch.zeros(2, 3).bool(), 4), ValueError, r"k must be in \[1, 3\], .* got 4"),
        (lambda: pass_at_k(torch.zeros(2, 3).bool(), True), TypeError, "k must be an int, got bool"),
    ],
)
def test_refusals_of_votes(call, error, message):
    with pytest.raises(error, match=message):
        call()
