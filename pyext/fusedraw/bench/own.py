# SPDX-License-Identifier: Apache-2.0
"""fusedraw as a provider: a prepared Sampler, the whole call from Python, 8 sets of keys in turn.

`fusedraw` runs the best instruction set that the machine has (or FUSEDRAW_ISA says), `fusedraw-avx2` and
`fusedraw-scalar` the ones named; theirs is set ahead of each chunk, and what was set before is put back.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from importlib import util

import torch
from torch import Tensor

from . import timing
from .cases import Case
from .provider import Calls, Provider

KEY_SETS = 8
MOST_ROWS = 1024


class Fusedraw(Provider):
    kind = "fusedraw"
    module = "fusedraw"

    def __init__(self, isa: str | None = None):
        self.isa = isa
        self.name = "fusedraw" if isa is None else f"fusedraw-{isa}"
        self.title = "fusedraw" if isa is None else f"fusedraw, {isa} engine"

    def missing(self) -> str | None:
        if util.find_spec("fusedraw._C") is None:
            return f"{self.name}: the extension fusedraw._C is not built"
        if self.isa is None:
            return None
        import fusedraw._C as binding

        if self.isa not in binding.isa_list():
            return f"{self.name}: this machine has no {self.isa}, only {', '.join(binding.isa_list())}"
        if self.isa == binding.isa():
            return f"{self.name}: it is what fusedraw runs here"
        return None

    def version(self) -> str | None:
        import fusedraw

        return fusedraw.__version__

    def calls(self, case: Case, logits: Tensor) -> Calls:
        """Each sets and puts back the instruction set; `chunk` does so around all of its calls, untimed."""
        calls = self.plain_calls(case, logits)
        return calls if self.isa is None else [functools.partial(self.call, call) for call in calls]

    def plain_calls(self, case: Case, logits: Tensor) -> Calls:
        draw = fusedraw_sampler(case)
        return [functools.partial(draw, logits, keys=keys) for keys in key_sets(case.batch)]

    def call(self, call: Callable[[], object]) -> object:
        with running(self.isa):
            return call()

    def chunk(self, case: Case, logits: Tensor) -> timing.Chunk:
        run = timing.chunk_of(self.plain_calls(case, logits))

        def within(k: int, warm: bool = True) -> float:
            with running(self.isa):
                return run(k, warm)

        return run if self.isa is None else within

    def drawing(self, case: Case, logits: Tensor) -> Callable[[], object]:
        draw, generator = fusedraw_sampler(case), torch.Generator().manual_seed(7)

        def call() -> object:
            keys = torch.randint(-(2**62), 2**62, (case.batch, 2), generator=generator)
            with running(self.isa):
                return draw(logits, keys=keys)

        return call


@contextlib.contextmanager
def running(isa: str | None) -> Iterator[None]:
    """fusedraw on one instruction set, and on the one before again; None changes nothing."""
    if isa is None:
        yield
        return
    import fusedraw._C as binding

    before = binding.isa()
    binding.set_isa(isa)
    try:
        yield
    finally:
        binding.set_isa(before)


def fusedraw_sampler(case: Case):
    import fusedraw

    return fusedraw.Sampler(**case.settings)


@functools.cache
def key_sets(batch: int) -> list[Tensor]:
    """Keys [batch, 2]: row i has the same ones at any batch size."""
    generator = torch.Generator().manual_seed(11)
    every = torch.randint(-(2**62), 2**62, (KEY_SETS, MOST_ROWS, 2), generator=generator)
    return [keys.contiguous() for keys in every[:, :batch]]
