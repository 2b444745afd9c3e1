# SPDX-License-Identifier: Apache-2.0
"""What is timed beside each other on a case: one function per provider, logits in, chunks of calls out.

read, exp      the floors of floors.cpp, timed in C
fusedraw       a prepared fusedraw.Sampler, the whole call from Python, 8 sets of keys in turn
torch          the faster of the two eager samplers of pure_torch.py on this case, whole call
torch-compile  the compiled one; only where COMPILED says, since each shape compiles for seconds
hugging-face   the warpers of transformers in generate's order, softmax, torch.multinomial; whole call
"""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import floors, pure_torch, timing
from .cases import Case

NAMES = ("read", "exp", "fusedraw", "torch", "torch-compile", "hugging-face")
KEY_SETS = 8
MOST_ROWS = 64
COMPILED_VOCABS = (32000, 49152, 128256)
# where all rows at once can beat row by row without torch.compile: what stores no temporaries over V
EAGER_BATCHED = ("greedy", "top-k", "top-k+top-p")


def missing(name: str) -> str | None:
    """Why a provider cannot be measured here at all, or None."""
    package = {"fusedraw": "fusedraw", "hugging-face": "transformers"}.get(name)
    if package is not None and importlib.util.find_spec(package) is None:
        return f"{name}: the package {package} is not installed"
    return None


def skipped(name: str, case: Case) -> str | None:
    """Why a provider is left out of one case, or None."""
    if name == "torch-compile":
        if case.config not in pure_torch.Batched.CONFIGS:
            return f"torch-compile has no {case.config}"
        if case.threads != 1 or case.vocab not in COMPILED_VOCABS or case.batch == 1:
            return f"torch-compile runs at 1 thread, B > 1, V in {COMPILED_VOCABS}: it compiles for seconds"
    return None


def chunk(name: str, case: Case, logits: Tensor) -> timing.Chunk:
    """The chunk of one provider on one case's rows."""
    if name in floors.KINDS:
        temperature = float(case.settings.get("temperature", 1.0)) or 1.0
        return timing.chunk_in_c(floors.Floor(name, logits, case.threads, temperature))
    return timing.chunk_of(calls(name, case, logits))


def calls(name: str, case: Case, logits: Tensor) -> list[Callable[[], object]]:
    if name == "fusedraw":
        return [functools.partial(fusedraw_sampler(case), logits, keys=keys) for keys in key_sets(case.batch)]
    if name == "torch":
        return [functools.partial(fastest_eager(case, logits), logits)]
    if name == "torch-compile":
        sampler = pure_torch.Batched(case.config, case.settings, case.batch, case.vocab, compile=True)
        return [functools.partial(sampler, logits)]
    if name == "hugging-face":
        return [functools.partial(HuggingFace(case.settings), logits)]
    raise ValueError(f"providers: expected one of {', '.join(NAMES)}, got {name!r}")


def fusedraw_sampler(case: Case):
    import fusedraw

    return fusedraw.Sampler(**case.settings)


@functools.cache
def key_sets(batch: int) -> list[Tensor]:
    """Keys [batch, 2]: row i has the same ones at any batch size."""
    generator = torch.Generator().manual_seed(11)
    every = torch.randint(-(2**62), 2**62, (KEY_SETS, MOST_ROWS, 2), generator=generator)
    return [keys.contiguous() for keys in every[:, :batch]]


def fastest_eager(case: Case, logits: Tensor):
    by_row = pure_torch.Sampler(case.config, case.settings, case.vocab)
    if case.batch == 1 or case.config not in EAGER_BATCHED:
        return by_row
    together = pure_torch.Batched(case.config, case.settings, case.batch, case.vocab)
    samplers: dict[str, Callable[[Tensor], object]] = {"by_row": by_row, "together": together}
    chunks = {name: timing.chunk_of([functools.partial(s, logits)]) for name, s in samplers.items()}
    got = timing.interleave(chunks, rounds=5)
    return min(samplers.items(), key=lambda item: got[item[0]].median)[1]


class HuggingFace:
    """transformers' own warper classes, as `generate` applies them."""

    def __init__(self, settings: dict[str, Any]):
        from transformers.generation import logits_process as hf

        self.temperature = float(settings.get("temperature", 1.0))
        self.mix_eps = float(settings.get("mix_eps", 0.0))
        self.by_products = "returns" in settings
        warpers = hf.LogitsProcessorList()
        if self.temperature not in (0.0, 1.0):
            warpers.append(hf.TemperatureLogitsWarper(self.temperature))
        if "top_k" in settings:
            warpers.append(hf.TopKLogitsWarper(settings["top_k"]))
        if "top_p" in settings:
            warpers.append(hf.TopPLogitsWarper(settings["top_p"]))
        if "min_p" in settings:
            warpers.append(hf.MinPLogitsWarper(settings["min_p"]))
        self.warpers = warpers

    def scores(self, logits: Tensor) -> Tensor:
        # generate hands float32 to its processors; a copy that float32 logits do not need is not charged
        return self.warpers(None, logits.float())

    def __call__(self, logits: Tensor) -> Tensor | tuple[Tensor, ...]:
        if self.temperature == 0.0:
            return logits.argmax(-1)
        scores = self.scores(logits)
        if self.by_products:
            logp = torch.log_softmax(scores, -1)
            probs = logp.exp()
            ids = torch.multinomial(probs, 1)
            return ids.squeeze(1), logp.gather(1, ids).squeeze(1), -(probs * logp).sum(1)
        probs = torch.softmax(scores, -1)
        if self.mix_eps > 0:
            kept = probs > 0
            probs = probs * (1 - self.mix_eps) + kept * (self.mix_eps / kept.sum(1, keepdim=True))
        return torch.multinomial(probs, 1).squeeze(1)
