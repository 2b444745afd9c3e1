# SPDX-License-Identifier: Apache-2.0
"""What does not matter and should not change an answer, and what has changed since earlier runs.

margin_certificate, certified_share   noise in the logits that cannot change the best token
PERTURBATIONS, with_synonyms          other wordings of a prompt
Cusum, drift                          figures of run after run: has one left its level?
"""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy

from .._checks import listing
from ._given import nonnegative, number

FIRST_RUNS = 8  # that `drift` only learns from: with fewer, a t-statistic tells little apart
LEAST_DEVIATION = 0.01  # of the level: figures of runs that are equal to the bit have no spread of their own
LEAST_AT_ZERO = 1e-3  # the same for a figure whose level is 0, in its own unit
_TINIEST = 1e-300  # of tail probabilities: 37 standard deviations


# Noise


def margin_certificate(margin) -> numpy.ndarray:
    """The radius within which noise provably leaves the best token the best: margin / 2.

    Let x be the logits, x_i the best and x_j any other. Noise d with max |d| < (x_i - x_j) / 2 moves the two
    towards each other by less than their distance, so i stays ahead of every j. At the radius itself the two
    can tie, just above it they can change places: no larger radius holds. It is about one step of greedy
    decoding; what was fed back before must be the same.

    Args:
        margin: best minus second best logit, any shape, >= 0 (`sample(..., returns=("margin",))`, before the
            temperature); inf where there is no second. Rounded to float32 it is off by half a unit in the
            last place, and so is the radius.

    Returns: float64 in that shape, in the unit of the logits.
    Raises: TypeError, ValueError: not numbers, negative, NaN.
    """
    return nonnegative("margin_certificate", "margin", margin) / 2


def certified_share(margins, noise):
    """The share of steps whose best token no noise of max-norm `noise` can change, in [0, 1].

    Args:
        margins: as in `margin_certificate`, at least one.
        noise: a number >= 0, or an array of them.

    Returns: a float, or float64 in the shape of `noise`. At noise 0 it is 1, ties included.
    """
    op = "certified_share"
    radii = numpy.sort((nonnegative(op, "margins", margins) / 2).ravel())
    if not len(radii):
        raise ValueError(f"{op}: margins must not be empty")
    levels = nonnegative(op, "noise", noise)
    share = 1 - numpy.searchsorted(radii, levels, side="right") / len(radii)
    share = numpy.where(levels == 0, 1.0, share)
    return float(share) if share.ndim == 0 else share


# Wordings


def _other_end(text: str) -> str:
    """Without its last full stop, question or exclamation marks; with a full stop where it has none."""
    bare = text.rstrip()
    cut = bare.rstrip(".?!\u3002\uff1f\uff01")
    return cut if cut != bare and cut else bare + "."


# Text -> text. Each keeps what a reader would take from the text.
PERTURBATIONS: dict[str, Callable[[str], str]] = {
    "upper": str.upper,
    "lower": str.lower,
    "spaces": lambda text: text.replace(" ", "  "),  # every blank doubled
    "punctuation": _other_end,
}


def with_synonyms(text: str, pairs: Iterable[Sequence[str]]) -> str:
    """`text` with each first word of a pair replaced by the second, all at once and as whole words.

    Upper and lower case do not count for what is found, and are kept: begin -> start, Begin -> Start,
    BEGIN -> START (a word found just as given: just as given). The longest first word wins where several
    begin at one place. Pairs (a, b) and (b, a) swap.

    Raises: TypeError: not words; ValueError: an empty one, or two replacements for one word.
    """
    op = "with_synonyms"
    if not isinstance(text, str):
        raise TypeError(f"{op}: text must be a str, got {type(text).__name__}")
    table: dict[str, tuple[str, str]] = {}
    for pair in pairs:
        if isinstance(pair, str) or len(pair) != 2 or not all(isinstance(word, str) for word in pair):
            raise TypeError(f"{op}: pairs must hold (word, word), got {pair!r}")
        old, new = pair
        if not old.strip() or not new.strip():
            raise ValueError(f"{op}: pairs must not hold an empty word, got {pair!r}")
        _, known = table.setdefault(old.lower(), (old, new))
        if known != new:
            raise ValueError(f"{op}: {old!r} has two replacements, {known!r} and {new!r}")
    if not table:
        return text
    words = "|".join(re.escape(word) for word in sorted(table, key=len, reverse=True))
    return re.sub(rf"(?<!\w)(?:{words})(?!\w)", lambda m: _replaced(m[0], table), text, flags=re.IGNORECASE)


