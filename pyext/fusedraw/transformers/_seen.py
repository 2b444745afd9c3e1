# SPDX-License-Identifier: Apache-2.0
"""The ids that a fused repetition penalty counts: those of the prompt, cleaned once, and the drawn ones."""

import torch
from torch import Tensor

_NO_ID = -1  # padding in the lists of fusedraw.sample


class SeenIds:
    """Lists of a generation that begins with `input_ids` int64 [B, L] and pads with `pad`, a 0-D tensor."""

    def __init__(self, input_ids: Tensor, pad: Tensor | None):
        self._start = input_ids
        self._pad = pad
        self._pad_is_beyond: bool | None = None  # of the row, known with the first logits
        self._prompt: Tensor | None = None
        self._all_count = False  # known with the prompt

    def lists(self, processor, input_ids: Tensor, vocab: int, new_apart: bool) -> dict[str, Tensor]:
        """`prompt` [B, L] for transformers' RepetitionPenaltyLogitsProcessor or None, `history` [B, new].

        Left padding does not count, and neither do ids beyond the logits: some models have more embeddings
        than logits. Where all ids count and nothing counts the new ones apart, they are one list.
        """
        if self._all_count and not new_apart and processor is not None:
            return {"history": input_ids}
        length = self._start.shape[1]
        if self._pad_is_beyond is None:
            self._pad_is_beyond = self._pad is not None and int(self._pad) >= vocab
        history = input_ids[:, length:]  # drawn, so ids of the row, and padding
        if self._pad_is_beyond:
            history = _only_ids_of_the_row(history, vocab)
        if processor is None:
            return {"history": history}
        if self._prompt is None:
            self._prompt = _only_ids_of_the_row(self._start, vocab)
            ignored = processor.prompt_ignore_length
            if ignored is not None:
                places = torch.arange(length, device=self._start.device)
                ignored = ignored.to(self._start.device)
                self._prompt = self._prompt.masked_fill(places < ignored[:, None], _NO_ID)
            self._all_count = not self._pad_is_beyond and torch.equal(self._prompt, self._start)
        return {"prompt": self._prompt, "history": history}


def _only_ids_of_the_row(ids: Tensor, vocab: int) -> Tensor:
    return ids.masked_fill(ids >= vocab, _NO_ID)
