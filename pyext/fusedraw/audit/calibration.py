# SPDX-License-Identifier: Apache-2.0
"""Do probabilities mean what they say: of the tokens given 0.8, are 8 in 10 right?

    reliability       calibration errors and the bins of the reliability diagram
    risk_coverage     what is wrong among the predictions that a threshold on confidence lets through
    fit_temperature   the temperature under which given labels are likeliest, from streamed logits

A prediction is the best token (class); its confidence is the probability it got, in [0, 1].
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor

from .._checks import LOGIT_DTYPES, dtype_name
from ..sampling import sample
from ._given import array, integer, number

LEAST, MOST = 1e-3, 1e3  # temperatures that are looked at
_CLOSE = 1e-3  # a step from which Newton's next is some 1e-6, unless rounding is all that is left
_ROUNDING = 2.0**-20  # of NLL against H, relative
_FIT = "fit_temperature"


@dataclass(frozen=True)
class Bin:
    """Predictions with a confidence in (low, high]; 0 is in the first bin."""

    low: float
    high: float
    count: int
    confidence: float | None  # mean of them; None for an empty bin
    accuracy: float | None  # share of them that is right


@dataclass(frozen=True)
class Reliability:
    """How far confidence and accuracy are apart; all in [0, 1], 0 is best for the first three."""

    ece: float  # expected calibration error: mean over predictions of their bin's |accuracy - confidence|
    mce: float  # maximum calibration error: the largest of any bin that is not empty
    brier: float  # mean (confidence - correct)^2 of the prediction, not summed over classes
    accuracy: float
    mean_confidence: float
    bins: list[Bin]


@dataclass(frozen=True)
class Fit:
    """What fit_temperature found; NLL is the mean -log p of the labels, in nats."""

    temperature: float
    nll_before: float  # at `start`
    nll_after: float  # at `temperature`
    steps: int  # passes over the data
    converged: bool  # False: max_steps, or no temperature between LEAST and MOST is best


def reliability(confidence, correct, bins: int = 15) -> Reliability:
    """ECE and MCE with bins of equal width (Guo et al. 2017), the Brier score (Brier 1950) of predictions.

    ECE depends on `bins`, and is biased upwards where bins hold few: compare within one size and one setting.

    Args:
        confidence: [n] in [0, 1].
        correct: [n] bool, or 0 and 1.
        bins: >= 1.

    Raises: TypeError, ValueError: not numbers, shapes that differ, none at all, out of range.
    """
    op = "reliability"
    p, right = _predictions(op, confidence, correct)
    bins = integer(op, "bins", bins, least=1)
    edges = numpy.linspace(0, 1, bins + 1)
    place = numpy.searchsorted(edges, p, side="left").clip(1) - 1
    counts = numpy.bincount(place, minlength=bins)
    means, rates = (
        numpy.bincount(place, weights=x, minlength=bins) / numpy.maximum(counts, 1) for x in (p, right)
    )
    gaps = numpy.abs(means - rates)
    return Reliability(
        ece=float(gaps @ counts / len(p)),
        mce=float(gaps.max()),  # an empty bin has 0
        brier=float(((p - right) ** 2).mean()),
        accuracy=float(right.mean()),
        mean_confidence=float(p.mean()),
        bins=[
            Bin(
                float(edges[i]),
                float(edges[i + 1]),
                int(n),
                float(means[i]) if n else None,
                float(rates[i]) if n else None,
            )
            for i, n in enumerate(counts)
        ],
    )


def risk_coverage(confidence, correct) -> tuple[numpy.ndarray, numpy.ndarray, float]:
    """The curve of selective prediction (El-Yaniv and Wiener 2010; area: AURC, Geifman et al. 2019).

    Keep the k most confident predictions: coverage k / n, risk the share of them that is wrong. Among equal
    confidences no order is right: each k between counts what a random order has on average.

    Args: as in `reliability`; of `confidence` only the order counts, but it has to be in [0, 1].

    Returns: coverage float64 [n], from 1/n to 1; risk float64 [n]; the area under it, the mean risk. Chance
        (confidence that says nothing) has the error rate as area.
    Raises: as `reliability`.
    """
    p, right = _predictions("risk_coverage", confidence, correct)
    _, group, sizes = numpy.unique(-p, return_inverse=True, return_counts=True)
    wrong = numpy.bincount(group, weights=1 - right) / sizes  # share in each group of equal confidence
    kept = numpy.arange(1, len(p) + 1)
    risk = numpy.cumsum(numpy.repeat(wrong, sizes)) / kept
    return kept / len(p), risk, float(risk.mean())


def fit_temperature(
    batches: Callable[[], Iterable[tuple[Tensor, Tensor]]],
    start: float = 1.0,
    tolerance: float = 1e-6,
    max_steps: int = 50,
) -> Fit:
    """Temperature scaling (Guo et al. 2017): the T that makes the labels likeliest, min over T of the NLL.

    With x the logits, y the label, b = 1/T, v = ln b, p = softmax(b x), H its entropy and V its varentropy:

        NLL = ln Z - b x_y,  H = ln Z - b E[x]   hence   d NLL / dv = b (E[x] - x_y) = NLL - H
        d^2 NLL / dv^2 = b (E[x] - x_y) + b^2 Var[x] = NLL - H + V        d^2 NLL / db^2 = V / b^2 >= 0

    So the means over the data of NLL, H and V are all that Newton's method needs, and one pass of `sample`
    gives them. NLL is convex in b and not in v: the steps are Newton's on v where T is too low (NLL > H;
    there the curvature in v is at least V), Newton's on b where it is too high. Signs met so far bracket T,
    and a step that leaves the bracket is halved into it. About 6 passes from T = 1 to one between 0.3 and 3.
    `sample` rounds to float32, which leaves T uncertain by about 1e-7 / V of itself.

    Args:
        batches: called once for each pass; gives an iterable of the same (logits [N, V], ids [N]) each time.
            One batch is held at a time, and no copy is kept. Logits: float32, bfloat16, float16, or float64,
            which is rounded to float32; CPU tensors, arrays, or CUDA tensors. -inf is a token that cannot be.
        start: where to begin, in [LEAST, MOST].
        tolerance: the last step's |change of ln T|.
        max_steps: passes at most.

    Returns: Fit; `converged` is False where NLL falls up to LEAST (every label is the best token) or MOST
        (labels are no likelier than chance), which is then the temperature, or does not depend on T.

    Raises: TypeError, ValueError: a wrong type, shape or range, a bad row, a label of logit -inf, no rows.
    """
    if not callable(batches):
        raise TypeError(f"{_FIT}: batches must be a function that gives them, got {type(batches).__name__}")
    start = number(_FIT, "start", start)
    if not LEAST <= start <= MOST:
        raise ValueError(f"{_FIT}: start must be in [{LEAST:g}, {MOST:g}], got {start}")
    tolerance = number(_FIT, "tolerance", tolerance, above=0)
    max_steps = integer(_FIT, "max_steps", max_steps, least=1)

    low, high = -math.log(MOST), -math.log(LEAST)  # v lies between, NLL falling at low and rising at high
    v, step, before = -math.log(start), math.inf, math.nan
    for steps in range(1, max_steps + 1):
        temperature = float(numpy.float32(math.exp(-v)))  # what `sample` makes of it
        nll, entropy, varentropy = _means(batches, temperature)
        before = nll if steps == 1 else before
        slope, last = nll - entropy, step
        step = _step(slope, varentropy)
        lasting = 2 * abs(step) > abs(last)
        # A close step that does not get shorter is rounding.
        there = varentropy > 0 and (abs(step) <= tolerance or (lasting and abs(step) < _CLOSE))
        outside = (step > 0 and v >= high) or (step < 0 and v <= low)
        still = varentropy == 0 and slope <= _ROUNDING * nll  # flat rows, or rows with all mass on the label
        if there or outside or still or steps == max_steps:
            return Fit(temperature, before, nll, steps, there)
        # Where every label is best, NLL falls without end and Newton's steps get shorter harmonically: a step
        # that is not half of the last in the same direction has not begun to converge, and may be twice it.
        if lasting and last * step > 0:
            step = 2 * last
        low, high = (v, high) if slope < 0 else (low, v)
        v = _inside(v, v + step, low, high)
    raise AssertionError  # max_steps >= 1: the loop has returned


def _step(slope: float, varentropy: float) -> float:
    """Newton's step on v where NLL rises, and what Newton's step on b = e^v is on v where it falls."""
    if slope > 0:
        return -slope / (varentropy + slope)
    return math.log1p(-slope / varentropy) if varentropy > 0 else math.inf


def _inside(v: float, wanted: float, low: float, high: float) -> float:
    """`wanted`, or half-way to the end of the bracket that it passes; a limit of T is an end to reach."""
    if low < wanted < high:
        return wanted
    end = high if wanted >= high else low
    return end if end in (-math.log(MOST), -math.log(LEAST)) else (v + end) / 2


def _means(batches, temperature: float) -> tuple[float, float, float]:
    """Means over all rows of NLL, entropy and varentropy at T."""
    count, sums = 0, numpy.zeros(3)
    for item in batches():
        logits, ids = _batch(count, item)
        item = None  # so that the next batch is made when this one is gone
        count += len(ids)
        if len(ids):
            sums += _sums(logits, ids, temperature, count)
        logits = ids = None  # type: ignore[assignment]
    if not count:
        raise ValueError(f"{_FIT}: batches gave no rows")
    nll, entropy, varentropy = (float(x) for x in sums / count)
    return nll, entropy, varentropy


def _sums(logits: Tensor, ids: Tensor, temperature: float, end: int) -> numpy.ndarray:
    try:
        drawn = sample(
            logits,
            temperature=temperature,
            seed=0,
            step=0,
            returns=("logp_full", "entropy", "varentropy"),
            check="raise",
        )
    except ValueError as error:
        reason = str(error).removeprefix("sample: ")
        raise ValueError(f"{_FIT}: rows {end - len(ids)} to {end - 1}: {reason}") from None
    # Not by token_logprob, under which a token too unlikely to be drawn has probability 0: any drawn token
    # tells ln Z, so that -log p of a label is -log p of the drawn token plus the difference of their logits.
    there, label = (logits.gather(-1, i[:, None])[:, 0].double() for i in (drawn.ids, ids))
    if (label == -math.inf).any():
        row = end - len(ids) + int((label == -math.inf).nonzero()[0])
        raise ValueError(f"{_FIT}: the label of row {row} has the logit -inf")
    nll = (there - label) / temperature - drawn.logp_full.double()
    totals = [x.double().sum().item() for x in (nll, drawn.entropy, drawn.varentropy)]
    return numpy.array(totals)


def _batch(start: int, item) -> tuple[Tensor, Tensor]:
    """Logits of a dtype that `sample` takes and int64 ids."""
    where = f"{_FIT}: batch at row {start}"
    try:
        logits, ids = item
    except (TypeError, ValueError):
        raise TypeError(f"{where} must be (logits, ids), got {type(item).__name__}") from None
    try:
        logits, ids = torch.as_tensor(logits).detach(), torch.as_tensor(ids).detach()
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(f"{where} must be tensors or arrays") from None
    if logits.dtype not in (*LOGIT_DTYPES, torch.float64):
        raise TypeError(f"{where}: logits must be floating point, got {dtype_name(logits.dtype)}")
    if ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool:
        raise TypeError(f"{where}: ids must be integers, got {dtype_name(ids.dtype)}")
    if logits.dim() != 2 or ids.dim() != 1 or len(ids) != len(logits) or logits.shape[1] == 0:
        raise ValueError(
            f"{where}: logits must be [N, V] and ids [N], got {list(logits.shape)} and {list(ids.shape)}"
        )
    ids = ids.to(logits.device, torch.int64)
    if len(ids) and (int(ids.min()) < 0 or int(ids.max()) >= logits.shape[1]):
        raise ValueError(
            f"{where}: ids must be in [0, {logits.shape[1]}), got {int(ids.min())} to {int(ids.max())}"
        )
    return (logits.float() if logits.dtype == torch.float64 else logits), ids


def _predictions(op: str, confidence, correct) -> tuple[numpy.ndarray, numpy.ndarray]:
    p, right = array(op, "confidence", confidence, "[n]", 1), array(op, "correct", correct, "[n]", 1)
    if p.shape != right.shape:
        raise ValueError(f"{op}: confidence and correct must have one length, got {len(p)} and {len(right)}")
    if p.min() < 0 or p.max() > 1:
        raise ValueError(f"{op}: confidence must be in [0, 1], got {p.min():g} to {p.max():g}")
    if not numpy.isin(right, (0, 1)).all():
        raise ValueError(f"{op}: correct must be bool, or 0 and 1")
    return p, right
