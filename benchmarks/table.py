# SPDX-License-Identifier: Apache-2.0
"""Writes the README's tables from stored results: times between the markers bench:begin and bench:end, speed
goals (results/goals.json) between goals:begin and goals:end, times on a device (results/bench_gpu.json)
between bench-gpu:begin and bench-gpu:end.

python benchmarks/table.py                       results/bench.json -> README.md
python benchmarks/table.py --print               only prints it
python benchmarks/table.py --check               writes nothing; 1 and a diff where the README says otherwise
"""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from pathlib import Path

import gpu_table
from fusedraw.bench import cases, reading
from fusedraw.bench.reading import median, time_text
from fusedraw.bench.stored import BenchError
from fusedraw.bench.stored import load as load_run

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


def block(stored: dict, rows: str, vocab: int, batch: int, dtype: str, threads: int) -> list[str]:
    chosen = {
        result["config"]: result
        for result in stored["results"]
        if (result["data"], result["vocab"], result["batch"]) == (rows, vocab, batch)
        and (result["dtype"], result["threads"], result["part"]) == (dtype, threads, "grid")
    }
    if not chosen:
        return []
    label = next(iter(chosen.values()))["rows"]
    said = f"{label} rows ({ROWS_SAID[label]})"
    count = f"{threads} thread{'s' * (threads > 1)}"
    lines = [f"V = {vocab}, B = {batch}, {dtype}, {count}, {said}", ""]
    found = {name for result in chosen.values() for name in result["us"]}
    told = reading.peers(stored, list(chosen.values()))
    extra = [n for n in told if n not in COLUMNS and n != "torch-compile"]
    columns = {n: title for n, title in COLUMNS.items() if n in found}
    columns.update({n: reading.title(stored, n) for n in extra})
    lines.append("| | " + " | ".join(columns.values()) + " | faster than the best peer |")
    lines.append("|---|" + "--:|" * (len(columns) + 1))
    below = []
    for config in cases.CONFIGS:
        if config not in chosen:
            continue
        us = chosen[config]["us"]
        peer, ours = reading.best_peer(stored, chosen[config]), median(us, "fusedraw")
        gain = f"{peer / ours:.1f} x" if peer and ours else "-"
        cells = [time_text(median(us, name)) for name in columns]
        lines.append(f"| {cases.TITLES[config]} | " + " | ".join(cells) + f" | {gain} |")
        missed = reading.below(stored, chosen[config])
        below += [f"{cases.TITLES[config]}: {', '.join(missed)}"] if missed else []
    return [*lines, "", *(["Below the goals: " + "; ".join(below) + ".", ""] if below else [])]


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
        "is the faster of the samplers in `pyext/fusedraw/bench/pure_torch.py`, eager or compiled; Hugging "
        "Face is the `transformers` warpers and `torch.multinomial`. All were first checked to draw from the "
        "law.",
        "",
        "Goals: pure PyTorch and llama.cpp take 4 x fusedraw's time, bucketed 2 x (T only), vLLM CPU 15 x, "
        "Hugging Face 40 x, at greedy all but numpy 2 x; or fusedraw takes at most 1.2 x `read`, where sums "
        "are needed (top-p, logp and entropy) 1.2 x `exp`. What misses them is named under its table.",
        "",
    ]
    for which in BLOCKS:
        lines += block(stored, *which)
    return "\n".join(lines)


def load(path: Path | None) -> dict:
    try:
        return load_run(path or RESULTS / "bench.json")
    except BenchError as error:
        print(f"table: {error} (make bench)", file=sys.stderr)
        raise SystemExit(2) from None


def goals_table(stored: dict) -> str:
    """One line per goal; lines that differ only in the rows (flat, peaked, real-like) come together."""
    kinds = ("flat", "peaked", "real-like")
    groups: dict[tuple[str, str], dict[str, dict]] = {}
    for line in stored["lines"]:
        if line["part"] in ("peers", "memory"):
            continue
        parts = line["goal"].split(", ")
        kind = next((k for k in kinds if k in parts), "")
        goal = ", ".join(p for p in parts if p != kind)
        groups.setdefault((goal, line["unit"]), {})[kind] = line
    lines = ["| goal | limit | flat | peaked | real-like |", "|---|---|--:|--:|--:|"]
    for (goal, unit), found in groups.items():
        # A limit of flat rows' own stands behind that of the others.
        *others, last = sorted(found, key=lambda kind: kind == "flat")
        first = found[others[0] if others else last]
        limit = f"{'>=' if first['at_least'] else '<='} {first['limit']:g} {unit}"
        if found[last]["limit"] != first["limit"]:
            limit += f", {last} {found[last]['limit']:g} x"
        said = {kind: f"{line['measured']:.2f}" for kind, line in found.items()}
        cells = [said.get("", "")] + [""] * 2 if "" in said else [said.get(k, "-") for k in kinds]
        lines.append(f"| {goal} | {limit} | {' | '.join(cells)} |")
    said = (
        "V = 128256, float32, B = 1, one thread, where a line does not say otherwise; ratios within one run."
    )
    return "\n".join([said, "", *lines])


def put(text: str, name: str, table: str, where: Path) -> str:
    """The text with the table between the markers of that name, which it must hold once each."""
    begin, end = f"<!-- {name}:begin -->", f"<!-- {name}:end -->"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise SystemExit(f"table: {where} must hold {begin} and {end} once each")
    head, rest = text.split(begin)
    return f"{head}{begin}\n{table}\n{end}{rest.split(end)[1]}"


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Writes the benchmark tables of the README.")
    parser.add_argument("--results", type=Path, default=None)
    parser.add_argument("--readme", type=Path, default=README)
    parser.add_argument("--print", action="store_true", dest="only_print")
    parser.add_argument(
        "--check", action="store_true", help="exit code 1 and a diff where the README differs"
    )
    args = parser.parse_args(argv)
    texts = {BENCH: table(load(args.results))}
    goals = RESULTS / "goals.json"
    if goals.exists():
        texts[GOALS] = goals_table(json.loads(goals.read_text()))
    gpu = RESULTS / "bench_gpu.json"
    if gpu.exists():
        texts[GPU] = gpu_table.table(json.loads(gpu.read_text()))
    if args.only_print:
        print("\n".join(texts.values()))
        return 0
    old = new = args.readme.read_text(encoding="utf-8")
    for name, text in texts.items():
        new = put(new, name, text, args.readme)
    if args.check:
        lines = (text.splitlines() for text in (old, new))
        diff = list(difflib.unified_diff(*lines, str(args.readme), "what the JSON gives", lineterm="", n=1))
        print(
            "\n".join([*diff, "run: python benchmarks/table.py"]) if diff else "table: the README is current"
        )
        return int(bool(diff))
    args.readme.write_text(new, encoding="utf-8")
    print(f"table: {', '.join(texts)} written to {args.readme}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
