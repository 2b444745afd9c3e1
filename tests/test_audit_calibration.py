# SPDX-License-Identifier: Apache-2.0
"""Calibration: errors by hand and by loops, planted temperatures, the optimum that scipy finds."""

import gc
import itertools
import math
import weakref

import numpy
import pytest
import torch
from fusedraw.audit import calibration
from fusedraw.audit.calibration import Bin, Fit, fit_temperature, reliability, risk_coverage
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from strategies import examples

INF = math.inf
PREDICTIONS = st.lists(st.tuples(st.integers(0, 20).map(lambda k: k / 20), st.booleans()), min_size=1)


def rows(count, vocab, spread=2.0, seed=0):
    return spread * torch.randn(count, vocab, generator=torch.Generator().manual_seed(seed))


def labels_of(logits, temperature, seed=1):
    law = (logits.double() / temperature).softmax(-1)
    return torch.multinomial(law, 1, generator=torch.Generator().manual_seed(seed))[:, 0]


def nll(logits, ids, temperature):
    return torch.nn.functional.cross_entropy(logits.double() / temperature, ids).item()


def best_temperature(logits, ids):
    """scipy's optimum of the NLL, over ln T."""
    found = minimize_scalar(
        lambda u: nll(logits, ids, math.exp(u)),
        bounds=(math.log(1e-3), math.log(1e3)),
        method="bounded",
        options={"xatol": 1e-11, "maxiter": 500},
    )
    return math.exp(found.x)


def assert_close(a: Fit, b: Fit):
    for name in ("temperature", "nll_before", "nll_after"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-6), name
    assert a.converged == b.converged


# reliability


def test_known_answer():
    confidence, correct = [0.9, 0.8, 0.6, 0.55, 0.3], [True, True, False, True, False]
    got = reliability(confidence, correct, bins=2)
    # (0, 0.5]: one of 0.3, wrong; (0.5, 1]: four of mean 0.7125, three right
    assert got.ece == pytest.approx(1 / 5 * 0.3 + 4 / 5 * (0.75 - 0.7125))
    assert got.mce == pytest.approx(0.3)
    assert got.brier == pytest.approx((0.1**2 + 0.2**2 + 0.6**2 + 0.45**2 + 0.3**2) / 5)
    assert (got.accuracy, got.mean_confidence) == pytest.approx((0.6, 0.63))
    assert got.bins[0] == Bin(0.0, 0.5, 1, 0.3, 0.0)
    assert got.bins[1] == Bin(0.5, 1.0, 4, pytest.approx(0.7125), 0.75)


def test_ends_and_empty_bins():
    got = reliability([0.0, 0.5, 1.0], [0, 1, 1], bins=4)
    assert [b.count for b in got.bins] == [1, 1, 0, 1]  # (low, high], and 0 in the first
    assert got.bins[2].confidence is None and got.bins[2].accuracy is None
    assert (got.ece, got.mce) == pytest.approx((0.5 / 3, 0.5))
    assert reliability([1.0] * 3, [1] * 3).ece == 0 and reliability([1.0] * 3, [0] * 3).ece == 1


@examples(60)
@given(PREDICTIONS, st.integers(1, 30))
def test_errors_are_their_formulas(predictions, bins):
    """Against plain loops over the bins, whose edges are compared as numpy's linspace gives them."""
    p, right = zip(*predictions, strict=True)
    edges = numpy.linspace(0, 1, bins + 1)
    ece = mce = 0.0
    for low, high in itertools.pairwise(edges):
        inside = [i for i, x in enumerate(p) if low < x <= high or (x == 0 and low == 0)]
        if inside:
            gap = abs(sum(right[i] - p[i] for i in inside) / len(inside))
            ece, mce = ece + gap * len(inside) / len(p), max(mce, gap)
    got = reliability(p, right, bins)
    assert (got.ece, got.mce) == pytest.approx((ece, mce), abs=1e-12)
    brier = sum((x - r) ** 2 for x, r in predictions) / len(p)
    assert got.brier == pytest.approx(brier)
    assert sum(b.count for b in got.bins) == len(p)
    assert all(b.low < b.confidence <= b.high for b in got.bins if b.count and b.low)


