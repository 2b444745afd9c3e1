# SPDX-License-Identifier: Apache-2.0
"""Hugging Face as a provider: the warpers of transformers in generate's order, softmax, torch.multinomial."""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor

from .cases import Case
from .provider import Calls, Provider


class HuggingFacePeer(Provider):
    name, title = "hugging-face", "transformers' warpers, softmax, multinomial"
    module = distribution = "transformers"
    install = "pip install transformers"
    deviations = (
        "T = 0 raises ValueError in its warper; greedy is torch.argmax",
        "top-k keeps every token that ties with the k-th",
        "top-p drops tokens while the ascending float32 running sum is <= 1 - p; ties at its edge fall as an"
        " unstable sort has them",
        "min-p comes after top-k and top-p, on float32 probabilities",
        "mix_eps is not in transformers: added here, on the probabilities",
        "torch.multinomial: p / q, q exponential, both float32",
    )

    def calls(self, case: Case, logits: Tensor) -> Calls:
        return [functools.partial(HuggingFace(case.settings), logits)]


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
