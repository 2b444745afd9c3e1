# SPDX-License-Identifier: Apache-2.0
"""The cases of the benchmark: which shapes, dtypes, threads, data and configurations; how a filter picks.

grid          every V, B, dtype, thread count, kind of rows and configuration
growth-vocab  one row, V from 1e3 to 1e6
growth-batch  V = 32000, 1 to 1024 rows
cold          as in the grid, the logits in no cache when a call begins (cold.py)
features      what a call can do beside drawing from one row of logits (features.py)
"""

from __future__ import annotations

import fnmatch
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

# The sizes of the goals first, so that a run that is cut short has them.
VOCABS = (49152, 128256, 32000, 151936, 262144)
BATCHES = (1, 8, 64)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DATA = ("real", "flat", "peaked")
REAL_VOCABS = (49152, 128256, 262144)  # at the others flat and peaked rows suffice

# The other parts take the extremes of the rows and four configurations.
FEW_DATA = ("flat", "peaked")
FEW_CONFIGS = ("greedy", "T", "top-p", "top-k+top-p")
GROWTH_VOCABS = (1024, 4096, 16384, 49152, 131072, 262144, 524288, 1048576)
GROWTH_BATCHES = (1, 4, 16, 64, 256, 1024)
GROWTH_BATCH_VOCAB = 32000
COLD_SHAPES = ((32000, 1), (128256, 1), (128256, 8))  # V, B

# Of the grid: V, data, B, dtype.
QUICK_ROWS = (
    (49152, "real", 1, "float32"),
    (49152, "real", 8, "float32"),
    (128256, "flat", 1, "float32"),
    (128256, "peaked", 1, "float32"),
    (128256, "peaked", 8, "float32"),
    (128256, "peaked", 1, "bfloat16"),
)

# Seconds a case, for `--list`: of a run on two cores with every peer installed.
PARTS = {"features": 0.6, "cold": 1.0, "growth-vocab": 1.3, "growth-batch": 3.8, "grid": 2.1}

# Arguments of fusedraw.sample. Names are those of tables, filters and stored results.
CONFIGS: dict[str, dict[str, Any]] = {
    "greedy": {"temperature": 0.0},
    "T": {"temperature": 0.8},
    "top-k": {"top_k": 50},
    "top-p": {"top_p": 0.9},
    "top-k+top-p": {"top_k": 50, "top_p": 0.95},
    "min-p": {"min_p": 0.05},
    "mix+top-p": {"mix_eps": 0.05, "top_p": 0.9},
    "T+logp+entropy": {"temperature": 0.8, "returns": ("logp", "entropy")},
}
TITLES = {
    "greedy": "greedy",
    "T": "T = 0.8",
    "top-k": "top-k 50",
    "top-p": "top-p 0.9",
    "top-k+top-p": "top-k 50, top-p 0.95",
    "min-p": "min-p 0.05",
    "mix+top-p": "mix_eps 0.05, top-p 0.9",
    "T+logp+entropy": "T = 0.8, logp and entropy",
}


@dataclass(frozen=True)
class Case:
    vocab: int
    batch: int
    dtype: str
    threads: int
    data: str
    config: str
    part: str = "grid"
    cache: str = "hot"  # or "cold"

    @property
    def name(self) -> str:
        name = f"{self.config}-{self.data}-V{self.vocab}-B{self.batch}-{self.dtype}-t{self.threads}"
        return name if self.part == "grid" else f"{name}-{self.part}"

    @property
    def settings(self) -> dict[str, Any]:
        return CONFIGS[self.config]


def all_threads() -> int:
    """What torch would use when left alone: every core that this process may run on."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_counts() -> list[int]:
    return sorted({1, all_threads()})


def grid() -> Iterator[Case]:
    """Rows of one (data, V) come together, since making them takes time."""
    for vocab, data in itertools.product(VOCABS, DATA):
        if data == "real" and vocab not in REAL_VOCABS:
            continue
        for dtype, batch, threads, config in itertools.product(DTYPES, BATCHES, thread_counts(), CONFIGS):
            yield Case(vocab, batch, dtype, threads, data, config)


def few(part: str, shapes: Iterable[tuple[int, int]], cache: str = "hot") -> Iterator[Case]:
    for (vocab, batch), data, threads in itertools.product(shapes, FEW_DATA, thread_counts()):
        for config in FEW_CONFIGS:
            yield Case(vocab, batch, "float32", threads, data, config, part, cache)


def full() -> Iterator[Case]:
    """Everything; the grid, by far the longest, last."""
    from . import features

    yield from features.cases()
    yield from few("cold", COLD_SHAPES, "cold")
    yield from few("growth-vocab", ((vocab, 1) for vocab in GROWTH_VOCABS))
    yield from few("growth-batch", ((GROWTH_BATCH_VOCAB, batch) for batch in GROWTH_BATCHES))
    yield from grid()


def quick() -> Iterator[Case]:
    """About two minutes: real rows at their own V, others at that of the goals, a little of every part."""
    for case in full():
        if case.threads != 1:
            continue
        if case.part == "grid":
            if (case.vocab, case.data, case.batch, case.dtype) in QUICK_ROWS:
                yield case
        elif case.part == "features":
            drawn = case.batch == 1 and case.data == "peaked"
            if drawn or case.config in ("route", "token_logprob"):
                yield case
        elif case.data == "peaked" and case.config == "top-p" and case.batch <= 16 and case.vocab <= 131072:
            yield case


def matches(case: Case, pattern: str) -> bool:
    """A shell wildcard of the case's name; a part of the name is enough."""
    return fnmatch.fnmatch(case.name, f"*{pattern}*")


def select(cases: Iterable[Case], patterns: Sequence[str], parts: Sequence[str] = ()) -> list[Case]:
    """The cases of these parts whose name matches any of the patterns; no parts or patterns: all."""
    return [
        case
        for case in cases
        if (not parts or case.part in parts) and (not patterns or any(matches(case, p) for p in patterns))
    ]
