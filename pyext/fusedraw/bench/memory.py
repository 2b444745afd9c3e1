# SPDX-License-Identifier: Apache-2.0
"""Memory of one call: the most bytes it holds at a time on top of its inputs, and its number of allocations.

Counted are the calls of malloc's family for 1 KiB and more, in all threads, by whatever library: torch's
tensors, NumPy's arrays and C++ vectors alike (allocations.cpp, loaded ahead of the C library in a process of
its own). It is a later call that is counted: buffers that a sampler keeps from call to call are not in it,
what a call returns is. Linux with glibc.
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict

from . import floors
from .cases import FEW_CONFIGS, Case

FLAGS = ("-O2", "-std=c++17", "-fPIC", "-shared")
VOCAB = 128256
BATCHES = (1, 8)

Counts = dict[str, dict[str, int]]  # by provider


def wanted(case: Case) -> bool:
    """A few cases tell it all: it depends on the shape and on the filters."""
    usual = case.data == "peaked" and case.threads == 1 and case.dtype == "float32" and case.vocab == VOCAB
    if not usual or case.batch not in BATCHES:
        return False
    return case.part == "features" or (case.part == "grid" and case.config in FEW_CONFIGS)


def possible() -> bool:
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"


def measure(work: list[tuple[Case, list[str]]]) -> list[Counts]:
    """Of each case and its providers, in one new process. Raises RuntimeError with what it said."""
    library = floors.build_library("allocations", FLAGS)
    given = json.dumps([[asdict(case), names] for case, names in work])
    command = [sys.executable, "-m", "fusedraw.bench.memory"]
    environment = {**os.environ, "LD_PRELOAD": str(library)}
    done = subprocess.run(command, input=given, env=environment, capture_output=True, text=True)
    lines = done.stdout.splitlines()
    if done.returncode != 0 or not lines:
        raise RuntimeError(f"the memory of calls was not measured: {done.stderr.strip()[-500:]}")
    return json.loads(lines[-1])


def count(case: Case, names: list[str]) -> Counts:
    """In a process that has the counters loaded."""
    import torch

    from . import sources

    torch.set_num_threads(case.threads)
    counters = ctypes.CDLL(None)
    most, number = ctypes.c_int64(), ctypes.c_int64()
    logits = sources.rows(case)
    out: Counts = {}
    for name in names:
        run = sources.chunk(name, case, logits)
        run(1, True)
        counters.allocations_start()
        run(1, False)
        counters.allocations_stop(ctypes.byref(most), ctypes.byref(number))
        out[name] = {"peak_bytes": most.value, "allocations": number.value}
    return out


def main() -> None:
    print(json.dumps([count(Case(**case), names) for case, names in json.load(sys.stdin)]))


if __name__ == "__main__":
    main()
