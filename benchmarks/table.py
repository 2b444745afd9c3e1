# SPDX-License-Identifier: Apache-2.0
"""Writes the README's tables from stored results: times between the markers bench:begin and bench:end, speed
goals (results/goals.json) between goals:begin and goals:end, times on a device (results/bench_gpu.json)
between bench-gpu:begin and bench-gpu:end.

python benchmarks/table.py                       results/bench.json (else bench-quick.json) -> README.md
python benchmarks/table.py --print               only prints it
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import gpu_table
from fusedraw.bench import cases

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
README = HERE.parent / "README.md"
BENCH, GOALS, GPU = "bench", "goals", "bench-gpu"
COLUMNS = {
    "read": "floor: read",
    "exp": "floor: exp",
    "fusedraw": "**fusedraw**",
    "torch": "pure PyTorch",
    "hugging-face": "Hugging Face",
}
# (rows, V, B, dtype, threads) of each block of the table; a block without results is left out
BLOCKS = (
    ("real", 49152, 1, "float32", 1),
    ("peaked", 128256, 1, "float32", 1),
    ("flat", 128256, 1, "float32", 1),
    ("peaked", 128256, 1, "bfloat16", 1),
    ("peaked", 128256, 64, "float32", 1),
    ("peaked", 128256, 64, "float32", 2),
    ("real", 262144, 8, "bfloat16", 2),
)
ROWS_SAID = {
    "real": "next-token logits of SmolLM2-135M",
    "real-like": "those rows stretched to this V",
    "flat": "normal, sd 1",
    "peaked": "p ~ 1 / (rank + 1)^a, a = 1.3 to 2.0",
}


def time_text(us: float | None) -> str:
    if us is None:
        return "-"
    if us < 100:
        return f"{us:.1f}"
    return f"{us:.0f}" if us < 10_000 else f"{us / 1000:.1f} ms"


def median(us: dict[str, list[float]], name: str) -> float | None:
    """Stored per provider: lower quartile, median, upper quartile, calls."""
    names = ("torch", "torch-compile") if name == "torch" else (name,)
    return min((us[n][1] for n in names if n in us), default=None)


def block(stored: dict, rows: str, vocab: int, batch: int, dtype: str, threads: int) -> list[str]:
    chosen = {
        result["config"]: result
        for result in stored["results"]
        if (result["data"], result["vocab"], result["batch"]) == (rows, vocab, batch)
        and (result["dtype"], result["threads"]) == (dtype, threads)
    }
    if not chosen:
        return []
    label = next(iter(chosen.values()))["rows"]
    said = f"{label} rows ({ROWS_SAID[label]})"
    count = f"{threads} thread{'s' * (threads > 1)}"
    lines = [f"V = {vocab}, B = {batch}, {dtype}, {count}, {said}", ""]
    lines.append("| | " + " | ".join(COLUMNS.values()) + " | faster than the best peer |")
    lines.append("|---|" + "--:|" * (len(COLUMNS) + 1))
    for config in cases.CONFIGS:
        if config not in chosen:
            continue
        us = chosen[config]["us"]
        values = {name: median(us, name) for name in COLUMNS}
        peers = [values[name] for name in ("torch", "hugging-face") if values[name] is not None]
        ours = values["fusedraw"]
        gain = f"{min(peers) / ours:.1f} x" if peers and ours else "-"
        cells = [time_text(values[name]) for name in COLUMNS]
        lines.append(f"| {cases.TITLES[config]} | " + " | ".join(cells) + f" | {gain} |")
    return [*lines, ""]


def table(stored: dict) -> str:
    machine, versions = stored["machine"], stored["versions"]
    caches = ", ".join(f"{level} {size}" for level, size in machine["caches"].items())
    isa = stored["isa"]["fusedraw"]
    lines = [
        f"Microseconds per call of a whole batch, median of interleaved rounds in one process. "
        f"{machine['cpu']}, {machine['cores']} cores, {caches}; instruction set {isa}. "
        f"torch {versions['torch']}, transformers {versions['transformers']}, Python {versions['python']}, "
        f"fusedraw {versions['fusedraw']}. Command: `{stored['command']}`.",
        "",
        "fusedraw and the peers are timed from Python, call and all (fusedraw: a prepared `Sampler`); the "
        "floors in C: `read` is one max pass over the rows, `exp` one float32 exp-and-sum pass. Pure PyTorch "
        "is the faster of `pyext/fusedraw/bench/pure_torch.py`'s samplers, eager or compiled; Hugging Face is the "
        "`transformers` warpers and `torch.multinomial`. All were first checked to draw from the law.",
        "",
    ]
    for which in BLOCKS:
        lines += block(stored, *which)
    return "\n".join(lines)


def load(path: Path | None) -> dict:
    tried = [path] if path else [RESULTS / "bench.json", RESULTS / "bench-quick.json"]
    for candidate in tried:
        if candidate.exists():
            return json.loads(candidate.read_text())
    names = " or ".join(str(p) for p in tried)
    raise SystemExit(f"table: no stored results in {names}; run: make bench")


def goals_table(stored: dict) -> str:
    """One line per goal; lines that differ only in the rows (flat, peaked, real-like) come together."""
    kinds = ("flat", "peaked", "real-like")
    groups: dict[tuple[str, str], dict[str, str]] = {}
    for line in stored["lines"]:
        if line["part"] in ("peers", "memory"):
            continue
        parts = line["goal"].split(", ")
        kind = next((k for k in kinds if k in parts), "")
        goal = ", ".join(p for p in parts if p != kind)
        limit = f"{'>=' if line['at_least'] else '<='} {line['limit']:g} {line['unit']}"
        if goal.startswith("top-p 0.9") and line["unit"] == "x exp":
            limit = "<= 2 x exp, flat 3 x"
        groups.setdefault((goal, limit), {})[kind] = f"{line['measured']:.2f}"
    lines = ["| goal | limit | flat | peaked | real-like |", "|---|---|--:|--:|--:|"]
    for (goal, limit), found in groups.items():
        cells = [found.get("", "")] + [""] * 2 if "" in found else [found.get(k, "-") for k in kinds]
        lines.append(f"| {goal} | {limit} | {' | '.join(cells)} |")
    said = (
        "V = 128256, float32, B = 1, one thread, where a line does not say otherwise; ratios within one run."
    )
    return "\n".join([said, "", *lines])


def put(readme: Path, name: str, text: str) -> None:
    """Between the markers of that name, which the file must hold once each."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    old = readme.read_text()
    if old.count(begin) != 1 or old.count(end) != 1:
        raise SystemExit(f"table: {readme} must hold {begin} and {end} once each")
    head, rest = old.split(begin)
    readme.write_text(f"{head}{begin}\n{text}\n{end}{rest.split(end)[1]}")
    print(f"table: {name} written to {readme}")


def main() -> int:
    parser = argparse.ArgumentParser(description="Writes the benchmark tables of the README.")
    parser.add_argument("--results", type=Path, default=None)
    parser.add_argument("--readme", type=Path, default=README)
    parser.add_argument("--print", action="store_true", dest="only_print")
    args = parser.parse_args()
    texts = {BENCH: table(load(args.results))}
    goals = RESULTS / "goals.json"
    if goals.exists():
        texts[GOALS] = goals_table(json.loads(goals.read_text()))
    gpu = RESULTS / "bench_gpu.json"
    if gpu.exists():
        texts[GPU] = gpu_table.table(json.loads(gpu.read_text()))
    for name, text in texts.items():
        if args.only_print:
            print(text)
        else:
            put(args.readme, name, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
