# SPDX-License-Identifier: Apache-2.0
"""What bench_gpu.py times beside fusedraw on a device: logits [B, V] -> ids [B].

torch        what serving code writes: a race of exponentials instead of multinomial (no sync), topk for
             top-k, sort and cumsum for top-p
flashinfer   flashinfer.sampling: softmax with its temperature, then the fused rejection kernels; seed and
             offset in tensors, as a captured call needs them: each call draws the same
vllm         vllm's apply_top_k_top_p (its Triton kernels), softmax, the race as in vllm
read         amax over the rows: no draw, but each logit read once
"""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable

import torch
from fusedraw.bench import cases
from torch import Tensor

NAMES = ("read", "fusedraw", "torch", "flashinfer", "vllm")
MODULES = {"flashinfer": "flashinfer.sampling", "vllm": "vllm.v1.sample.ops.topk_topp_sampler"}


@functools.cache
def missing(name: str) -> str | None:
    """Why a provider cannot be timed here, or None."""
    if name not in MODULES:
        return None
    try:
        importlib.import_module(MODULES[name])
    except Exception as error:  # of any kind: a package for another CUDA fails in its own ways
        return f"{name}: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    return None


def race(probs: Tensor) -> Tensor:
    """A draw from each row, without a sync: the argmin of exponential / p."""
    return (probs / torch.empty_like(probs).exponential_()).argmax(-1)


def scaled(logits: Tensor, settings: dict) -> Tensor:
    return logits.float() / float(settings.get("temperature", 1.0))


class Torch:
    """One configuration."""

    def __init__(self, settings: dict):
        self.settings = settings

    def kept(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
        """(logits, their ids or None for all)."""
        s = self.settings
        if "top_k" in s:
            values, ids = x.topk(s["top_k"], -1)
            return (drop_tail(values, s["top_p"]) if "top_p" in s else values), ids
        if "top_p" in s:
            values, ids = x.sort(-1, descending=True)
            return drop_tail(values, s["top_p"]), ids
        if "min_p" in s:
            least = x.amax(-1, keepdim=True) + math.log(s["min_p"])
            return x.masked_fill(x < least, -torch.inf), None
        return x, None

    def __call__(self, logits: Tensor):
        s = self.settings
        if s.get("temperature") == 0.0:
            return logits.argmax(-1)
        x = scaled(logits, s)
        kept, ids = self.kept(x)
        if "returns" in s:
            logp = kept.log_softmax(-1)
            probs = logp.exp()
            token = race(probs)[:, None]
            return token[:, 0], logp.gather(1, token)[:, 0], -(probs * logp).sum(-1)
        probs = kept.softmax(-1)
        if "mix_eps" in s:
            inside = (probs > 0).float()
            probs = probs * (1 - s["mix_eps"]) + inside * (s["mix_eps"] / inside.sum(-1, keepdim=True))
        token = race(probs)
        return token if ids is None else ids.gather(1, token[:, None])[:, 0]


def drop_tail(values: Tensor, top_p: float) -> Tensor:
    """-inf beyond the shortest prefix of descending logits that has the mass."""
    probs = values.softmax(-1)
    return values.masked_fill(probs.cumsum(-1) - probs >= top_p, -torch.inf)


class FlashInfer:
    CONFIGS = ("T", "top-k", "top-p", "top-k+top-p", "min-p")

    def __init__(self, config: str, settings: dict, device: torch.device):
        self.module = importlib.import_module(MODULES["flashinfer"])
        self.config, self.settings = config, settings
        self.rng = {name: torch.tensor([7], device=device) for name in ("seed", "offset")}

    def __call__(self, logits: Tensor) -> Tensor:
        m, s = self.module, self.settings
        if self.config == "top-k+top-p":
            return m.top_k_top_p_sampling_from_logits(logits.float(), s["top_k"], s["top_p"], **self.rng)
        # Its softmax takes a temperature, in the versions that have one.
        if hasattr(m, "softmax"):
            probs = m.softmax(logits.float(), temperature=float(s.get("temperature", 1.0)))
        else:
            probs = torch.softmax(scaled(logits, s), -1)
        if self.config == "top-k":
            return m.top_k_sampling_from_probs(probs, s["top_k"], **self.rng)
        if self.config == "top-p":
            return m.top_p_sampling_from_probs(probs, s["top_p"], **self.rng)
        if self.config == "min-p":
            return m.min_p_sampling_from_probs(probs, s["min_p"], **self.rng)
        return m.sampling_from_probs(probs, **self.rng)


class Vllm:
    CONFIGS = ("T", "top-k", "top-p", "top-k+top-p")

    def __init__(self, settings: dict, batch: int, device: torch.device):
        self.apply = importlib.import_module(MODULES["vllm"]).apply_top_k_top_p
        self.settings = settings
        full = functools.partial(torch.full, (batch,), device=device)
        self.top_k = full(settings["top_k"], dtype=torch.int32) if "top_k" in settings else None
        self.top_p = full(settings["top_p"], dtype=torch.float32) if "top_p" in settings else None

    def __call__(self, logits: Tensor) -> Tensor:
        # It may write to its argument: float32 rows are copied, as the division by T does anyway.
        x = self.apply(scaled(logits, self.settings), self.top_k, self.top_p)
        return race(x.softmax(-1, dtype=torch.float32))


def call_of(name: str, config: str, logits: Tensor, keys: Tensor) -> Callable[[], object] | None:
    """The prepared call, or None where a provider has no such configuration."""
    settings = cases.CONFIGS[config]
    if name == "read":
        return functools.partial(torch.amax, logits, -1)
    if name == "fusedraw":
        import fusedraw

        return functools.partial(fusedraw.Sampler(**settings), logits, keys=keys)
    if name == "torch":
        return functools.partial(Torch(settings), logits)
    if name == "flashinfer" and config in FlashInfer.CONFIGS:
        return functools.partial(FlashInfer(config, settings, logits.device), logits)
    if name == "vllm" and config in Vllm.CONFIGS:
        return functools.partial(Vllm(settings, logits.shape[0], logits.device), logits)
    return None


def ids_of(out) -> Tensor:
    return (out if isinstance(out, Tensor) else out[0]).view(-1)
