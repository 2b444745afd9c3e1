# SPDX-License-Identifier: Apache-2.0
"""compare: the mean difference of paired scores, with an interval, an effect size and a p-value."""

import numbers
from dataclasses import dataclass

import numpy
from torch import Tensor

from ._checks import check_choice

_OP = "compare"
_METHODS = ("BCa", "percentile", "basic")
_MOST_NUMBERS = 1 << 22  # that one batch of resamples holds: 32 MB


@dataclass(frozen=True)
class Comparison:
    """Scores b against scores a, pair by pair; every field is about b - a."""

    difference: float  # mean of b - a
    low: float  # its bootstrap interval: at `confidence`, from low to high
    high: float
    confidence: float
    effect_size: float  # Cohen's d_z: mean over standard deviation of b - a; nan where all are 0
    p_value: float  # two-sided, of "the sign of each b - a is a fair coin"
    win_rate: float  # share of pairs with b > a, ties counted half
    mean_a: float
    mean_b: float
    n: int  # pairs

    def __str__(self) -> str:
        return f"{self.difference:+.4g} [{self.low:.4g}, {self.high:.4g}], p = {self.p_value:.2g}"


def compare(a, b, *, confidence=0.95, resamples=9999, method="BCa", seed=0) -> Comparison:
    """What going from `a` to `b` changes: paired scores, a bootstrap interval, a sign-flip test.

    The pair is the unit that is resampled: n pairs stand for the prompts that might have been asked. Several
    draws of one prompt (more dimensions) are averaged first, since they are not prompts of their own, and
    counting them as such would make the interval too short. Draws with common keys (`coupled`, `sweep`) make
    the differences, and with them the interval, smaller than independent ones would.

    Interval: scipy.stats.bootstrap of the mean of b - a (Efron 1987 for "BCa"). It relies on n: its coverage
    falls short of `confidence` for n below about 20. p-value: scipy.stats.permutation_test by flipping signs,
    exact when 2^n <= resamples, otherwise (1 + as extreme) / (1 + resamples). One p-value is for one planned
    comparison: of many settings, the best one needs a correction (Holm) or new prompts.

    Args:
        a, b: [n, ...] of one shape, n >= 2 (tensor, array or list); finite numbers.
        confidence: of the interval, in (0, 1).
        resamples: >= 1.
        method: "BCa", "percentile" or "basic".
        seed: an int >= 0; the same seed gives the same result.

    Raises:
        TypeError, ValueError: shapes that differ, fewer than two pairs, NaN or infinite scores, a range or a
            name; ImportError: scipy is not installed.
    """
    a, b = _scores("a", a), _scores("b", b)
    if a.shape != b.shape:
        raise ValueError(f"{_OP}: a and b must have one shape, got {list(a.shape)} and {list(b.shape)}")
    if len(a) < 2:
        raise ValueError(f"{_OP}: needs at least 2 pairs, got {len(a)}")
    check_choice(_OP, "method", method, _METHODS)
    if isinstance(confidence, bool) or not isinstance(confidence, (int, float)):
        raise TypeError(f"{_OP}: confidence must be a number, got {type(confidence).__name__}")
    if not 0 < confidence < 1:
        raise ValueError(f"{_OP}: confidence must be in (0, 1), got {confidence}")
    for name, value, least in (("resamples", resamples, 1), ("seed", seed, 0)):
        if isinstance(value, bool) or not isinstance(value, numbers.Integral):
            raise TypeError(f"{_OP}: {name} must be an int, got {type(value).__name__}")
        if value < least:
            raise ValueError(f"{_OP}: {name} must be >= {least}, got {value}")
    stats = _scipy_stats()
    a, b = (scores.reshape(len(scores), -1).mean(1) for scores in (a, b))
    difference = b - a
    n, mean, spread = len(difference), float(difference.mean()), float(difference.std(ddof=1))
    common = {"n_resamples": int(resamples), "batch": max(1, _MOST_NUMBERS // n), "vectorized": True}
    low = high = mean
    if numpy.ptp(difference) > 0:  # otherwise every resample has this mean, and BCa divides by zero
        interval = stats.bootstrap(
            (difference,),
            numpy.mean,
            confidence_level=confidence,
            method=method,
            rng=numpy.random.default_rng(seed),
            **common,
        ).confidence_interval
        low, high = float(interval.low), float(interval.high)
    test = stats.permutation_test(
        (difference,),
        numpy.mean,
        permutation_type="samples",
        rng=numpy.random.default_rng(seed),
        **common,
    )
    return Comparison(
        difference=mean,
        low=low,
        high=high,
        confidence=float(confidence),
        effect_size=mean / spread if spread > 0 else float("nan") if mean == 0 else mean * float("inf"),
        p_value=float(test.pvalue),
        win_rate=float((difference > 0).mean() + (difference == 0).mean() / 2),
        mean_a=float(a.mean()),
        mean_b=float(b.mean()),
        n=n,
    )


def _scores(name: str, scores) -> numpy.ndarray:
    """float64 [n, ...], finite."""
    if isinstance(scores, Tensor):
        scores = scores.detach().cpu().double().numpy()  # numpy has no bfloat16
    try:
        out = numpy.asarray(scores, dtype=numpy.float64)
    except (TypeError, ValueError):
        raise TypeError(
            f"{_OP}: {name} must hold numbers in equal rows, got {type(scores).__name__}"
        ) from None
    if out.ndim == 0 or out.size == 0:
        raise ValueError(f"{_OP}: {name} must be [n, ...] and not empty, got shape {list(out.shape)}")
    if not numpy.isfinite(out).all():
        raise ValueError(f"{_OP}: {name} must be finite, got {(~numpy.isfinite(out)).sum()} NaN or infinite")
    return out


def _scipy_stats():
    try:
        from scipy import stats
    except ImportError as error:
        raise ImportError(f"{_OP}: needs scipy 1.15 or later (pip install scipy): {error}") from error
    return stats
