# SPDX-License-Identifier: Apache-2.0
"""What every provider of providers.py is: logits in, ids out, on the cases that it can do."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata, util

from torch import Tensor

from . import cases, timing
from .cases import Case

Calls = list[Callable[[], object]]

DRAWING = tuple(cases.CONFIGS)
# What samplers of language models have: no mixture with chance, no entropy.
COMMON = ("greedy", "T", "top-k", "top-p", "top-k+top-p", "min-p")


@dataclass(frozen=True)
class About:
    """What a report says of a provider; deviations: where its draws are not those of docs/law.md."""

    title: str
    kind: str  # "floor", "fusedraw" or "peer"
    version: str | None
    deviations: tuple[str, ...]


class Provider:
    """A peer; what differs is overridden."""

    name: str
    title: str
    kind = "peer"
    deviations: tuple[str, ...] = ()
    configs: tuple[str, ...] = DRAWING
    dtypes: tuple[str, ...] = ("float32", "bfloat16")
    one_thread = False  # whatever torch's threads: left out of cases with more
    module: str | None = None  # that must be there, and how to get it
    distribution: str | None = None
    install = ""

    def missing(self) -> str | None:
        """Why it cannot be measured here at all, or None; imports nothing."""
        if self.module is not None and util.find_spec(self.module) is None:
            return f"{self.name}: not installed: {self.install}"
        return None

    def skipped(self, case: Case) -> str | None:
        """Why it is left out of one case, or None."""
        if case.config not in self.configs:
            return f"{self.name} has no {case.config}"
        if case.dtype not in self.dtypes:
            return f"{self.name} takes {' and '.join(self.dtypes)}"
        if self.one_thread and case.threads != 1:
            return f"{self.name} runs on one thread"
        return None

    def about(self) -> About:
        return About(self.title, self.kind, self.version(), self.deviations)

    def version(self) -> str | None:
        return version_of(self.distribution) if self.distribution is not None else None

    def calls(self, case: Case, logits: Tensor) -> Calls:
        """Calls of the whole batch, to be made in turn: ids [B], or a tuple that begins with them."""
        raise NotImplementedError

    def chunk(self, case: Case, logits: Tensor) -> timing.Chunk:
        return timing.chunk_of(self.calls(case, logits))

    def drawing(self, case: Case, logits: Tensor) -> Callable[[], object]:
        """A call whose draws are independent of those before: what validate.py counts."""
        return self.calls(case, logits)[0]


def version_of(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None
