# SPDX-License-Identifier: Apache-2.0
"""Bias between groups, and variance between seeds: against exact fractions, scipy, published tables."""

import itertools
import json
import math
import string

import numpy
import pytest
import torch
from fusedraw.audit.bias import DEFAULT_PAIRS, Pairs, divergences, permutation_test, read_pairs
from fusedraw.audit.variance import _interval, variance_split
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from scipy.spatial.distance import jensenshannon
from strategies import examples

INF = math.inf


def rows(*shape, seed=0, spread=3.0):
    return spread * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# divergences


def test_known_laws():
    """(1/2, 1/2, 0) against (1/4, 1/4, 1/2): each figure by its formula."""
    got = divergences(torch.tensor([[0.0, 0.0, -INF]]), torch.tensor([[0.25, 0.25, 0.5]]).log())
    assert got.kl_ab == pytest.approx(math.log(2)) and got.kl_ba == INF
    middle = (3 / 8, 3 / 8, 1 / 4)
    p, q = (0.5, 0.5, 0), (0.25, 0.25, 0.5)
    js = sum(x * math.log(x / m) for law in (p, q) for x, m in zip(law, middle, strict=True) if x) / 2
    assert got.js == pytest.approx(js) and got.total_variation == pytest.approx(0.5)
    assert got.moved.tolist() == [2]


def test_agrees_with_scipy():
    a, b = rows(3, 5, 200), rows(3, 5, 200, seed=1)
    got = divergences(a, b)
    p, q = (x.double().softmax(-1).numpy() for x in (a, b))
    assert got.js.shape == got.moved.shape == (3, 5) and got.js.dtype == numpy.float64
    assert got.js == pytest.approx(jensenshannon(p, q, axis=-1) ** 2)
    assert got.kl_ab == pytest.approx(stats.entropy(p, q, axis=-1))
    assert got.kl_ba == pytest.approx(stats.entropy(q, p, axis=-1))
    assert got.total_variation == pytest.approx(numpy.maximum(p - q, 0).sum(-1))


@examples(30)
@given(st.integers(0, 999), st.integers(1, 40), st.floats(0, 60))
def test_what_holds_of_all_laws(seed, vocab, spread):
    a, b = rows(4, vocab, seed=seed, spread=spread), rows(4, vocab, seed=seed + 1, spread=spread)
    got, turned = divergences(a, b), divergences(b, a)
    assert got.js == pytest.approx(turned.js, abs=1e-12) and (got.kl_ab == turned.kl_ba).all()
    assert (got.js >= 0).all() and (got.js <= math.log(2) + 1e-12).all()
    assert (got.js <= got.total_variation * math.log(2) + 1e-12).all()  # Lin 1991
    assert (2 * got.total_variation**2 <= got.kl_ab + 1e-12).all()  # Pinsker
    same = divergences(a, a + 5)  # the same law
    for figure in (same.js, same.kl_ab, same.total_variation):
        assert figure == pytest.approx(0, abs=1e-5)


def test_laws_apart():
    got = divergences([0.0, -INF], [-INF, 0.0])
    assert got.js == pytest.approx(math.log(2)) and got.total_variation == 1 and got.kl_ab == got.kl_ba == INF
    tiny = divergences([0.0, 0.0], [0.0, -1000.0])  # float64 has no e^-1000, KL has 500
    assert tiny.kl_ab == pytest.approx(500 - math.log(2)) and tiny.kl_ba == pytest.approx(math.log(2))


def test_rows_are_taken_in_parts():
    a, b = rows(30, 200_000, seed=2), rows(30, 200_000, seed=3)
    got = divergences(a, b)
    one = divergences(a[25], b[25])
    assert got.js[25] == one.js and got.moved[25] == one.moved and len(got.js) == 30


# permutation_test


def all_regroupings(a, b):
    """Exact two-sided p-value of the difference of means: twice the smaller tail."""
    pooled, n = [*a, *b], len(a)
    observed = sum(a) / n - sum(b) / len(b)
    found = []
    for chosen in itertools.combinations(range(len(pooled)), n):
        left = sum(pooled[i] for i in chosen)
        found.append(left / n - (sum(pooled) - left) / len(b))
    tails = [sum(f <= observed + 1e-9 for f in found), sum(f >= observed - 1e-9 for f in found)]
    return min(1.0, 2 * min(tails) / len(found))


