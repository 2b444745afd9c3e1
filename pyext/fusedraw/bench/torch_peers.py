# SPDX-License-Identifier: Apache-2.0
"""PyTorch as a provider: the samplers of pure_torch.py, eager (the fastest form on the case) and compiled."""

from __future__ import annotations

import functools
from collections.abc import Callable

from torch import Tensor

from . import pure_torch, timing
from .cases import Case
from .provider import Calls, Provider

COMPILED_VOCABS = (32000, 49152, 128256)
# where all rows at once can beat row by row without torch.compile: what stores no temporaries over V
EAGER_BATCHED = ("greedy", "top-k", "top-k+top-p")
DEVIATIONS = (
    "float32 weights and block sums, uniforms of 24 bits: a token below 2^-24 of the mass may never come",
    "top-p keeps every token that ties with its edge",
    "top-k keeps exactly k; which of several ties is torch.topk's choice",
)


class Eager(Provider):
    name, title = "torch", "plain PyTorch, the best eager form"
    distribution = "torch"
    deviations = DEVIATIONS

    def skipped(self, case: Case) -> str | None:
        if case.vocab % pure_torch.MAX_BLOCK != 0:
            return f"{self.name} takes V in multiples of {pure_torch.MAX_BLOCK}"
        return super().skipped(case)

    def calls(self, case: Case, logits: Tensor) -> Calls:
        forms = eager_forms(case)
        form = next(iter(forms)) if len(forms) == 1 else fastest_form(case, forms, logits)
        return [functools.partial(forms[form], logits)]


class Compiled(Provider):
    name, title = "torch-compile", "plain PyTorch, torch.compile"
    distribution = "torch"
    deviations = DEVIATIONS
    configs = pure_torch.Batched.CONFIGS

    def skipped(self, case: Case) -> str | None:
        if case.threads != 1 or case.vocab not in COMPILED_VOCABS or case.batch == 1:
            return f"{self.name} runs at 1 thread, B > 1, V in {COMPILED_VOCABS}: it compiles for seconds"
        return super().skipped(case)

    def calls(self, case: Case, logits: Tensor) -> Calls:
        sampler = pure_torch.Batched(case.config, case.settings, case.batch, case.vocab, compile=True)
        return [functools.partial(sampler, logits)]


def eager_forms(case: Case) -> dict[str, Callable[[Tensor], object]]:
    arguments = (case.config, case.settings)
    forms: dict[str, Callable[[Tensor], object]] = {"by row": pure_torch.Sampler(*arguments, case.vocab)}
    if case.batch > 1 and case.config in EAGER_BATCHED:
        forms["together"] = pure_torch.Batched(*arguments, case.batch, case.vocab)
    return forms


_FASTEST: dict[Case, str] = {}  # one choice a case: what is validated is what is timed


def fastest_form(case: Case, forms: dict[str, Callable[[Tensor], object]], logits: Tensor) -> str:
    if case not in _FASTEST:
        chunks = {name: timing.chunk_of([functools.partial(form, logits)]) for name, form in forms.items()}
        got = timing.interleave(chunks, rounds=5)
        _FASTEST[case] = min(forms, key=lambda name: got[name].median)
    return _FASTEST[case]