def _replaced(found: str, table: Mapping[str, tuple[str, str]]) -> str:
    old, new = table.get(found.lower(), (found, found))  # IGNORECASE finds letters that lower() does not map
    if found == old:
        return new
    if len(found) > 1 and found.isupper():
        return new.upper()
    return new[0].upper() + new[1:] if found[0].isupper() else new


# Drift


@dataclass(frozen=True)
class Alarm:
    """A level that has moved."""

    side: str  # "up" or "down"
    score: float  # the sum, in deviations; above `limit`
    at: int  # which value raised it, from 0
    since: int  # the first value of the run that made the sum: an estimate of when it moved


class Cusum:
    """Two-sided cumulative sum chart (Page 1954): small lasting shifts of a level, soon.

        up = max(0, up + z - slack),  down = max(0, down - z - slack),  z = (x - target) / deviation

    An alarm is a sum above `limit`. It stands while values stay more than `slack` off on that side; the first
    that does not ends it, and the sum starts anew at 0. Of independent normal values at the target the first
    alarm comes after 465 on average with slack 0.5 and limit 5 (168 with 4); of values shifted by one
    deviation after 10.4 (8.4), by two after 4.0 (3.3).

    Args:
        target: the level that values should have.
        deviation: their standard deviation there, > 0.
        slack: in deviations, >= 0: half the shift that is to be found soonest.
        limit: in deviations, > 0.

    Raises: TypeError, ValueError: not finite numbers, or out of range.
    """

    _STATE = ("count", "up", "down", "up_since", "down_since")

    def __init__(self, target: float, deviation: float, slack: float = 0.5, limit: float = 5.0):
        op = "Cusum"
        self.target = number(op, "target", target)
        self.deviation = number(op, "deviation", deviation, above=0)
        self.slack = number(op, "slack", slack, least=0)
        self.limit = number(op, "limit", limit, above=0)
        self.count = 0
        self.up = self.down = 0.0
        self.up_since = self.down_since = 0  # first value of the present run above 0

    def update(self, x: float) -> Alarm | None:
        """Take the next value. ValueError for one that is not finite, which is then not taken."""
        z = (number("Cusum", "x", x) - self.target) / self.deviation
        self.up, self.up_since = self._next(self.up, self.up_since, z)
        self.down, self.down_since = self._next(self.down, self.down_since, -z)
        self.count += 1
        # After a jump across the target the other side's alarm has just ended: at most one stands.
        for side, total, since in (("up", self.up, self.up_since), ("down", self.down, self.down_since)):
            if total > self.limit:
                return Alarm(side, total, self.count - 1, since)
        return None

    def _next(self, total: float, since: int, z: float) -> tuple[float, int]:
        if total > self.limit and z <= self.slack:
            return 0.0, self.count + 1
        total = max(0.0, total + z - self.slack)
        return total, since if total > 0 else self.count + 1

    def state_dict(self) -> dict[str, Any]:
        """Settings and sums, plain numbers: JSON can hold them."""
        settings = ("target", "deviation", "slack", "limit")
        return {name: getattr(self, name) for name in (*settings, *self._STATE)}

    @classmethod
    def from_state_dict(cls, state: Mapping[str, Any]) -> "Cusum":
        """A chart that goes on where another stood. ValueError for names that are missing or unknown."""
        op, names = "Cusum.from_state_dict", set(cls(0.0, 1.0).state_dict())
        if set(state) != names:
            raise ValueError(f"{op}: state must hold {listing(sorted(names))}, got {listing(sorted(state))}")
        made = cls(*(state[name] for name in ("target", "deviation", "slack", "limit")))
        for name in cls._STATE:
            setattr(made, name, type(getattr(made, name))(number(op, name, state[name], least=0)))
        return made


