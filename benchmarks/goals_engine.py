# SPDX-License-Identifier: Apache-2.0
"""Goals of the engine: floors, dtypes, instruction sets, batches and threads."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable

import torch
from fusedraw.bench import cases, data, floors, timing
from fusedraw.bench.timing import chunk_in_c, chunk_of, interleave
from goal_lines import KEYS, ROWS, SMALL_VOCAB, VOCAB, Line, RowByRow, calls_for, engine_time, load_engine, us

# (floor, how many times the floor) per configuration and kind of data.
ENGINE_GOALS: dict[str, dict[str, tuple[str, float]]] = {
    "greedy": dict.fromkeys(data.KINDS, ("read", 1.2)),
    "T": dict.fromkeys(data.KINDS, ("read", 2.0)),
    "min-p": dict.fromkeys(data.KINDS, ("read", 2.5)),
    "top-k": dict.fromkeys(data.KINDS, ("read", 2.5)),
    "top-k+top-p": dict.fromkeys(data.KINDS, ("read", 2.5)),
    "top-p": {"real": ("exp", 1.3), "peaked": ("exp", 1.3), "flat": ("exp", 2.0)},
    "T+logp+entropy": dict.fromkeys(data.KINDS, ("exp", 1.5)),
}
ISA_GOAL = 2.5  # avx2 over avx512
BATCH_GOAL = 1.15  # a row of B = 64 over the same row alone
THREADS_GOAL = 0.97  # of the read floor's speed-up with two threads
LEAST_FLOOR_GAIN = 1.3  # below it the machine is busy, or has one core: not measured


def engine_part(args: argparse.Namespace) -> list[Line]:
    """Ratios to the floors; bfloat16 against float32; avx2 against avx512."""
    lines: list[Line] = []
    engine = load_engine()
    best = args.isa or engine._C.isa()
    other = "avx2" if best == "avx512" and "isa" in args.part else None
    wide = "bf16" in args.part
    for kind in args.data:
        rows = {name: data.make(kind, VOCAB, ROWS, dtype) for name, dtype in cases.DTYPES.items()}
        walk = RowByRow(ROWS)
        chunks: dict[str, timing.Chunk] = {}
        for floor in floors.KINDS:
            made = [floors.Floor(floor, rows["float32"][i : i + 1]) for i in range(ROWS)]
            chunks[floor] = walk.chunk([chunk_in_c(f) for f in made])
        variants = [("float32", best)]
        variants += [("bfloat16", best)] if wide else []
        variants += [("float32", other)] if other else []
        for config in args.config:
            for dtype, isa in variants:
                before = functools.partial(engine._C.set_isa, isa)
                for vocab in (VOCAB, SMALL_VOCAB):
                    views = [rows[dtype][i : i + 1, :vocab].contiguous() for i in range(ROWS)]
                    per_row = [chunk_of(calls_for(config, v), before) for v in views]
                    chunks[f"{config}/{dtype}/{isa}/{vocab}"] = walk.chunk(per_row)
        torch.set_num_threads(1)
        got = interleave(chunks, args.rounds, chunk_seconds=args.chunk, most_seconds=10, on_round=walk.start)
        engine._C.set_isa(best)
        label = data.label(kind, VOCAB)
        for config in args.config:
            time, call, small = engine_time(got, f"{config}/float32/{best}")
            floor, limit = ENGINE_GOALS.get(config, {}).get(kind, ("exp", float("nan")))
            base = got[floor].median
            worst = walk.worst(got[f"{config}/float32/{best}/{VOCAB}"], args.rounds, small) / base
            note = f"engine {us(time)}, {floor} {us(base)}, call {us(call)}, V=64 {us(small)}"
            note += f", worst row {worst:.2f}"
            goal = f"{cases.TITLES[config]}, {label}"
            if limit == limit:
                lines.append(Line("engine", goal, time / base, limit, f"x {floor}", note))
            if wide:
                half = engine_time(got, f"{config}/bfloat16/{best}")[0]
                lines.append(Line("bf16", goal + ", bfloat16", half / time, 1.0, "x float32", us(half)))
            if other:
                slow = engine_time(got, f"{config}/float32/{other}")[0]
                lines.append(Line("isa", f"{goal}, {other}", slow / time, ISA_GOAL, f"x {best}", us(slow)))
    return lines


def batch_part(args: argparse.Namespace) -> list[Line]:
    """B = 64 against the same rows one by one, and two threads against one, over the same buffers.

    64 rows are 33 MB and are walked in order, so each row comes from beyond the second-level cache.
    """
    lines: list[Line] = []
    batch = 64
    for kind in args.data:
        rows = {
            vocab: data.make(kind, VOCAB, batch)[:, :vocab].contiguous() for vocab in (VOCAB, SMALL_VOCAB)
        }
        chunks: dict[str, timing.Chunk] = {}
        for threads in (1, 2):
            chunks[f"read/{threads}"] = chunk_in_c(floors.Floor("read", rows[VOCAB], threads))
        for config in args.config:
            for vocab, logits in rows.items():
                for threads in (1, 2):
                    before = functools.partial(torch.set_num_threads, threads)
                    chunks[f"{config}/{threads}/{vocab}"] = chunk_of(calls_for(config, logits), before)
                chunks[f"{config}/alone/{vocab}"] = one_by_one(config, logits)
        got = interleave(chunks, max(15, args.rounds // 4), chunk_seconds=5e-3, most_seconds=10)
        torch.set_num_threads(1)
        label = data.label(kind, VOCAB)
        floor_gain = got["read/1"].median / got["read/2"].median
        for config in args.config:
            together, alone, two = (engine_time(got, f"{config}/{w}")[0] for w in ("1", "alone", "2"))
            goal = f"{cases.TITLES[config]}, {label}, B = 64"
            note = f"{us(together / batch)} a row, alone {us(alone / batch)}"
            lines.append(Line("batch", goal, together / alone, BATCH_GOAL, "x the row alone", note))
            # a second thread that has no core to itself shows nothing about either of them
            gain = together / two if floor_gain > LEAST_FLOOR_GAIN else float("nan")
            note = f"engine {gain:.2f} x, floor {floor_gain:.2f} x, {us(two / batch)} a row"
            goal += ", 2 threads"
            lines.append(Line("threads", goal, gain / floor_gain, THREADS_GOAL, "x the floor's", note, True))
    return lines


def one_by_one(config: str, logits: torch.Tensor) -> timing.Chunk:
    """All rows, each in a call of its own; a chunk of one is the whole walk."""
    walks: list[Callable[[], object]] = []
    singles = [calls_for(config, logits[i : i + 1]) for i in range(logits.shape[0])]
    for key in range(KEYS):
        calls = [per_row[key] for per_row in singles]
        walks.append(lambda calls=calls: [call() for call in calls])
    return chunk_of(walks, lambda: torch.set_num_threads(1))
