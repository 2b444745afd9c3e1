# SPDX-License-Identifier: Apache-2.0
"""fusedraw: a batch of logits in, token ids out. The same draw everywhere, the exact law, in one pass.

    import fusedraw
    ids = fusedraw.sample(logits, temperature=0.8, top_p=0.95, seed=1234, step=t)

The law is written in docs/law.md; `fusedraw.reference` is that law in Python, `fusedraw.numpy` takes arrays.
"""

import importlib as _importlib

from . import _load  # noqa: F401  (before anything that needs torch or the extension)
from ._C import isa, isa_list
from .distributions import Categorical
from .editing import edit_logits
from .filters import top_k_mask, top_k_renorm, top_p_mask, top_p_renorm
from .info import info
from .keys import derive_keys
from .mixture import MixtureOutput, mixture
from .multinomial import multinomial
from .replacing import replacing_torch_multinomial
from .routing import RouteOutput, route
from .sampler import Sampler
from .sampling import SampleOutput, sample, sample_probs
from .scores import TokenScores, importance_weight, token_logprob
from .softmax import log_softmax, softmax
from .speculative import VerifyOutput, verify
from .status import Status

__version__ = "0.1.0"
STREAM_VERSION = 1  # of the draws: a change of any bit is a new one

__all__ = [
    "STREAM_VERSION",
    "Categorical",
    "MixtureOutput",
    "RouteOutput",
    "SampleOutput",
    "Sampler",
    "Status",
    "TokenScores",
    "VerifyOutput",
    "__version__",
    "derive_keys",
    "edit_logits",
    "importance_weight",
    "info",
    "isa",
    "isa_list",
    "log_softmax",
    "mixture",
    "multinomial",
    "replacing_torch_multinomial",
    "route",
    "sample",
    "sample_probs",
    "softmax",
    "token_logprob",
    "top_k_mask",
    "top_k_renorm",
    "top_p_mask",
    "top_p_renorm",
    "verify",
]

# Submodules that need not be paid for at import.
_LAZY = (
    *("audit", "comparing", "controllers", "flashinfer", "metrics", "numpy"),
    *("reference", "reference_mixture", "reference_routing", "reference_rules", "reference_scores"),
    *("reference_speculative", "schedules", "transformers", "vllm"),
)


def __getattr__(name: str):
    if name in _LAZY:
        return _importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module 'fusedraw' has no attribute {name!r}")


def __dir__():
    return sorted([*__all__, *_LAZY])
