# SPDX-License-Identifier: Apache-2.0
"""The best samplers that plain PyTorch gave us on a CPU: what fusedraw is measured against.

logits [B, V] float32 or bfloat16 -> ids [B] int64. All draw from the exact law of their filter (up to float32
sums and 24-bit uniforms; tokens that tie with the edge of top-p are all kept). What makes them fast:

- No sort, no cumsum over V, no exponential_ over V (each costs 10 to 100 times a pass over the row): a token
  is drawn in two levels, a block by its sum, then a token within it.
- The best k lie in the k blocks of largest maximum: amax over V, then topk over few values.
- top-p by rejection: a token of the whole law is kept if less than p of the mass lies above it, which one
  `threshold` and one `sum` tell; 1 / p rounds on average, whatever the row looks like.
- Ops that PyTorch vectorises (amax, threshold, add with alpha, sum; exp2, in a third of exp's time), none
  that it does not (argmax, gt, where); one buffer that stays; one row at a time, so that it stays cached.

`Sampler` goes row by row, the fastest for few or long rows. `Batched` takes all rows at once: fewer calls
into PyTorch, and with compile=True (torch.compile) the passes over V are fused and store nothing.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

SUM_BLOCK = 256  # a token is drawn from V / 256 sums, then from 256 weights
DOT_LENGTH = 1 << 16  # products summed in one chain: of 262144, an entropy was off by more than 0.001
MAX_BLOCK = 64  # the best k are looked for in k blocks: smaller ones leave fewer candidates
LOG2E = math.log2(math.e)
CACHED_ELEMENTS = 1 << 18  # 1 MB of float32, half of a usual second-level cache


class Sampler:
    """One configuration for one V; the buffers are made here, once."""

    def __init__(self, config: str, settings: dict[str, Any], vocab: int):
        if vocab % MAX_BLOCK != 0:
            raise ValueError(f"pure_torch.Sampler: V must be a multiple of {MAX_BLOCK}, got {vocab}")
        self.temperature = float(settings.get("temperature", 1.0))
        self.top_k = int(settings.get("top_k", 0))
        self.top_p = float(settings.get("top_p", 1.0))
        self.min_p = float(settings.get("min_p", 0.0))
        self.mix_eps = float(settings.get("mix_eps", 0.0))
        self.sum_block = SUM_BLOCK if vocab % SUM_BLOCK == 0 else MAX_BLOCK
        self.weights = torch.empty(vocab)
        self.wide = torch.empty(vocab)
        self.rule: Callable[[Tensor], tuple] = {
            "greedy": self.greedy,
            "T": self.plain,
            "top-k": self.best,
            "top-p": self.nucleus,
            "top-k+top-p": self.best,
            "min-p": self.min_p_draw,
            "mix+top-p": self.mixture,
            "T+logp+entropy": self.with_logp,
        }[config]

    def __call__(self, logits: Tensor) -> Tensor | tuple[Tensor, ...]:
        columns = zip(*[self.rule(row) for row in logits.unbind(0)], strict=True)
        ids, *more = (torch.tensor(column) for column in columns)
        return (ids, *more) if more else ids

    # The rules: one row in, its id and by-products out.

    def greedy(self, row: Tensor) -> tuple:
        blocks = row.view(-1, MAX_BLOCK)
        best = int(blocks.amax(1).argmax())
        return (best * MAX_BLOCK + int(blocks[best].argmax()),)

    def plain(self, row: Tensor) -> tuple:
        weights = self.exponentials(row)[0]
        return (self.draw(weights, self.block_sums(weights)),)

    def best(self, row: Tensor) -> tuple:
        """top-k, and top-p among what it keeps."""
        blocks = row.view(-1, MAX_BLOCK)
        some = blocks.amax(1).topk(min(self.top_k, len(blocks)), sorted=False).indices
        values, places = blocks.index_select(0, some).view(-1).topk(self.top_k)
        running = values.float().softmax(0).cumsum(0)
        if self.top_p < 1:
            # the shortest prefix that reaches p ends at the first sum >= p
            running = running[: int(torch.searchsorted(running, self.top_p)) + 1]
        place = int(places[pick(running, float(torch.rand(())))])
        return (int(some[place // MAX_BLOCK]) * MAX_BLOCK + place % MAX_BLOCK,)

    def nucleus(self, row: Tensor) -> tuple:
        weights = self.exponentials(row)[0]
        return (self.nucleus_of(weights),)

    def nucleus_of(self, weights: Tensor) -> int:
        sums = self.block_sums(weights)
        limit = float(sums.sum()) * self.top_p
        while True:
            token = self.draw(weights, sums)
            if mass_above(weights, float(weights[token])) < limit:
                return token

    def min_p_draw(self, row: Tensor) -> tuple:
        weights = self.exponentials(row)[0]
        below = math.nextafter(self.min_p, 0.0)  # threshold keeps what is larger, min-p what is as large
        weights = torch.threshold_(weights, below, 0.0)
        return (self.draw(weights, self.block_sums(weights)),)

    def mixture(self, row: Tensor) -> tuple:
        """With probability mix_eps any token of the nucleus, else one by its weight."""
        weights = self.exponentials(row)[0]
        if float(torch.rand(())) >= self.mix_eps:
            return (self.nucleus_of(weights),)
        members = nucleus_members(weights, self.top_p)
        return (int(members[torch.randint(len(members), ())]),)

    def with_logp(self, row: Tensor) -> tuple:
        weights, row, highest = self.exponentials(row)
        sums = self.block_sums(weights)
        token = self.draw(weights, sums)
        total = float(sums.sum())
        # the mean of (x - max) / T under the law, from the logits that are at hand
        parts = zip(weights.split(DOT_LENGTH), row.split(DOT_LENGTH), strict=True)
        mean = (sum(float(torch.dot(w, x)) for w, x in parts) / total - highest) / self.temperature
        logp = (float(row[token]) - highest) / self.temperature - math.log(total)
        return token, logp, math.log(total) - mean

    # What they share.

    def exponentials(self, row: Tensor) -> tuple[Tensor, Tensor, float]:
        """exp((x - max) / T) in this sampler's buffer, the row as float32, its maximum."""
        if row.dtype != torch.float32:
            row = self.wide.copy_(row)
        highest = row.amax()
        scale = LOG2E / self.temperature
        torch.add(highest.mul(-scale), row, alpha=scale, out=self.weights)
        return self.weights.exp2_(), row, float(highest)

    def block_sums(self, weights: Tensor) -> Tensor:
        return weights.view(-1, self.sum_block).sum(1)

    def draw(self, weights: Tensor, sums: Tensor) -> int:
        first, second = torch.rand(2).tolist()
        block = pick(sums.cumsum(0), first)
        start = block * self.sum_block
        return start + pick(weights[start : start + self.sum_block].cumsum(0), second)


