# SPDX-License-Identifier: Apache-2.0
"""Keys of the sequences of one `generate`: derive_keys(seed, request, sample, step).

With `seeds`, a request's key is that of (its seed, request 0): it does not know the batch. Without, one seed
comes from torch's default generator and requests are numbered by row. `sample` counts the sequences that
num_return_sequences asks for, `step` the new tokens.
"""

import operator

import torch
from torch import Tensor

from ..keys import _draw_seed, derive_keys, wrapped

_STEPS = 64


class StepKeys:
    """int64 keys [B, 2], those of the next step with each `next()`. They are made for many steps at once."""

    def __init__(self, keys: Tensor):
        self._first = keys.view(torch.int64)
        self._made = 0
        self._coming: list[Tensor] = []

    def next(self) -> Tensor:
        if not self._coming:
            steps = torch.arange(self._made, self._made + _STEPS, device=self._first.device)
            block = self._first.repeat(_STEPS, 1, 1)
            block[:, :, 1] += steps[:, None]
            self._coming = list(block.flip(0).unbind(0))
            self._made += _STEPS
        return self._coming.pop()


def first_keys(op: str, seeds, rows: int, samples: int, device: torch.device) -> StepKeys:
    """Keys of step 0 for `rows` sequences, `samples` to a request, requests in order."""
    requests = rows // samples
    sample_ids = torch.arange(rows, device=device) % samples
    if seeds is None:
        seed = _draw_seed(op, None, torch.device("cpu")).to(device)
        return StepKeys(derive_keys(seed, torch.arange(rows, device=device) // samples, sample_ids))
    seed = _seed_tensor(op, seeds, requests).to(device).repeat_interleave(samples)
    return StepKeys(derive_keys(seed, torch.zeros_like(sample_ids), sample_ids))


def _seed_tensor(op: str, seeds, requests: int) -> Tensor:
    """int64 [requests] with the bits of each seed, ints being taken mod 2^64."""
    if isinstance(seeds, Tensor):
        if seeds.dtype not in (torch.int64, torch.uint64, torch.int32):
            raise TypeError(f"{op}: seeds must be int64, uint64 or int32, got a {seeds.dtype} tensor")
        if tuple(seeds.shape) != (requests,):
            raise ValueError(
                f"{op}: seeds must have one seed per request, [{requests}], got shape {list(seeds.shape)}"
            )
        return seeds.view(torch.int64) if seeds.dtype == torch.uint64 else seeds.to(torch.int64)
    if isinstance(seeds, (str, bytes)) or not hasattr(seeds, "__len__"):
        raise TypeError(
            f"{op}: seeds must be a sequence of one int per request or a tensor, got {type(seeds).__name__}"
        )
    if len(seeds) != requests:
        raise ValueError(f"{op}: seeds must have one seed per request, {requests}, got {len(seeds)}")
    words = []
    for place, seed in enumerate(seeds):
        try:
            if type(seed).__name__ in ("bool", "bool_"):
                raise TypeError
            words.append(wrapped(operator.index(seed)))
        except TypeError:
            raise TypeError(f"{op}: seeds[{place}] must be an int, got {type(seed).__name__}") from None
    return torch.tensor(words, dtype=torch.int64)