def test_a_calibrated_model_has_the_error_of_chance():
    rng = numpy.random.default_rng(0)
    p = rng.random(200_000)
    got = reliability(p, rng.random(len(p)) < p)
    assert got.ece < 0.01 and got.brier == pytest.approx(1 / 6, abs=0.003)  # E p(1 - p), p uniform
    off = reliability(p, rng.random(len(p)) < p**2)
    assert off.ece == pytest.approx(1 / 6, abs=0.01)  # E |p - p^2|


def test_forms_of_input_agree():
    p, right = [0.5, 0.25, 1.0], [True, False, True]
    wanted = reliability(p, right)
    assert reliability(numpy.float32(p), numpy.int8(right)) == wanted
    assert reliability(torch.tensor(p, dtype=torch.bfloat16), torch.tensor(right)) == wanted


# risk_coverage


def test_risk_coverage_known_answer():
    coverage, risk, area = risk_coverage([0.6, 0.9, 0.7, 0.8], [False, True, False, True])
    assert coverage.tolist() == [0.25, 0.5, 0.75, 1.0]
    assert risk == pytest.approx([0, 0, 1 / 3, 1 / 2]) and area == pytest.approx((1 / 3 + 1 / 2) / 4)


def test_ties_count_what_a_random_order_has():
    p = numpy.array([0.9, 0.5, 0.5, 0.5, 0.1, 0.1])
    right = numpy.array([1, 1, 0, 0, 1, 0])
    _, risk, area = risk_coverage(p, right)
    rng, total, times = numpy.random.default_rng(0), numpy.zeros(6), 4000
    for _ in range(times):
        order = numpy.lexsort((rng.random(6), -p))
        total += numpy.cumsum(1 - right[order]) / numpy.arange(1, 7)
    assert risk == pytest.approx(total / times, abs=0.02)
    assert area == risk_coverage(p[::-1], right[::-1])[2]  # whatever order they come in
    assert risk_coverage([0.5] * 6, right)[2] == pytest.approx(0.5)  # no information: the error rate


# fit_temperature


@pytest.mark.parametrize("planted", [0.3, 0.7, 1.3, 2.5])
def test_recovers_planted_temperatures(planted):
    """Labels in proportion to softmax(x / T), 4000 for each of 30 rows: chance is left out."""
    logits, copies = rows(30, 50), 4000
    ends = (logits.double() / planted).softmax(-1).cumsum(-1)
    spots = (torch.arange(copies).double() + 0.5) / copies
    labels = torch.searchsorted(ends, spots.expand(30, copies).contiguous()).clamp(max=49)

    def batches():
        for row, ids in zip(logits, labels, strict=True):
            yield row.expand(copies, 50), ids

    fit = fit_temperature(batches)
    assert fit.converged and fit.steps <= 10
    assert fit.temperature == pytest.approx(planted, rel=1e-3)
    assert fit.nll_after < fit.nll_before


@pytest.mark.parametrize("planted", [0.3, 0.7, 1.3, 2.5])
def test_recovers_planted_temperatures_from_sampled_labels(planted):
    """T has a standard error of T / sqrt(N V), V the varentropy: within four of them."""
    logits = rows(40_000, 20, spread=3.0)
    ids = labels_of(logits, planted)
    fit = fit_temperature(lambda: zip(logits.split(5000), ids.split(5000), strict=True))
    logp = (logits.double() / planted).log_softmax(-1)
    varentropy = ((logp.exp() * logp**2).sum(-1) - (logp.exp() * logp).sum(-1) ** 2).mean().item()
    assert abs(fit.temperature / planted - 1) < 4 / math.sqrt(len(ids) * varentropy)


