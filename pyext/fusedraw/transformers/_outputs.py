# SPDX-License-Identifier: Apache-2.0
"""What `generate` returns: transformers' own outputs with two fields more."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.generation.utils import GenerateDecoderOnlyOutput, GenerateEncoderDecoderOutput

from ..sampling import SampleOutput

_PER_STEP = ("kept_ids", "kept_offsets")  # CSR over a batch: one pair for each step


@dataclass
class FusedrawDecoderOnlyOutput(GenerateDecoderOnlyOutput):
    """GenerateDecoderOnlyOutput, and what `return_logprobs` and `returns` asked for.

    logprobs: float32 [B, new], nats: log-probability of each drawn token under the policy that drew it, 0
        for the padding behind a sequence that has ended.
    draws: SampleOutput whose fields are [B, new] (top_*: [B, new, n]), likewise 0 behind the end; kept_ids
        and kept_offsets are tuples with one entry per step, as `fusedraw.sample` gives them.
    """

    logprobs: Tensor | None = None
    draws: SampleOutput | None = None


@dataclass
class FusedrawEncoderDecoderOutput(GenerateEncoderDecoderOutput):
    """GenerateEncoderDecoderOutput with the fields of FusedrawDecoderOnlyOutput."""

    logprobs: Tensor | None = None
    draws: SampleOutput | None = None


class Records:
    """By-products of the draws, step by step."""

    def __init__(self, names, with_logprobs: bool):
        self._names = tuple(names)
        self._with_logprobs = with_logprobs
        self._steps: list[SampleOutput] = []
        self._unfinished: list[Tensor] = []

    def add(self, out: SampleOutput, unfinished: Tensor) -> None:
        """`unfinished` int64 [B]: 1 for the rows that had not ended before this draw."""
        self._steps.append(out)
        self._unfinished.append(unfinished)

    def fields(self) -> dict:
        """logprobs and draws of FusedrawDecoderOnlyOutput."""
        alive = torch.stack(self._unfinished, dim=1).bool()
        stacked: dict[str, Any] = {}
        for name in ("ids", *self._names):
            columns = [getattr(step, name) for step in self._steps]
            if name in _PER_STEP:
                stacked[name] = tuple(columns)
                continue
            column = torch.stack(columns, dim=1)
            here = alive.view(*alive.shape, *[1] * (column.dim() - 2))
            stacked[name] = torch.where(here, column, torch.zeros_like(column))
        logprobs = stacked.get("logp") if self._with_logprobs else None
        asked = set(stacked) - {"ids"} - ({"logp"} if self._with_logprobs else set())
        return {"logprobs": logprobs, "draws": SampleOutput(**stacked) if asked else None}
