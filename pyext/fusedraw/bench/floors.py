# SPDX-License-Identifier: Apache-2.0
"""The floors of floors.cpp: compiled by the system's compiler on first use, called through ctypes.

    read  one max pass over each row
    exp   one float32 exp-and-sum pass over each row, its max known beforehand

Rows are CPU tensors [B, V], float32 or bfloat16, stride(1) == 1. Timing is done inside C, so that a floor
carries no cost of Python. Run as a module it checks the floors and prints them for this machine:

    python -m fusedraw.bench.floors --vocab 128256 --data flat
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import hashlib
import math
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch  # before the library is loaded: both then share torch's libgomp and its thread pool

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "fusedraw"
KINDS = {"read": 0, "exp": 1}
DTYPES = {torch.float32: 0, torch.bfloat16: 1}
LOG2E = math.log2(math.e)
FLAGS = ["-O3", "-std=c++17", "-fPIC", "-shared", "-fopenmp", "-ffp-contract=off"]


def build_library(name: str, flags: Sequence[str] = FLAGS) -> Path:
    """`name`.cpp of this folder, built by the system's compiler into the user's cache on first use; it may
    include `name`.inl."""
    source, included = HERE / f"{name}.cpp", HERE / f"{name}.inl"
    text = source.read_bytes() + (included.read_bytes() if included.exists() else b"")
    digest = hashlib.sha256(text + " ".join(flags).encode()).hexdigest()[:12]
    CACHE.mkdir(parents=True, exist_ok=True)
    target = CACHE / f"{name}-{digest}.so"
    if not target.exists():
        compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
        if compiler is None:
            raise RuntimeError(f"benchmarks: no C++ compiler for {source.name}: install g++ or set CXX")
        scratch = target.with_suffix(f".{os.getpid()}.so")
        subprocess.run([compiler, *flags, str(source), "-o", str(scratch)], check=True)
        scratch.replace(target)
    return target


def compile_library(name: str) -> ctypes.CDLL:
    return ctypes.CDLL(str(build_library(name)))


@functools.cache
def library() -> ctypes.CDLL:
    lib = compile_library("floors")
    lib.floors_isa.restype = ctypes.c_char_p
    lib.floors_run.restype = ctypes.c_double
    i64, pointer = ctypes.c_int64, ctypes.c_void_p
    lib.floors_run.argtypes = [ctypes.c_int, ctypes.c_int, pointer, i64, i64, i64]
    lib.floors_run.argtypes += [pointer, ctypes.c_float, pointer, ctypes.c_int, i64]
    return lib


def isa() -> str:
    """The instruction set the floors run on: avx512, or avx2 where the machine has no more."""
    return library().floors_isa().decode()


class Floor:
    """One floor over the rows of `logits` [B, V]; `floor(k)` gives the seconds that k passes take.

    `result` [B] then holds the maxima (read), or sum(exp((x - max) / temperature)) (exp).
    """

    def __init__(self, kind: str, logits: torch.Tensor, threads: int = 1, temperature: float = 1.0):
        if kind not in KINDS or logits.dtype not in DTYPES or logits.dim() != 2 or logits.stride(1) != 1:
            what = f"{kind!r}, {logits.dtype} {list(logits.shape)}"
            raise ValueError(f"Floor: expected read or exp over float32 or bfloat16 [B, V], got {what}")
        rows, cols = logits.shape
        self.result = torch.empty(rows)
        self.maxima = logits.amax(1).float() if kind == "exp" else None
        self.logits = logits  # kept: the call holds its address only
        self.arguments: list[int | float | None] = [
            KINDS[kind],
            DTYPES[logits.dtype],
            logits.data_ptr(),
            rows,
            cols,
            logits.stride(0),
        ]
        self.arguments += [None if self.maxima is None else self.maxima.data_ptr(), LOG2E / temperature]
        self.arguments += [self.result.data_ptr(), threads]
        self.run = library().floors_run

    def __call__(self, iterations: int = 1) -> float:
        return self.run(*self.arguments, iterations)


def check(logits: torch.Tensor, threads: int, temperature: float = 0.8) -> None:
    """Compares both floors with torch in float64; a floor that is wrong measures nothing."""
    read, exp = Floor("read", logits, threads), Floor("exp", logits, threads, temperature)
    read()
    exp()
    exact = logits.double()
    maxima = exact.amax(1, keepdim=True)
    sums = ((exact - maxima) / temperature).exp().sum(1)
    assert torch.equal(read.result.double(), maxima[:, 0]), "floors: the max pass is wrong"
    assert torch.allclose(exp.result.double(), sums, rtol=2e-5), "floors: the exp pass is wrong"


def measure(floor: Floor, passes: int = 400) -> tuple[float, float]:
    """Median and lower quartile of one pass, in seconds."""
    floor(2)
    chunk = max(1, int(2e-4 / max(floor(1), 1e-7)))
    samples = sorted(floor(chunk) / chunk for _ in range(max(20, passes // chunk)))
    return samples[len(samples) // 2], samples[len(samples) // 4]


def main() -> None:
    from . import data

    parser = argparse.ArgumentParser(description="Checks the floors and prints them for this machine.")
    parser.add_argument("--vocab", type=int, default=128256)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--data", default="flat", choices=data.KINDS)
    args = parser.parse_args()
    torch.set_num_threads(2)
    for vocab in (1, 2, 31, 32, 33, 127, 128, 129, 300, 1000):
        for dtype in DTYPES:
            rows = torch.randn(3, vocab).to(dtype)
            rows[0, vocab // 2 + 1 :] = -math.inf
            for threads in (1, 2):
                check(rows, threads)
                check(rows[:1], threads)
    print(f"floors: {isa()}, V = {args.vocab}, {args.data}, us per row: median (lower quartile)")
    for batch in args.batch:
        for dtype in DTYPES:
            rows = data.make(args.data, args.vocab, batch, dtype)
            for threads in (1, 2):
                line = [f"  B {batch:3} {str(dtype)[6:]:9} {threads} thread(s):"]
                for kind in KINDS:
                    middle, low = measure(Floor(kind, rows, threads))
                    line.append(f"{kind} {middle / batch * 1e6:8.2f} ({low / batch * 1e6:.2f})")
                print("  ".join(line))


if __name__ == "__main__":
    main()
