# SPDX-License-Identifier: Apache-2.0
"""Holds every provider against the law on the rows that it is about to be timed on: what draws wrongly is
not timed.

floors       their results are torch's, in float64
fusedraw     and its other instruction sets: ids and by-products equal, bit for bit, those of its own
             `reference` engine for the same rows and keys, whatever the batch and the threads; its kept set
             is the law's
hugging-face its kept set is the law's
all          draws lie in the law's kept set, their mean surprisal is the law's entropy, and they fall evenly
             on both cumulative scales of the law, by rank and by id, its tail included; by-products are the
             law's. Thousands of draws at a small V once per configuration, dtype and thread count, and some
             of the case itself

"The law's" here: computed anew in NumPy, float64 (law.py). Where float32 sums or ties decide differently (a
token within EDGE of top_p; equal logits at an edge, which engines keep or drop), both answers are accepted.
"""

from __future__ import annotations

import functools
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy
import torch
from torch import Tensor

from . import cases, data, floors, hugging_face, own, providers
from .cases import Case
from .law import Law, law

ROWS = 4  # of a case are checked
REFERENCE_KEYS = 2  # sets of keys are drawn with by the reference, which sorts every row
DRAWS = 256  # of a case
LONGEST = 0.3  # seconds of them: those at a small V count for more
# All take the same ways there as at a large V: more than 50 blocks of 64 and more than 1024 candidates.
SMALL_VOCAB, SMALL_ROWS, SMALL_DRAWS, SMALL_LONGEST = 4096, 16, 4096, 2.0
MOST_SIGMA = 6.0  # of each statistic; one correct peer in 500 million fails
BINS, LEAST_A_BIN = 16, 8
TAIL = 1 / 64  # of the mass, of the least likely tokens: what a filter that is too narrow loses first


def check(name: str, case: Case, logits: Tensor) -> None:
    """Raises AssertionError where a provider's answers are not the law's."""
    provider = providers.provider(name)
    if provider.kind == "floor":
        floors.check(logits[:ROWS], case.threads)
        return
    if isinstance(provider, own.Fusedraw):
        with own.running(provider.isa):
            check_fusedraw(name, case, logits)
    if name == "hugging-face":
        check_hugging_face(case, logits)
    # torch-compile would compile for seconds; other instruction sets have the bits that fusedraw has
    if name != "torch-compile" and (provider.kind != "fusedraw" or name == "fusedraw"):
        check_small(name, case.config, case.dtype, case.threads)
    check_draws(name, case, provider.drawing(case, logits))


def law_of(case: Case, row: int) -> Law:
    return law(case.data, case.vocab, case.dtype, case.config, row)


@functools.cache
def check_small(name: str, config: str, dtype: str, threads: int) -> None:
    case = Case(SMALL_VOCAB, SMALL_ROWS, dtype, threads, "peaked", config)
    logits = data.make(case.data, case.vocab, case.batch, cases.DTYPES[dtype])
    call = providers.provider(name).drawing(case, logits)
    # that a small share of chance is missing shows late
    draws = SMALL_DRAWS * (2 if case.settings.get("mix_eps") else 1)
    check_draws(name, case, call, range(SMALL_ROWS), draws, SMALL_LONGEST)


def check_fusedraw(name: str, case: Case, logits: Tensor) -> None:
    rows = min(ROWS, case.batch)
    draw = own.fusedraw_sampler(case)
    for i, keys in enumerate(own.key_sets(case.batch)[:REFERENCE_KEYS]):
        got = columns(draw(logits, keys=keys))
        expected = reference_draws(case.data, case.vocab, case.dtype, case.config, i)
        for column, value in got.items():
            ok = same_bits(value[:rows], expected[column][:rows])
            assert ok, f"{name}: {column} differs from the reference's on {case.name}, key set {i}"
    for row, ids in enumerate(fusedraw_kept(case, logits[:rows])):
        check_kept(name, case, row, ids)


@functools.lru_cache(maxsize=64)
def reference_draws(kind: str, vocab: int, dtype: str, config: str, key_set: int) -> dict[str, Tensor]:
    logits = data.make(kind, vocab, ROWS, cases.DTYPES[dtype])
    with own.running("reference"):
        draw = own.fusedraw_sampler(Case(vocab, ROWS, dtype, 1, kind, config))
        return columns(draw(logits, keys=own.key_sets(ROWS)[key_set]))


def columns(out) -> dict[str, Tensor]:
    """The ids and the by-products that a call gave, by name."""
    names = ("ids", "logp", "entropy")
    if hasattr(out, "ids"):
        return {name: getattr(out, name) for name in names if getattr(out, name, None) is not None}
    some = out if isinstance(out, tuple) else (out,)
    return {name: torch.as_tensor(column) for name, column in zip(names, some, strict=False)}


def same_bits(a: Tensor, b: Tensor) -> bool:
    if a.dtype.is_floating_point:
        a, b = a.view(torch.int32), b.view(torch.int32)
    return torch.equal(a, b)


def fusedraw_kept(case: Case, logits: Tensor) -> list[numpy.ndarray]:
    import fusedraw

    settings = {**case.settings, "returns": ("kept",)}
    out = fusedraw.sample(logits, keys=own.key_sets(logits.shape[0])[0], **settings)
    ids, offsets = out.kept_ids.numpy(), out.kept_offsets.tolist()
    return [ids[a:b] for a, b in itertools.pairwise(offsets)]