def all_exchanges(a, b):
    differences = [x - y for x, y in zip(a, b, strict=True)]
    found = [
        sum(s * d for s, d in zip(signs, differences, strict=True))
        for signs in itertools.product((1, -1), repeat=len(a))
    ]
    tails = [sum(f <= sum(differences) for f in found), sum(f >= sum(differences) for f in found)]
    return min(1.0, 2 * min(tails) / len(found))


SCORES = st.lists(st.integers(-9, 9).map(float), min_size=2, max_size=5)


@examples(30)
@given(SCORES, SCORES)
def test_exact_when_few(a, b):
    assert permutation_test(a, b) == pytest.approx(all_regroupings(a, b))
    n = min(len(a), len(b))
    assert permutation_test(a[:n], b[:n], paired=True) == pytest.approx(all_exchanges(a[:n], b[:n]))


@pytest.mark.parametrize("paired", [False, True])
def test_p_values_are_uniform_where_groups_do_not_matter(paired):
    rng = numpy.random.default_rng(7)
    found = []
    for number in range(400):
        a, b = rng.standard_normal((2, 20)) + paired * 5 * rng.standard_normal(20)
        found.append(permutation_test(a, b, permutations=199, seed=number, paired=paired))
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert numpy.mean(numpy.array(found) <= 0.05) == pytest.approx(0.05, abs=0.035)


def test_finds_a_planted_bias():
    rng = numpy.random.default_rng(0)
    prompts = 10 * rng.standard_normal(24)  # what a prompt does to scores hides it, pairs show it
    a = prompts + 0.3 * rng.standard_normal(24)
    b = prompts + 0.3 * rng.standard_normal(24) + 0.5
    assert permutation_test(a, b, paired=True) < 0.001
    assert permutation_test(a, b) > 0.5
    assert permutation_test(a - prompts, b - prompts) < 0.001


def test_statistics_of_ones_own():
    rng = numpy.random.default_rng(1)
    a, b = rng.standard_normal(40), 3 * rng.standard_normal(40)
    assert permutation_test(a, b, lambda x, y: math.log(x.var() / y.var()), permutations=999) <= 0.01
    medians = permutation_test(a, b + 5, lambda x, y, axis: numpy.median(x, axis) - numpy.median(y, axis))
    assert medians <= 0.01
    assert permutation_test(a, b, seed=3, permutations=99) == permutation_test(
        torch.from_numpy(a), list(b), seed=3, permutations=99
    )
    assert permutation_test([1.0, 1.0], [1.0, 1.0], paired=True) == 1


# Prompts in pairs


def test_default_pairs():
    assert len(DEFAULT_PAIRS.templates) == 8 and len(DEFAULT_PAIRS.pairs) == 3
    prompts = DEFAULT_PAIRS.prompts()
    assert len(prompts) == 24 and len({text for pair in prompts for text in pair}) == 48
    assert prompts[0] == ("The woman worked as a", "The man worked as a")
    for template in DEFAULT_PAIRS.templates:
        assert template == template.strip() and template[-1] in string.ascii_letters  # to be gone on with
        assert "a {group}" not in template and "an {group}" not in template


def test_reads_pairs(tmp_path):
    told = {"templates": ["The {group} said", "{group}, {group}!"], "pairs": [["cat", "dog"]]}
    (tmp_path / "p.json").write_text(json.dumps(told))
    got = read_pairs(tmp_path / "p.json")
    assert got == Pairs(("The {group} said", "{group}, {group}!"), (("cat", "dog"),))
    assert got.prompts() == [("The cat said", "The dog said"), ("cat, cat!", "dog, dog!")]
    pytest.importorskip("yaml", reason="PyYAML is not installed")
    (tmp_path / "p.yaml").write_text('templates:\n- "The {group} said"\npairs:\n- [cat, dog]\n')
    assert read_pairs(str(tmp_path / "p.yaml")) == Pairs(("The {group} said",), (("cat", "dog"),))


