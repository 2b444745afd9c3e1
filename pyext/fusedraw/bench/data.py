# SPDX-License-Identifier: Apache-2.0
"""Rows of logits for the benchmarks. Everything is a function of (kind, V): fixed seeds. There are 64 rows, 8
of more than LONG_VOCAB logits; a larger batch has them again and again.

flat       independent normal numbers, sd 1: many tokens share the mass, filters have the most to keep
peaked     like a language model's: the token of rank r = 1..V has the logit 20 - a * ln(r + 1), which is
           p ~ 1 / (r + 1)^a; row i has a = 1.3 + 0.1 * ((5 * i + 3) mod 8), which is 1.6 for row 0 and every
           value for 8 rows; ranks are permuted over the vocabulary. At V = 128256 the 0.9 nucleus holds 1376
           tokens for a = 1.3, 69 for 1.6, 14 for 2.0
real       next-token logits of SmolLM2-135M (V = 49152 only; 16 rows, repeated beyond that)
real-like  the same rows at another V: sorted, the first 1024 as they are, the rest stretched (linear
           interpolation) or thinned to V values, then permuted
"""

from __future__ import annotations

import functools
import os
from pathlib import Path

import numpy
import torch

KINDS = ("real", "flat", "peaked")
MAX_ROWS = 64  # different ones
LONG_VOCAB, LONG_ROWS = 1 << 18, 8  # rows beyond this V: 64 of them would fill memory for cases of one row
MAX_BATCH = 1024
REAL_VOCAB = 49152
HEAD = 1024  # of a sorted real row: these logits carry nearly all of the mass and keep their spacing
REAL_FILE = Path(__file__).resolve().parent.parent / "data" / "real_logits.npz"


@functools.cache
def real_logits() -> torch.Tensor:
    """The real rows [16, 49152], float32. FUSEDRAW_REAL_LOGITS names another file."""
    path = Path(os.environ.get("FUSEDRAW_REAL_LOGITS", REAL_FILE))
    if not path.exists():
        raise FileNotFoundError(f"data: the rows of real logits are missing: {path}")
    with numpy.load(path) as archive:
        rows = torch.from_numpy(archive["logits"].astype(numpy.float32))
    if rows.dim() != 2 or rows.shape[1] != REAL_VOCAB:
        raise ValueError(f"data: expected real logits [N, {REAL_VOCAB}], got {list(rows.shape)}")
    return rows


def label(kind: str, vocab: int) -> str:
    """What a table calls the rows: `real` at another V than the model's is only `real-like`."""
    return "real-like" if kind == "real" and vocab != REAL_VOCAB else kind


@functools.lru_cache(maxsize=2)
def base_rows(kind: str, vocab: int) -> torch.Tensor:
    """Every different row of `kind`, float32 [64, vocab], or [8, vocab] beyond LONG_VOCAB."""
    if kind not in KINDS:
        raise ValueError(f"data: kind must be one of {', '.join(KINDS)}, got {kind!r}")
    count = MAX_ROWS if vocab <= LONG_VOCAB else LONG_ROWS
    generator = torch.Generator().manual_seed(20_000_003 + 101 * vocab + KINDS.index(kind))
    if kind == "flat":
        return torch.randn(count, vocab, generator=generator)
    if kind == "real" and vocab == REAL_VOCAB:
        rows = real_logits()
        return rows.repeat(-(-MAX_ROWS // len(rows)), 1)[:MAX_ROWS].contiguous()
    out = torch.empty(count, vocab)
    for i in range(count):
        values = real_like_values(i, vocab) if kind == "real" else peaked_values(i, vocab)
        out[i, torch.randperm(vocab, generator=generator)] = values
    return out


def peaked_values(row: int, vocab: int) -> torch.Tensor:
    exponent = 1.3 + 0.1 * ((5 * row + 3) % 8)
    rank = torch.arange(1, vocab + 1, dtype=torch.float64)
    return (20.0 - exponent * torch.log(rank + 1)).float()


def real_like_values(row: int, vocab: int) -> torch.Tensor:
    rows = real_logits()
    values = rows[row % len(rows)].sort(descending=True).values.double().numpy()
    if vocab <= HEAD:
        return torch.from_numpy(values[:vocab]).float()
    tail = numpy.linspace(HEAD, REAL_VOCAB - 1, vocab - HEAD)
    stretched = numpy.interp(tail, numpy.arange(REAL_VOCAB), values)
    return torch.from_numpy(numpy.concatenate([values[:HEAD], stretched])).float()


def make(kind: str, vocab: int, batch: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The first `batch` rows of `kind`, contiguous [batch, vocab], in memory of their own."""
    if not 1 <= batch <= MAX_BATCH:
        raise ValueError(f"data: batch must be in 1..{MAX_BATCH}, got {batch}")
    rows = base_rows(kind, vocab)
    if batch <= len(rows):
        return rows[:batch].to(dtype, copy=True).contiguous()
    out = torch.empty(batch, vocab, dtype=dtype)
    for start in range(0, batch, len(rows)):
        part = out[start : start + len(rows)]
        part.copy_(rows[: len(part)])
    return out
