# SPDX-License-Identifier: Apache-2.0
"""Samplers of one row that goals.py holds fusedraw against: of Python (whole calls), of C (the work alone).

Python: pure_torch, numpy_peers, the Hugging Face warpers; torch.softmax. C: bucketed.cpp, and llama.cpp's
samplers where the package llama_cpp is installed (its C functions through ctypes; without the filling of its
candidate array, which is timed apart and taken off).
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy
import torch
from torch import Tensor

from . import cases, floors, numpy_peers, providers, pure_torch, timing

# Beside the configurations of cases.py.
MORE_CONFIGS = ("softmax", "T+logp+top-5")
TOP = 5


@dataclass
class Peer:
    call: Callable[[], object]  # one draw
    chunk: timing.Chunk
    in_c: bool  # held against the engine time, else against the whole call
    base: timing.Chunk | None = None  # what its time includes and is to be taken off


def peers_of(config: str, row: Tensor) -> dict[str, Peer]:
    """The peers that can do `config` on a row [1, V] float32."""
    calls: dict[str, Callable[[], object]] = {}
    if config == "softmax":
        calls["torch.softmax"] = functools.partial(torch.softmax, row, 1)
    elif config == "T+logp+top-5":
        calls["torch"] = functools.partial(torch_top_logps, top_logps_sampler(row.shape[1]), row)
    else:
        settings = cases.CONFIGS[config]
        calls["torch"] = functools.partial(pure_torch.Sampler(config, settings, row.shape[1]), row)
        calls["numpy"] = functools.partial(numpy_peers.Sampler(config, settings), row[0].numpy())
        if importlib.util.find_spec("transformers") is not None:
            calls["hugging-face"] = functools.partial(providers.HuggingFace(settings), row)
    out = {name: Peer(call, timing.chunk_of([call]), False) for name, call in calls.items()}
    if config == "T" and bucketed() is not None:
        out["bucketed"] = bucketed_peer(row, 0.8)
    if config in LLAMA_CHAINS and llama() is not None:
        out["llama.cpp"] = llama_peer(config, row)
    return out


def top_logps_sampler(vocab: int) -> pure_torch.Sampler:
    return pure_torch.Sampler("T+logp+entropy", cases.CONFIGS["T+logp+entropy"], vocab)


def torch_top_logps(sampler: pure_torch.Sampler, logits: Tensor) -> tuple:
    """A draw at T, its log-probability, and the log-probabilities (T = 1) of the best tokens."""
    row = logits[0]
    token, logp, _ = sampler.with_logp(row)
    blocks = row.view(-1, pure_torch.MAX_BLOCK)
    some = blocks.amax(1).topk(TOP).indices
    values, places = blocks.index_select(0, some).view(-1).topk(TOP)
    ids = some[places // pure_torch.MAX_BLOCK] * pure_torch.MAX_BLOCK + places % pure_torch.MAX_BLOCK
    return token, logp, ids, values - torch.logsumexp(row, 0)


@functools.cache
def bucketed() -> ctypes.CDLL | None:
    lib = floors.compile_library("bucketed")
    if not lib.bucketed_runs_here():
        return None
    i64, pointer = ctypes.c_int64, ctypes.c_void_p
    lib.bucketed_run.restype = ctypes.c_double
    lib.bucketed_run.argtypes = [pointer, i64, i64, ctypes.c_float, ctypes.c_uint64, pointer, i64]
    return lib


def bucketed_peer(row: Tensor, temperature: float) -> Peer:
    library = bucketed()
    assert library is not None
    ids = torch.zeros(row.shape[0], dtype=torch.int64)
    scale = floors.LOG2E / temperature
    # one multiplication spreads the seeds: xorshift needs many set bits to start well
    seeds = (n * 0x9E3779B97F4A7C15 % 2**64 for n in range(1, 1 << 62))

    def run(iterations: int) -> float:
        arguments = (row.data_ptr(), *row.shape, scale, next(seeds), ids.data_ptr(), iterations)
        return library.bucketed_run(*arguments)

    def call() -> Tensor:
        run(1)
        return ids

    return Peer(call, timing.chunk_in_c(run), True)


class TokenData(ctypes.Structure):
    """llama_token_data."""

    _fields_ = (("id", ctypes.c_int32), ("logit", ctypes.c_float), ("p", ctypes.c_float))


class TokenDataArray(ctypes.Structure):
    """llama_token_data_array."""

    _fields_ = (
        ("data", ctypes.POINTER(TokenData)),
        ("size", ctypes.c_size_t),
        ("selected", ctypes.c_int64),
        ("sorted", ctypes.c_bool),
    )


# Each sampler's C function with its arguments; `dist` draws.
LLAMA_CHAINS: dict[str, list[tuple[str, list]]] = {
    "greedy": [("greedy", [])],
    "T": [("temp", [ctypes.c_float(0.8)]), ("dist", [ctypes.c_uint32(5)])],
    "top-k": [("top_k", [ctypes.c_int32(50)]), ("dist", [ctypes.c_uint32(5)])],
    "top-p": [("top_p", [ctypes.c_float(0.9), ctypes.c_size_t(1)]), ("dist", [ctypes.c_uint32(5)])],
    "top-k+top-p": [
        ("top_k", [ctypes.c_int32(50)]),
        ("top_p", [ctypes.c_float(0.95), ctypes.c_size_t(1)]),
        ("dist", [ctypes.c_uint32(5)]),
    ],
    "min-p": [("min_p", [ctypes.c_float(0.05), ctypes.c_size_t(1)]), ("dist", [ctypes.c_uint32(5)])],
}


@functools.cache
def llama() -> ctypes.CDLL | None:
    """libllama of the installed package llama_cpp; the package itself is not imported."""
    spec = importlib.util.find_spec("llama_cpp")
    if spec is None or spec.origin is None:
        return None
    found = sorted((Path(spec.origin).parent / "lib").glob("libllama.*"))
    if not found:
        return None
    for name in ("libggml-base.so", "libggml-cpu.so", "libggml.so"):
        if (found[0].parent / name).exists():
            ctypes.CDLL(str(found[0].parent / name), mode=ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(found[0]))


def llama_peer(config: str, row: Tensor) -> Peer:
    lib, vocab = llama(), row.shape[1]
    assert lib is not None
    samplers = []
    for name, arguments in LLAMA_CHAINS[config]:
        make = getattr(lib, f"llama_sampler_init_{name}")
        make.restype = ctypes.c_void_p
        samplers.append(ctypes.c_void_p(make(*arguments)))
    fresh = numpy.zeros(vocab, dtype=[("id", "<i4"), ("logit", "<f4"), ("p", "<f4")])
    fresh["id"], fresh["logit"] = numpy.arange(vocab), row[0].numpy()
    work = fresh.copy()
    array = TokenDataArray()
    array.data = work.ctypes.data_as(ctypes.POINTER(TokenData))
    apply, pointer = lib.llama_sampler_apply, ctypes.byref(array)
    apply.restype = None
    whole = fresh.nbytes

    def fill() -> None:
        ctypes.memmove(work.ctypes.data, fresh.ctypes.data, whole)
        array.size, array.selected, array.sorted = vocab, -1, False

    def draw() -> int:
        fill()
        for sampler in samplers:
            apply(sampler, pointer)
        return array.data[array.selected].id

    def many(call: Callable[[], object], k: int) -> float:
        start = time.perf_counter()
        for _ in range(k):
            call()
        return time.perf_counter() - start

    def chunk_for(call: Callable[[], object]) -> timing.Chunk:
        return timing.chunk_in_c(functools.partial(many, call))

    return Peer(draw, chunk_for(draw), True, chunk_for(fill))
