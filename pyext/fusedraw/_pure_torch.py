# SPDX-License-Identifier: Apache-2.0
"""The samplers that the demo compares with: the fastest eager PyTorch we know, and the Hugging Face warpers.

One row, logits [1, V] float32 with V a multiple of 256 -> id [1, 1] int64. Filters in fusedraw's default
order: top-k, top-p over what top-k kept, min-p. Random numbers come from torch's global generator: a draw
depends on all that was drawn before it.
"""

from __future__ import annotations

import math

import torch

# Groups of 64 or 256 ids are ranked by their largest member before anything is ranked token by token: the k
# best tokens lie in the k best groups. Measured at V = 49152, k = 50: torch.topk 120 us, by groups 77 us.
RANK_GROUP = 64
DRAW_GROUP = 256
FIRST_CANDIDATES = 64  # top-p: most nuclei are smaller; grown eightfold until the mass is reached
MOST_GROUPED = 128  # more candidates than this: ranking the whole row is faster


def draw(logits, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0):
    """One token id from logits [1, V]: pure PyTorch, every configuration by its quickest route."""
    if temperature == 0.0:
        return logits.argmax(-1, keepdim=True)
    if top_k:
        return _draw_top_k(logits, temperature, top_k, top_p, min_p)
    if top_p < 1.0:
        return _draw_top_p(logits, temperature, top_p, min_p)
    if min_p > 0.0:
        return _draw_min_p(logits, temperature, min_p)
    return _draw_all(logits, temperature)


def draw_with_statistics(logits, temperature: float = 1.0, top_p: float = 1.0):
    """As `draw`, with what the demo prints: (id, log-probability, entropy before filters), nats."""
    if temperature == 0.0:
        zero = logits.new_zeros(1, 1)
        return logits.argmax(-1, keepdim=True), zero, zero
    log_p = torch.log_softmax(logits * (1.0 / temperature), -1)
    p = log_p.exp()
    entropy = -(p * log_p).nansum(-1)  # 0 * -inf counts as 0
    if top_p >= 1.0:
        ids = _draw_all(logits, temperature)
        return ids, log_p.gather(1, ids), entropy
    values, ids = _nucleus(p, top_p)
    drawn = torch.multinomial(values, 1)
    return ids.gather(1, drawn), (values.gather(1, drawn) / values.sum()).log(), entropy


def hugging_face_draw(temperature: float = 1.0, **filters):
    """The draw of transformers' `generate`, warpers, softmax, torch.multinomial: a function of the logits."""
    if temperature == 0.0:  # generate(do_sample=False)
        return lambda logits: logits.argmax(-1, keepdim=True)
    warp = _hugging_face_warpers(temperature, **filters)
    return lambda logits: torch.multinomial(torch.softmax(warp(None, logits), -1), 1)


def hugging_face_draw_with_statistics(temperature: float = 1.0, top_p: float = 1.0):
    """As `hugging_face_draw`, with log-probability and entropy computed beside it."""
    if temperature == 0.0:
        return hugging_face_draw(temperature)
    warp = _hugging_face_warpers(temperature, top_p=top_p)

    def hf_draw_with_statistics(logits):
        kept = torch.softmax(warp(None, logits), -1)
        ids = torch.multinomial(kept, 1)
        log_p = torch.log_softmax(logits / temperature, -1)
        return ids, kept.gather(1, ids).log(), -(log_p.exp() * log_p).nansum(-1)

    return hf_draw_with_statistics


def _hugging_face_warpers(temperature, top_k=0, top_p=1.0, min_p=0.0):
    from transformers import (
        LogitsProcessorList,
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    warpers = LogitsProcessorList()
    if temperature != 1.0:
        warpers.append(TemperatureLogitsWarper(temperature))
    if top_k:
        warpers.append(TopKLogitsWarper(top_k))
    if top_p < 1.0:
        warpers.append(TopPLogitsWarper(top_p))
    if min_p > 0.0:
        warpers.append(MinPLogitsWarper(min_p))
    return warpers


def _draw_all(logits, temperature):
    """A multinomial over groups, then one within: an exp pass and a sum pass instead of a cumulative sum."""
    weights = ((logits - logits.amax()) * (1.0 / temperature)).exp_().view(-1, DRAW_GROUP)
    group = torch.multinomial(weights.sum(-1), 1)
    return (group * DRAW_GROUP + torch.multinomial(weights[group[0]], 1)).view(1, 1)


def _draw_top_k(logits, temperature, top_k, top_p, min_p):
    values, ids = _largest(logits, top_k)
    p = torch.softmax(values * (1.0 / temperature), -1)
    p = _cut_below(_cut_nucleus(p, top_p), min_p)
    return ids.gather(1, torch.multinomial(p, 1))


def _draw_top_p(logits, temperature, top_p, min_p):
    values, ids = _nucleus(torch.softmax(logits * (1.0 / temperature), -1), top_p)
    return ids.gather(1, torch.multinomial(_cut_below(values, min_p), 1))


def _draw_min_p(logits, temperature, min_p):
    """Only groups whose best member passes are looked at again."""
    groups = logits.view(-1, DRAW_GROUP)
    best = groups.amax(-1)
    threshold = best.amax() + temperature * math.log(min_p)
    group_ids = (best >= threshold).nonzero()[:, 0]
    candidates = groups[group_ids].view(-1)
    p = torch.softmax(candidates * (1.0 / temperature), -1) * (candidates >= threshold)
    drawn = torch.multinomial(p, 1)
    return (group_ids[drawn // DRAW_GROUP] * DRAW_GROUP + drawn % DRAW_GROUP).view(1, 1)


def _nucleus(p, top_p):
    """The shortest best-first prefix of p [1, V] with mass >= top_p: (values, ids), 0 for what is outside."""
    width, vocabulary = FIRST_CANDIDATES, p.shape[-1]
    while True:
        values, ids = _largest(p, width)
        if width == vocabulary or values.sum() >= top_p:
            return _cut_nucleus(values, top_p), ids
        width = min(8 * width, vocabulary)


def _largest(row, k):
    """torch.topk of row [1, V], by groups while that is quicker."""
    k = min(k, row.shape[-1])
    if k > MOST_GROUPED or k > row.shape[-1] // RANK_GROUP:
        return torch.topk(row, k, -1)
    groups = row.view(-1, RANK_GROUP)
    best_groups = torch.topk(groups.amax(-1), k, sorted=False).indices
    values, places = torch.topk(groups[best_groups].view(1, -1), k, -1)
    return values, best_groups[places // RANK_GROUP] * RANK_GROUP + places % RANK_GROUP


def _cut_nucleus(p, top_p):
    """p [1, n] best first: zero from where the mass before a token already reaches top_p."""
    if top_p >= 1.0:
        return p
    return p * (p.cumsum(-1) - p < top_p)


def _cut_below(p, min_p):
    """p [1, n] best first: zero below min_p times the best."""
    return p * (p >= min_p * p[:, :1]) if min_p > 0.0 else p
