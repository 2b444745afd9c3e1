# SPDX-License-Identifier: Apache-2.0
"""The best NumPy samplers that we could write: a peer without torch. A row x [V] float32 -> id; the provider
goes row by row.

The same ideas as pure_torch.py (two-level draws, block maxima, top-p by rejection) in NumPy's fastest ops.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy
from torch import Tensor

from .cases import Case
from .provider import Calls, Provider

SUM_BLOCK = 256
MAX_BLOCK = 64
LOG2E = numpy.float32(math.log2(math.e))


class NumpyPeer(Provider):
    name, title = "numpy", "NumPy, the best form"
    distribution = "numpy"
    dtypes, one_thread = ("float32",), True
    deviations = (
        "float32 weights and sums: a token below 2^-24 of the mass may never come",
        "top-p keeps every token that ties with its edge; behind top-k it cuts as argsort has them",
        "top-k keeps exactly k; which of several ties is argpartition's choice",
    )

    def skipped(self, case: Case) -> str | None:
        if case.vocab % MAX_BLOCK != 0:
            return f"{self.name} takes V in multiples of {MAX_BLOCK}"
        return super().skipped(case)

    def calls(self, case: Case, logits: Tensor) -> Calls:
        sampler, rows = Sampler(case.config, case.settings), list(logits.numpy())

        def call() -> tuple[numpy.ndarray, ...] | numpy.ndarray:
            drawn = [sampler(row) for row in rows]
            return tuple(map(numpy.array, zip(*drawn, strict=True))) if sampler.more else numpy.array(drawn)

        return [call]


class Sampler:
    """One configuration; `calls` of it are independent draws from a generator of its own."""

    def __init__(self, config: str, settings: dict[str, Any], seed: int = 5):
        self.uniform = numpy.random.default_rng(seed).random
        self.scale = numpy.float32(1.0 / (float(settings.get("temperature", 1.0)) or 1.0))
        self.top_k = int(settings.get("top_k", 0))
        self.top_p = float(settings.get("top_p", 1.0))
        self.min_p = numpy.float32(settings.get("min_p", 0.0))
        self.mix_eps = float(settings.get("mix_eps", 0.0))
        self.more = "returns" in settings
        self.rule: Callable = {
            "greedy": lambda x: int(x.argmax()),
            "T": lambda x: self.draw(self.exponentials(x)),
            "top-k": self.best,
            "top-p": lambda x: self.nucleus(self.exponentials(x)),
            "top-k+top-p": self.best,
            "min-p": self.min_p_draw,
            "mix+top-p": self.mixture,
            "T+logp+entropy": self.with_logp,
        }[config]

    def __call__(self, x: numpy.ndarray):
        return self.rule(x)

    def exponentials(self, x: numpy.ndarray) -> numpy.ndarray:
        weights = x - x.max()
        weights *= self.scale * LOG2E
        return numpy.exp2(weights, out=weights)  # half the time of exp, the multiplication included

    def draw(self, weights: numpy.ndarray, sums: numpy.ndarray | None = None) -> int:
        if sums is None:
            sums = block_sums(weights)
        size = len(weights) // len(sums)
        start = self.pick(sums.cumsum()) * size
        return start + self.pick(weights[start : start + size].cumsum())

    def pick(self, running: numpy.ndarray) -> int:
        place = int(running.searchsorted(self.uniform() * running[-1], side="right"))
        return min(place, len(running) - 1)

    def best(self, x: numpy.ndarray) -> int:
        blocks = x.reshape(-1, MAX_BLOCK)
        count = min(self.top_k, len(blocks))
        some = blocks.max(1).argpartition(-count)[-count:]
        candidates = blocks[some].ravel()
        places = candidates.argpartition(-self.top_k)[-self.top_k :]
        if self.top_p < 1:
            places = places[(-candidates[places]).argsort()]
        running = self.exponentials(candidates[places]).cumsum()
        if self.top_p < 1:
            running = running[: int(running.searchsorted(self.top_p * running[-1])) + 1]
        place = int(places[self.pick(running)])
        return int(some[place // MAX_BLOCK]) * MAX_BLOCK + place % MAX_BLOCK

    def nucleus(self, weights: numpy.ndarray) -> int:
        sums = block_sums(weights)
        limit = float(sums.sum()) * self.top_p
        while True:
            token = self.draw(weights, sums)
            if mass_above(weights, weights[token]) < limit:
                return token

    def min_p_draw(self, x: numpy.ndarray) -> int:
        weights = self.exponentials(x)
        weights *= weights >= self.min_p
        return self.draw(weights)

    def mixture(self, x: numpy.ndarray) -> int:
        weights = self.exponentials(x)
        if self.uniform() >= self.mix_eps:
            return self.nucleus(weights)
        order = (-weights).argsort()
        running = weights[order].cumsum()
        members = order[: int(running.searchsorted(self.top_p * running[-1])) + 1]
        return int(members[int(self.uniform() * len(members))])

    def with_logp(self, x: numpy.ndarray) -> tuple[int, float, float]:
        weights = self.exponentials(x)
        sums = block_sums(weights)
        token = self.draw(weights, sums)
        total, highest, scale = float(sums.sum()), float(x.max()), float(self.scale)
        mean = (float(weights @ x) / total - highest) * scale
        return token, (float(x[token]) - highest) * scale - math.log(total), math.log(total) - mean


def block_sums(weights: numpy.ndarray) -> numpy.ndarray:
    size = SUM_BLOCK if len(weights) % SUM_BLOCK == 0 else MAX_BLOCK
    return weights.reshape(-1, size).sum(1)


def mass_above(weights: numpy.ndarray, edge: numpy.float32) -> float:
    """The sum of the weights > edge: those at most the edge are lifted to it, and taken off again."""
    lifted = float(numpy.maximum(weights, edge).sum())
    return lifted - float(edge) * (len(weights) - numpy.count_nonzero(weights > edge))
