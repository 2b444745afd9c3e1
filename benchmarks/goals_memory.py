# SPDX-License-Identifier: Apache-2.0
"""The goal of memory. As a script, `goals_memory.py CONFIG THREADS`, it measures one configuration, in the
fresh process that this needs."""

from __future__ import annotations

import argparse
import ctypes
import subprocess
import sys
from pathlib import Path

import torch
from fusedraw.bench import cases, data
from goal_lines import SMALL_VOCAB, Line, calls_for

MOST_VOCAB = 262144  # up to here the memory goal holds
MEMORY_GOAL = 1 << 20  # bytes per thread


def memory_part(args: argparse.Namespace) -> list[Line]:
    """Extra memory per thread at V = 262144, in a fresh process per configuration."""
    lines = []
    for config in args.config:
        for threads in (1, 2):
            command = [sys.executable, __file__, config, str(threads)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                raise RuntimeError(f"goals: the memory of {config} was not measured: {done.stderr[-2000:]}")
            kept, passing = map(int, done.stdout.split()[-2:])
            goal = f"{cases.TITLES[config]}, V = {MOST_VOCAB}, {threads} thread{'s' * (threads > 1)}"
            note = f"kept {kept >> 10} KB, in passing {passing >> 10} KB"
            measured = (kept + passing) / threads / MEMORY_GOAL
            lines.append(Line("memory", goal, measured, 1.0, "MB a thread", note))
    return lines


def memory_child(config: str, threads: int) -> None:
    """Prints the bytes that calls keep, and the bytes that they touch in passing beside those.

    First pass: what stays afterwards was kept. Second pass, code and kept memory being there: the peak.
    """
    torch.set_num_threads(threads)
    libc = ctypes.CDLL(None)
    libc.mallopt(-2, 0)  # M_TOP_PAD: freed memory goes back whole, so that a peak is seen again
    inputs, small = [], []
    for kind in data.KINDS:
        for dtype in cases.DTYPES.values():
            rows = data.make(kind, MOST_VOCAB, threads, dtype)
            inputs += calls_for(config, rows)
            small += calls_for(config, rows[:, :SMALL_VOCAB].contiguous())
    data.base_rows.cache_clear()
    for call in small:
        call()
    libc.malloc_trim(0)
    before = memory("RssAnon")
    for call in inputs:
        call()
    libc.malloc_trim(0)
    kept = max(0, memory("RssAnon") - before)
    start = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    for call in inputs:
        call()
    print(kept, max(0, memory("VmHWM") - start))


def memory(field: str) -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) * 1024


if __name__ == "__main__":
    memory_child(sys.argv[1], int(sys.argv[2]))
