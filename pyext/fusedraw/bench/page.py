# SPDX-License-Identifier: Apache-2.0
"""One self-contained HTML page from a stored result: pictures, tables, machine, deviations, what is left out.

python -m fusedraw.bench.page RESULT.json --output DIR     DIR/index.html, and the pictures as SVG and PNG

Needs matplotlib and jinja2, which the package does not. goals.json beside the result splits a call further.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

from . import plots, reading
from .cases import TITLES as CONFIG_TITLES
from .stored import BenchError, load

TEMPLATE = Path(__file__).resolve().parent / "page.html.jinja"
NEEDED = ("matplotlib", "jinja2")
BLOCK = ("part", "rows", "vocab", "batch", "dtype", "threads", "cache")
GROWTH = {"growth-vocab": "vocab", "growth-batch": "batch"}  # what varies within a table of that part
CHAPTERS = {
    "growth-vocab-": "Growth with the vocabulary",
    "growth-batch-": "Growth with the batch",
    "bars-": "Beside other samplers",
    "parts-": "What a call consists of",
}


def missing() -> str | None:
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    return f"needs {' and '.join(absent)}: pip install {' '.join(absent)}" if absent else None


def write(result: Path, output: Path, goals: Path | None = None) -> Path:
    """Reads all before it writes anything. Raises stored.BenchError."""
    stored = load(result)
    beside = result.parent / "goals.json"
    more = load_goals(goals or beside) if goals or beside.exists() else None
    pictures = list(plots.all_pictures(stored, more))
    text = render(stored, more, pictures, result.name)
    try:
        for picture in pictures:
            picture.save(output)
        output.mkdir(parents=True, exist_ok=True)
        (output / "index.html").write_text(text, encoding="utf-8")
    except OSError as error:
        raise BenchError(f"{output}: cannot be written ({error.strerror})") from None
    return output / "index.html"


def load_goals(path: Path) -> dict[str, Any]:
    try:
        goals = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BenchError(f"{path}: cannot be read ({error})") from None
    lines = goals.get("lines") if isinstance(goals, dict) else None
    if not isinstance(lines, list) or not all(isinstance(line, dict) for line in lines):
        raise BenchError(f'{path}: expected the JSON of benchmarks/goals.py with "lines"')
    return goals


def render(stored: dict[str, Any], goals: dict[str, Any] | None, pictures: list[Any], source: str) -> str:
    import jinja2
    import markupsafe

    shown = [{"name": p.name, "caption": p.caption, "svg": markupsafe.Markup(p.inline())} for p in pictures]
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    names = {name for line in stored["results"] for name in line["us"]}
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        stored=stored,
        source=source,
        facts=facts(stored),
        chapters=[(said, [p for p in shown if p["name"].startswith(key)]) for key, said in CHAPTERS.items()],
        goals_said=goals_said(goals) if goals else "",
        blocks=list(blocks(stored)),
        titles={name: reading.title(stored, name) for name in names},
        providers=providers(stored, names),
    )


def facts(stored: dict[str, Any]) -> list[tuple[str, str]]:
    out = []
    for group in ("machine", "versions", "isa"):
        for name, value in stored[group].items():
            said = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
            out.append((f"instruction set, {name}" if group == "isa" else str(name), said))
    for key in ("load_before", "seconds"):
        if key in stored:
            out.append((key.replace("_", " "), str(stored[key])))
    return out


def goals_said(goals: dict[str, Any]) -> str:
    machine, versions = goals.get("machine", {}), goals.get("versions", {})
    return (
        f"What a call consists of comes from goals.json, a run of its own: "
        f"{machine.get('cpu', 'machine not said')}, fusedraw {versions.get('fusedraw', 'not said')}."
    )


def blocks(stored: dict[str, Any]):
    groups: dict[tuple, list[dict[str, Any]]] = {}
    for line in stored["results"]:
        varies = GROWTH.get(line["part"])
        groups.setdefault(tuple(None if k == varies else line[k] for k in BLOCK), []).append(line)
    for key, lines in groups.items():
        part, rows, vocab, batch, dtype, threads, cache = key
        shape = [f"V = {vocab}" if vocab else "", f"B = {batch}" if batch else ""]
        said = [*shape, dtype, f"{threads} thread{'s' * (threads > 1)}", f"{rows} rows"]
        said += [part] if part != "grid" else []
        said += [f"{cache} cache"] if cache != "hot" else []
        names = [n for n in ("read", "exp") if any(n in r["us"] for r in lines)]
        names += [n for n in plots.present(stored, lines) if n not in reading.FLOORS]
        made = [row(stored, line, names, GROWTH.get(part)) for line in lines]
        yield {"title": ", ".join(s for s in said if s), "names": names, "rows": made}


def row(stored: dict[str, Any], line: dict[str, Any], names: list[str], varies: str | None) -> dict[str, Any]:
    us = line["us"]
    peer, ours = reading.best_peer(stored, line), reading.median(us, "fusedraw")
    gain = peer / ours if peer and ours else None
    name = CONFIG_TITLES.get(line["config"], line["config"])
    return {
        "title": f"{name}, {'V' if varies == 'vocab' else 'B'} = {line[varies]}" if varies else name,
        "cells": [cell(us.get(n), n, line.get("memory", {})) for n in names],
        "gain": f"{gain:.1f} x" if gain else "-",
        "gain_value": gain or "",
        "below": "; ".join(reading.below(stored, line)),
    }


def cell(times: list[float] | None, name: str, memory: Any) -> dict[str, Any]:
    if times is None:
        return {"value": "", "said": "not measured", "text": "-", "own": name == "fusedraw"}
    said = f"quartiles {times[0]:.4g} to {times[2]:.4g} us, {times[3]} calls"
    used = memory.get(name) if isinstance(memory, dict) else None
    if isinstance(used, dict):
        said += f"; {used.get('peak_bytes')} bytes in {used.get('allocations')} allocations"
    return {"value": times[1], "said": said, "text": reading.time_text(times[1]), "own": name == "fusedraw"}


def providers(stored: dict[str, Any], names: set[str]) -> list[dict[str, Any]]:
    told = stored["providers"]
    order = [n for n in reading.TITLES if n in told] + sorted(set(told) - set(reading.TITLES))
    return [
        {
            "title": told[n].get("title") or reading.title(stored, n),
            "version": told[n].get("version"),
            "deviations": told[n].get("deviations", []),
        }
        for n in order
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m fusedraw.bench.page", description="A page from a stored result."
    )
    parser.add_argument("result", type=Path, help="what python -m fusedraw bench stored")
    parser.add_argument("--output", type=Path, required=True, metavar="DIR", help="where index.html goes")
    parser.add_argument(
        "--goals", type=Path, help="results of benchmarks/goals.py (default: goals.json beside)"
    )
    args = parser.parse_args(argv)
    why = missing()
    try:
        if why:
            raise BenchError(why)
        print(f"page: {write(args.result, args.output, args.goals)}")
    except BenchError as error:
        print(f"page: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