def check_hugging_face(case: Case, logits: Tensor) -> None:
    peer = hugging_face.HuggingFace(case.settings)
    if peer.temperature == 0:
        return
    for row in range(min(2, case.batch)):
        scores = peer.scores(logits[row : row + 1])[0]
        check_kept("hugging-face", case, row, torch.isfinite(scores).nonzero()[:, 0].numpy())


def check_kept(name: str, case: Case, row: int, ids: numpy.ndarray) -> None:
    expected = law_of(case, row)
    kept = numpy.zeros(case.vocab, bool)
    kept[ids] = True
    if case.config == "greedy":
        assert len(ids) == 1 and expected.wide[ids[0]], (
            f"{name}: greedy keeps {ids[:5]} on {case.name} row {row}"
        )
        return
    # a weight below 2^-44 of the largest is 0 in fusedraw's integers, and exp gives 0 in float32 later on
    light = expected.log_probs < expected.log_probs.max() - 30
    lost = (expected.narrow & ~kept & ~light).sum()
    extra = (kept & ~expected.wide).sum()
    assert lost == 0, f"{name}: {lost} tokens of the law are not kept on {case.name} row {row}"
    assert extra == 0, f"{name}: {extra} tokens outside the law are kept on {case.name} row {row}"


def check_draws(
    name: str,
    case: Case,
    call: Callable[[], object],
    rows: Sequence[int] | None = None,
    draws: int = DRAWS,
    longest: float = LONGEST,
) -> None:
    """Of `rows` (None: the first ones and the last) until there are enough or `longest` seconds are over.

    `call` gives ids [B], or a tuple or an object with by-products, too; a sampler of one row may give an int.
    """
    if rows is None:
        rows = sorted({*range(min(ROWS - 1, case.batch)), case.batch - 1})
    torch.manual_seed(5)
    tallies = [Tally(law_of(case, row)) for row in rows]
    start = time.perf_counter()
    for _ in range(-(-draws // len(rows))):
        got = columns(call())
        ids = got["ids"].reshape(-1)
        assert len(ids) == case.batch, f"{name}: {len(ids)} ids for {case.batch} rows on {case.name}"
        for tally, token in zip(tallies, ids[rows].tolist(), strict=True):
            known = 0 <= token < case.vocab and tally.law.wide[token]
            assert known, f"{name}: token {token} lies outside the law on {case.name}"
            tally.ids.append(token)
        if len(got) > 1:
            check_by_products(name, case, dict(zip(rows, tallies, strict=True)), got)
        if time.perf_counter() - start > longest:
            break
    for what, sigma in statistics_of(tallies).items():
        assert abs(sigma) < MOST_SIGMA, f"{name}: {what} is {sigma:.1f} sigma off the law on {case.name}"


@dataclass
class Tally:
    """The tokens drawn from one row."""

    law: Law
    ids: list[int] = field(default_factory=list)


def statistics_of(tallies: list[Tally]) -> dict[str, float]:
    """Standard normal values, nearly, if the draws are the law's."""
    excess, variance, expected_extra, extra = 0.0, 0.0, 0.0, 0
    scales: dict[str, list[numpy.ndarray]] = {"by_rank": [], "by_id": []}
    uniform = numpy.random.default_rng(3).random
    for tally in tallies:
        law, ids = tally.law, numpy.array(tally.ids)
        expected_extra += law.extra * len(ids)
        kept = numpy.isfinite(law.log_probs[ids])  # others are kept by the peer's rule for ties or edges only
        extra += int((~kept).sum())
        ids = ids[kept]
        excess += float((-law.log_probs[ids] - law.entropy).sum())
        variance += law.varentropy * len(ids)
        # uniform in [0, 1) under the law: a token's share of the scale, and a place within it
        for scale, places in scales.items():
            places.append(getattr(law, scale)[ids] + numpy.exp(law.log_probs[ids]) * uniform(len(ids)))
    out = {"the number of tokens at an edge": (extra - expected_extra) / math.sqrt(expected_extra + 1)}
    if out["the number of tokens at an edge"] < 0:
        del out["the number of tokens at an edge"]  # fewer: the law's own rule
    if variance > 0:
        out["the mean surprisal"] = excess / math.sqrt(variance)
        for scale, places in scales.items():
            out[f"the spread {scale.replace('_', ' ')}"] = unevenness(numpy.concatenate(places))
        ranks = numpy.concatenate(scales["by_rank"])
        expected = TAIL * len(ranks)
        out["the tail"] = float((ranks >= 1 - TAIL).sum() - expected) / math.sqrt(expected + 1)
    return out


def unevenness(places: numpy.ndarray) -> float:
    """The chi-square statistic of equal bins of [0, 1), as a normal value (Wilson and Hilferty)."""
    bins = min(BINS, len(places) // LEAST_A_BIN)
    if bins < 2:
        return 0.0
    counts = numpy.bincount((places * bins).astype(int).clip(0, bins - 1), minlength=bins)
    expected, freedom = len(places) / bins, bins - 1
    chi_square = float(((counts - expected) ** 2).sum() / expected)
    width = 2 / (9 * freedom)
    return ((chi_square / freedom) ** (1 / 3) - (1 - width)) / math.sqrt(width)


def check_by_products(name: str, case: Case, tallies: dict[int, Tally], got: dict[str, Tensor]) -> None:
    for row, tally in tallies.items():
        token, expected = tally.ids[-1], tally.law
        for column, value in (("logp", expected.log_probs[token]), ("entropy", expected.entropy)):
            ok = abs(float(got[column].reshape(-1)[row]) - value) < 1e-3
            assert ok, f"{name}: {column} is wrong on {case.name} row {row}"
