# SPDX-License-Identifier: Apache-2.0
"""Robustness: noise that cannot flip a token and noise that can, wordings, run lengths of the drift chart."""

import json
import math

import numpy
import pytest
import torch
from fusedraw import sample
from fusedraw.audit import robustness
from fusedraw.audit.robustness import (
    FIRST_RUNS,
    PERTURBATIONS,
    Alarm,
    Cusum,
    certified_share,
    drift,
    margin_certificate,
    with_synonyms,
)
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from strategies import examples

INF = math.inf


def exact_rows(count, vocab, seed=0):
    """Logits whose differences and halves float64 holds exactly, no two equal."""
    g = torch.Generator().manual_seed(seed)
    return torch.stack([torch.randperm(1 << 12, generator=g)[:vocab] for _ in range(count)]).double() / 64


def worst_noise(logits, size):
    """The noise of that max-norm that does the best token most harm: it sinks, all others rise."""
    noise = torch.full_like(logits, size)
    return noise.scatter(-1, logits.argmax(-1, keepdim=True), -size)


# The certificate


@examples(40)
@given(st.integers(0, 10**6), st.integers(2, 300))
def test_no_noise_below_the_radius_flips_and_some_above_does(seed, vocab):
    logits = exact_rows(1, vocab, seed)
    best = logits.argmax(-1)
    top = logits.topk(2).values
    (radius,) = margin_certificate(top[:, 0] - top[:, 1])
    below, above = radius * (1 - 2**-20), radius * (1 + 2**-20)
    assert (logits + worst_noise(logits, below)).argmax(-1) == best
    assert (logits + worst_noise(logits, above)).argmax(-1) != best
    g = torch.Generator().manual_seed(seed)
    signs = torch.randint(0, 2, (200, vocab), generator=g) * 2.0 - 1  # corners of the cube
    inner = 2 * torch.rand((200, vocab), generator=g).double() - 1
    assert ((logits + below * torch.cat([signs, inner])).argmax(-1) == best).all()


def test_margins_of_sample_are_what_it_takes():
    logits = exact_rows(50, 1000).float()  # exact in float32 too
    out = sample(logits, temperature=0, seed=0, step=0, returns=("margin",))
    radius = torch.from_numpy(margin_certificate(out.margin)).unsqueeze(1)
    for factor, same in ((1 - 1e-6, True), (1 + 1e-6, False)):
        noisy = logits.double() + worst_noise(logits.double(), 1.0) * radius * factor
        assert ((noisy.argmax(-1) == out.ids) == same).all()


def test_forms_of_margins():
    for margins in ([0.5, 3.0], numpy.float32([0.5, 3]), torch.tensor([0.5, 3.0], dtype=torch.bfloat16)):
        got = margin_certificate(margins)
        assert got.dtype == numpy.float64 and got.tolist() == [0.25, 1.5]
    assert margin_certificate(3.0) == 1.5 and margin_certificate(INF) == INF
    assert margin_certificate([[1.0], [2.0]]).shape == (2, 1)


def test_certified_share_counts_the_rows_that_hold():
    logits = exact_rows(200, 50)
    top = logits.topk(2).values
    margins, best = top[:, 0] - top[:, 1], logits.argmax(-1)
    radii = margin_certificate(margins)
    for noise in (0.001, 0.3, 1.01, float(radii.max()) * 1.01):
        held = ((logits + worst_noise(logits, noise)).argmax(-1) == best).double().mean().item()
        got = certified_share(margins, noise)
        assert isinstance(got, float) and got == pytest.approx(held)
    assert certified_share([2.0, 4.0], 1.0) == 0.5  # at the radius two tokens tie: not certain
    assert certified_share([0.0, 4.0], 0.0) == 1.0  # no noise changes nothing
    assert certified_share([0.0, INF], 1e30) == 0.5
    assert certified_share([2.0, 4.0, 6.0], [0.5, 1.5, 9.0]).tolist() == pytest.approx([1, 2 / 3, 0])


# Wordings


def test_perturbations():
    text = "What is the capital of France?"
    assert {name: change(text) for name, change in PERTURBATIONS.items()} == {
        "upper": "WHAT IS THE CAPITAL OF FRANCE?",
        "lower": "what is the capital of france?",
        "spaces": "What  is  the  capital  of  France?",
        "punctuation": "What is the capital of France",
    }
    marks = PERTURBATIONS["punctuation"]
    assert [marks(t) for t in ("Go on", "Stop!?", "", "...", "Go on. ")] == [
        "Go on.",
        "Stop",
        ".",
        "....",
        "Go on",
    ]


