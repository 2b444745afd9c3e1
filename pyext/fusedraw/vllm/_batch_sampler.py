# SPDX-License-Identifier: Apache-2.0
"""The sampler of vLLM's first model runner (CPU build, CUDA build with VLLM_USE_V2_MODEL_RUNNER=0): a batch
comes as rows with a SamplingMetadata.

Replaced are Sampler.sample, which draws; Sampler.forward, only to know when speculative decoding calls;
Sampler.apply_penalties, to leave them to the draw; InputBatch._make_sampling_metadata, to add the output
tokens, whose number is the position in a key; and InputBatch.add_request, for seeds on the CPU beside prompts
in several parts (SeedGenerator). The metadata lives as long as the batch has the same requests, and so does
the plan of it.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from vllm.logger import init_logger
from vllm.v1.sample.logits_processor import MinPLogitsProcessor
from vllm.v1.sample.sampler import Sampler
from vllm.v1.worker.gpu_input_batch import InputBatch

from ..sampler import Sampler as Draw
from . import _rows
from ._gate import device_refusal, say_drawing, say_once

logger = init_logger("vllm.plugins.fusedraw")

PROCESSED = ("processed_logprobs", "processed_logits")

_own_sample = Sampler.sample
_own_forward = Sampler.forward
_own_penalties = Sampler.apply_penalties
_own_add_request = InputBatch.add_request
_own_metadata = InputBatch._make_sampling_metadata
_bad_rows = _rows.BadRows()


def install() -> None:
    Sampler.sample = sample
    Sampler.forward = forward
    Sampler.apply_penalties = apply_penalties
    InputBatch.add_request = add_request
    InputBatch._make_sampling_metadata = metadata_with_outputs


def give_back() -> None:
    """The draw and the penalties are vLLM's again, to compare with."""
    Sampler.sample = _own_sample
    Sampler.forward = _own_forward
    Sampler.apply_penalties = staticmethod(_own_penalties)


def add_request(batch, request):
    request.generator = _rows.seed_generator(request.generator)
    return _own_add_request(batch, request)


def metadata_with_outputs(batch):
    metadata = _own_metadata(batch)
    # vLLM leaves out the output tokens where it does not need them. The list is the batch's own and grows.
    metadata.fusedraw_outputs = batch.req_output_token_ids
    return metadata


def forward(self, logits, sampling_metadata, predict_bonus_token=False, logprobs_mode_override=None):
    self.fusedraw_speculates = predict_bonus_token
    return _own_forward(self, logits, sampling_metadata, predict_bonus_token, logprobs_mode_override)


def apply_penalties(self, logits, sampling_metadata, output_token_ids):
    """The last edit of vLLM's. It is left to the draw where nothing else needs the edited logits."""
    metadata = sampling_metadata
    if metadata.no_penalties:
        return logits
    holder = metadata.thinking_budget_state_holder
    later = holder is not None and holder.has_tracked_requests()
    if not later and not metadata.all_greedy and not _counts(self, metadata, None):
        plan = _plan_of(logits, metadata)
        outputs = _outputs(metadata, logits.shape[0])
        if outputs is not None and not plan.others and not _refusal(self, plan, metadata, logits):
            metadata.fusedraw_owes_penalties = True
            return logits
    return _own_penalties(logits, metadata, output_token_ids)


def sample(self, logits, sampling_metadata, logprobs_mode_override=None):
    """(ids int64 [B], processed log-probs or logits float32 [B, V], or None), from float32 logits [B, V]."""
    metadata = sampling_metadata
    if metadata.all_greedy:  # nothing is drawn
        return _own_sample(self, logits, metadata, logprobs_mode_override)
    plan = _plan_of(logits, metadata)
    penalised = vars(metadata).pop("fusedraw_owes_penalties", False)
    reason = _refusal(self, plan, metadata, logits)
    if reason:
        say_once(logger, reason)
        return _own_sample(self, logits, metadata, logprobs_mode_override)

    say_drawing(logger)
    greedy = None
    if plan.others:
        # They expect tempered logits. A greedy row is decided ahead of them, as vLLM does it.
        say_once(logger, f"vLLM applies temperature and min-p itself beside {', '.join(plan.others)}")
        greedy = None if metadata.all_random else self.greedy_sample(logits)
        logits = self.apply_temperature(logits, metadata.temperature, metadata.all_random)
        for processor in metadata.logitsprocs.argmax_invariant:
            logits = processor.apply(logits)
    outputs = _outputs(metadata, logits.shape[0])
    keys = plan.keys.at(outputs)
    counts = _counts(self, metadata, logprobs_mode_override)
    if penalised:
        out = plan.penalised(logits, keys=keys, history=plan.history.at(outputs), prompt=plan.prompt)
    else:
        out = plan.draws[counts](logits, keys=keys)
    ids, message = _bad_rows.replace(out.ids, out.status)
    if message:
        say_once(logger, message)
    if greedy is not None:
        ids = torch.where(metadata.temperature < _rows.GREEDY_BELOW, greedy, ids)
    if not counts:
        return ids, None
    processed = _rows.processed_logits(logits, out.n_kept, plan.whole)
    if not plan.others:
        processed = self.apply_temperature(processed, metadata.temperature, metadata.all_random)
    mode = logprobs_mode_override or self.logprobs_mode
    return ids, processed if mode == "processed_logits" else self.compute_logprobs(processed)


