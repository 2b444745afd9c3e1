# SPDX-License-Identifier: Apache-2.0
"""Rules that say which outputs of a language model look wrong, each a score and a threshold.

    find        on one output: repetition, entropy_spike, near_tie, off_nucleus, script_switch
    scores      the scores of `find` without thresholds, for ranking
    outliers    on a table of outputs: outlier, by robust z-scores

A rule fires at score >= threshold. `stats` of an output maps the names of the audit's per-token columns to
float [n]; a rule whose columns are absent is left out, and numbers that are not finite are passed over.

A flag is a reason to look, not a verdict: a quotation in another language is a switch, a row of equal
characters a loop.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy

from ._loops import longest_loop
from ._scripts import strongest_switch


@dataclass(frozen=True)
class Rule:
    """What a rule looks for, and the least score at which it does."""

    name: str
    says: str
    threshold: float
    unit: str  # of score and threshold
    source: str  # where the threshold comes from


class Anomaly(NamedTuple):
    """One rule that fired on one output; `at` is the step it began at, None where it has none."""

    rule: str
    score: float
    threshold: float
    at: int | None
    says: str


class Outliers(NamedTuple):
    """`z` {column: float64 [N]}, `score` float64 [N] = the largest |z| of an output, `column` [N] the name of
    the column that has it, `flagged` bool [N], `unused` the columns without spread."""

    z: dict[str, numpy.ndarray]
    score: numpy.ndarray
    column: list[str]
    flagged: numpy.ndarray
    unused: tuple[str, ...]


# Shares are of 224 development outputs of SmolLM2-135M-Instruct: 64 tokens at most, T = 0.8, top_p = 0.95,
# float32 (tests/audit_outputs.py made them; tests/test_audit_anomalies.py measures on 224 others). Every rule
# takes the strangest place of an output, so that longer outputs are flagged more often.
RULES = {
    rule.name: rule
    for rule in (
        Rule(
            "repetition",
            "a phrase of tokens repeated at once, copy after copy",
            3.0,
            "copies",
            "three copies in a row, by definition; 4 % of clean outputs, which do loop (emoji, tables)",
        ),
        Rule(
            "entropy_spike",
            "a few tokens in a row far less certain than the rest of the output",
            2.5,
            "nats above the median",
            "3 % of clean outputs",
        ),
        Rule(
            "near_tie",
            "the two best logits closer than rounding may move them: another batch or machine may swap them",
            3.7,
            "-log10 of the margin",
            "a margin of 2e-4, five times what another batch moved margins by in float32 (4e-5); 0.4 % of "
            "clean outputs. Logits of bfloat16 lie 0.06 apart, where ties are ordinary",
        ),
        Rule(
            "off_nucleus",
            "a drawn token that the model all but rules out",
            5.0,
            "nats of surprise above the entropy",
            "above every clean output (4.7): draws in the 0.95 nucleus stay below",
        ),
        Rule(
            "script_switch",
            "a part of the text in another script or language",
            2.5,
            "words",
            "one foreign word weighs 2 and may be a name or a quotation; 0.4 % of clean outputs",
        ),
        Rule(
            "outlier",
            "unlike the other outputs as a whole",
            5.0,
            "robust standard deviations",
            "3.5 is customary for one column, these are five; 4 % of clean outputs",
        ),
    )
}

SPIKE_WINDOW = 4  # tokens: one uncertain token is a name or the first word of a sentence, four are not
SMALLEST_MARGIN = 1e-9  # a tie: below the spacing of float32 logits, so that the score of one is finite
LARGEST_SURPRISE = 1e3  # nats, of a token of probability 0: the score stays finite
# Columns that the threshold of `outlier` was chosen for: summaries of an output, of which each tells its own
# and none is a count of rare events.
OUTLIER_COLUMNS = (
    "mean_logp_raw",
    "mean_entropy",
    "mean_varentropy",
    "mean_margin",
    "lowest_window_confidence",
)
MAD_TO_SIGMA = 1.4826  # 1 / the 3/4 quantile of the normal law: the deviation of normal data, in MADs


def find(
    stats: Mapping[str, Sequence[float]],
    ids: Sequence[int],
    text: str | None = None,
    thresholds: Mapping[str, float] | None = None,
) -> list[Anomaly]:
    """What the rules find in one output, in the order of RULES; of each rule the strongest place only.

    Args:
        stats: {name: float [n]} of entropy, margin, logp_raw (nats, logits, nats); others are not looked at.
        ids: the n token ids.
        text: the decoded text, for script_switch; None: that rule is left out. Its `at` is None: a place in
            the text is no step.
        thresholds: {rule: least score} in place of RULES' own.

    Raises:
        ValueError: columns of another length than ids, or a rule that is not one.
    """
    limits = _thresholds("find", thresholds)
    measured = _measure("find", stats, ids, text)
    return [
        Anomaly(name, score, limits[name], at, says)
        for name, (score, at, says) in measured.items()
        if score >= limits[name]
    ]


def scores(
    stats: Mapping[str, Sequence[float]], ids: Sequence[int], text: str | None = None
) -> dict[str, float]:
    """{rule: score} of one output, higher is stranger; arguments as in `find`."""
    return {name: score for name, (score, _, _) in _measure("scores", stats, ids, text).items()}


def outliers(
    table: Mapping[str, Sequence[float]],
    reference: Mapping[str, Sequence[float]] | None = None,
    threshold: float | None = None,
) -> Outliers:
    """Outputs far from the others: z = (x - median) / (1.4826 MAD) of each column (Iglewicz, Hoaglin 1993).

    Half of the outputs may be anything before median and MAD give way. A column of MAD 0 has no scale and is
    not used; NaN and None count as the median.

    Args:
        table: {column: float [N]}, for example OUTLIER_COLUMNS of N outputs under one condition. An output is
            as strange as its strangest column, so every further column raises the share of flagged ones.
        reference: {column: float [M]}: outputs whose medians and MADs are taken, in place of the table's.
        threshold: least |z| of a flagged output; None: that of RULES.

    Raises:
        ValueError: no columns, columns of different length, a column that the reference lacks.
    """
    columns = {name: _floats(values) for name, values in table.items()}
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) != 1:
        raise ValueError(f"outliers: columns must have one length, got {lengths or 'none'}")
    limit = RULES["outlier"].threshold if threshold is None else threshold
    z = {}
    for name, values in columns.items():
        if reference is not None and name not in reference:
            raise ValueError(f"outliers: the reference lacks the column {name}")
        base = values if reference is None else _floats(reference[name])
        base = base[numpy.isfinite(base)]
        median = float(numpy.median(base)) if len(base) else 0.0
        deviation = MAD_TO_SIGMA * float(numpy.median(abs(base - median))) if len(base) else 0.0
        if deviation > 0.0:
            z[name] = numpy.where(numpy.isfinite(values), (values - median) / deviation, 0.0)
    count = next(iter(lengths.values()))
    names = list(z)
    sizes = abs(numpy.stack([z[name] for name in names])) if z else numpy.zeros((1, count))
    strangest = sizes.argmax(0) if count else numpy.zeros(0, int)
    score = sizes.max(0) if count else numpy.zeros(0)
    return Outliers(
        z,
        score,
        [names[place] if names else "" for place in strangest],
        score >= limit,
        tuple(name for name in columns if name not in z),
    )


def _measure(op: str, stats, ids, text) -> dict[str, tuple[float, int | None, str]]:
    """{rule: (score, step, what to say)} of the rules that have what they need."""
    ids = numpy.asarray(ids)
    if ids.ndim != 1 or (len(ids) and ids.dtype.kind not in "iu"):
        raise ValueError(f"{op}: ids must be integers [n], got {ids.dtype} {list(ids.shape)}")
    needed = ("entropy", "margin", "logp_raw")
    columns = {name: _floats(stats[name]) for name in needed if name in stats}
    for name, values in columns.items():
        if len(values) != len(ids):
            raise ValueError(f"{op}: {name} must have {len(ids)} numbers, one for each id, got {len(values)}")
    found = {"repetition": _repetition(ids)}
    if "entropy" in columns:
        found["entropy_spike"] = _entropy_spike(columns["entropy"])
    if "margin" in columns:
        found["near_tie"] = _near_tie(columns["margin"])
    if "logp_raw" in columns and "entropy" in columns:
        found["off_nucleus"] = _off_nucleus(columns["logp_raw"], columns["entropy"])
    if text is not None:
        found["script_switch"] = _script_switch(text)
    return found


def _repetition(ids):
    loop = longest_loop(ids)
    says = f"{loop.length} tokens from step {loop.start} on repeat a phrase of {loop.period}"
    return loop.copies, loop.start if loop.length else None, says


def _entropy_spike(entropy):
    """The largest mean entropy of SPIKE_WINDOW tokens, less the median of the output."""
    entropy = entropy.copy()
    known = numpy.isfinite(entropy)
    if not known.any():
        return 0.0, None, "no entropy"
    middle = float(numpy.median(entropy[known]))
    entropy[~known] = middle
    width = min(SPIKE_WINDOW, len(entropy))
    means = numpy.convolve(entropy, numpy.full(width, 1 / width), "valid")
    at = int(means.argmax())
    says = f"mean entropy {means[at]:.2f} nats over {width} tokens, median {middle:.2f}"
    return float(means[at]) - middle, at, says


def _near_tie(margin):
    """-log10 of the smallest margin."""
    margin = numpy.where(numpy.isfinite(margin), margin, numpy.inf)
    if not len(margin) or margin.min() == numpy.inf:
        return 0.0, None, "no margin"
    at = int(margin.argmin())
    score = -math.log10(max(float(margin[at]), SMALLEST_MARGIN))
    return score, at, f"the two best logits differ by {margin[at]:.2g}"


def _off_nucleus(logp_raw, entropy):
    """The largest surprise of a drawn token less the entropy of its law, the surprise to be expected."""
    surprise = numpy.minimum(-logp_raw, LARGEST_SURPRISE)
    excess = numpy.where(numpy.isnan(surprise) | ~numpy.isfinite(entropy), 0.0, surprise - entropy)
    if not len(excess):
        return 0.0, None, "no tokens"
    at = int(excess.argmax())
    return float(excess[at]), at, f"a token of log-probability {logp_raw[at]:.1f}, entropy {entropy[at]:.1f}"


def _script_switch(text):
    switch = strongest_switch(text)
    says = f"{switch.other} in {switch.main}, characters {switch.start} to {switch.end}"
    return switch.evidence, None, says


def _thresholds(op: str, given) -> dict[str, float]:
    limits = {name: rule.threshold for name, rule in RULES.items()}
    for name, limit in (given or {}).items():
        if name not in limits:
            raise ValueError(f"{op}: no rule {name!r}, the rules are {', '.join(limits)}")
        limits[name] = float(limit)
    return limits


def _floats(values) -> numpy.ndarray:
    """float64 [n]; None becomes NaN."""
    return numpy.asarray([math.nan if value is None else value for value in values], dtype=numpy.float64)