def pick(running: Tensor, uniform: float) -> int:
    """The index whose share of the running sum holds `uniform` in [0, 1)."""
    target = uniform * float(running[-1])
    return min(int(torch.searchsorted(running, target, right=True)), len(running) - 1)


def mass_above(weights: Tensor, edge: float) -> float:
    return float(torch.threshold(weights, edge, 0.0).sum())


def nucleus_members(weights: Tensor, top_p: float) -> Tensor:
    """The ids of the nucleus: its smallest weight by bisection, the last few candidates sorted."""
    limit = float(weights.sum()) * top_p
    low, high = 2.0**-126, 1.0  # the edge's weight lies in [low, high]
    for _ in range(40):
        middle = math.sqrt(low * high)
        if mass_above(weights, middle) >= limit:
            low = middle
        else:
            high = middle
        if high <= low * (1 + 2e-6):
            break
    between = weights[(weights >= low) & (weights <= high)].sort(descending=True).values
    above = float(weights[weights > high].sum()) + between.cumsum(0) - between
    edge = between[above < limit]
    return (weights >= (edge[-1] if len(edge) else high)).nonzero()[:, 0]


class Batched:
    """The same laws over all rows at once; no mixture (its rare branch is a loop over rows)."""

    CONFIGS = ("greedy", "T", "top-k", "top-p", "top-k+top-p", "min-p", "T+logp+entropy")

    def __init__(self, config: str, settings: dict[str, Any], batch: int, vocab: int, compile: bool = False):
        self.rows = Sampler(
            config, settings, vocab
        )  # its parameters, and the rounds after the first of top-p
        self.scale = 1.0 / self.rows.temperature if self.rows.temperature else 1.0
        # uncompiled passes store temporaries: as many rows as the cache holds
        self.chunk = batch if compile else max(1, min(batch, CACHED_ELEMENTS // vocab))
        wrap = torch.compile if compile else lambda function, **_: function
        if compile:
            torch._dynamo.config.recompile_limit = 1000  # one per shape and dtype of the grid
        self.sums = wrap(block_sums, dynamic=False)
        self.moments = wrap(block_moments, dynamic=False)
        self.sums_above = wrap(masses_above, dynamic=False)
        self.maxima = wrap(block_maxima, dynamic=False)
        self.rule: Callable[[Tensor], tuple[Tensor, ...]] = {
            "greedy": self.greedy,
            "top-k": self.best,
            "top-k+top-p": self.best,
            "T": self.plain,
            "min-p": self.plain,
            "top-p": self.nucleus,
            "T+logp+entropy": self.with_logp,
        }[config]

    def __call__(self, logits: Tensor) -> Tensor | tuple[Tensor, ...]:
        if len(logits) <= self.chunk:
            out = self.rule(logits)
        else:
            parts = [self.rule(piece) for piece in logits.split(self.chunk)]
            out = tuple(torch.cat(columns) for columns in zip(*parts, strict=True))
        return out[0] if len(out) == 1 else out

    def greedy(self, logits: Tensor) -> tuple[Tensor, ...]:
        block = self.maxima(logits, MAX_BLOCK).argmax(1)
        inner = logits.view(len(logits), -1, MAX_BLOCK)[torch.arange(len(block)), block]
        return (block * MAX_BLOCK + inner.argmax(1),)

    def best(self, logits: Tensor) -> tuple[Tensor, ...]:
        count = min(self.rows.top_k, logits.shape[1] // MAX_BLOCK)
        some = self.maxima(logits, MAX_BLOCK).topk(count, sorted=False).indices
        blocks = logits.view(len(logits), -1, MAX_BLOCK)[torch.arange(len(some)).unsqueeze(1), some]
        values, places = blocks.view(len(some), -1).topk(self.rows.top_k)
        weights = values.float().softmax(1)
        if self.rows.top_p < 1:
            weights.masked_fill_(weights.cumsum(1) - weights >= self.rows.top_p, 0)
        place = places.gather(1, race(weights).unsqueeze(1))
        block = some.gather(1, place // MAX_BLOCK)
        return ((block * MAX_BLOCK + place % MAX_BLOCK).squeeze(1),)

    def plain(self, logits: Tensor) -> tuple[Tensor, ...]:
        highest, sums = self.sums(logits, self.scale, self.rows.min_p, self.rows.sum_block)
        return (self.draw(logits, highest, sums),)

    def nucleus(self, logits: Tensor) -> tuple[Tensor, ...]:
        highest, sums = self.sums(logits, self.scale, 0.0, self.rows.sum_block)
        ids = self.draw(logits, highest, sums)
        edge = logits.gather(1, ids.unsqueeze(1))
        above = self.sums_above(logits, highest, edge, self.scale)
        for row in (above >= sums.sum(1) * self.rows.top_p).nonzero()[:, 0].tolist():
            ids[row] = self.rows.nucleus(logits[row])[0]  # a fresh accepted draw has the same law
        return (ids,)

    def with_logp(self, logits: Tensor) -> tuple[Tensor, ...]:
        highest, sums, moments = self.moments(logits, self.scale, self.rows.sum_block)
        ids = self.draw(logits, highest, sums)
        total = sums.sum(1)
        score = (logits.gather(1, ids.unsqueeze(1)).float() - highest).squeeze(1) * self.scale
        return ids, score - total.log(), total.log() - moments.sum(1) / total

    def draw(self, logits: Tensor, highest: Tensor, sums: Tensor) -> Tensor:
        size = self.rows.sum_block
        running = sums.cumsum(1)
        target = torch.rand(len(running), 1).mul_(running[:, -1:])
        block = torch.searchsorted(running, target, right=True).squeeze(1).clamp_(max=sums.shape[1] - 1)
        inner = logits.view(len(logits), -1, size)[torch.arange(len(block)), block]
        weights = torch.exp((inner.float() - highest) * self.scale)
        if self.rows.min_p > 0:
            weights.masked_fill_(weights < self.rows.min_p, 0)
        return block * size + race(weights)


def block_maxima(logits: Tensor, size: int) -> Tensor:
    return logits.view(logits.shape[0], -1, size).amax(2)


def block_sums(logits: Tensor, scale: float, min_p: float, size: int) -> tuple[Tensor, Tensor]:
    """The maximum [B, 1], and the sum of the weights of each block [B, V / size]."""
    logits = logits.float()
    highest = logits.amax(1, keepdim=True)
    weights = torch.exp((logits - highest) * scale)
    if min_p > 0:
        weights = torch.where(weights >= min_p, weights, 0.0)
    return highest, weights.view(logits.shape[0], -1, size).sum(2)


def block_moments(logits: Tensor, scale: float, size: int) -> tuple[Tensor, Tensor, Tensor]:
    """block_sums, and the sum of weight * score of each block."""
    logits = logits.float()
    highest = logits.amax(1, keepdim=True)
    scores = (logits - highest) * scale
    weights = torch.exp(scores)
    shape = (logits.shape[0], -1, size)
    return highest, weights.view(shape).sum(2), (weights * scores).view(shape).sum(2)


def masses_above(logits: Tensor, highest: Tensor, edge: Tensor, scale: float) -> Tensor:
    weights = torch.exp((logits.float() - highest) * scale)
    return torch.where(logits > edge, weights, 0.0).sum(1)


def race(weights: Tensor) -> Tensor:
    """An index of each row by its weight: the first of independent exponential clocks to ring."""
    return (weights / torch.empty_like(weights).exponential_()).argmax(1)