def _counts(sampler, metadata, mode) -> bool:
    """Whether the processed logits are asked for, hence how many tokens are kept."""
    wanted = metadata.max_num_logprobs is not None or bool(metadata.logprob_token_ids)
    return wanted and (mode or sampler.logprobs_mode) in PROCESSED


def _refusal(sampler, plan, metadata, logits) -> str | None:
    """Why vLLM draws this step."""
    if getattr(sampler, "fusedraw_speculates", False):
        return "speculative decoding verifies and draws with vLLM's own sampler"
    if plan.keys.needs_positions and _outputs(metadata, logits.shape[0]) is None:
        return "a seeded row without its output tokens is drawn by vLLM's own sampler"
    return plan.refusal


class _Plan(NamedTuple):
    refusal: str | None  # why vLLM draws
    keys: _rows.Keys
    draws: tuple[Draw, Draw]  # without and with n_kept, which costs a pass over the row
    penalised: Draw | None
    history: _rows.History
    prompt: Tensor | None  # int64 [B, L]
    others: tuple[str, ...]  # custom processors that run between temperature and top-k
    whole: Tensor  # bool [B]: rows without a filter


def _plan_of(logits: Tensor, metadata) -> _Plan:
    plan = getattr(metadata, "fusedraw_plan", None)
    if plan is None:
        plan = metadata.fusedraw_plan = _plan(logits, metadata)
    return plan


def _plan(logits: Tensor, metadata) -> _Plan:
    rows, vocabulary = logits.shape
    processors = metadata.logitsprocs.argmax_invariant
    others = tuple(type(p).__name__ for p in processors if type(p) is not MinPLogitsProcessor)
    temperature = metadata.temperature
    top_k = 0 if metadata.top_k is None else metadata.top_k
    top_p = 1.0 if metadata.top_p is None else metadata.top_p
    min_p = 0.0
    for processor in processors:
        if not others and processor.min_p_count:
            min_p = processor.min_p.reshape(-1)
    whole = _rows.unfiltered(temperature < _rows.GREEDY_BELOW, vocabulary, top_k, top_p, min_p)
    fields = {"top_k": top_k, "top_p": top_p, "min_p": min_p, **_rows.RULES}
    fields["temperature"] = _rows.neutral(temperature) if others else _rows.tempered(temperature)
    draws = Draw(returns=("status",), **fields), Draw(returns=("status", "n_kept"), **fields)
    penalised = prompt = None
    if not metadata.no_penalties:
        penalised = Draw(
            repetition_penalty=metadata.repetition_penalties,
            frequency_penalty=metadata.frequency_penalties,
            presence_penalty=metadata.presence_penalties,
            returns=("status",),
            **fields,
        )
        prompt = _rows.prompt_ids(metadata.prompt_token_ids, vocabulary)
    history = _rows.History(rows, logits.device)
    seeds = {row: generator.initial_seed() for row, generator in metadata.generators.items()}
    keys = _rows.Keys(rows, seeds, logits.device)
    return _Plan(device_refusal(logits.device), keys, draws, penalised, history, prompt, others, whole)


def _outputs(metadata, rows: int):
    """One list of output tokens per row, or None."""
    outputs = getattr(metadata, "fusedraw_outputs", None) or metadata.output_token_ids
    return outputs if len(outputs) >= rows else None
