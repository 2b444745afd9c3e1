# SPDX-License-Identifier: Apache-2.0
"""The best plain PyTorch forms known to us of what features.py times: the same inputs, the same law.

Each is a class made once per case, with its buffers, and called with nothing; a call gives ids [B], or what
the operation gives. They draw with pure_torch.Sampler, the fastest sampler there is for few or long rows.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from . import pure_torch

WORD = 32
FEW_WORDS = 1 / 16  # up to this share of words with a bit set, only their tokens are looked at


@functools.cache
def bytes_unpacked() -> Tensor:
    """float32 [256, 8]: entry b is -inf where bit i of b is not set, else 0. A look-up and an addition, both
    vectorised, take an eighth of the time of masked_fill, which is not."""
    bits = (torch.arange(256).unsqueeze(1) >> torch.arange(8)) & 1
    return torch.where(bits == 0, -math.inf, 0.0)


class Mask:
    """x + (0 or -inf) for a row and its mask int32 [V / 32], in buffers that stay."""

    def __init__(self, vocab: int):
        self.unpacked = torch.empty(vocab // 8, 8)
        self.out = torch.empty(1, vocab)

    def __call__(self, row: Tensor, words: Tensor) -> Tensor:
        torch.index_select(bytes_unpacked(), 0, words.view(torch.uint8).int(), out=self.unpacked)
        return torch.add(row, self.unpacked.view(1, -1), out=self.out)


def allowed_ids(words: Tensor, some: Tensor) -> Tensor:
    """The ids whose bit is set, out of the words of these indices."""
    bits = (words[some].unsqueeze(1) >> torch.arange(WORD, dtype=torch.int32)) & 1
    word, bit = bits.nonzero(as_tuple=True)
    return some[word] * WORD + bit


def ids_of(sampler: pure_torch.Sampler, logits: Tensor) -> Tensor:
    ids = sampler(logits)
    assert isinstance(ids, Tensor)
    return ids


class Edited:
    """Penalties over a history of ids, a bitmask, then a sampler of pure_torch."""

    def __init__(self, logits: Tensor, config: str, settings: dict[str, Any], edits: dict[str, Any]):
        self.logits, self.edits = logits, edits
        self.sampler = pure_torch.Sampler(config, settings, logits.shape[1])
        self.mask = Mask(logits.shape[1])

    def edited(self, row: int) -> Tensor:
        """The edited row [1, V], in this object's buffer."""
        out = self.mask(self.logits[row], self.edits["mask"][row])
        # a history holds few tokens: they are counted and changed, not the row; what is -inf stays so
        ids, counts = self.edits["history"][row].unique(return_counts=True)
        values = out[0, ids]
        penalty = self.edits["repetition_penalty"]
        values = torch.where(values > 0, values / penalty, values * penalty)
        values -= self.edits["frequency_penalty"] * counts
        out[0, ids] = values - self.edits["presence_penalty"]
        return out

    def __call__(self) -> Tensor:
        return torch.cat([ids_of(self.sampler, self.edited(row)) for row in range(len(self.logits))])


class Structured:
    """A grammar's bitmask, then temperature: the allowed tokens alone where few, else the masked row."""

    def __init__(self, logits: Tensor, temperature: float, words: Tensor):
        self.logits, self.temperature, self.words = logits, temperature, words
        self.sampler = pure_torch.Sampler("T", {"temperature": temperature}, logits.shape[1])
        self.mask = Mask(logits.shape[1])

    def draw(self, row: int) -> Tensor:
        words = self.words[row]
        some = words.nonzero()[:, 0]
        if len(some) <= FEW_WORDS * len(words):
            ids = allowed_ids(words, some)
            probs = (self.logits[row, ids].float() / self.temperature).softmax(0)
            return ids[pure_torch.race(probs.unsqueeze(0))]
        return ids_of(self.sampler, self.mask(self.logits[row], words))

    def __call__(self) -> Tensor:
        return torch.cat([self.draw(row) for row in range(len(self.logits))])


class Mixture:
    """The mean of the members' softmaxes, members [M, B, V]: one buffer, two passes a member, one draw."""

    def __init__(self, members: Tensor, temperature: float):
        self.members = members
        self.sampler = pure_torch.Sampler("T", {"temperature": temperature}, members.shape[2])
        self.total = torch.empty(members.shape[2])

    def draw(self, row: int) -> int:
        for m, member in enumerate(self.members[:, row]):
            weights = self.sampler.exponentials(member)[0]
            share = 1.0 / float(weights.sum())
            if m == 0:
                torch.mul(weights, share, out=self.total)
            else:
                self.total.add_(weights, alpha=share)
        return self.sampler.draw(self.total, self.sampler.block_sums(self.total))

    def __call__(self) -> Tensor:
        return torch.tensor([self.draw(row) for row in range(self.members.shape[1])])


class Route:
    """As mixture-of-experts models write it: softmax, the fastest noise, top-k, gather, normalise, count."""

    def __init__(self, logits: Tensor, k: int, noise: str):
        self.logits, self.k, self.noise = logits, k, noise

    def __call__(self) -> tuple[Tensor, Tensor, Tensor]:
        x = self.logits
        p = x.softmax(-1)
        z = x - torch.empty_like(x).exponential_().log_() if self.noise == "gumbel" else p
        ids = z.topk(self.k, dim=-1).indices
        weights = p.gather(-1, ids)
        counts = torch.bincount(ids.flatten(), minlength=x.shape[1])
        return ids, weights / weights.sum(-1, keepdim=True), counts


class TokenLogprob:
    """Log-probabilities of given ids: logsumexp without a gradient, log_softmax and gather with one."""

    def __init__(self, logits: Tensor, ids: Tensor, weight: Tensor, gradient: bool):
        self.logits, self.ids, self.weight, self.gradient = logits, ids, weight, gradient

    def __call__(self) -> Tensor:
        if self.gradient:
            return gradient_of(plain_logprob, self.logits, self.ids, self.weight)
        with torch.no_grad():
            chosen = self.logits.gather(1, self.ids.unsqueeze(1))[:, 0]
            return chosen - torch.logsumexp(self.logits, 1)


def plain_logprob(logits: Tensor, ids: Tensor) -> Tensor:
    return torch.log_softmax(logits, -1).gather(1, ids.unsqueeze(1))[:, 0]


def gradient_of(score: Any, logits: Tensor, ids: Tensor, weight: Tensor) -> Tensor:
    """The gradient of (weight * score).sum() in the logits."""
    x = logits.detach().requires_grad_()
    (weight * score(x, ids)).sum().backward()
    assert x.grad is not None
    return x.grad