def test_synonyms():
    pairs = [("begin", "start"), ("big", "large"), ("big city", "metropolis")]
    text = "Begin in a big city: BEGIN, beginners, a big-hearted Big City."
    assert with_synonyms(text, pairs) == (
        "Start in a metropolis: START, beginners, a large-hearted Metropolis."
    )
    assert with_synonyms("a b a", [("a", "b"), ("b", "a")]) == "b a b"  # all at once
    assert with_synonyms("I am C++, c.", [("C++", "Rust"), ("I", "you")]) == "you am Rust, c."
    assert with_synonyms(r"cost", [("cost", r"\1 $")]) == r"\1 $"  # replacements are no patterns
    assert with_synonyms("as it is", []) == "as it is"


# Cusum


def run_lengths(shift, limit, times, seed=0):
    """Values until the first alarm, for normal values shifted by so many deviations."""
    rng, lengths = numpy.random.default_rng(seed), []
    for _ in range(times):
        chart = Cusum(10.0, 2.0, limit=limit)
        while chart.update(10.0 + 2.0 * (shift + rng.standard_normal())) is None:
            pass
        lengths.append(chart.count)
    return numpy.array(lengths)


# Montgomery, Introduction to Statistical Quality Control, table of the two-sided chart with slack 0.5.
@pytest.mark.parametrize(
    ("shift", "limit", "length"),
    [
        (0, 5, 465),
        (0, 4, 168),
        (0.5, 5, 38.0),
        (1, 5, 10.4),
        (1, 4, 8.38),
        (-1, 5, 10.4),
        (2, 5, 4.01),
        (3, 4, 2.19),
    ],
)
def test_average_run_lengths(shift, limit, length):
    got = run_lengths(shift, limit, times=700 if shift == 0 else 2000)
    assert got.mean() == pytest.approx(length, abs=4 * got.std() / math.sqrt(len(got)) + 0.005 * length)


@pytest.mark.parametrize(("shift", "side"), [(3.0, "up"), (-3.0, "down")])
def test_finds_a_planted_shift_and_when(shift, side):
    """Of 200 charts, those without a false alarm in the 40 values before: 2.57 values later (Montgomery)."""
    rng, found = numpy.random.default_rng(3), []
    for _ in range(200):
        values = rng.standard_normal(80)
        values[40:] += shift
        chart = Cusum(0.0, 1.0)
        found.append(next(alarm for alarm in map(chart.update, values) if alarm))
    found = [alarm for alarm in found if alarm.at >= 40]
    assert len(found) > 170 and {alarm.side for alarm in found} == {side}
    assert all(alarm.score > 5 for alarm in found)
    assert numpy.mean([alarm.at - 39 for alarm in found]) <= 2.57 + 0.15  # sums have a start by then
    assert abs(numpy.median([alarm.since for alarm in found]) - 40) <= 1


def test_sums_by_hand():
    chart = Cusum(1.0, 2.0, slack=0.5, limit=2.0)
    sums = []
    for x, alarm in ((3, None), (5, None), (5, Alarm("up", 3.5, 2, 0)), (5, Alarm("up", 5.0, 3, 0))):
        assert chart.update(x) == alarm
        sums.append((chart.up, chart.down))
    assert sums == [(0.5, 0), (2.0, 0), (3.5, 0), (5.0, 0)]
    assert chart.update(1.9) is None and chart.up == 0  # within the slack: the alarm is over
    assert chart.update(-9.0) == Alarm("down", 4.5, 5, 5)
    assert chart.update(11.0) == Alarm("up", 4.5, 6, 6) and chart.down == 0  # across, at once


def test_goes_on_from_its_state():
    values = numpy.random.default_rng(1).standard_normal(60) + 0.8
    whole, part = Cusum(0.0, 1.0), Cusum(0.0, 1.0)
    expected = [whole.update(x) for x in values]
    got = [part.update(x) for x in values[:25]]
    part = Cusum.from_state_dict(json.loads(json.dumps(part.state_dict())))
    got += [part.update(x) for x in values[25:]]
    assert got == expected and part.state_dict() == whole.state_dict() and any(expected)


# drift


def runs_of(**columns):
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def test_drift_of_figures_that_are_equal_to_the_bit():
    history = runs_of(ece=[0.1] * 10 + [0.2], agreement=[1.0] * 11, faults=[0] * 10 + [1])
    ece, faults = drift(history)
    assert (ece.name, ece.side, ece.value, ece.runs, ece.since) == ("ece", "up", 0.2, 10, 10)
    assert ece.level == pytest.approx(0.1) and faults.name == "faults"
    assert str(ece) == "ece has risen since run 11: now 0.2, 0.1 on average over 10 runs before"
    assert [a.name for a in drift(history, names=["agreement", "faults"])] == ["faults"]
    assert drift(history[:-1]) == []
    stays = history + [history[-1]] * 30
    assert [a.runs for a in drift(stays)] == [10, 10]  # it stays one, and does not become the level
    assert drift([*stays, history[0]]) == []  # and ends as soon as the figures are back


