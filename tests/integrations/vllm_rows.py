# SPDX-License-Identifier: Apache-2.0
"""What the tests of vLLM's samplers share: batches as vLLM's model runner hands them to its sampler."""

import contextlib
import logging

import torch
from vllm.v1.sample.logits_processor import LogitsProcessors, MinPLogitsProcessor
from vllm.v1.sample.metadata import SamplingMetadata


@contextlib.contextmanager
def logged(name="vllm.plugins.fusedraw"):
    """The messages that the plugin logs within, with nothing said before counting as said."""
    from fusedraw.vllm import _gate

    messages = []

    class Keep(logging.Handler):
        def emit(self, record):
            messages.append(record.getMessage())

    handler, logger = Keep(), logging.getLogger(name)
    said, level = set(_gate._said), logger.level
    _gate._said.clear()
    _gate._drawing = False
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        _gate._said |= said


def min_p_processor(values):
    """vLLM's own processor in the state that it has for a batch with these min-p."""
    processor = MinPLogitsProcessor.__new__(MinPLogitsProcessor)
    processor.min_p_count = sum(value > 0 for value in values)
    processor.min_p = torch.tensor(values, dtype=torch.float32).unsqueeze(1)
    return processor


VOCABULARY = 5000


def metadata(rows, *, temperature=1.0, top_k=None, top_p=None, min_p=None, **fields):
    """SamplingMetadata of `rows` rows; parameters are numbers or lists. Of the other fields: seeds
    {row: seed}, outputs (lists of output tokens), processors (argmax-invariant ones beside min-p).

    Greedy rows have no filters, as vLLM sees to it when a request comes in.
    """

    def each(value):
        return list(value) if isinstance(value, (list, tuple)) else [value] * rows

    seeds = fields.pop("seeds", None) or {}
    temperatures = each(temperature)
    greedy = [t < 1e-5 for t in temperatures]

    def column(value, off, dtype=torch.float32):
        if value is None:
            return None
        values = [off if skip else v for v, skip in zip(each(value), greedy, strict=True)]
        return torch.tensor(values, dtype=dtype)

    processors = LogitsProcessors([] if min_p is None else [min_p_processor(column(min_p, 0.0).tolist())])
    for processor in fields.pop("processors", ()):
        processors.argmax_invariant.append(processor)
    values = {
        "temperature": torch.tensor(temperatures, dtype=torch.float32),
        "all_greedy": all(greedy),
        "all_random": not any(greedy),
        "top_k": column(top_k, VOCABULARY, torch.int32),
        "top_p": column(top_p, 1.0),
        "generators": {r: torch.Generator().manual_seed(seed) for r, seed in seeds.items()},
        "max_num_logprobs": None,
        "no_penalties": True,
        "prompt_token_ids": None,
        "frequency_penalties": torch.zeros(rows),
        "presence_penalties": torch.zeros(rows),
        "repetition_penalties": torch.ones(rows),
        "output_token_ids": fields.pop("outputs", None) or [],
        "allowed_token_ids_mask": None,
        "bad_words_token_ids": {},
        "logitsprocs": processors,
    }
    return SamplingMetadata(**{**values, **fields})