@examples(25)
@given(
    st.sampled_from([0.05, 0.3, 0.7, 1.0, 1.3, 2.5, 6.0]),
    st.sampled_from([2, 7, 60, 900]),
    st.sampled_from([0.05, 0.4, 1.0, 3.0, 20.0]),
    st.integers(0, 99),
)
def test_is_the_optimum_that_scipy_finds(planted, vocab, start, seed):
    logits = rows(400, vocab, seed=seed)
    ids = labels_of(logits, planted, seed)
    fit = fit_temperature(lambda: [(logits, ids)], start=start)
    best = best_temperature(logits, ids)
    if 2e-3 < best < 50:  # beyond, laws are so peaked or so flat that NLL hardly depends on T
        assert fit.converged and fit.temperature == pytest.approx(best, rel=1e-5)
        assert fit.steps <= 15
    assert fit.nll_before == pytest.approx(nll(logits, ids, start), rel=1e-6)
    assert fit.nll_after == pytest.approx(nll(logits, ids, fit.temperature), rel=1e-6)
    assert fit.nll_after <= nll(logits, ids, best) * (1 + 1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_dtypes(dtype):
    logits = rows(500, 100, spread=3.0).to(dtype)
    ids = labels_of(logits, 1.7).int()
    fit = fit_temperature(lambda: [(logits, ids)])
    assert fit.temperature == pytest.approx(best_temperature(logits, ids.long()), rel=1e-5)


def test_the_derivatives_are_those_of_autograd():
    logits, temperature = rows(50, 40), float(numpy.float32(1.3))
    ids = labels_of(logits, 0.8)
    entropy_of_t = torch.distributions.Categorical(logits=logits.double() / temperature).entropy().mean()
    v = torch.tensor(-math.log(temperature), dtype=torch.float64, requires_grad=True)
    loss = torch.nn.functional.cross_entropy(logits.double() * v.exp(), ids)
    (first,) = torch.autograd.grad(loss, v, create_graph=True)
    (second,) = torch.autograd.grad(first, v)
    found, entropy, varentropy = calibration._means(lambda: [(logits, ids)], temperature)
    assert (found, entropy) == pytest.approx((loss.item(), entropy_of_t.item()), abs=1e-6)
    assert found - entropy == pytest.approx(first.item(), abs=1e-6)
    assert varentropy + found - entropy == pytest.approx(second.item(), abs=1e-5)


def test_tokens_that_cannot_be_and_those_that_hardly_can():
    """-inf is left out of the law; a label below 2^-60 still has its logarithm."""
    logits = rows(200, 30)
    ids = labels_of(logits, 1.5)
    wider = torch.cat([logits, torch.full((200, 5), -INF)], 1)
    assert_close(fit_temperature(lambda: [(wider, ids)]), fit_temperature(lambda: [(logits, ids)]))
    peaked = torch.tensor([[100.0, 0.0, -3.0]] * 10)
    ids = torch.tensor([0] * 9 + [1])
    fit = fit_temperature(lambda: [(peaked, ids)])
    assert fit.nll_before == pytest.approx(10.0)  # 100 nats, once in ten
    assert fit.temperature == pytest.approx(best_temperature(peaked, ids), rel=1e-5)


def test_a_batch_is_gone_before_the_next_is_made():
    alive, most, passes = 0, 0, 0

    def gone():
        nonlocal alive
        alive -= 1

    def made(seed):
        nonlocal alive, most
        memory = rows(20, 1000, seed=seed).numpy().copy()
        weakref.finalize(memory, gone)  # lives as long as any tensor that shares it
        logits = torch.from_numpy(memory)
        alive += 1
        most = max(most, alive)
        return logits, labels_of(logits, 0.6)

    def batches():
        nonlocal passes
        passes += 1
        return map(made, range(12))  # unlike a generator's loop it holds no batch itself

    gc.collect()
    gc.disable()  # references alone must free them
    try:
        fit = fit_temperature(batches)
    finally:
        gc.enable()
    assert most == 1 and alive == 0, "logits of an earlier batch were kept"
    assert passes == fit.steps <= 15


def test_batches_only_change_how_sums_are_rounded():
    logits = rows(300, 50)
    ids = labels_of(logits, 1.4)
    whole = fit_temperature(lambda: [(logits, ids)])
    parts = fit_temperature(
        lambda: zip(logits.split([1, 0, 99, 200]), ids.split([1, 0, 99, 200]), strict=True)
    )
    arrays = fit_temperature(lambda: [(logits.numpy(), ids.numpy())])
    assert_close(parts, whole)
    assert arrays == whole


@pytest.mark.parametrize(
    ("logits", "ids", "temperature"),
    [
        (rows(50, 20), rows(50, 20).argmax(-1), calibration.LEAST),  # every label is best
        (rows(50, 20), rows(50, 20).argmin(-1), calibration.MOST),  # every label is worst
        (torch.zeros(50, 20), torch.zeros(50, dtype=torch.int64), 1.0),  # T does not matter
        (torch.tensor([[0.0, 1e4]]), torch.tensor([1]), 1.0),  # NLL is 0 as it is
    ],
)
def test_says_so_where_no_temperature_is_best(logits, ids, temperature):
    fit = fit_temperature(lambda: [(logits, ids)])
    assert not fit.converged and fit.temperature == pytest.approx(temperature) and fit.steps <= 20
    assert fit.nll_after <= fit.nll_before


def test_stops_after_max_steps():
    logits = rows(50, 20)
    fit = fit_temperature(lambda: [(logits, labels_of(logits, 3.0))], max_steps=2)
    assert fit.steps == 2 and not fit.converged


# What is refused


GOOD = (torch.zeros(3, 4), torch.zeros(3, dtype=torch.int64))


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (None, "batch at row 0 must be \\(logits, ids\\), got NoneType"),
        ((GOOD[0], "x"), "must be tensors or arrays"),
        ((GOOD[0].int(), GOOD[1]), "logits must be floating point, got int32"),
        ((GOOD[0], GOOD[1].float()), "ids must be integers, got float32"),
        ((GOOD[0][0], GOOD[1]), r"logits must be \[N, V\] and ids \[N\], got \[4\] and \[3\]"),
        ((GOOD[0], GOOD[1][:2]), r"got \[3, 4\] and \[2\]"),
        ((GOOD[0], GOOD[1] + 4), r"ids must be in \[0, 4\), got 4 to 4"),
        ((GOOD[0], GOOD[1] - 1), r"ids must be in \[0, 4\), got -1 to -1"),
        ((GOOD[0] * math.nan, GOOD[1]), "fit_temperature: rows 0 to 2: .*(nan|NaN)"),
        ((torch.tensor([[-INF, 0.0]]), torch.tensor([0])), "label of row 0 has the logit -inf"),
        ((GOOD[0][:0], GOOD[1][:0]), "batches gave no rows"),
    ],
)
def test_refuses_batches(batch, message):
    with pytest.raises(
        (TypeError, ValueError), match=f"^fit_temperature: .*{message.removeprefix('fit_temperature: ')}"
    ):
        fit_temperature(lambda: [batch])


