# SPDX-License-Identifier: Apache-2.0
"""Pictures of an analysis: what changes the outputs, entropy, calibration, diversity, robustness, bias.

Each is a bench.plots.Picture, drawn for light and dark pages alike: words and axes take the colour of the
page. What was not measured gives no picture.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..bench.plots import GREY, Picture, legend, new_figure
from . import _plots_laws as laws
from . import _plots_outputs as outputs
from ._drawing import BLUE, DASHED, GREEN, ORANGE, heat, label, numbered, percents, titled
from ._format import finite, percent
from ._summary import SETTINGS, changes

MOST_FORKS = 400  # points of a blame
LEAST = 1e-7  # a margin of 0, on a logarithmic axis


def all_pictures(analysis: dict[str, Any]) -> dict[str, Picture]:
    """By name, those that can be drawn."""
    made = (
        changed,
        agreement,
        forks,
        outputs.entropy,
        outputs.entropy_by_condition,
        outputs.flags,
        outputs.prompts,
        outputs.foresight,
        laws.reliability,
        laws.risk_coverage,
        laws.diversity,
        laws.certificate,
        laws.perturbations,
        laws.bias,
    )
    return {picture.name: picture for one in made for picture in one(analysis)}


def changed(analysis: dict[str, Any]) -> Iterator[Picture]:
    """Per setting moved alone: outputs that stay the same, and tokens before the first difference."""
    found = changes(analysis)
    if not found:
        return
    figure, axes = new_figure(1.0 + 0.42 * len(found))
    places = range(len(found))
    equal = [c.equal or 0.0 for c in found]
    same = [c.agreement or 0.0 for c in found]
    axes.barh([p - 0.19 for p in places], equal, 0.36, color=BLUE, label="whole outputs equal")
    axes.barh([p + 0.19 for p in places], same, 0.36, color=GREEN, label="tokens before the first difference")
    for place in places:
        for shift, value in ((-0.19, equal[place]), (0.19, same[place])):
            axes.text(value + 0.012, place + shift, percent(value), va="center", fontsize=7.5, color=GREY)
    axes.set_yticks(places, [label(SETTINGS.get(c.setting, c.setting)) for c in found])
    axes.invert_yaxis()
    axes.set(xlim=(0, 1.16), xticks=[0, 0.25, 0.5, 0.75, 1])
    percents(axes.xaxis)
    axes.grid(axis="y", visible=False)
    titled(axes, "What stays when one thing changes")
    legend(figure, axes)
    yield Picture(
        "changes", "Pairs of conditions that differ in one setting; longer bars: less changes.", figure
    )


def agreement(analysis: dict[str, Any]) -> Iterator[Picture]:
    """Below the diagonal the agreement, above it the share of whole outputs that are equal."""
    names = numbered(analysis)
    place = {name: n for n, name in enumerate(names)}
    values: list[list[float | None]] = [[None] * len(names) for _ in names]
    for pair in analysis.get("pairs") or []:
        if pair["a"] in place and pair["b"] in place:
            low, high = sorted((place[pair["a"]], place[pair["b"]]))
            values[high][low] = finite(pair.get("agreement"))
            values[low][high] = pair["equal"] / pair["compared"] if pair.get("compared") else None
    if len(names) < 2 or not any(v is not None for line in values for v in line):
        return
    hot = [[None if v is None else 1 - v for v in line] for line in values]
    rows = [f"{label(name)} · {n + 1}" for n, name in enumerate(names)]
    caption = (
        "Each condition with each, in per cent. Below the diagonal: mean share of tokens before the first "
        "difference; above: share of whole outputs that are equal. Stronger colour: more has changed."
    )
    if len(analysis["conditions"]) > len(names):
        caption += f" The first {len(names)} of {len(analysis['conditions'])} conditions."
    yield heat("agreement", caption, rows, [str(n + 1) for n in range(len(names))], values, hot)


def forks(analysis: dict[str, Any]) -> Iterator[Picture]:
    """Forks whose logits moved: by how much, and the margin there; a colour for each blame."""
    blames = {(p["a"], p["b"]): p.get("blame") for p in analysis.get("pairs") or []}
    kinds = (("logits", "only the logits moved", BLUE, "o"), ("both", "logits and settings", ORANGE, "x"))
    points: dict[str, list[tuple[float, float]]] = {}
    for fork in analysis.get("forks") or []:
        moved, margin = finite(fork.get("difference")), finite(fork.get("margin_a"))
        if moved and margin is not None and not fork.get("logits_equal"):
            points.setdefault(str(blames.get((fork["a"], fork["b"]))), []).append((moved, max(margin, LEAST)))
    if not any(kind in points for kind, *_ in kinds):
        return
    figure, axes = new_figure(3.7)
    for kind, name, colour, marker in kinds:
        if kind in points:
            x, y = zip(*points[kind][:MOST_FORKS], strict=True)
            axes.scatter(x, y, 22, color=colour, marker=marker, alpha=0.65, linewidth=1.1, label=name)
    every = [v for found in points.values() for point in found for v in point]
    ends = (min(every) / 2, max(every) * 2)
    axes.plot(
        ends,
        [2 * v for v in ends],
        color=GREY,
        linestyle=DASHED,
        linewidth=1,
        label="twice the difference",
    )
    axes.set(
        xscale="log", yscale="log", xlabel="largest difference of the logits", ylabel="margin of the first"
    )
    axes.set_ylim(*ends)
    titled(axes, "Where forks happen")
    legend(figure, axes)
    said = (
        "Forks whose logits moved. Below the dashed line the difference can put another token first; above "
        "it, a draw fell close to the border of two tokens."
    )
    yield Picture("forks", said, figure)
