# SPDX-License-Identifier: Apache-2.0
"""Checks every provider on the rows that it is about to be timed on: what draws wrongly is not timed.

fusedraw     ids and by-products equal, bit for bit, those of its own `reference` engine for the same rows and
             keys, whatever the batch and the threads; its kept set is the law's
hugging-face its kept set is the law's
torch        a few hundred draws lie in the law's kept set, and their mean surprisal is the law's entropy

"The law's" here: computed anew in NumPy, float64. Where float32 sums or ties decide differently (a token
within EDGE of top_p; equal logits at an edge, which engines keep or drop), both answers are accepted.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy
import torch
from torch import Tensor

from . import cases, data, floors, providers
from .cases import Case

ROWS = 4  # of a case are checked
REFERENCE_KEYS = 2  # sets of keys are drawn with by the reference, which sorts every row
DRAWS = 256  # of a peer, at least
EDGE = 2e-4  # of the mass: what a float32 cumsum over 262144 terms may be off by
MOST_SIGMA = 6.0  # of the mean surprisal; one correct peer in 500 million fails


@dataclass(frozen=True)
class Law:
    """One row under one configuration: what is surely kept, what may be, and the law's moments."""

    narrow: numpy.ndarray  # bool [V]
    wide: numpy.ndarray  # bool [V]
    log_probs: numpy.ndarray  # float64 [V], -inf outside the kept set
    entropy: float
    varentropy: float


@functools.lru_cache(maxsize=64)
def law(kind: str, vocab: int, dtype: str, config: str, row: int) -> Law:
    settings = cases.CONFIGS[config]
    x = data.make(kind, vocab, row + 1, cases.DTYPES[dtype])[row].double().numpy()
    temperature = float(settings.get("temperature", 1.0))
    if temperature == 0:
        kept = x == x.max()
        return Law(kept, kept, numpy.where(kept, 0.0, -numpy.inf), 0.0, 0.0)
    order = numpy.argsort(-x, kind="stable")
    sorted_x = x[order]
    w = numpy.exp((sorted_x - sorted_x[0]) / temperature)
    narrow, wide, main = (numpy.ones(vocab, bool) for _ in range(3))
    edge = EDGE
    if "top_k" in settings:
        last = sorted_x[settings["top_k"] - 1]
        narrow &= sorted_x > last
        wide &= sorted_x >= last
        main[settings["top_k"] :] = False
        edge += w[wide & ~main].sum() / w[main].sum()  # ties kept by some raise the sum that top-p refers to
    if "top_p" in settings:
        # the mass of larger logits, and that of logits at least as large, the token itself not counted
        total = w[main].sum()
        running = numpy.concatenate([[0.0], numpy.cumsum(w * wide)])
        first = numpy.searchsorted(-sorted_x, -sorted_x, side="left")
        last = numpy.searchsorted(-sorted_x, -sorted_x, side="right")
        above, before = running[first] / total, running[last] / total - w / total
        narrow &= before < settings["top_p"] - edge
        wide &= above < settings["top_p"] + edge
        main &= running[:-1] / total < settings["top_p"]
    if "min_p" in settings:
        narrow &= w >= settings["min_p"] * (1 + 1e-5)
        wide &= w >= settings["min_p"] * (1 - 1e-5)
        main &= w >= settings["min_p"]
    probs = numpy.where(main, w, 0.0)
    probs /= probs.sum()
    eps = float(settings.get("mix_eps", 0.0))
    probs = (1 - eps) * probs + eps * main / main.sum()
    with numpy.errstate(divide="ignore"):
        logs = numpy.log(probs)
    surprise = numpy.where(probs > 0, -logs, 0.0)
    entropy = float((probs * surprise).sum())
    varentropy = float((probs * (surprise - entropy) ** 2).sum())

    def back(values: numpy.ndarray) -> numpy.ndarray:
        out = numpy.empty_like(values)
        out[order] = values
        return out

    return Law(back(narrow), back(wide), back(logs), entropy, varentropy)


def law_of(case: Case, row: int) -> Law:
    return law(case.data, case.vocab, case.dtype, case.config, row)


def check(name: str, case: Case, logits: Tensor) -> None:
    """Raises AssertionError where a provider's answers are not the law's; the floors against torch."""
    if name in floors.KINDS:
        floors.check(logits[:ROWS], case.threads)
    elif name == "fusedraw":
        check_fusedraw(case, logits)
    elif name == "hugging-face":
        check_hugging_face(case, logits)
    elif name in ("torch", "torch-compile"):
        check_draws(name, case, providers.calls(name, case, logits)[0])


