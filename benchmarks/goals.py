# SPDX-License-Identifier: Apache-2.0
"""Measures every speed goal and prints `goal | measured | reached?`; stores results/goals.json.

    python benchmarks/goals.py                                          all parts, a few minutes
    python benchmarks/goals.py --part engine --data flat --config T top-p    seconds, for tuning

One thread, V = 128256, float32, B = 1 unless a line says otherwise. Engine time is the call less the same
call at V = 64 (what Python and the dispatcher cost is reported apart). Every figure is a median over
interleaved rounds, each on the next row of the data; floors and engine read the same row in the same round.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import torch
from fusedraw.bench import cases, data, floors, timing
from goal_lines import Line, load_engine
from goals_calls import mix_part, overhead_part, peers_part
from goals_engine import ENGINE_GOALS, batch_part, engine_part
from goals_memory import memory_part

PARTS: dict[str, Callable[[argparse.Namespace], list[Line]]] = {
    "engine": engine_part,
    "batch": batch_part,
    "overhead": overhead_part,
    "mix": mix_part,
    "memory": memory_part,
    "peers": peers_part,
}
ALSO = {"bf16": "engine", "isa": "engine", "threads": "batch"}  # measured together with


def print_lines(lines: list[Line]) -> None:
    for line in lines:
        goal, measured, verdict = line.cells()
        print(f"{goal:<76} | {measured:<96} | {verdict}", flush=True)


def main() -> None:
    timing.keep_memory()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    everything = [*PARTS, *ALSO]
    parser.add_argument("--part", nargs="+", default=everything, choices=everything)
    parser.add_argument("--data", nargs="+", default=list(data.KINDS), choices=data.KINDS)
    parser.add_argument("--config", nargs="+", default=list(ENGINE_GOALS), choices=list(cases.CONFIGS))
    parser.add_argument(
        "--isa", default=None, help="the instruction set of the engine (default: its own choice)"
    )
    parser.add_argument("--rounds", type=int, default=96)
    parser.add_argument("--chunk", type=float, default=3e-4, help="seconds of one chunk of calls")
    parser.add_argument(
        "--output", type=Path, default=None, help="where the JSON goes (default: results/goals.json)"
    )
    args = parser.parse_args()
    engine = load_engine()
    if args.isa:
        engine._C.set_isa(args.isa)
    print(f"goals: engine {engine._C.isa()}, floors {floors.isa()}, torch {torch.__version__}")
    print(f"{timing.machine()['cpu']}; medians of {args.rounds} interleaved rounds")
    print(timing.load_said(), flush=True)
    load = timing.load()
    lines: list[Line] = []
    for name, part in PARTS.items():
        if name in args.part or any(ALSO[p] == name for p in args.part if p in ALSO):
            new = [line for line in part(args) if line.part in args.part]
            print_lines(new)
            lines += new
    reached = sum(line.verdict == "yes" for line in lines)
    print(f"{reached} of {len(lines)} reached")
    partial = set(args.part) != set(everything) or len(args.data) < 3 or len(args.config) < len(ENGINE_GOALS)
    target = args.output or (None if partial else Path(__file__).resolve().parent / "results" / "goals.json")
    if target is None:
        print("not stored: only a part was measured (--output stores it)")
        return
    target.parent.mkdir(exist_ok=True)
    stored = {
        "machine": timing.machine(),
        "versions": timing.versions(),
        "isa": {"engine": engine._C.isa(), "floors": floors.isa()},
        "rounds": args.rounds,
        "load_before": load,
        "lines": [{**asdict(line), "verdict": line.verdict} for line in lines],
    }
    target.write_text(json.dumps(stored, indent=1) + "\n")
    print(f"stored: {target}")


if __name__ == "__main__":
    main()