def test_names_the_row_of_a_later_batch():
    bad = torch.tensor([[0.0, 0.0], [-INF, 0.0]])
    with pytest.raises(ValueError, match="label of row 4 has the logit -inf"):
        fit_temperature(lambda: [GOOD, (bad, torch.tensor([0, 0]))])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: fit_temperature([GOOD]), "batches must be a function that gives them, got list"),
        (lambda: fit_temperature(lambda: [GOOD], start=0), "start must be in"),
        (lambda: fit_temperature(lambda: [GOOD], start="1"), "start must be a number, got str"),
        (lambda: fit_temperature(lambda: [GOOD], tolerance=0), "tolerance must be finite and > 0, got 0"),
        (lambda: fit_temperature(lambda: [GOOD], max_steps=0), "max_steps must be >= 1, got 0"),
        (lambda: fit_temperature(lambda: [GOOD], max_steps=2.5), "max_steps must be an int, got float"),
        (lambda: reliability([0.5], [1], bins=0), "bins must be >= 1, got 0"),
        (lambda: reliability([0.5], [2]), "correct must be bool, or 0 and 1"),
        (lambda: reliability([1.5], [1]), r"confidence must be in \[0, 1\], got 1.5 to 1.5"),
        (lambda: reliability([math.nan], [1]), "confidence must be finite, got 1 NaN or infinite"),
        (lambda: reliability([], []), r"confidence must be \[n\] and not empty, got shape \[0\]"),
        (lambda: reliability([[0.5]], [[1]]), r"confidence must be \[n\] and not empty, got shape \[1, 1\]"),
        (lambda: reliability(["a"], [1]), "confidence must hold numbers in equal rows, got list"),
        (lambda: reliability([[1.0], [1.0, 0.0]], [1]), "confidence must hold numbers in equal rows"),
        (lambda: risk_coverage([0.5], [1, 0]), "one length, got 1 and 2"),
    ],
)
def test_refuses_arguments(call, message):
    with pytest.raises((TypeError, ValueError), match=message) as caught:
        call()
    assert "\n" not in str(caught.value)
