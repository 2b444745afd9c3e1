# SPDX-License-Identifier: Apache-2.0
"""Outputs of some prompts under one condition, what each draw says of itself, and the logits of each step.

The model's own `generate` decodes, with fusedraw.transformers in it; then every token is drawn once more from
the recorded logits, all rows in one call, which must change none.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy
import torch

from .._threads import threads
from ..keys import derive_keys
from ..sampling import sample
from .models import Loaded
from .plan import Condition
from .store import STATS

CONFIDENCE_TOP = 20  # tokens in DeepConf's token confidence (Fu et al. 2025)
_RETURNS = ("logp", "logp_raw", "entropy", "varentropy", "margin", "rank", "kept_mass", "explored")


@dataclass
class Drawn:
    """Tokens, and what they were drawn from."""

    ids: numpy.ndarray  # int32 [n]
    logits: torch.Tensor  # float32 [n, V]


@dataclass
class Decoded(Drawn):
    """One output with what each draw said of itself."""

    stats: numpy.ndarray  # float32 [n, len(STATS)]
    finished: bool
    redrawn: int


def seed_of(condition: Condition, prompt: int, number: int) -> int:
    """The seed of a request: of the condition's seed, the prompt's number and the sample's."""
    return condition.seed << 32 | number << 20 | prompt


def decode(
    loaded: Loaded, condition: Condition, prompts: Sequence[int], ids: Sequence[Sequence[int]],
    number: int, max_new_tokens: int,
) -> list[Decoded]:  # fmt: skip
    """Sample `number` of each prompt, in one batch. prompts: their numbers; ids: their tokens."""
    width = max(len(prompt) for prompt in ids)
    seeds = [seed_of(condition, prompt, number) for prompt in prompts]
    with threads(condition.threads):
        out = _generate(loaded, condition, ids, seeds, max_new_tokens)
        tokens = out.sequences[:, width:].cpu()
        logits = torch.stack([step.float().cpu() for step in out.logits], 1)
        stats = _stats(out.draws)
    ends, decoded = loaded.ends(), []
    for row, seed in enumerate(seeds):
        stop = torch.isin(tokens[row], torch.tensor(ends)).nonzero()
        finished = len(stop) > 0
        length = int(stop[0]) + 1 if finished else tokens.shape[1]
        own = logits[row, :length].clone()
        again = draw(condition, seed, own)
        decoded.append(
            Decoded(
                tokens[row, :length].to(torch.int32).numpy(),
                own,
                stats[row, :length].numpy(),
                finished,
                int((again == tokens[row, :length]).sum()),
            )
        )
    return decoded


def draw(condition: Condition, seed: int, logits: torch.Tensor, first: int = 0) -> torch.Tensor:
    """int64 [n]: what the condition draws with this seed from logits float32 [n, V] of steps first, ..."""
    steps = torch.arange(first, first + len(logits))
    keys = derive_keys(seed, torch.zeros_like(steps), 0, step=steps)
    return sample(logits, keys=keys, **condition.law())


def _generate(loaded, condition, ids, seeds, max_new_tokens):
    from transformers import GenerationConfig

    from ..transformers import sample as custom_generate

    tokens, attended = loaded.padded(ids)
    law = condition.law()
    greedy = law["temperature"] == 0
    settings = {} if greedy else {k: law[k] for k in ("temperature", "top_k", "top_p", "min_p")}
    config = GenerationConfig(
        do_sample=not greedy,
        max_new_tokens=max_new_tokens,
        eos_token_id=loaded.ends(),
        pad_token_id=loaded.pad(),
        return_dict_in_generate=True,
        output_logits=True,
        **settings,
    )
    model = loaded.model(condition.dtype, condition.device)
    return model.generate(
        input_ids=tokens.to(model.device),
        attention_mask=attended.to(model.device),
        generation_config=config,
        custom_generate=custom_generate,
        seeds=seeds,
        ties="index",
        mix_eps=law["mix_eps"],
        mix_support=law["mix_support"],
        returns=_RETURNS,
        top_n=CONFIDENCE_TOP,
    )


def _stats(draws) -> torch.Tensor:
    """float32 [B, new, len(STATS)]."""
    top = draws.top_logps.float().cpu()
    # a vocabulary of fewer tokens, or -inf logits, leaves -inf: the mean is of those that are there
    there = torch.isfinite(top)
    confidence = -torch.where(there, top, 0.0).sum(-1) / there.sum(-1).clamp(min=1)
    columns = {name: getattr(draws, name).float().cpu() for name in _RETURNS}
    columns |= {"confidence": confidence, "best_logp": top[..., 0]}
    return torch.stack([columns[name] for name in STATS], -1)
