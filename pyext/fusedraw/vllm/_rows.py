# SPDX-License-Identifier: Apache-2.0
"""From what vLLM knows of its rows to what `fusedraw.sample` takes: keys, parameters, processed logits.

Nothing here imports vLLM. B is the number of rows; tensors lie on the device of the logits.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..filters import top_k_mask
from ..keys import wrapped
from ..status import Status

GREEDY_BELOW = 1e-5  # vLLM's: a lower temperature is a greedy row
# vLLM's order of the filters, and of its ties: all tokens that equal the last one kept by top-k stay.
RULES = {"filter_order": "min_p_first", "ties": "all", "check": "status"}

_MIN_INT64 = -(2**63)


def tempered(temperature: Tensor) -> Tensor:
    """float32 [B]: the temperatures, 0 (greedy) where vLLM takes the row for greedy."""
    return torch.where(temperature < GREEDY_BELOW, 0.0, temperature)


def neutral(temperature: Tensor) -> Tensor:
    """float32 [B]: for logits that have been divided by their temperature already."""
    return (temperature >= GREEDY_BELOW).to(torch.float32)


class Keys:
    """Keys of a batch, step after step: (seed, position) of seeded rows, fresh random ones of others."""

    def __init__(self, rows: int, seeds: dict[int, int], device: torch.device):
        """seeds: row -> seed (any int, mod 2^64), for some of the `rows` rows."""
        self._rows = rows
        self._device = device
        self._seeded = sorted(row for row in seeds if row < rows)
        self._seeds = [wrapped(seeds[row]) for row in self._seeded]
        self._index = None
        if self._seeded and len(self._seeded) < rows:
            self._index = torch.tensor(self._seeded, device=device)

    @property
    def needs_positions(self) -> bool:
        return bool(self._seeded)

    def at(self, positions: Sequence[Sequence] | None) -> Tensor:
        """int64 [B, 2]; the position of row r is len(positions[r]), its output tokens up to now."""
        given = None
        if self._seeded:
            assert positions is not None
            pairs = [(seed, len(positions[row])) for row, seed in zip(self._seeded, self._seeds, strict=True)]
            given = _on(torch.tensor(pairs, dtype=torch.int64), self._device)
            if self._index is None:
                return given
        # From torch's default generator of the device, as vLLM's own noise is.
        keys = torch.empty((self._rows, 2), dtype=torch.int64, device=self._device)
        keys.random_(_MIN_INT64, None)
        if given is not None:
            keys[self._index] = given
        return keys


class History:
    """The output tokens of a batch as padded ids, step after step."""

    def __init__(self, rows: int, device: torch.device):
        self._device = device
        self._ids = np.full((rows, 64), -1, dtype=np.int32)
        self._known = [0] * rows  # tokens that are in, and that vLLM will not change any more

    def at(self, outputs: Sequence[list[int]]) -> Tensor:
        """int32 [B, L], -1 where a row has no token; row r is outputs[r], which grows from call to call."""
        width = 1
        for row, known in enumerate(self._known):
            tokens = outputs[row]
            count = len(tokens)
            if count < known:  # vLLM took tokens back
                known = 0
                self._ids[row] = -1
            if count > self._ids.shape[1]:
                wider = np.full((len(self._ids), 2 * count), -1, dtype=np.int32)
                wider[:, : self._ids.shape[1]] = self._ids
                self._ids = wider
            self._ids[row, known:count] = tokens[known:]
            while count and tokens[count - 1] < 0:  # a place that vLLM keeps for a token under way
                count -= 1
            self._known[row] = count
            width = max(width, len(tokens))
        # A copy: on a device it is read later, and vLLM goes on to the next step.
        return _on(torch.from_numpy(self._ids[:, :width].copy()), self._device)


def prompt_ids(prompt: Tensor, vocabulary: int) -> Tensor:
    """`prompt` [B, L] with -1 for what is no token of the vocabulary: vLLM pads with the first such id."""
    return torch.where((prompt >= 0) & (prompt < vocabulary), prompt, -1)


def unfiltered(greedy: Tensor, vocabulary: int, top_k, top_p, min_p=0.0) -> Tensor:
    """bool [B]: rows that no filter touches; a number instead of a tensor [B] is a filter left out."""
    free = torch.ones_like(greedy)
    if isinstance(top_k, Tensor):
        free &= top_k >= vocabulary
    if isinstance(top_p, Tensor):
        free &= top_p >= 1
    if isinstance(min_p, Tensor):
        free &= min_p <= 0
    return greedy | free


def processed_logits(logits: Tensor, n_kept: Tensor, whole: Tensor) -> Tensor:
    """A copy of `logits` [B, V], -inf outside the first n_kept [B] tokens of the order.

    Every filter keeps a prefix of the order, so its length says all. Rows of `whole` (bool [B], unfiltered
    ones) keep also what lies too far below the best token to be drawn. A row of NaN stays one.
    """
    return top_k_mask(logits, torch.where(whole, 0, n_kept))


class SeedGenerator(torch.Generator):
    """A CPU generator that vLLM can ask to take back the draw of an unfinished prompt.

    vLLM does so by the generator's offset, which those of the CPU do not have: it would end there. With keys
    there is nothing to take back.
    """

    def get_offset(self) -> int:
        return 0

    def set_offset(self, offset: int) -> torch.Generator:
        return self


def seed_generator(generator: torch.Generator | None) -> torch.Generator | None:
    """The generator of a request, with its state, as a SeedGenerator if it is one of the CPU."""
    if type(generator) is not torch.Generator or generator.device.type != "cpu":
        return generator
    ours = SeedGenerator()
    ours.set_state(generator.get_state())
    return ours


class BadRows:
    """Rows without a law: NaN, +inf or nothing left. They get token 0, and the log tells.

    On the CPU each call is looked at. Elsewhere looking waits for the device, so the rows are counted there,
    and the count is read once in `period` calls.
    """

    def __init__(self, period: int = 1024):
        self._period = period
        self._calls = 0
        self._count: Tensor | None = None

    def replace(self, ids: Tensor, status: Tensor) -> tuple[Tensor, str | None]:
        """(ids with 0 for -1, what to log or None); ids int64 [B], status uint8 [B]."""
        names = "NaN, +inf or nothing left"
        if ids.is_cpu:
            if int(ids.min()) >= 0:
                return ids, None
            names = ", ".join(sorted({Status(code).name for code in status.tolist() if code}))
        elif not self.due(ids):
            return ids.clamp(min=0), None
        return ids.clamp(min=0), f"rows that cannot be drawn from got token 0: {names}"

    def due(self, ids: Tensor) -> bool:
        """Counts bad rows without looking; in every `period`-th call, whether there were any."""
        bad = (ids < 0).sum()
        self._count = bad if self._count is None else self._count + bad
        self._calls += 1
        if self._calls % self._period:
            return False
        count, self._count = int(self._count), None
        return count > 0


def _on(host: Tensor, device: torch.device) -> Tensor:
    """`host` on `device`, without waiting for it."""
    if device.type != "cuda":
        return host.to(device)
    return host.pin_memory().to(device, non_blocking=True)
