# SPDX-License-Identifier: Apache-2.0
"""Counts what a draw does on a device, without one: bytes by the executor, instructions by executing the
machine code, both checked for the tokens of the CPU engine."""

from __future__ import annotations

import os
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import cuda_compile
import cuda_launches
import torch
from fusedraw.bench import cases, data
from sass import run as machine

ONE_LAUNCH = 128  # rows from which on each is one thread block's
MODES = ("B = 1", "one launch")
ROWS = 4  # of each kind, for bytes
KEYS_SEED = 17


@dataclass(frozen=True)
class Draw:
    """One configuration on one kind of rows."""

    data: str
    vocab: int
    dtype: str
    config: str
    mode: str

    @property
    def settings(self) -> dict:
        return cases.CONFIGS[self.config]

    def rows(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """(logits, keys) of the first `count` rows."""
        generator = torch.Generator().manual_seed(KEYS_SEED)
        keys = torch.randint(-(2**62), 2**62, (data.MAX_ROWS, 2), generator=generator)
        return data.make(self.data, self.vocab, count, cases.DTYPES[self.dtype]), keys[:count]

    def call(self, x: torch.Tensor, keys: torch.Tensor, record: bool) -> list[cuda_launches.Call]:
        """One call per row, or one call for all of them as part of a large batch."""
        if self.mode == "one launch":
            return [cuda_launches.sample(x, keys, self.settings, record, as_rows=ONE_LAUNCH)]
        return [
            cuda_launches.sample(x[r : r + 1], keys[r : r + 1], self.settings, record) for r in range(len(x))
        ]


def expected(draw: Draw, x: torch.Tensor, keys: torch.Tensor) -> list[int]:
    import fusedraw

    out = fusedraw.sample(x, keys=keys, **draw.settings)
    return (out if isinstance(out, torch.Tensor) else out.ids).tolist()


def check(draw: Draw, x: torch.Tensor, keys: torch.Tensor, calls: list[cuda_launches.Call], by: str) -> None:
    got = [token for call in calls for token in call.ids.tolist()]
    want = expected(draw, x, keys)
    if got != want:
        raise AssertionError(f"{by}: {draw} gives the tokens {got}, the CPU engine {want}")


def bytes_moved(draw: Draw, rows: int = ROWS) -> list[dict]:
    """Of each launch, for one row: kernel, thread blocks, bytes read and written, 16-byte loads of a lane;
    means over so many rows."""
    x, keys = draw.rows(rows)
    calls = draw.call(x, keys, record=False)
    check(draw, x, keys, calls, "the executor")
    out = []
    for same in zip(*(call.launches for call in calls), strict=True):
        rows = sum(launch["ran"] if draw.mode == "one launch" else 1 for launch in same)
        entry = {"kernel": same[0]["kernel"], "threads": same[0]["threads"]}
        entry["blocks"] = sum(launch["ran"] for launch in same) / rows
        for name in ("read", "written", "loads16", "sectors"):
            entry[name] = sum(launch[name] for launch in same) / rows
        out.append(entry)
    return out


# Instructions. Each process keeps the programs of what it has compiled.

_programs: dict[int, dict[str, machine.Program]] = {}


def use(compiled: list[cuda_compile.Compiled]) -> None:
    """What `execute` executes from now on."""
    for part in compiled:
        of = _programs.setdefault(part.arch, {})
        for name, kernel in part.machine_code.items():
            of[name] = machine.Program(kernel, part.arch, part.constants.get(name, {}))


def execute(draw: Draw, arch: int, rows: int) -> list[tuple[machine.Program, list[int]]]:
    """(program, how often each of its instructions was issued) of each launch, over so many rows."""
    x, keys = draw.rows(rows)
    calls = draw.call(x, keys, record=True)
    totals: list[tuple[machine.Program, list[int]]] = []
    for call in calls:
        memory = machine.Global(call.buffers.values())
        for n, launch in enumerate(call.launches):
            program = _programs[arch][launch["kernel"]]
            some = rows if draw.mode == "one launch" else 0
            parameters = bytes.fromhex(launch["parameters"])
            counts = program.run(parameters, launch["blocks"], launch["threads"], memory, some)
            if n == len(totals):
                totals.append((program, counts))
            else:
                totals[n] = (program, [a + b for a, b in zip(totals[n][1], counts, strict=True)])
    check(draw, x, keys, calls, f"the machine code for sm_{arch}")
    return totals


def instructions(job: tuple[Draw, int, int]) -> list[float]:
    """Warp instructions that each launch issues for a row."""
    draw, arch, rows = job
    return [sum(counts) / rows for _, counts in execute(draw, arch, rows)]


def begin(compiled: list[cuda_compile.Compiled]) -> None:
    torch.set_num_threads(1)
    os.nice(5)
    use(compiled)


def pool(compiled: list[cuda_compile.Compiled]) -> ProcessPoolExecutor:
    """Processes that call `instructions`."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return ProcessPoolExecutor(cores, initializer=begin, initargs=(compiled,))


# Where the instructions are


def profile(draw: Draw, arch: int, source, rows: int = 1) -> tuple[Counter, Counter, Counter]:
    """Instructions per element by function (its own; with what it calls inline) and by line of source."""
    own, inclusive, lines = Counter(), Counter(), Counter()
    per = 32 / (rows * draw.vocab)
    for program, counts in execute(draw, arch, rows):
        for i, count in zip(program.kernel.code, counts, strict=True):
            if not count:
                continue
            own[source.owner(i)] += count * per
            for name in set(source.stack(i)):
                inclusive[name] += count * per
            if i.frames:
                file, line = i.frames[0]
                lines[f"{file.rsplit('/', 1)[-1]}:{line}"] += count * per
    return own, inclusive, lines
