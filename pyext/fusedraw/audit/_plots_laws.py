# SPDX-License-Identifier: Apache-2.0
"""Pictures of what was measured beside the outputs: calibration, diversity, robustness, group words."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..bench.plots import GREY, Picture, legend, new_figure
from ._drawing import BLUE, DASHED, MOST_ROWS, ORANGE, PINK, PURPLE, label, percents, titled
from ._format import finite, number, percent
from ._summary import certified


def reliability(analysis: dict[str, Any]) -> Iterator[Picture]:
    """Accuracy against confidence per bin, the gap to the diagonal drawn; counts as areas."""
    found = analysis.get("calibration") or {}
    bins = [b for b in found.get("bins") or [] if b.get("count")]
    if not bins:
        return
    figure, axes = new_figure(3.6)
    most = max(b["count"] for b in bins)
    axes.plot([0, 1], [0, 1], color=GREY, linestyle=DASHED, linewidth=1, label="calibrated")
    for b in bins:
        axes.plot(
            [b["confidence"]] * 2, [b["confidence"], b["accuracy"]], color=ORANGE, linewidth=1.6, alpha=0.6
        )
    axes.plot([b["confidence"] for b in bins], [b["accuracy"] for b in bins], color=BLUE, linewidth=1.1)
    sizes = [12 + 110 * b["count"] / most for b in bins]
    x, y = [b["confidence"] for b in bins], [b["accuracy"] for b in bins]
    axes.scatter(x, y, sizes, color=BLUE, zorder=3, label="model")
    axes.set(
        xlim=(0, 1), ylim=(0, 1), xlabel="confidence: probability of the best token", ylabel="share right"
    )
    percents(axes.xaxis, axes.yaxis)
    titled(axes, f"Reliability, ECE {percent(found.get('ece'))}")
    legend(figure, axes)
    said = "Below the dashed line the model is over-confident. The area of a dot is the number of tokens."
    yield Picture("reliability", said, figure)


def risk_coverage(analysis: dict[str, Any]) -> Iterator[Picture]:
    found = analysis.get("calibration") or {}
    points = found.get("risk_coverage") or []
    if len(points) < 2:
        return
    figure, axes = new_figure(3.6)
    x, y = zip(*points, strict=True)
    axes.plot(x, y, color=BLUE, linewidth=1.8, label="least confident left out first")
    axes.fill_between(x, y, color=BLUE, alpha=0.12, linewidth=0)
    axes.axhline(y[-1], color=GREY, linestyle=DASHED, linewidth=1, label="left out at random")
    axes.set(xlim=(0, 1), xlabel="share of tokens that one accepts", ylabel="share wrong among them")
    axes.set_ylim(bottom=0)
    percents(axes.xaxis, axes.yaxis)
    titled(axes, f"Risk and coverage, area {number(found.get('risk_coverage_area'))}")
    legend(figure, axes)
    said = (
        "Errors that remain if only the most confident tokens are accepted. Lower: confidence sorts better."
    )
    yield Picture("risk-coverage", said, figure)


def diversity(analysis: dict[str, Any]) -> Iterator[Picture]:
    """Distinct bigrams and 1 - self-BLEU against perplexity, one point per condition of the sweep."""
    rows = [r for r in analysis.get("sweep") or [] if finite(r.get("perplexity")) is not None]
    rows.sort(key=lambda r: r["perplexity"])
    kinds = (
        ("distinct bigrams", BLUE, "o", [(r["perplexity"], finite(r.get("distinct_2"))) for r in rows]),
        ("1 - self-BLEU", PINK, "s", [(r["perplexity"], differs(r)) for r in rows]),
    )
    if len({r["perplexity"] for r in rows}) < 2:
        return
    figure, axes = new_figure(3.6)
    for name, colour, marker, points in kinds:
        known = [p for p in points if p[1] is not None]
        if known:
            axes.plot(
                *zip(*known, strict=True), marker, linestyle="-", color=colour, markersize=5, lw=1, label=name
            )
    groups: dict[float, list[str]] = {}
    for row in rows:
        groups.setdefault(round(row["perplexity"], 6), []).append(row["condition"])
    ends = axes.get_xlim()
    last = -1e9
    for at, names in groups.items():
        if (at - last) / (ends[1] - ends[0]) < 0.03:
            continue  # names over one another help nobody; the table has all
        said = label(names[0], 16) + (f" + {len(names) - 1}" if len(names) > 1 else "")
        axes.annotate(said, (at, 0.02), xycoords=("data", "axes fraction"), rotation=90, fontsize=7,
                      color=GREY, ha="right", va="bottom")  # fmt: skip
        axes.axvline(at, color=GREY, linewidth=0.5, alpha=0.4)
        last = at
    axes.set(xlabel="perplexity of the outputs under the model (lower: more fluent)", ylabel="diversity")
    axes.set_ylim(0, 1.02)
    percents(axes.yaxis)
    titled(axes, "Diversity against quality")
    legend(figure, axes)
    said = (
        "Upright lines are conditions (+ n: n more with the same figures). Further up and left: more of both."
    )
    yield Picture("diversity", said, figure)


def differs(row: dict[str, Any]) -> float | None:
    value = finite(row.get("self_bleu"))
    return None if value is None else 1 - value


def certificate(analysis: dict[str, Any]) -> Iterator[Picture]:
    """The share of steps that noise up to x cannot change; the measured noise as a line."""
    found = analysis.get("robustness") or {}
    points = sorted(
        (p["noise"], p["share"]) for p in found.get("certificate") or [] if p.get("share") is not None
    )
    if len(points) < 2:
        return
    figure, axes = new_figure(3.2)
    x, y = zip(*points, strict=True)
    axes.step(x, y, where="pre", color=BLUE, linewidth=1.8, label="best token certified")
    if min(x) > 0 and max(x) > 10 * min(x):
        axes.set_xscale("log")
    else:
        axes.set_xscale("symlog", linthresh=min((v for v in x if v > 0), default=1e-6))
    seen, share = finite(found.get("measured_noise")), certified(analysis)
    if seen is not None and seen > 0:
        said = f"measured: {number(seen)}" + (f", {percent(share[1])} certified" if share else "")
        axes.axvline(seen, color=ORANGE, linewidth=1.6, linestyle=DASHED, label=said)
    axes.set(xlabel="noise of the logits, largest absolute value", ylabel="share of steps", ylim=(0, 1.03))
    percents(axes.yaxis)
    titled(axes, "How much noise the best token stands")
    legend(figure, axes)
    said = "Noise below half the margin between the two best logits cannot change the best token."
    yield Picture("certificate", said, figure)


def perturbations(analysis: dict[str, Any]) -> Iterator[Picture]:
    rows = (analysis.get("robustness") or {}).get("perturbations") or []
    rows = [r for r in rows if finite(r.get("agreement")) is not None][:MOST_ROWS]
    if not rows:
        return
    figure, axes = new_figure(0.95 + 0.36 * len(rows))
    axes.barh(range(len(rows)), [r["agreement"] for r in rows], 0.55, color=PURPLE)
    for y, row in enumerate(rows):
        said = percent(row["agreement"]) + (
            f", JS {number(row['js'])}" if finite(row.get("js")) is not None else ""
        )
        axes.text(row["agreement"] + 0.012, y, said, va="center", fontsize=7.5, color=GREY)
    axes.set_yticks(range(len(rows)), [label(r["name"]) for r in rows])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.25), xticks=[0, 0.25, 0.5, 0.75, 1])
    percents(axes.xaxis)
    axes.grid(axis="y", visible=False)
    titled(axes, "What stays when the prompt is reworded")
    said = "Share of prompts whose likeliest first token stays; JS: divergence of its laws, in nats."
    yield Picture("perturbations", said, figure)


def bias(analysis: dict[str, Any]) -> Iterator[Picture]:
    found = analysis.get("bias") or {}
    rows = [r for r in found.get("pairs") or [] if finite(r.get("js")) is not None]
    rows = sorted(rows, key=lambda r: -r["js"])[:MOST_ROWS]
    if not rows:
        return
    figure, axes = new_figure(1.0 + 0.27 * len(rows))
    axes.barh(range(len(rows)), [r["js"] for r in rows], 0.6, color=PURPLE)
    names = [
        f"{label(r['a'], 12)} / {label(r['b'], 12)}" if r.get("a") else f"pair {n + 1}"
        for n, r in enumerate(rows)
    ]
    axes.set_yticks(range(len(rows)), names, fontsize=8)
    axes.invert_yaxis()
    base = finite(found.get("baseline_js"))
    if base is not None:
        axes.axvline(base, color=ORANGE, linestyle=DASHED, linewidth=1.6, label="same group, other wording")
        legend(figure, axes)
    axes.set_xlabel("JS divergence, nats")
    axes.grid(axis="y", visible=False)
    titled(axes, "What a group word changes")
    yield Picture("bias", "Divergence of the next token's laws when one group word replaces another.", figure)
