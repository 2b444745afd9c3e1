# SPDX-License-Identifier: Apache-2.0
"""Whose chance is it: how much of a score's variance comes from the training seed, how much from the draw.

variance_split   components of variance of scores over weight seeds and sampling seeds
"""

import math
from dataclasses import dataclass

import numpy

from ._given import array, number

_OP = "variance_split"


@dataclass(frozen=True)
class Split:
    """Components of variance, in the score's unit squared, >= 0; None: the design cannot tell it apart."""

    weights: float
    sampling: float
    interaction: float | None  # sampling seeds matter differently for each of the weights
    residual: float | None  # what no seed explains; without repeats the interaction is part of it
    shares: dict[str, float]  # of the sum of the components, in [0, 1]; all 0 where the sum is
    intervals: dict[str, tuple[float, float]]  # (low, high) of each component
    negative: tuple[str, ...]  # whose estimate was below 0 and is given as 0

    def __str__(self) -> str:
        shares = ", ".join(f"{name} {share:.0%}" for name, share in self.shares.items())
        below = f" (estimated below 0: {', '.join(self.negative)})" if self.negative else ""
        return shares + below


def variance_split(scores, *, crossed: bool = True, confidence: float = 0.95) -> Split:
    """Components of variance of a random-effects model, by the ANOVA estimators (Searle et al. 1992).

    crossed: sampling seed s is the same luck for all weights (common keys), and

        score[w, s, r] = mean + weights[w] + sampling[s] + interaction[w, s] + residual[w, s, r]
        weights = (MS_w - MS_ws) / (S R),  sampling = (MS_s - MS_ws) / (W R),
        interaction = (MS_ws - MS_r) / R,  residual = MS_r

    With one score in each cell (R = 1) the interaction cannot be told from the residual: residual = MS_ws.
    Not crossed: each of the weights had luck of its own, sampling is all that varies within them:

        score[w, s, r] = mean + weights[w] + sampling[w, s] + residual[w, s, r]
        weights = (MS_w - MS_s(w)) / (S R),  sampling = (MS_s(w) - MS_r) / R,  residual = MS_r

    where R = 1 makes sampling = MS_s(w) and leaves no residual. An estimate can be below 0 where the true
    component is small: it is given as 0 and named in `negative`.

    Intervals are for normal effects: exact by chi-squared for a mean square of its own, and for differences
    the modified large-sample interval (Ting et al. 1990; Burdick and Graybill 1992), cut at 0. Five weight
    seeds give wide ones: that is what five seeds tell.

    Args:
        scores: [W, S] or [W, S, ...], W weight seeds >= 2 and S sampling seeds >= 2, finite; further
            dimensions are repeats of the cell that are alike but for chance, R of them. Scores of different
            prompts are not: average over prompts, or split each prompt's on its own.
        crossed: whether sampling seeds mean the same for all weights.
        confidence: of each interval, in (0, 1).

    Raises: TypeError, ValueError: not numbers, shapes, NaN, ranges; ImportError: scipy is not installed.
    """
    x = array(_OP, "scores", scores, "[W, S, ...]")
    if x.ndim < 2 or min(x.shape[:2]) < 2:
        raise ValueError(f"{_OP}: scores must be [W, S, ...] with W and S >= 2, got shape {list(x.shape)}")
    if not isinstance(crossed, bool):
        raise TypeError(f"{_OP}: crossed must be a bool, got {type(crossed).__name__}")
    if not 0 < number(_OP, "confidence", confidence) < 1:
        raise ValueError(f"{_OP}: confidence must be in (0, 1), got {confidence}")
    x = x.reshape(*x.shape[:2], -1)
    lines = _crossed(x) if crossed else _nested(x)
    raw = {name: (ms - (less or (0.0, 0))[0]) / each for name, ((ms, _), less, each) in lines.items()}
    values = {name: max(value, 0.0) for name, value in raw.items()}
    total = math.fsum(values.values())
    intervals = {name: _interval(*line, 1 - confidence) for name, line in lines.items()}
    return Split(
        weights=values["weights"],
        sampling=values["sampling"],
        interaction=values.get("interaction"),
        residual=values.get("residual"),
        shares={name: value / total if total else 0.0 for name, value in values.items()},
        intervals=intervals,
        negative=tuple(name for name, value in raw.items() if value < 0),
    )