@dataclass(frozen=True)
class Drift:
    """A figure that has left its level, as of the last run."""

    name: str
    side: str  # "up" or "down"
    value: float  # of the last run
    level: float  # mean of the runs before it moved
    score: float  # of Cusum
    runs: int  # how many make the level
    since: int  # run, from 0, at which it seems to have moved

    def __str__(self) -> str:
        way = "risen" if self.side == "up" else "fallen"
        return (
            f"{self.name} has {way} since run {self.since + 1}: now {self.value:.4g}, {self.level:.4g} on "
            f"average over {self.runs} runs before"
        )


def drift(
    history: Sequence[Mapping[str, Any]],
    names: Sequence[str] | None = None,
    *,
    slack: float = 0.5,
    limit: float = 5.0,
) -> list[Drift]:
    """Which figures of the last run are in alarm, by a self-starting CUSUM over all runs (Hawkins 1987).

    A value is held against the mean and deviation of those before it, as a t-statistic that is turned into
    the normal one of the same probability; a chart of target 0 and deviation 1 adds them up. So the level
    need not be known, and false alarms are as rare as `Cusum` says from the start. The deviation is taken to
    be at least 1 % of the level (1e-3 where that is 0). The first 8 values of a figure raise no alarm, and
    those from where an alarm began do not count for the level. To accept a new level, begin a new history.

    Args:
        history: {name: number} of each run, oldest first. None, NaN and missing ones are runs without it.
        names: of the figures to look at; None: those that the last run has. A figure that the last run lacks
            has no alarm.
        slack, limit: of `Cusum`.

    Returns: alarms that stand after the last run, in the order of names; none for an empty history.
    Raises: TypeError: not mappings of numbers; ValueError: a name that no run has; ImportError: no scipy.
    """
    op = "drift"
    runs = list(history)
    if any(not isinstance(run, Mapping) for run in runs):
        raise TypeError(f"{op}: history must hold {{name: number}} mappings")
    Cusum(0.0, 1.0, slack, limit)  # refuses what it does not take
    if not runs:
        return []
    chosen = list(runs[-1]) if names is None else list(names)
    for name in chosen:
        if not any(name in run for run in runs):
            raise ValueError(f"{op}: no run has {name!r}")
    found = (_drift_of(op, name, runs, Cusum(0.0, 1.0, slack, limit)) for name in chosen)
    return [alarm for alarm in found if alarm is not None]


def _drift_of(op: str, name: str, runs: Sequence[Mapping[str, Any]], chart: Cusum) -> Drift | None:
    values = [(run, number(op, name, m[name])) for run, m in enumerate(runs) if _is_there(m.get(name))]
    if not values or values[-1][0] != len(runs) - 1:
        return None
    x = numpy.array([value for _, value in values])
    level = numpy.zeros(len(x), dtype=bool)  # which of them make it
    alarm = None
    for n, value in enumerate(x):
        alarm = chart.update(_as_normal(value, x[level])) if n >= FIRST_RUNS else None
        if alarm is None:
            level[n] = True
        else:  # the values that led to it were off the level already
            level[FIRST_RUNS + alarm.since :] = False
    if alarm is None:
        return None
    since = values[FIRST_RUNS + alarm.since][0]
    kept = x[level]
    return Drift(name, alarm.side, float(x[-1]), float(kept.mean()), alarm.score, len(kept), since)


def _as_normal(x: float, before: numpy.ndarray) -> float:
    """The standard normal number as probable as x, given the values before it from the same normal law."""
    try:
        from scipy import special
    except ImportError as error:
        raise ImportError(f"drift: needs scipy (pip install scipy): {error}") from error
    n, mean = len(before), float(before.mean())
    least = LEAST_DEVIATION * abs(mean) or LEAST_AT_ZERO
    t = (x - mean) / (max(float(before.std(ddof=1)), least) * math.sqrt(1 + 1 / n))
    tail = max(float(special.stdtr(n - 1, -abs(t))), _TINIEST)
    return math.copysign(float(special.ndtri(tail)), t)


def _is_there(value: Any) -> bool:
    return value is not None and value == value
