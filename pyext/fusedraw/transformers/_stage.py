# SPDX-License-Identifier: Apache-2.0
"""What is done on a step: processors that are called, then one fused draw.

A decoding step finds all caches full of the model's weights, so that a line of Python between the logits and
the operator costs several times what it costs in a loop. A stage therefore packs its parameters with the
first rows that it sees and calls the operator itself; what that refuses goes to the Sampler, which says why.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .._device import is_plain
from .._ops import sample as sample_op
from .._ops import sample_processed as processed_op
from .._params import pack_values
from .._rules import OFF, packed_numbers
from ..sampler import Sampler
from ..sampling import SampleOutput
from ._rules import REPETITION

_LISTS = ("suppress", "logit_bias")  # arguments of a call, not of a sampler
_COUNTING = ("frequency_penalty", "presence_penalty")


class Stage:
    """`called` processors in their order, then `draw`.

    Args:
        called: processors.
        fused: pairs (processor, (place in the law's order, its arguments)).
        arguments: what the fused ones give: arguments of `fusedraw.sample`.
        options: the other arguments of `fusedraw.Sampler`.
    """

    __slots__ = (
        "_edits",
        "_lists",
        "_packed",
        "called",
        "counts",
        "counts_new",
        "fused",
        "repetition",
        "sampler",
    )

    def __init__(self, called, fused, arguments: dict, options: dict):
        self.called = called
        self.fused = fused
        self._lists = {name: arguments.pop(name) for name in _LISTS if name in arguments}
        self._edits: dict[str, Any] | None = None if self._lists else {}
        self._packed: _Packed | None = None
        self.repetition = next((p for p, (place, _) in fused if place == REPETITION), None)
        # Whether the draw wants the ids so far: they grow with the text, so they come with each call.
        self.counts_new = any(name in options for name in _COUNTING)
        self.counts = self.counts_new or self.repetition is not None
        self.sampler = Sampler(**arguments, **options)

    def draw(self, scores: Tensor, keys: Tensor, history=None, prompt=None):
        """Ids int64 [B], or a SampleOutput where more was asked for, of `scores` [B, V] and `keys` [B, 2]."""
        packed = self._packed
        if packed is None:
            packed = self._packed = _Packed(self.sampler, scores, self._tensors(scores))
        if packed.direct and scores.__class__ is Tensor:
            try:
                if packed.rules is None and history is None:
                    out = sample_op(scores, packed.params, keys, None, *packed.tail)
                else:
                    ids = (history, None, prompt, None)
                    out = processed_op(
                        scores, packed.params, packed.rules, keys, None, *ids, *packed.lists, *packed.tail
                    )
            except RuntimeError:
                pass  # the sampler raises what the operator refused, in words
            else:
                return (
                    out[0]
                    if packed.fields is None
                    else SampleOutput(**dict(zip(packed.fields, out, strict=True)))
                )
        return self.sampler(scores, keys=keys, history=history, prompt=prompt, **self._tensors(scores))

    def _tensors(self, scores: Tensor) -> dict[str, Any]:
        """suppress and logit_bias as tensors beside `scores` [B, V], made once."""
        if self._edits is None:
            vocab, device = scores.shape[-1], scores.device
            self._edits = {}
            if "suppress" in self._lists:  # of ids beyond the logits transformers takes no notice
                ids = [i for i in self._lists["suppress"] if 0 <= i < vocab]
                self._edits["suppress"] = torch.tensor([ids], dtype=torch.int64, device=device)
            if "logit_bias" in self._lists:
                bias = self._lists["logit_bias"]
                self._edits["logit_bias"] = (
                    torch.tensor(list(bias), dtype=torch.int64, device=device),
                    torch.tensor(list(bias.values()), dtype=torch.float32, device=device),
                    torch.tensor([0, len(bias)], dtype=torch.int64, device=device),
                )
        return self._edits


class _Packed:
    """A sampler's parameters as the operators take them, for rows like `scores`."""

    __slots__ = ("direct", "fields", "lists", "params", "rules", "tail")

    def __init__(self, sampler: Sampler, scores: Tensor, edits: dict):
        self.direct = sampler._params is not None and is_plain(scores) and scores.dim() == 2
        if not self.direct:
            return
        self.params = sampler._params
        self.fields = None if sampler._bare else sampler._names
        mode = sampler._cpu_mode if scores.is_cpu else sampler._device_mode
        self.tail = (mode, sampler._outputs, sampler._top_n)
        self.rules = None
        ids, values, offsets = edits.get("logit_bias", (None, None, None))
        self.lists = (edits.get("suppress"), None, ids, offsets, values)
        if edits or sampler._rules is not None:
            rules = sampler._rules or OFF
            packed = packed_numbers("sample", rules)
            self.rules = pack_values(scores, rules) if packed is None else packed
