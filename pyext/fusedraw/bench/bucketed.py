# SPDX-License-Identifier: Apache-2.0
"""bucketed.cpp as a provider: plain draws at a temperature, timed in C."""

from __future__ import annotations

import ctypes
import functools
import platform

import torch
from torch import Tensor

from . import floors, timing
from .cases import Case
from .provider import Calls, Provider

BLOCK = 256  # kBlock of bucketed.cpp
MOST_VOCAB = BLOCK * 4096  # kMostBlocks


class Bucketed(Provider):
    name, title = "bucketed", "rejection by octaves, C++ (AVX-512 or AVX2)"
    configs, dtypes, one_thread = ("T",), ("float32",), True
    deviations = (
        "float32 sums of bounds, uniforms of 24 bits: a block below 2^-24 of the bounds' mass may never come",
        "a token 100 octaves below the largest is never drawn",
    )

    def missing(self) -> str | None:
        try:
            found = library()
        except RuntimeError as error:  # no compiler
            return f"{self.name}: {error}"
        return f"{self.name}: this machine has no AVX2" if found is None else None

    def skipped(self, case: Case) -> str | None:
        if case.vocab % BLOCK != 0 or case.vocab > MOST_VOCAB:
            return f"{self.name} takes V in multiples of {BLOCK}, at most {MOST_VOCAB}"
        return super().skipped(case)

    def calls(self, case: Case, logits: Tensor) -> Calls:
        return [Draws(logits, float(case.settings["temperature"])).one]

    def chunk(self, case: Case, logits: Tensor) -> timing.Chunk:
        return timing.chunk_in_c(Draws(logits, float(case.settings["temperature"])))


class Draws:
    """Of all rows of `logits` [B, V]; called with a number of rounds it gives the seconds that they took."""

    def __init__(self, logits: Tensor, temperature: float):
        found = library()
        assert found is not None and logits.is_contiguous()
        self.run, self.logits, self.seeds = found.bucketed_run, logits, spread_seeds()
        self.ids = torch.zeros(logits.shape[0], dtype=torch.int64)
        wide = floors.isa() == "avx512"
        self.before = (wide, logits.data_ptr(), *logits.shape, floors.LOG2E / temperature)

    def __call__(self, rounds: int) -> float:
        return self.run(*self.before, next(self.seeds), self.ids.data_ptr(), rounds)

    def one(self) -> Tensor:
        self(1)
        return self.ids


def spread_seeds():
    # one multiplication spreads the seeds: xorshift needs many set bits to start well
    return (n * 0x9E3779B97F4A7C15 % 2**64 for n in range(1, 1 << 62))


@functools.cache
def library() -> ctypes.CDLL | None:
    """bucketed.cpp compiled; None where the machine cannot run it."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return None
    lib = floors.compile_library("bucketed")
    if not lib.bucketed_runs_here():
        return None
    i64, u64, pointer = ctypes.c_int64, ctypes.c_uint64, ctypes.c_void_p
    lib.bucketed_run.restype = ctypes.c_double
    lib.bucketed_run.argtypes = [ctypes.c_int, pointer, i64, i64, ctypes.c_float, u64, pointer, i64]
    return lib
