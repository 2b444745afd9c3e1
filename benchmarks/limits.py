# SPDX-License-Identifier: Apache-2.0
"""What the law's arithmetic takes at least on this CPU, beside the floors: a table, and results/limits.json.

    python benchmarks/limits.py                       the instruction set that the floors run on
    FLOORS_ISA=avx2 python benchmarks/limits.py       that of most machines, for both

Bare loops (limits.cpp, compiled against the engine's own sources) over one row: V = 128256 in whole blocks of
256, float32, one thread, the data in cache, interleaved with the floors in one process; medians. No draw, no
search, no call from Python: what remains between such a loop and an engine's time is the engine's. `with the
scan` adds the first pass, which every operation of the law begins with: m is not known ahead, a NaN must be
seen. In AVX-512 also the instructions of some passes with no order between them: what the processor's ports
take for them, below which no loop of these instructions can be.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from fusedraw.bench import data, floors, timing

HERE = Path(__file__).resolve().parent
TARGET = HERE / "results" / "limits.json"
BLOCK = 256
VOCAB = 128256 // BLOCK * BLOCK
TEMPERATURE = 0.8
ZONE = (0.60, 0.608)  # quantiles of the zone that is looked at again: 1,000 tokens; its end is the pivot
# As setup.py compiles the engine; the whole file is one target region.
FLAGS = ["-O3", "-std=c++17", "-fPIC", "-shared", "-fno-wrapv", "-ffp-contract=off", "-fno-math-errno"]
FLAGS += ["-Wno-psabi", "-mavx2", "-mfma", "-mf16c", "-mbmi", "-mbmi2", "-mlzcnt", "-mpopcnt"]
AVX512 = ["-DLIMITS_AVX512", "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl"]


@dataclass(frozen=True)
class Limit:
    """A loop of limits.cpp, or a floor. Operations of a vector by instruction set, no loads: those of the
    multipliers; additions, comparisons, roundings, scalings; integers, masks, moves between registers."""

    name: str
    title: str
    floor: str
    avx512: tuple[float, float, float]
    avx2: tuple[float, float, float] | None
    goal: float | None = None  # times the floor, of the call that the loop is a part of
    with_scan: bool = True


LIMITS = (
    Limit("read", "floor: maximum", "read", (0, 1, 0), (0, 1, 0), None, False),
    Limit("exp", "floor: float32 sum of exps, m known", "exp", (6, 3, 0), (6, 4, 3), None, False),
    Limit("scan", "maxima of blocks, NaN (greedy)", "read", (0, 1.5, 0), (0, 1.5, 0.5), 1.2, False),
    Limit("weights", "exact sum of e (logp)", "exp", (7, 6, 2), (8, 7, 5)),
    Limit("weights-free", "the same instructions in no order", "exp", (7, 6, 2), None),
    Limit("moments", "exact sums of e and t e (logp, entropy)", "exp", (8, 10, 4), (9, 11, 8), 1.5),
    Limit("moments-free", "the same instructions in no order", "exp", (8, 10, 4), None, 1.5),
    Limit("sides", "float32 sums on both sides of a pivot (top-p)", "exp", (6, 7, 1), (7, 8, 5), 2.0),
    Limit("sides-free", "the same instructions in no order", "exp", (6, 7, 1), None, 2.0),
    Limit("look", "the tokens next to it, gathered (top-p)", "read", (0, 2, 2), (0, 2, 2), None, False),
    Limit("rough", "float32 sum, 2^f of degree 3 (top-p)", "exp", (4, 3, 0), (5, 4, 3), 1.3),
)
# Pass of limits.cpp.
PASSES = {"scan": 0, "weights": 1, "moments": 2, "sides": 3, "look": 4, "rough": 5}
FREE = {"weights-free": 6, "moments-free": 7, "sides-free": 8}


def limits_of(isa: str) -> tuple[Limit, ...]:
    return tuple(limit for limit in LIMITS if isa == "avx512" or limit.avx2 is not None)


class Result(ctypes.Structure):
    _fields_ = [
        ("s", ctypes.c_uint64),
        ("g", ctypes.c_uint64),
        ("above", ctypes.c_double),
        ("below", ctypes.c_double),
        ("inside", ctypes.c_int64),
        ("max", ctypes.c_float),
        ("nan", ctypes.c_int32),
    ]


@functools.cache
def library(isa: str) -> Callable[..., float]:
    """limits_run() for an instruction set, compiled anew in each process: it holds the engine's sources."""
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        raise SystemExit("limits: no C++ compiler: install g++ or set CXX")
    flags = [*FLAGS, *(AVX512 if isa == "avx512" else []), f"-I{HERE.parent / 'csrc' / 'cpu'}"]
    with tempfile.TemporaryDirectory() as folder:
        target = f"{folder}/limits.so"
        subprocess.run([compiler, *flags, str(HERE / "limits.cpp"), "-o", target], check=True)
        run = ctypes.CDLL(target).limits_run
    pointer, real = ctypes.c_void_p, ctypes.c_float
    run.argtypes = [ctypes.c_int, pointer, ctypes.c_int64, real, real, real, pointer]
    run.argtypes += [ctypes.POINTER(Result), ctypes.c_int64]
    run.restype = ctypes.c_double
    return run


