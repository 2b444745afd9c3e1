# SPDX-License-Identifier: Apache-2.0
"""A plugin for vLLM: its sampler draws with fusedraw. Installing both packages turns it on.

vLLM finds `register` by the entry point group `vllm.general_plugins` and calls it in each of its processes.
Penalties, biases, bad words, grammars and custom logits processors stay vLLM's; temperature, min-p, top-k,
top-p (in vLLM's order) and the draw are one call of ours, for greedy, seeded and unseeded rows alike.

A request with a `seed` draws with the key (seed, number of its output tokens): given equal logits it gets the
same tokens alone and in any batch. A request without one gets a fresh key for each token from torch's default
generator, which vLLM seeds per engine.

FUSEDRAW_VLLM=0 turns the plugin off. A vLLM that it was not tested with is left as it is, and what fusedraw
cannot draw is drawn by vLLM's own sampler: the log says so, once per reason.
"""

from ._gate import TESTED_VERSIONS

__all__ = ["TESTED_VERSIONS", "register"]


def register() -> None:
    """Puts fusedraw behind vLLM's samplers, in this process. Calling it again changes nothing.

    Raises ValueError where FUSEDRAW_VLLM is neither 0 nor 1; ImportError without vLLM. Whatever else stands
    against it is logged, and vLLM stays as it is.
    """
    import vllm
    from vllm.logger import init_logger

    from ._gate import refusal, switched_on

    logger = init_logger("vllm.plugins.fusedraw")
    if not switched_on():
        logger.info("fusedraw: off, by FUSEDRAW_VLLM=0")
        return
    reason = refusal(vllm.__version__)
    if reason:
        logger.warning("fusedraw: vLLM keeps its own sampler: %s", reason)
        return
    from . import _batch_sampler, _slot_sampler

    _batch_sampler.install()
    _slot_sampler.install()
