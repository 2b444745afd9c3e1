# SPDX-License-Identifier: Apache-2.0
"""The sampler of vLLM's second model runner (the CUDA build's default): the state of a request lies in a
slot, and a row names its slot.

One method is replaced: Sampler._sample_random, which gets logits after penalties, temperature and min-p, and
filters by top-k and top-p and draws. Speculative decoding and watermarks do not come by it.
"""

import torch
from vllm.logger import init_logger
from vllm.v1.worker.gpu.sample.sampler import Sampler

from ..sampling import sample as draw
from . import _rows
from ._batch_sampler import PROCESSED
from ._gate import device_refusal, say_drawing, say_once

logger = init_logger("vllm.plugins.fusedraw")

_own_sample_random = Sampler._sample_random
_bad_rows = _rows.BadRows()


def install() -> None:
    Sampler._sample_random = sample_random


def give_back() -> None:
    """The draw is vLLM's again, to compare with."""
    Sampler._sample_random = _own_sample_random


def sample_random(
    self, processed_logits, expanded_idx_mapping, idx_mapping_np, pos, top_k, top_p, use_fused_sampler
):
    """(ids int64 [B], logits [B, V] after all filters), from tempered logits [B, V]; pos int64 [B] is the
    place of the last token that the model read."""
    logits, slots = processed_logits, expanded_idx_mapping
    reason = device_refusal(logits.device)
    if self.return_sampling_mask:
        reason = "sampling masks are made by vLLM's own sampler"
    if reason:
        say_once(logger, reason)
        return _own_sample_random(self, logits, slots, idx_mapping_np, pos, top_k, top_p, use_fused_sampler)
    say_drawing(logger)
    states = self.sampling_states
    greedy = states.temperature.gpu[slots] == 0
    outputs = pos + 1 - self.req_states.prompt_len.gpu[slots]
    keys = torch.stack((states.seeds.gpu[slots], outputs.to(torch.int64)), dim=1)
    counts = self.logprobs_mode in PROCESSED
    out = draw(
        logits,
        temperature=(~greedy).to(torch.float32),
        top_k=0 if top_k is None else top_k,
        top_p=1.0 if top_p is None else top_p,
        keys=keys,
        returns=("status", "n_kept") if counts else ("status",),
        **_rows.RULES,
    )
    ids, message = _bad_rows.replace(out.ids, out.status)
    if message:
        say_once(logger, message)
    if counts:
        whole = _rows.unfiltered(greedy, logits.shape[1], top_k, top_p)
        logits = _rows.processed_logits(logits, out.n_kept, whole)
    return ids, logits
