# SPDX-License-Identifier: Apache-2.0
"""Pictures of stored results: growth with V and with B, bars beside the peers, what a call consists of.

Each has a name, a caption and a matplotlib figure without background; words and axes have one grey that is
readable on white and on black, which `inline` makes the colour of the page. Colours are told apart with any
colour vision, and each provider has a marker or a dash of its own.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import reading
from .cases import CONFIGS
from .cases import TITLES as CONFIG_TITLES

GREY = "#767677"  # contrast 4.5 with white, 4.6 with black
STYLES = {  # colour, marker
    "fusedraw": ("#d55e00", "o"),
    "fusedraw-avx2": ("#e08a4a", "v"),
    "fusedraw-scalar": ("#b98a5e", "^"),
    "torch": ("#2f86c6", "s"),
    "torch-compile": ("#2f86c6", "D"),
    "hugging-face": ("#cc79a7", "P"),
    "numpy": ("#009e73", "X"),
    "bucketed": ("#b8960c", "<"),
    "llama.cpp": ("#56b4e9", ">"),
    "vllm-cpu": ("#8f7ae5", "p"),
}
OTHER = ("#8a8a8a", "*")
DASHES = {"read": (0, (1, 1.5)), "exp": (0, (5, 2))}
GROWTH_CONFIGS = ("greedy", "T", "top-p", "top-k+top-p")
GROWTH_DATA = ("flat", "peaked")
NOTE = re.compile(r"(engine|read|exp|call|V=64) ([0-9.]+) us")
WIDE = 4.7  # inches; letters of 9 points are then about 10 pixels on a page of 390


@dataclass
class Picture:
    name: str
    caption: str
    figure: Any

    def inline(self) -> str:
        """The SVG as a part of a page: no header, ids of its own, words in the colour of the page."""
        import matplotlib as mpl

        out = io.StringIO()
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": self.name}):
            self.figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
        text = re.sub(r"<metadata>.*?</metadata>", "", out.getvalue(), flags=re.S)
        text = text[text.index("<svg") :].replace(GREY, "currentColor")
        text = re.sub(r'((?:\sid=")|(?:href="#)|(?:url\(#))', rf"\g<1>{self.name}-", text)
        return re.sub(
            r'(<svg[^>]*?) width="[^"]*"', r"\1", re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", text)
        )

    def save(self, folder: Path) -> list[Path]:
        import matplotlib as mpl

        folder.mkdir(parents=True, exist_ok=True)
        paths = [folder / f"{self.name}.svg", folder / f"{self.name}.png"]
        with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": self.name}):
            self.figure.savefig(paths[0], transparent=True, metadata={"Date": None})
        self.figure.savefig(paths[1], transparent=True, dpi=160)
        return paths


def all_pictures(stored: dict[str, Any], goals: dict[str, Any] | None = None) -> Iterator[Picture]:
    for axis in ("vocab", "batch"):
        yield from growth(stored, axis)
    yield from bars(stored)
    yield from breakdown(stored, goals)


def new_figure(height: float) -> tuple[Any, Any]:
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    grey = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color")
    style: Any = {**{name: GREY for name in grey}, "font.size": 9}
    with mpl.rc_context(style):
        figure = Figure(figsize=(WIDE, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
    axes.patch.set_visible(False)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def legend(figure: Any, axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    found = dict(zip(labels, handles, strict=True))
    figure.legend(
        found.values(),
        found.keys(),
        loc="outside lower center",
        ncols=3,
        frameon=False,
        labelcolor=GREY,
        fontsize=8,
    )


def growth(stored: dict[str, Any], axis: str) -> Iterator[Picture]:
    """Log-log: time against V (B = 1) or B; from the parts of that name, else from the grid."""
    part, other = f"growth-{axis}", "batch" if axis == "vocab" else "vocab"
    lines = [r for r in stored["results"] if r["part"] == part]
    if not lines:
        grid = [r for r in stored["results"] if r["part"] == "grid"]
        fixed = 1 if axis == "vocab" else min((r["vocab"] for r in grid), default=0)
        lines = [r for r in grid if r[other] == fixed]
    lines = [r for r in lines if (r["dtype"], r["threads"], r["cache"]) == ("float32", 1, "hot")]
    for config in GROWTH_CONFIGS:
        for data in GROWTH_DATA:
            chosen = [r for r in lines if (r["config"], r["data"]) == (config, data)]
            chosen.sort(key=lambda r: r[axis])
            if len({r[axis] for r in chosen}) < 2:
                continue
            figure, axes = new_figure(3.7)
            for name in present(stored, chosen):
                curve(axes, stored, name, axis, [r for r in chosen if name in r["us"]])
            axes.set(xscale="log", yscale="log", ylabel="us per call")
            axes.set_xlabel("V, tokens of the vocabulary" if axis == "vocab" else "B, rows of a call")
            places = sorted({r[axis] for r in chosen})
            axes.set_xticks(places, [f"{n / 1000:.0f}k" if n >= 1000 else str(n) for n in places])
            axes.set_xticks([], minor=True)
            axes.set_title(f"{CONFIG_TITLES[config]}, {data} rows", fontsize=9.5, color=GREY)
            legend(figure, axes)
            rest = f"{'B' if other == 'batch' else 'V'} = {chosen[0][other]}, float32, 1 thread"
            said = f"{CONFIG_TITLES[config]}, {data} rows, {rest}. Medians; bars: the quartiles."
            yield Picture(f"growth-{axis}-{config.replace('+', '-')}-{data}", said, figure)


def present(stored: dict[str, Any], lines: list[dict[str, Any]]) -> list[str]:
    found = {name for r in lines for name in r["us"]}
    own = [n for n in ("fusedraw", "fusedraw-avx2", "fusedraw-scalar") if n in found]
    return [*own, *reading.peers(stored, lines), *(f for f in reading.FLOORS if f in found)]


def curve(axes: Any, stored: dict[str, Any], name: str, axis: str, lines: list[dict[str, Any]]) -> None:
    x, times = [r[axis] for r in lines], [r["us"][name] for r in lines]
    middle = [t[1] for t in times]
    label = reading.title(stored, name)
    if name in reading.FLOORS:
        axes.plot(x, middle, color=GREY, linestyle=DASHES[name], linewidth=1.3, label=label)
        return
    colour, marker = STYLES.get(name, OTHER)
    axes.errorbar(
        x, middle, yerr=spread(times), color=colour, marker=marker, markersize=4.5, capsize=2, label=label,
        linewidth=2.2 if name == "fusedraw" else 1.2, zorder=3 if name == "fusedraw" else 2,
    )  # fmt: skip


def spread(times: list[list[float]]) -> list[list[float]]:
    return [[max(t[1] - t[0], 0) for t in times], [max(t[2] - t[1], 0) for t in times]]


def bars(stored: dict[str, Any], blocks: tuple | None = None) -> Iterator[Picture]:
    """One picture per shape: for each configuration the providers as bars, the floors as lines."""
    lines = [r for r in stored["results"] if r["part"] == "grid" and r["cache"] == "hot"]
    wanted = [("real", 49152, 1), ("flat", 128256, 1), ("peaked", 128256, 1), ("peaked", 128256, 64)]
    key = ("data", "vocab", "batch")
    have = {tuple(r[k] for k in key) for r in lines}
    for shape in blocks or [w for w in wanted if w in have] or sorted(have)[:3]:
        plain = [r for r in lines if (r["dtype"], r["threads"]) == ("float32", 1)]
        chosen = {
            r["config"]: r for r in plain if tuple(r[k] for k in key) == shape and r["config"] in CONFIGS
        }
        if not chosen:
            continue
        names = [n for n in present(stored, list(chosen.values())) if n not in reading.FLOORS]
        figure, axes = new_figure(1.3 + 0.115 * len(chosen) * (len(names) + 1.5))
        put_bars(axes, stored, chosen, names)
        axes.set(xscale="log", xlabel="us per call, log scale")
        axes.grid(axis="y", visible=False)
        data, vocab, batch = shape
        axes.set_title(f"V = {vocab}, B = {batch}, {data} rows", fontsize=9.5, color=GREY)
        legend(figure, axes)
        said = f"V = {vocab}, B = {batch}, {data} rows, float32, 1 thread. Thin bars: the quartiles."
        yield Picture(f"bars-{data}-V{vocab}-B{batch}", said, figure)


def put_bars(axes: Any, stored: dict[str, Any], chosen: dict[str, Any], names: list[str]) -> None:
    step = len(names) + 1.5
    configs = [c for c in CONFIGS if c in chosen]
    for place, config in enumerate(configs):
        us = chosen[config]["us"]
        for slot, name in enumerate(n for n in names if n in us):
            colour, _ = STYLES.get(name, OTHER)
            hatch = "////" if name == "torch-compile" else None
            axes.barh(
                place * step + slot,
                us[name][1],
                0.85,
                color=colour,
                hatch=hatch,
                edgecolor=GREY,
                linewidth=0,
                xerr=spread([us[name]]),
                label=reading.title(stored, name),
                error_kw={"ecolor": GREY, "lw": 0.9},
            )
        for floor in (f for f in reading.FLOORS if f in us):
            ends = (place * step - 0.7, place * step + len(names) - 0.3)
            label = reading.title(stored, floor)
            axes.plot(
                [us[floor][1]] * 2, ends, color=GREY, linestyle=DASHES[floor], linewidth=1.4, label=label
            )
    least = min(t[0] for r in chosen.values() for t in r["us"].values())
    axes.set_xlim(left=least / 2)
    middles = [p * step + (len(names) - 1) / 2 for p in range(len(configs))]
    axes.set_yticks(middles, [CONFIG_TITLES[c].replace(", ", ",\n") for c in configs], fontsize=8)
    axes.set_ylim(len(configs) * step - 0.5, -1)


SEGMENTS = {
    "read": ("reading (the read floor)", "#009e73"),
    "exp": ("exp and sum (exp less read)", "#56b4e9"),
    "rest": ("the engine beyond the floor", "#d55e00"),
    "call": ("the call (at V = 64)", "#8f7ae5"),
}


def breakdown(stored: dict[str, Any], goals: dict[str, Any] | None = None) -> Iterator[Picture]:
    """Where the time of a call goes. With goals.json: engine and call apart; else both are "the rest"."""
    found = from_goals(goals) if goals else {}
    apart = bool(found)
    for data, pieces in (found or from_results(stored)).items():
        figure, axes = new_figure(1.5 + 0.34 * len(pieces))
        left = [0.0] * len(pieces)
        for key, (label, colour) in SEGMENTS.items():
            widths = [p.get(key, 0.0) for p in pieces.values()]
            if key == "rest" and not apart:
                label = "the rest: the engine beyond, and the call"
            if any(widths):
                axes.barh(
                    list(pieces),
                    widths,
                    0.7,
                    left,
                    color=colour,
                    label=label,
                    lw=0,
                    edgecolor=GREY,
                )
            left = [a + b for a, b in zip(left, widths, strict=True)]
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("us per call")
        axes.set_title(f"What a call consists of, {data} rows", fontsize=9.5, color=GREY)
        handles, labels = axes.get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", frameon=False, labelcolor=GREY, fontsize=8)
        said = f"{data} rows, V = 128256, B = 1, float32, 1 thread: medians, and differences of medians; "
        said += (
            "nothing was timed inside a call. Exp counts only where the engine takes longer than that floor."
        )
        yield Picture(f"parts-{data}", said, figure)


def split(read: float, exp: float | None, engine: float, call: float) -> dict[str, float]:
    least = min(read, engine)
    middle = max(exp - least, 0.0) if exp is not None and engine > exp else 0.0
    return {"read": least, "exp": middle, "rest": max(engine - least - middle, 0.0), "call": call}


def from_goals(goals: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    """Lines of the part "engine": their notes have the medians in words."""
    found: dict[str, dict[str, dict[str, float]]] = {}
    for line in goals.get("lines", []):
        if line.get("part") != "engine":
            continue
        config, _, data = str(line.get("goal", "")).rpartition(", ")
        values = {name: float(value) for name, value in NOTE.findall(str(line.get("note", "")))}
        if config and {"engine", "V=64"} <= set(values):
            found.setdefault(data, {})[config] = values
    out = {}
    for data, configs in found.items():
        floors = {f: next((v[f] for v in configs.values() if f in v), None) for f in reading.FLOORS}
        read = floors["read"]
        if read is not None:
            out[data] = {c: split(read, floors["exp"], v["engine"], v["V=64"]) for c, v in configs.items()}
    return out


def from_results(stored: dict[str, Any]) -> dict[str, dict[str, dict[str, float]]]:
    out: dict[str, dict[str, dict[str, float]]] = {}
    for r in stored["results"]:
        shape = (r["part"], r["vocab"], r["batch"], r["dtype"], r["threads"], r["cache"])
        us = r["us"]
        if shape == ("grid", 128256, 1, "float32", 1, "hot") and "read" in us and "fusedraw" in us:
            exp = us["exp"][1] if "exp" in us else None
            pieces = split(us["read"][1], exp, us["fusedraw"][1], 0.0)
            out.setdefault(r["data"], {})[CONFIG_TITLES.get(r["config"], r["config"])] = pieces
    return out
