# SPDX-License-Identifier: Apache-2.0
"""What the pictures of a report share: colours, labels, tables of shares as heat.

Heat is an opacity, so that words in the colour of the page stay readable on it, on white and on black.
"""

from __future__ import annotations

from typing import Any

from ..bench.plots import GREY, Picture, new_figure
from ._format import percent, short

ORANGE, BLUE, GREEN, PURPLE, PINK = "#d55e00", "#2f86c6", "#009e73", "#8f7ae5", "#cc79a7"
DASHED = (0, (4, 2))
HOTTEST = 0.75  # opacity; the contrast of the words is then still over 4.5, light and dark
MOST_ROWS = 24  # of a heat map or of bars; more would be unreadable on a phone


def percents(*axes: Any) -> None:
    """Ticks in per cent; matplotlib's axis objects."""
    for axis in axes:
        axis.set_major_formatter(lambda value, _: percent(value))


def numbered(analysis: dict[str, Any]) -> list[str]:
    return [c["name"] for c in (analysis.get("conditions") or [])[:MOST_ROWS]]


def label(text: Any, letters: int = 22) -> str:
    """For a figure: short, and no mathematics between two dollars."""
    return short(str(text), letters).replace("$", r"\$")


def titled(axes: Any, title: str) -> None:
    axes.set_title(title, fontsize=9.5, color=GREY)


def heat(
    name: str,
    caption: str,
    rows: list[str],
    columns: list[str],
    values: list[list[float | None]],
    hot: list[list[float | None]],
) -> Picture:
    """A table of shares; `hot` (0 to 1) is the opacity of each cell."""
    from matplotlib.colors import to_rgba
    from matplotlib.patches import Rectangle

    cell = 0.27 if len(rows) > 12 else 0.36
    figure, axes = new_figure(0.75 + cell * len(rows) + (0.45 if max(map(len, columns)) > 3 else 0))
    size = 8.0 if len(columns) <= 12 else 6.5 if len(columns) <= 16 else 5.5
    for y, line in enumerate(values):
        for x, value in enumerate(line):
            if value is None:
                continue
            colour = to_rgba(ORANGE, HOTTEST * min(max(hot[y][x] or 0.0, 0.0), 1.0))
            axes.add_patch(Rectangle((x - 0.47, y - 0.46), 0.94, 0.92, facecolor=colour, edgecolor="none"))
            axes.text(x, y, whole(value), ha="center", va="center", fontsize=size, color=GREY)
    axes.set(xlim=(-0.5, len(columns) - 0.5), ylim=(len(rows) - 0.5, -0.5))
    slanted = max(map(len, columns)) > 3
    axes.set_xticks(
        range(len(columns)), columns, rotation=30 if slanted else 0, ha="right" if slanted else "center"
    )
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0, labelsize=8)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    return Picture(name, caption, figure)


def whole(share: float) -> str:
    """Per cent without the sign, for small cells. Nothing but 0 says 0, nothing but 1 says 100."""
    return str(int(100 * share)) if share in (0, 1) else str(min(99, max(1, round(100 * share))))