def test_drift_downwards_and_slow():
    rng = numpy.random.default_rng(0)
    values = 0.8 + 0.01 * rng.standard_normal(60)
    values[30:] -= 0.04
    history = runs_of(agreement=values)
    assert drift(history[:30]) == []
    assert drift(history[:33])
    (found,) = drift(history)
    assert found.side == "down" and found.since == 30 and found.runs == 30
    assert found.level == pytest.approx(values[:30].mean())  # not of the runs that led to the alarm
    assert "agreement has fallen since run" in str(found)


def test_small_changes_of_constant_figures_are_none():
    assert drift(runs_of(x=[0.5] * 10 + [0.501] * 20)) == []
    assert drift(runs_of(zero=[0.0] * 10 + [1e-6])) == []


def test_first_runs_and_missing_figures():
    assert drift([]) == [] and drift(runs_of(x=[0.0] * (FIRST_RUNS - 1) + [100.0])) == []
    history = [{"x": 0.1, "y": None}, {"x": math.nan}, {}] * 10
    history += [{"x": 0.3}]
    assert [a.name for a in drift(history)] == ["x"]
    assert drift([*history, {"y": 1.0}], names=["x"]) == []  # not measured this time
    (found,) = drift(history)
    assert found.runs == 10 and found.since == 30  # counted in runs of the history


def test_stable_figures_make_the_chart_that_run_lengths_are_known_of():
    """Held against those before, normal values of any level are independent standard normal ones."""
    rng, made = numpy.random.default_rng(5), []
    for _ in range(100):
        values = 7 + 3 * rng.standard_normal(FIRST_RUNS + 20)
        made.append([robustness._as_normal(values[n], values[:n]) for n in range(FIRST_RUNS, len(values))])
    made = numpy.array(made)
    assert stats.kstest(made.ravel(), "norm").pvalue > 0.01
    assert abs(stats.pearsonr(made[:, :-1].ravel(), made[:, 1:].ravel()).statistic) < 4 / math.sqrt(made.size)


def test_a_value_is_as_probable_as_a_t_test_says():
    """Of one value against those before it: both sides of the normal number have the test's p-value."""
    rng = numpy.random.default_rng(8)
    for n in (FIRST_RUNS, 12, 100):
        before = rng.standard_normal(n) * 3 + 7
        for x in (7.5, 9.0, 1.0, 30.0):
            test = stats.ttest_ind([x], before)
            got = robustness._as_normal(x, before)
            assert 2 * stats.norm.sf(abs(got)) == pytest.approx(test.pvalue) and got * test.statistic > 0


def test_few_false_alarms():
    """Average run length 465: some 8 % of stable histories of 40 charted runs raise one at any time."""
    rng, raised = numpy.random.default_rng(6), 0
    for _ in range(60):
        values = 7 + 3 * rng.standard_normal(FIRST_RUNS + 40)
        raised += any(drift(runs_of(x=values[:n])) for n in range(FIRST_RUNS + 2, len(values) + 1, 2))
    assert raised <= 12  # 8 %, and four standard errors


# What is refused


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: margin_certificate([-1.0]), "margin must be >= 0 and not NaN, got -1.0"),
        (lambda: margin_certificate(math.nan), "margin must be >= 0 and not NaN, got nan"),
        (lambda: margin_certificate("a"), "margin must hold numbers in equal rows, got str"),
        (lambda: certified_share([], 1.0), "margins must not be empty"),
        (lambda: certified_share([1.0], -1.0), "noise must be >= 0 and not NaN, got -1.0"),
        (lambda: with_synonyms(3, []), "text must be a str, got int"),
        (lambda: with_synonyms("a", ["ab"]), r"pairs must hold \(word, word\), got 'ab'"),
        (lambda: with_synonyms("a", [("a", 1)]), r"pairs must hold \(word, word\)"),
        (lambda: with_synonyms("a", [("", "b")]), "must not hold an empty word"),
        (lambda: with_synonyms("a", [("a", "b"), ("A", "c")]), "'A' has two replacements, 'b' and 'c'"),
        (lambda: Cusum(0, 0), "deviation must be finite and > 0, got 0"),
        (lambda: Cusum(INF, 1), "target must be finite, got inf"),
        (lambda: Cusum(0, 1, slack=-1), "slack must be finite and >= 0, got -1"),
        (lambda: Cusum(0, 1, limit=0), "limit must be finite and > 0, got 0"),
        (lambda: Cusum(True, 1), "target must be a number, got bool"),
        (lambda: Cusum(0, 1).update(math.nan), "x must be finite, got nan"),
        (lambda: Cusum.from_state_dict({"target": 0}), "state must hold count, deviation, .* got target"),
        (lambda: drift([1]), "history must hold {name: number} mappings"),
        (lambda: drift([{"x": "1"}]), "x must be a number, got str"),
        (lambda: drift([{"x": 1}], names=["y"]), "no run has 'y'"),
        (lambda: drift([{"x": 1}], limit=0), "limit must be finite and > 0"),
    ],
)
def test_refuses(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()