def check_fusedraw(case: Case, logits: Tensor) -> None:
    rows = min(ROWS, case.batch)
    draw = providers.fusedraw_sampler(case)
    for i, keys in enumerate(providers.key_sets(case.batch)[:REFERENCE_KEYS]):
        got = columns(draw(logits, keys=keys))
        expected = reference_draws(case.data, case.vocab, case.dtype, case.config, i)
        for name, value in got.items():
            ok = same_bits(value[:rows], expected[name][:rows])
            assert ok, f"fusedraw: {name} differs from the reference's on {case.name}, key set {i}"
    for row, ids in enumerate(fusedraw_kept(case, logits[:rows])):
        check_kept("fusedraw", case, row, ids)


@functools.lru_cache(maxsize=64)
def reference_draws(kind: str, vocab: int, dtype: str, config: str, key_set: int) -> dict[str, Tensor]:
    import fusedraw._C as binding

    logits = data.make(kind, vocab, ROWS, cases.DTYPES[dtype])
    chosen = binding.isa()
    binding.set_isa("reference")
    try:
        draw = providers.fusedraw_sampler(Case(vocab, ROWS, dtype, 1, kind, config))
        return columns(draw(logits, keys=providers.key_sets(ROWS)[key_set]))
    finally:
        binding.set_isa(chosen)


def columns(out) -> dict[str, Tensor]:
    """The ids and the by-products that a call gave, by name."""
    if isinstance(out, Tensor):
        return {"ids": out}
    names = ("ids", "logp", "entropy")
    return {name: getattr(out, name) for name in names if getattr(out, name, None) is not None}


def same_bits(a: Tensor, b: Tensor) -> bool:
    if a.dtype.is_floating_point:
        a, b = a.view(torch.int32), b.view(torch.int32)
    return torch.equal(a, b)


def fusedraw_kept(case: Case, logits: Tensor) -> list[numpy.ndarray]:
    import fusedraw

    settings = {**case.settings, "returns": ("kept",)}
    out = fusedraw.sample(logits, keys=providers.key_sets(logits.shape[0])[0], **settings)
    ids, offsets = out.kept_ids.numpy(), out.kept_offsets.tolist()
    return [ids[a:b] for a, b in itertools.pairwise(offsets)]


def check_hugging_face(case: Case, logits: Tensor) -> None:
    peer = providers.HuggingFace(case.settings)
    if peer.temperature == 0:
        return
    for row in range(min(2, case.batch)):
        scores = peer.scores(logits[row : row + 1])[0]
        check_kept("hugging-face", case, row, torch.isfinite(scores).nonzero()[:, 0].numpy())


def check_kept(name: str, case: Case, row: int, ids: numpy.ndarray) -> None:
    expected = law_of(case, row)
    kept = numpy.zeros(case.vocab, bool)
    kept[ids] = True
    if name == "fusedraw" and case.config == "greedy":
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


def check_draws(name: str, case: Case, call: Callable[[], object]) -> None:
    """`call` gives ids [B], or a tuple that begins with them; a sampler of one row may give an int."""
    torch.manual_seed(5)
    rows = min(ROWS, case.batch)
    laws = [law_of(case, row) for row in range(rows)]
    excess, variance = 0.0, 0.0
    for _ in range(DRAWS // rows):
        out = call()
        ids = torch.as_tensor(out[0] if isinstance(out, tuple) else out).reshape(-1)
        for expected, token in zip(laws, ids[:rows].tolist(), strict=True):
            assert expected.wide[token], f"{name}: token {token} lies outside the law on {case.name}"
            if math.isfinite(
                expected.log_probs[token]
            ):  # kept by the peer's tie rule only: no surprisal to add
                excess += -expected.log_probs[token] - expected.entropy
            variance += expected.varentropy
        if isinstance(out, tuple):
            check_by_products(name, case, laws, out)
    sigma = excess / math.sqrt(variance) if variance > 0 else 0.0
    assert abs(sigma) < MOST_SIGMA, f"{name}: the draws are {sigma:.1f} sigma off the law on {case.name}"


def check_by_products(name: str, case: Case, laws: list[Law], out: tuple) -> None:
    ids, logp, entropy = (torch.as_tensor(column).reshape(-1).tolist() for column in out)
    for row, expected in enumerate(laws):
        ok = (
            abs(logp[row] - expected.log_probs[ids[row]]) < 1e-3
            and abs(entropy[row] - expected.entropy) < 1e-3
        )
        assert ok, f"{name}: logp or entropy is wrong on {case.name} row {row}"