class Loop:
    """One loop over `row` [n]; called with a number of rounds it gives the seconds that they took."""

    def __init__(self, name: str, row: torch.Tensor, isa: str, zone: tuple[float, float]):
        if row.dtype != torch.float32 or row.dim() != 1 or row.numel() == 0 or row.numel() % BLOCK:
            what = f"{row.dtype} {list(row.shape)}"
            raise ValueError(f"limits: expected a float32 row of whole blocks of {BLOCK}, got {what}")
        self.row, self.room = row.contiguous(), torch.empty(row.numel() // BLOCK * 2 + row.numel() * 2 + 64)
        self.result, self.run = Result(), library(isa)
        self.before = ((PASSES | FREE)[name], self.row.data_ptr(), row.numel(), TEMPERATURE, *zone)

    def __call__(self, rounds: int = 1) -> float:
        return self.run(*self.before, self.room.data_ptr(), ctypes.byref(self.result), rounds)


def zone_of(row: torch.Tensor) -> tuple[float, float]:
    ordered = row.sort().values
    low, high = (float(ordered[int(q * row.numel())]) for q in ZONE)
    return low, high


def measure(kind: str, rounds: int) -> dict[str, float]:
    """Microseconds by name."""
    row = data.make(kind, VOCAB, 1, torch.float32)[0].clone()
    chunks: dict[str, timing.Chunk] = {}
    for limit in limits_of(floors.isa()):
        if limit.name in PASSES | FREE:
            chunks[limit.name] = timing.chunk_in_c(Loop(limit.name, row, floors.isa(), zone_of(row)))
        else:
            chunks[limit.name] = timing.chunk_in_c(floors.Floor(limit.name, row[None], 1, TEMPERATURE))
    torch.set_num_threads(1)
    got = timing.interleave(chunks, rounds, chunk_seconds=3e-4, most_seconds=10)
    return {name: round(samples.median * 1e6, 2) for name, samples in got.items()}


def operations(limit: Limit, isa: str) -> tuple[float, float, float]:
    return limit.avx512 if isa == "avx512" or limit.avx2 is None else limit.avx2


def table(isa: str, us: dict[str, float]) -> list[str]:
    """In Markdown."""
    lines = [
        f"| {isa} | multiply | add, compare | other | all | us | x floor | with the scan | goal of a call |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for limit in limits_of(isa):
        counts = operations(limit, isa)
        floor = us[limit.floor]
        cells = [limit.title, *(f"{n:g}" for n in (*counts, sum(counts))), f"{us[limit.name]:.1f}"]
        cells.append(f"{us[limit.name] / floor:.2f} {limit.floor}")
        cells.append(f"{(us[limit.name] + us['scan']) / floor:.2f}" if limit.with_scan else "")
        cells.append(f"{limit.goal:g} {limit.floor}" if limit.goal is not None else "")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def main() -> None:
    timing.keep_memory()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--data", default="flat", choices=data.KINDS)
    parser.add_argument("--output", type=Path, default=TARGET, help="where the JSON goes")
    args = parser.parse_args()
    if args.rounds < 1:
        parser.error(f"--rounds: expected 1 or more, got {args.rounds}")
    isa, load = floors.isa(), timing.load()
    print(f"{timing.machine()['cpu']}; V = {VOCAB}, {args.data}; medians of {args.rounds} interleaved rounds")
    print(timing.load_said(), flush=True)
    us = measure(args.data, args.rounds)
    print("\n".join(table(isa, us)))
    # One run measures one instruction set; the file keeps the others that this machine has.
    old = json.loads(args.output.read_text()) if args.output.exists() else {}
    kept = old.get("limits", {}) if old.get("machine") == timing.machine() else {}
    found = {"data": args.data, "rounds": args.rounds, "load_before": load, "us": us}
    found["over_floor"] = {k.name: round(us[k.name] / us[k.floor], 3) for k in limits_of(isa)}
    found["operations"] = {k.name: operations(k, isa) for k in limits_of(isa)}
    timing.store(args.output, vocab=VOCAB, limits={**kept, isa: found})
    print(f"stored: {args.output}")


if __name__ == "__main__":
    main()
