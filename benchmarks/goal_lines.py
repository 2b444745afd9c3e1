# SPDX-License-Identifier: Apache-2.0
"""What the parts of goals.py share: a line of the table, prepared calls, rounds that go from row to row."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from fusedraw.bench import cases, timing
from fusedraw.bench.timing import Samples

VOCAB = 128256
SMALL_VOCAB = 64
ROWS = 16  # of each kind of data; the rounds go through them
KEYS = 8
FAR = 1.5  # times a goal: beyond it, a goal does not count as nearly reached


@dataclass
class Line:
    """One line of the table; `measured` and `limit` in `unit`, below is better unless `at_least`."""

    part: str
    goal: str
    measured: float
    limit: float
    unit: str
    note: str = ""
    at_least: bool = False

    @property
    def verdict(self) -> str:
        if self.measured != self.measured:
            return "not measured"
        excess = self.limit / self.measured if self.at_least else self.measured / self.limit
        if excess <= 1:
            return "yes"
        return f"NO, {excess:.2f} x off" + (f" (over {FAR:g} x: not done)" if excess > FAR else "")

    def cells(self) -> tuple[str, str, str]:
        sign = ">=" if self.at_least else "<="
        goal = f"{self.goal}: {sign} {self.limit:g} {self.unit}"
        note = f" ({self.note})" if self.note else ""
        return goal, f"{self.measured:.2f}{note}", self.verdict


def load_engine():
    """The package under test. FUSEDRAW_ISA or --isa chooses its instruction set."""
    try:
        import fusedraw
        import fusedraw._C
    except ImportError as error:
        raise SystemExit(
            f"goals: fusedraw cannot be imported ({error}); build it first: make build"
        ) from error
    return fusedraw


def make_keys(rows: int, count: int = KEYS, seed: int = 11) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(-(2**62), 2**62, (rows, 2), generator=generator) for _ in range(count)]


def calls_for(config: str, logits: torch.Tensor) -> list[Callable[[], object]]:
    """The prepared call of a configuration on these rows, once per key."""
    draw = load_engine().Sampler(**cases.CONFIGS[config])
    return [functools.partial(draw, logits, keys=keys) for keys in make_keys(logits.shape[0])]


class RowByRow:
    """Chunks that each work on the row of the current round."""

    def __init__(self, rows: int):
        self.rows, self.row = rows, 0

    def start(self, round_number: int) -> None:
        self.row = round_number % self.rows

    def chunk(self, per_row: list[timing.Chunk]) -> timing.Chunk:
        return lambda k, warm=True: per_row[self.row](k, warm)

    def worst(self, samples: Samples, rounds: int, base: float = 0.0) -> float:
        """The largest median over the rounds of one row, less `base`."""
        if len(samples.values) != rounds:
            return samples.median - base
        rows = [Samples(0, samples.values[r :: self.rows]) for r in range(min(self.rows, rounds))]
        return max(s.median for s in rows) - base


def us(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us"


def engine_time(got: dict[str, Samples], name: str) -> tuple[float, float, float]:
    call, small = got[f"{name}/{VOCAB}"].median, got[f"{name}/{SMALL_VOCAB}"].median
    return call - small, call, small