_Square = tuple[float, int]  # a mean square and its degrees of freedom
_Line = tuple[_Square, "_Square | None", int]  # component = (first - second) / number


def _crossed(x: numpy.ndarray) -> dict[str, _Line]:
    (w, s, r), mean, cells = x.shape, x.mean(), x.mean(2)
    of_w, of_s = cells.mean(1), cells.mean(0)
    square_w = _mean_square(s * r, of_w - mean, w - 1)
    square_s = _mean_square(w * r, of_s - mean, s - 1)
    square_ws = _mean_square(r, cells - of_w[:, None] - of_s + mean, (w - 1) * (s - 1))
    lines: dict[str, _Line] = {
        "weights": (square_w, square_ws, s * r),
        "sampling": (square_s, square_ws, w * r),
    }
    if r == 1:
        return {**lines, "residual": (square_ws, None, 1)}
    square_r = _mean_square(1, x - cells[:, :, None], w * s * (r - 1))
    return {**lines, "interaction": (square_ws, square_r, r), "residual": (square_r, None, 1)}


def _nested(x: numpy.ndarray) -> dict[str, _Line]:
    (w, s, r), mean, cells = x.shape, x.mean(), x.mean(2)
    of_w = cells.mean(1)
    square_w = _mean_square(s * r, of_w - mean, w - 1)
    square_s = _mean_square(r, cells - of_w[:, None], w * (s - 1))
    lines: dict[str, _Line] = {"weights": (square_w, square_s, s * r)}
    if r == 1:
        return {**lines, "sampling": (square_s, None, 1)}
    square_r = _mean_square(1, x - cells[:, :, None], w * s * (r - 1))
    return {**lines, "sampling": (square_s, square_r, r), "residual": (square_r, None, 1)}


def _mean_square(each: int, effects: numpy.ndarray, freedom: int) -> _Square:
    return each * float((effects**2).sum()) / freedom, freedom


def _interval(first: _Square, second: _Square | None, each: int, alpha: float) -> tuple[float, float]:
    """Of (first - second) / each. With no second the bounds below are those of chi-squared, exactly."""
    try:
        from scipy.stats import chi2, f
    except ImportError as error:
        raise ImportError(f"{_OP}: needs scipy 1.15 or later (pip install scipy): {error}") from error

    def beyond(freedom: int, p: float) -> float:
        """n / quantile: what a mean square times this is exceeded by, with probability 1 - p."""
        return freedom / float(chi2.ppf(p, freedom))

    below, above = alpha / 2, 1 - alpha / 2
    (a, n), (b, m) = first, second or (0.0, 1)
    g1, h1 = 1 - beyond(n, above), beyond(n, below) - 1
    g2, h2 = 1 - beyond(m, above), beyond(m, below) - 1
    f_low, f_high = float(f.ppf(below, n, m)), float(f.ppf(above, n, m))
    g12 = ((f_high - 1) ** 2 - (g1 * f_high) ** 2 - h2**2) / f_high
    h12 = ((1 - f_low) ** 2 - (h1 * f_low) ** 2 - g2**2) / f_low
    down = (g1 * a) ** 2 + (h2 * b) ** 2 + g12 * a * b
    up = (h1 * a) ** 2 + (g2 * b) ** 2 + h12 * a * b
    low, high = a - b - math.sqrt(max(down, 0.0)), a - b + math.sqrt(max(up, 0.0))
    return max(low, 0.0) / each, max(high, 0.0) / each