@pytest.mark.parametrize(
    ("told", "message"),
    [
        ("{", "is not JSON"),
        ([1], "must hold {templates: .*got list"),
        ({"templates": []}, r"got the keys \['templates'\]"),
        ({"templates": "x", "pairs": []}, "templates and pairs must be lists"),
        ({"templates": [], "pairs": [["a", "b"]]}, "templates must not be empty"),
        ({"templates": ["{group}"], "pairs": []}, "pairs must not be empty"),
        ({"templates": ["no word"], "pairs": [["a", "b"]]}, "must hold {group} and no other braces"),
        ({"templates": ["{group} {x}"], "pairs": [["a", "b"]]}, "no other braces, got '{group} {x}'"),
        ({"templates": ["{group:>9}"], "pairs": [["a", "b"]]}, "no other braces"),
        ({"templates": ["{group"], "pairs": [["a", "b"]]}, "template '{group': "),
        ({"templates": [3], "pairs": [["a", "b"]]}, "a template must be a text, got int"),
        ({"templates": ["{group}"], "pairs": ["ab"]}, r"a pair must be \[word, word\], got 'ab'"),
        ({"templates": ["{group}"], "pairs": [["a"]]}, "a pair must be two words"),
        ({"templates": ["{group}"], "pairs": [["a", ""]]}, "a pair must be two words"),
        ({"templates": ["{group}"], "pairs": [["a", "a"]]}, "two different words, got 'a' twice"),
    ],
)
def test_refuses_files(tmp_path, told, message):
    path = tmp_path / "pairs.json"
    path.write_text(told if isinstance(told, str) else json.dumps(told))
    with pytest.raises(ValueError, match=message) as caught:
        read_pairs(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_refuses_what_cannot_be_read(tmp_path):
    with pytest.raises(OSError, match=r"missing\.yaml"):
        read_pairs(tmp_path / "missing.yaml")
    (tmp_path / "bytes.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="is not UTF-8: byte 0"):
        read_pairs(tmp_path / "bytes.json")
    pytest.importorskip("yaml", reason="PyYAML is not installed")
    (tmp_path / "bad.yaml").write_text("a: [1\nb: }")
    with pytest.raises(ValueError, match="is not YAML") as caught:
        read_pairs(tmp_path / "bad.yaml")
    assert "\n" not in str(caught.value)


# variance_split

# A gauge study with 20 parts, 3 operators and 2 readings each (Montgomery, Design and Analysis of
# Experiments, the two-factor random model): components 10.2798, 0.0149, -0.1399 and 0.9917.
GAUGE = (  # a line for each reading of each operator
    (
        "21 24 20 27 19 23 22 19 24 25 21 18 23 24 29 26 20 19 25 19",
        "20 23 21 27 18 21 21 17 23 23 20 19 25 24 30 26 20 21 26 19",
    ),
    (
        "20 24 19 28 19 24 22 18 25 26 20 17 25 23 30 25 19 19 25 18",
        "20 24 21 26 18 21 24 20 23 25 20 19 25 25 28 26 20 19 24 17",
    ),
    (
        "19 23 20 27 18 23 22 19 24 24 21 18 25 24 31 25 20 21 25 19",
        "21 24 22 28 21 22 20 18 24 25 20 19 25 25 30 27 20 23 25 17",
    ),
)


def test_a_published_table():
    readings = numpy.array([[line.split() for line in operator] for operator in GAUGE], dtype=float)
    scores = readings.transpose(2, 0, 1)  # [part, operator, reading]
    got = variance_split(scores)
    assert (got.weights, got.sampling) == pytest.approx((10.2798, 0.0149), abs=5e-5)
    assert got.residual == pytest.approx(0.9917, abs=5e-5)
    assert got.interaction == 0 and got.negative == ("interaction",)  # published as -0.1399
    assert got.intervals["interaction"][0] == 0
    assert sum(got.shares.values()) == pytest.approx(1) and "below 0: interaction" in str(got)
    # residual: 59.5 over quantiles of chi-squared with 60 degrees of freedom
    assert got.intervals["residual"] == pytest.approx((59.5 / 83.298, 59.5 / 40.482), rel=1e-4)


def test_a_table_by_hand():
    """Rows 1 3 / 5 11: means 2, 8 and 3, 7, of all 5. MS_w = 36, MS_s = 16, MS_ws = 4."""
    got = variance_split([[1.0, 3.0], [5.0, 11.0]])
    assert (got.weights, got.sampling, got.residual) == pytest.approx(((36 - 4) / 2, (16 - 4) / 2, 4))
    assert got.interaction is None and got.negative == ()
    assert got.shares == pytest.approx({"weights": 16 / 26, "sampling": 6 / 26, "residual": 4 / 26})
    nested = variance_split([[1.0, 3.0], [5.0, 11.0]], crossed=False)  # within: (2 + 18) / 2
    assert (nested.weights, nested.sampling) == pytest.approx(((36 - 10) / 2, 10))
    assert nested.residual is None and nested.interaction is None
    assert str(nested) == "weights 57%, sampling 43%"


def test_nested_is_scipys_one_way_table():
    x = numpy.random.default_rng(0).standard_normal((6, 9)) + numpy.arange(6)[:, None]
    ratio = stats.f_oneway(*x).statistic
    within = x.var(1, ddof=1).mean()
    got = variance_split(x, crossed=False)
    assert (got.weights, got.sampling) == pytest.approx(((ratio - 1) * within / 9, within))


@pytest.mark.parametrize("crossed", [True, False])
@pytest.mark.parametrize("repeats", [1, 3])
def test_recovers_planted_variances(crossed, repeats):
    """Unbiased: the mean of 400 estimates. Intervals: some 95 % of them hold the planted value."""
    rng, times, (w, s) = numpy.random.default_rng(1), 400, (8, 10)
    planted = {"weights": 4.0, "sampling": 1.0, "interaction": 0.5, "residual": 3.0}
    if repeats == 1:  # what cannot be told apart
        joined = ("residual", "interaction") if crossed else ("sampling", "residual")
        planted[joined[0]] += planted.pop(joined[1])
    if not crossed:
        planted["sampling"] += planted.pop("interaction")
    sums, held = dict.fromkeys(planted, 0.0), dict.fromkeys(planted, 0)
    for _ in range(times):
        of_s = rng.standard_normal((1, s, 1)) if crossed else rng.standard_normal((w, s, 1))
        scores = 2.0 * rng.standard_normal((w, 1, 1)) + of_s
        scores = scores + math.sqrt(0.5) * rng.standard_normal((w, s, 1))
        scores = scores + math.sqrt(3.0) * rng.standard_normal((w, s, repeats))
        got = variance_split(scores, crossed=crossed)
        assert set(got.shares) == set(got.intervals) == set(planted)
        for name, value in planted.items():
            sums[name] += getattr(got, name)
            held[name] += got.intervals[name][0] <= value <= got.intervals[name][1]
    for name, value in planted.items():
        assert sums[name] / times == pytest.approx(value, rel=0.12), name  # 4 standard errors of `weights`
        assert 0.91 <= held[name] / times <= 0.99, (name, held[name])


def test_an_interval_leaves_out_0_where_the_f_test_does():
    """Weights, nested design: the low end is 0 from a one-way p of 0.025 on, the high one from 0.975."""
    rng, seen = numpy.random.default_rng(4), set()
    for number in range(300):
        x = rng.standard_normal((4, 5)) + (number % 3) * 0.5 * rng.standard_normal((4, 1))
        p = stats.f_oneway(*x).pvalue
        low, high = variance_split(x, crossed=False).intervals["weights"]
        assert (low > 1e-12) == (p < 0.025) and (high > 1e-12) == (p < 0.975)
        seen.add((p < 0.025, p < 0.975))
    assert seen == {(True, True), (False, True), (False, False)}
    for n, m in ((3, 16), (9, 4)):  # and at those ratios of the mean squares, to a millionth
        for end, p in ((0, 0.975), (1, 0.025)):
            ratio = stats.f.ppf(p, n, m)
            assert _interval((ratio * (1 - 1e-6), n), (1.0, m), 1, 0.05)[end] == 0
            assert 0 < _interval((ratio * (1 + 1e-6), n), (1.0, m), 1, 0.05)[end] < 1e-4


def test_intervals_where_one_mean_square_is_known():
    """With endless freedom of one of the two the interval is that of chi-squared for the other."""
    above, below = (7 / stats.chi2.ppf(p, 7) for p in (0.025, 0.975))  # bounds of a mean square of 1
    known = 10**9
    assert _interval((9.0, known), (2.0, 7), 5, 0.05) == pytest.approx(
        ((9 - 2 * above) / 5, (9 - 2 * below) / 5), rel=1e-3
    )
    assert _interval((9.0, 7), (2.0, known), 5, 0.05) == pytest.approx(
        ((9 * below - 2) / 5, (9 * above - 2) / 5), rel=1e-3
    )
    assert _interval((9.0, 7), None, 1, 0.05) == pytest.approx((9 * below, 9 * above))


def test_scale_shift_and_order():
    x = torch.from_numpy(numpy.random.default_rng(2).standard_normal((4, 5)))
    got, moved = variance_split(x), variance_split((3 * x + 100).flip(0).flip(1).tolist())
    for name in ("weights", "sampling", "residual"):
        assert getattr(moved, name) == pytest.approx(9 * getattr(got, name))
    assert moved.shares == pytest.approx(got.shares)
    turned = variance_split(x.T)
    assert (turned.weights, turned.sampling) == pytest.approx((got.sampling, got.weights))


def test_scores_that_do_not_vary():
    got = variance_split(numpy.full((3, 4), 0.5))
    assert (got.weights, got.sampling, got.residual) == (0, 0, 0) and set(got.shares.values()) == {0.0}
    assert set(got.intervals.values()) == {(0.0, 0.0)}


# What is refused


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: divergences([[0.0]], [[0.0, 1.0]]), r"one shape, got \[1, 1\] and \[1, 2\]"),
        (lambda: divergences([0, 1], [0, 1]), "logits_a must be floating point, got int64"),
        (lambda: divergences([0.0], "x"), "logits_b must hold floats in equal rows"),
        (lambda: divergences(1.0, 1.0), r"must be \[..., V\] and not empty, got shape \[\]"),
        (lambda: divergences([0.0, math.nan], [0.0, 0.0]), "logits_a holds a row that is no law"),
        (lambda: divergences([0.0, 0.0], [0.0, INF]), "logits_b holds a row that is no law"),
        (lambda: divergences([-INF, -INF], [0.0, 0.0]), "logits_a holds a row that is no law"),
        (lambda: permutation_test([1.0], [1.0, 2.0]), "at least 2 scores each, got 1 and 2"),
        (lambda: permutation_test([1.0, 2.0], [1.0, 2.0, 3.0], paired=True), "one length, got 2 and 3"),
        (lambda: permutation_test([1.0, math.nan], [1.0, 2.0]), "a must be finite, got 1 NaN or infinite"),
        (
            lambda: permutation_test([[1.0, 2.0]], [1.0, 2.0]),
            r"a must be \[n\] and not empty, got shape \[1, 2\]",
        ),
        (lambda: permutation_test([1.0, 2.0], [1.0, 2.0], "mean"), "statistic must be a function .* got str"),
        (
            lambda: permutation_test([1.0, 2.0], [1.0, 2.0], permutations=0),
            "permutations must be >= 1, got 0",
        ),
        (lambda: permutation_test([1.0, 2.0], [1.0, 2.0], seed=-1), "seed must be >= 0, got -1"),
        (lambda: permutation_test([1.0, 2.0], [1.0, 2.0], paired=1), "paired must be a bool, got int"),
        (lambda: variance_split([1.0, 2.0]), r"W and S >= 2, got shape \[2\]"),
        (lambda: variance_split([[1.0, 2.0]]), r"W and S >= 2, got shape \[1, 2\]"),
        (lambda: variance_split([[1.0, 2.0], [1.0]]), "scores must hold numbers in equal rows"),
        (lambda: variance_split([[1.0, 2.0], [1.0, INF]]), "scores must be finite, got 1 NaN or infinite"),
        (lambda: variance_split([[1.0, 2.0], [1.0, 3.0]], crossed=1), "crossed must be a bool, got int"),
        (
            lambda: variance_split([[1.0, 2.0], [1.0, 3.0]], confidence=1),
            r"confidence must be in \(0, 1\), got 1",
        ),
    ],
)
def test_refuses(call, message):
    with pytest.raises((TypeError, ValueError), match=message):
        call()


def test_a_one_sided_test_of_a_divergence():
    """Large distances of means, one-sided, are what differences of means are, two-sided: exact over 2^10."""
    draw = numpy.random.default_rng(3)
    a = draw.normal(size=10)

    def apart(x, y):
        return abs(x.mean() - y.mean())

    for b in (draw.normal(size=10), draw.normal(size=10) + 1.0, draw.normal(size=10) + 3.0):
        one_sided = permutation_test(a, b, apart, paired=True, alternative="greater")
        assert one_sided == pytest.approx(permutation_test(a, b, paired=True), abs=1e-12)
    with pytest.raises(ValueError, match="alternative must be"):
        permutation_test(a, b, alternative="both")
