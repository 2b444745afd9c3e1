# SPDX-License-Identifier: Apache-2.0
"""The law of one row under one configuration, in NumPy and float64: what validate.py holds draws against."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy

from . import cases, data

EDGE = 2e-4  # of the mass: what a float32 cumsum over 262144 terms may be off by


@dataclass(frozen=True)
class Law:
    """One row under one configuration: what is surely kept, what may be, and the law's moments."""

    narrow: numpy.ndarray  # bool [V]
    wide: numpy.ndarray  # bool [V]
    log_probs: numpy.ndarray  # float64 [V], -inf outside the kept set
    entropy: float
    varentropy: float
    extra: float  # the share of the draws that may fall on tokens of `wide` outside the kept set
    # what lies below a token on the law's cumulative scales [V]: tokens by descending logit, and by id
    by_rank: numpy.ndarray
    by_id: numpy.ndarray


@functools.lru_cache(maxsize=64)
def law(kind: str, vocab: int, dtype: str, config: str, row: int) -> Law:
    settings = cases.CONFIGS[config]
    base = data.base_rows(kind, vocab)
    x = base[row % len(base)].to(cases.DTYPES[dtype]).double().numpy()
    temperature = float(settings.get("temperature", 1.0))
    if temperature == 0:
        kept = x == x.max()
        zeros = numpy.zeros(vocab)
        return Law(kept, kept, numpy.where(kept, 0.0, -numpy.inf), 0.0, 0.0, 1.0, zeros, zeros)
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

    extra = w[wide & ~main].sum() / w[wide].sum()

    def back(values: numpy.ndarray) -> numpy.ndarray:
        out = numpy.empty_like(values)
        out[order] = values
        return out

    by_rank = back(numpy.cumsum(probs) - probs)
    probs = back(probs)
    by_id = numpy.cumsum(probs) - probs
    return Law(back(narrow), back(wide), back(logs), entropy, varentropy, extra, by_rank, by_id)
