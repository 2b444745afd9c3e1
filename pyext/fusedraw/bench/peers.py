# SPDX-License-Identifier: Apache-2.0
"""Samplers of one row that goals.py holds fusedraw against: of Python (whole calls), of C (the work alone).

Python: pure_torch, numpy_peers, the Hugging Face warpers; torch.softmax. C: bucketed.cpp, and llama.cpp's
samplers where the package llama_cpp is installed (without the filling of its candidate array, which is timed
apart and taken off).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from . import bucketed, cases, hugging_face, llama, numpy_peers, providers, pure_torch, timing

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
        if providers.missing("hugging-face") is None:
            calls["hugging-face"] = functools.partial(hugging_face.HuggingFace(settings), row)
    out = {name: Peer(call, timing.chunk_of([call]), False) for name, call in calls.items()}
    if config == "T" and providers.missing("bucketed") is None:
        draws = bucketed.Draws(row, cases.CONFIGS[config]["temperature"])
        out["bucketed"] = Peer(draws.one, timing.chunk_in_c(draws), True)
    if config in llama.LlamaCpp.configs and providers.missing("llama.cpp") is None:
        chain = llama.Draws(config, row)
        out["llama.cpp"] = Peer(chain, timed(chain.draw), True, timed(chain.fill))
    return out


def timed(call: Callable[[], object]) -> timing.Chunk:
    """A chunk of one call again and again, without a list of them."""

    def run(k: int) -> float:
        start = time.perf_counter()
        for _ in range(k):
            call()
        return time.perf_counter() - start

    return timing.chunk_in_c(run)


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
