# SPDX-License-Identifier: Apache-2.0
"""The grid of the benchmark: which shapes, dtypes, threads, data and configurations; how a filter picks."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

# The sizes of the goals first, so that a run that is cut short has them.
VOCABS = (49152, 128256, 32000, 151936, 262144)
BATCHES = (1, 8, 64)
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DATA = ("real", "flat", "peaked")

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

    @property
    def name(self) -> str:
        return f"{self.config}-{self.data}-V{self.vocab}-B{self.batch}-{self.dtype}-t{self.threads}"

    @property
    def settings(self) -> dict[str, Any]:
        return CONFIGS[self.config]


def all_threads() -> int:
    """What torch would use when left alone: every core that this process may run on."""
    import os

    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def full() -> Iterator[Case]:
    """The whole grid; rows of one (data, V) come together, since making them takes time."""
    threads = sorted({1, all_threads()})
    for vocab in VOCABS:
        for data in DATA:
            for dtype in DTYPES:
                for batch in BATCHES:
                    for count in threads:
                        for config in CONFIGS:
                            yield Case(vocab, batch, dtype, count, data, config)


def quick() -> Iterator[Case]:
    """About two minutes: the model's own V and the one of the goals."""
    for case in full():
        small = case.vocab in (49152, 128256) and case.batch in (1, 8) and case.threads == 1
        if small and (case.dtype == "float32" or (case.batch == 1 and case.vocab == 128256)):
            yield case


def select(cases: Iterator[Case], patterns: Sequence[str]) -> list[Case]:
    """The cases whose name matches any of the patterns (shell wildcards; part of a name is enough)."""
    out = list(cases)
    if not patterns:
        return out
    return [c for c in out if any(fnmatch.fnmatch(c.name, f"*{p}*") for p in patterns)]
