# SPDX-License-Identifier: Apache-2.0
"""Pictures of the outputs: entropy along them and by condition, what rules flag, how alike samples are."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any

from ..bench.plots import Picture, legend, new_figure
from ._drawing import BLUE, GREEN, ORANGE, PINK, heat, label, numbered, percents, titled
from ._format import finite

MOST_PROMPTS = 30


def entropy(analysis: dict[str, Any]) -> Iterator[Picture]:
    """Every trace thin, the median of each step thick."""
    traces = [t["entropy"] for t in analysis.get("traces") or [] if t.get("entropy")]
    if not traces:
        return
    figure, axes = new_figure(2.9)
    longest = max(map(len, traces))
    for trace in traces:
        axes.plot(range(len(trace)), trace, color=BLUE, alpha=0.22, linewidth=0.8)
    steps = [sorted(t[n] for t in traces if n < len(t)) for n in range(longest)]
    if len(traces) > 2:
        axes.plot(
            range(longest), list(map(statistics.median, steps)), color=ORANGE, linewidth=1.8, label="median"
        )
        legend(figure, axes)
    axes.set(xlabel="step", ylabel="entropy, nats", xlim=(0, max(longest - 1, 1)))
    axes.set_ylim(bottom=0)
    titled(axes, "Entropy along the outputs")
    yield Picture("entropy", f"Entropy of each token's law, step by step: {len(traces)} outputs.", figure)


def trace(found: dict[str, Any], name: str, most: int) -> Picture:
    """One output: entropy and surprise (minus the log-probability) per step, anomalies as triangles."""
    spent = [None if x is None else -x for x in found.get("logp") or []][:most]
    figure, axes = new_figure(1.75)
    steps = found["entropy"][:most]
    axes.plot(range(len(steps)), steps, color=BLUE, linewidth=1.4, label="entropy")
    axes.plot(
        range(len(spent)), spent, color=ORANGE, linewidth=1.1, linestyle=(0, (4, 1.5)), label="surprise"
    )
    marks = sorted(
        {a["at"] for a in found.get("anomalies") or [] if a.get("at") is not None and a["at"] < len(steps)}
    )
    if marks:
        axes.plot(marks, [steps[m] for m in marks], "v", color=PINK, markersize=7, label="anomaly")
    axes.set(xlabel="step", ylabel="nats", xlim=(-0.5, max(len(steps) - 0.5, 1)))
    axes.set_ylim(0, max(1.0, axes.get_ylim()[1]))  # of a greedy output all is 0
    legend(figure, axes)
    return Picture(name, "Entropy and surprise of this output, step by step.", figure)


def entropy_by_condition(analysis: dict[str, Any]) -> Iterator[Picture]:
    """Mean entropies of the outputs: median, quartiles, and the 5 and 95 of 100 as the thin line."""
    values: dict[str, list[float]] = {name: [] for name in numbered(analysis)}
    for row in analysis.get("outputs") or []:
        mean = finite(row.get("mean_entropy"))
        if mean is not None and row.get("condition") in values:
            values[row["condition"]].append(mean)
    shown = {name: sorted(found) for name, found in values.items() if found}
    if not shown:
        return
    figure, axes = new_figure(1.0 + 0.26 * len(shown))
    for y, found in enumerate(shown.values()):
        low, first, middle, last, high = (
            found[round(q * (len(found) - 1))] for q in (0.05, 0.25, 0.5, 0.75, 0.95)
        )
        axes.plot([low, high], [y, y], color=BLUE, linewidth=1)
        axes.plot([first, last], [y, y], color=BLUE, linewidth=6, alpha=0.55, solid_capstyle="butt")
        axes.plot([middle], [y], "o", color=ORANGE, markersize=4.5)
    axes.set_yticks(range(len(shown)), list(map(label, shown)), fontsize=8)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("mean entropy of an output, nats")
    titled(axes, "How open the choice was")
    said = "Outputs of a condition: the median (dot), the middle half (bar), 90 of 100 (line)."
    yield Picture("entropy-by-condition", said, figure)


def flags(analysis: dict[str, Any]) -> Iterator[Picture]:
    """Condition by rule: the share of outputs that the rule flags."""
    rules = [r["rule"] for r in analysis.get("anomaly_rules") or []]
    names = numbered(analysis)
    counts = {name: 0 for name in names}
    hits = {(name, rule): 0 for name in names for rule in rules}
    for row in analysis.get("outputs") or []:
        if row.get("condition") in counts:
            counts[row["condition"]] += 1
            for rule in {a.get("rule") for a in row.get("anomalies") or []}:
                if (row["condition"], rule) in hits:
                    hits[row["condition"], rule] += 1
    if not rules or not any(hits.values()):
        return
    values: list[list[float | None]] = [
        [hits[n, r] / counts[n] if counts[n] else None for r in rules] for n in names
    ]
    most = max(v for line in values for v in line if v is not None)
    hot = [[None if v is None else v / most for v in line] for line in values]
    said = (
        "Share of outputs that a rule flags, by condition, in per cent. The strongest colour is the largest."
    )
    yield heat(
        "flags", said, [label(n) for n in names], [label(r).replace("_", " ") for r in rules], values, hot
    )


def prompts(analysis: dict[str, Any]) -> Iterator[Picture]:
    """Dots per prompt, least agreement first: how alike its samples are."""
    kinds = (
        ("agreement", "agreement", BLUE, "o"),
        ("lexical_similarity", "lexical similarity", GREEN, "s"),
        ("exact_agreement", "exactly equal", ORANGE, "D"),
    )
    rows = [r for r in analysis.get("prompts") or [] if finite(r.get("agreement")) is not None]
    rows.sort(key=lambda r: r["agreement"])
    shown = rows[:MOST_PROMPTS]
    if not shown:
        return
    figure, axes = new_figure(1.1 + 0.17 * len(shown))
    for key, name, colour, marker in kinds:
        points = [(v, y) for y, r in enumerate(shown) if (v := finite(r.get(key))) is not None]
        if points:
            axes.plot(*zip(*points, strict=True), marker, color=colour, markersize=4.2, label=name)
    axes.set_yticks(range(len(shown)), [str(r["prompt"]) for r in shown], fontsize=7)
    axes.set(xlim=(-0.02, 1.02), ylim=(len(shown) - 0.5, -0.5), ylabel="prompt")
    percents(axes.xaxis)
    titled(axes, "How alike the samples of a prompt are")
    legend(figure, axes)
    said = "Per prompt, mean over pairs of its samples; the prompt with the least agreement first."
    said += f" {len(shown)} of {len(rows)} prompts." if len(rows) > len(shown) else ""
    yield Picture("prompts", said, figure)


def foresight(analysis: dict[str, Any]) -> Iterator[Picture]:
    """Per prompt, the agreement of its samples against the mean entropy of its outputs."""
    groups: dict[Any, list[float]] = {}
    for row in analysis.get("outputs") or []:
        mean = finite(row.get("mean_entropy"))
        if mean is not None:
            groups.setdefault(row.get("prompt"), []).append(mean)
    points = [
        (statistics.fmean(groups[row["prompt"]]), share)
        for row in analysis.get("prompts") or []
        if (share := finite(row.get("agreement"))) is not None and row["prompt"] in groups
    ]
    if len(points) < 3:
        return
    figure, axes = new_figure(3.6)
    axes.scatter(*zip(*points, strict=True), 24, color=BLUE, alpha=0.7, linewidth=0)
    axes.set(xlabel="mean entropy of the prompt's outputs, nats", ylabel="agreement of its samples")
    axes.set_ylim(-0.03, 1.03)
    percents(axes.yaxis)
    titled(axes, "Does entropy foresee disagreement?")
    said = "One dot per prompt. A fall to the right: entropy tells which prompts give differing outputs."
    yield Picture("foresight", said, figure)
