# SPDX-License-Identifier: Apache-2.0
"""What a call can do beside drawing from one row of logits, fusedraw against the best plain PyTorch form.

penalties+bitmask   repetition, frequency and presence penalty over 256 ids, a bitmask with half its bits set,
                    then top-k 50 and top-p 0.95
structured          a grammar's bitmask in words that allows 64 tokens, T = 0.8
structured-open     one that allows nine tokens of ten, as within a string
mixture-2, -4       the mean of the laws of 2 or 4 models, T = 0.8; the rows of a case are those of all models
route, route-gumbel experts per token, E = `vocab`, tokens = `batch`; without and with Gumbel noise
token_logprob       log-probabilities of given ids of `batch` rows; `token_logprob+grad`: and the gradient

`chunk` is as in providers.py, `check` as in validate.py; the floors go over all rows of a case.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import data, feature_peers, floors, timing
from .cases import FEW_DATA, Case, thread_counts

NAMES = ("read", "exp", "fusedraw", "torch")
TITLES = {
    "penalties+bitmask": "penalties, bitmask, top-k 50, top-p 0.95",
    "structured": "grammar's bitmask, 64 tokens allowed, T = 0.8",
    "structured-open": "grammar's bitmask, 90 % allowed, T = 0.8",
    "mixture-2": "mean of 2 models, T = 0.8",
    "mixture-4": "mean of 4 models, T = 0.8",
    "route": "experts per token",
    "route-gumbel": "experts per token, Gumbel noise",
    "token_logprob": "log-probabilities of given ids",
    "token_logprob+grad": "log-probabilities of given ids, and the gradient",
}
DRAWING = ("penalties+bitmask", "structured", "structured-open", "mixture-2", "mixture-4")
VOCAB = 128256
BATCHES = (1, 8)
EXPERTS = {256: 8, 64: 6}  # E: k
TOKENS = 16384
SCORED = 64  # rows that token_logprob gets
TEMPERATURE = 0.8
HISTORY = 256
PENALTIES = {"repetition_penalty": 1.2, "frequency_penalty": 0.1, "presence_penalty": 0.1}
FILTERS = {"top_k": 50, "top_p": 0.95}
KEY_SETS = 8
DRAWS = 256  # of the PyTorch form, at least
MOST_SIGMA = 6.0  # of the mean surprisal, as in validate.py


@dataclass
class Work:
    """One case's calls, made once, and what is checked of them."""

    fused: Sequence[Callable[[], Any]]
    plain: Callable[[], Any]
    check_fused: Callable[[], None]
    check_plain: Callable[[], None]


def cases() -> Iterator[Case]:
    for batch in BATCHES:
        for kind in FEW_DATA:
            for threads in thread_counts():
                for config in DRAWING:
                    yield Case(VOCAB, batch, "float32", threads, kind, config, "features")
    for threads in thread_counts():
        for experts in EXPERTS:
            for config in ("route", "route-gumbel"):
                yield Case(experts, TOKENS, "float32", threads, "flat", config, "features")
        for config in ("token_logprob", "token_logprob+grad"):
            yield Case(VOCAB, SCORED, "float32", threads, "flat", config, "features")


def members(case: Case) -> int:
    return int(case.config.removeprefix("mixture-")) if case.config.startswith("mixture-") else 1


def rows(case: Case) -> Tensor:
    """The logits of a case: of all members of a mixture one after the other."""
    if case.config.startswith("route"):
        return torch.randn(case.batch, case.vocab, generator=seeded(7))
    return data.make(case.data, case.vocab, case.batch * members(case))


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chunk(name: str, case: Case, logits: Tensor) -> timing.Chunk:
    if name in floors.KINDS:
        return timing.chunk_in_c(floors.Floor(name, logits, case.threads))
    return timing.chunk_of(calls(name, case, logits))


def calls(name: str, case: Case, logits: Tensor) -> list[Callable[[], object]]:
    if name not in ("fusedraw", "torch"):
        raise ValueError(f"features: expected one of {', '.join(NAMES)}, got {name!r}")
    done = work(case, logits)
    return list(done.fused) if name == "fusedraw" else [done.plain]


def check(name: str, case: Case, logits: Tensor) -> None:
    """Raises AssertionError where fusedraw is not its reference engine or PyTorch's form not the same law."""
    if name in floors.KINDS:
        floors.check(logits[:4], case.threads)
    elif name == "fusedraw":
        work(case, logits).check_fused()
    else:
        work(case, logits).check_plain()


_latest: list[tuple[Case, Tensor, Work]] = []  # the work of the case at hand: its inputs are made once


def work(case: Case, logits: Tensor) -> Work:
    if not _latest or _latest[0][0] != case or _latest[0][1] is not logits:
        _latest[:] = [(case, logits, make(case, logits))]
    return _latest[0][2]


def make(case: Case, logits: Tensor) -> Work:
    if case.config.startswith("route"):
        return route_work(case, logits)
    if case.config.startswith("token_logprob"):
        return logprob_work(case, logits)
    return drawing_work(case, logits)


# The draws: one function of the keys for fusedraw, one of nothing for PyTorch, and the law of both.


def drawing_work(case: Case, logits: Tensor) -> Work:
    import fusedraw

    every = torch.randint(-(2**62), 2**62, (KEY_SETS, case.batch, 2), generator=seeded(11))
    if case.config.startswith("mixture-"):
        stack = logits.view(members(case), case.batch, case.vocab)
        draw = functools.partial(fusedraw.mixture, stack, temperature=TEMPERATURE)
        plain: Callable[[], Tensor] = feature_peers.Mixture(stack, TEMPERATURE)
        logs = (stack.double() / TEMPERATURE).log_softmax(-1).logsumexp(0) - math.log(len(stack))
    elif case.config == "penalties+bitmask":
        edits = {"history": history(logits), "mask": bitmask(case), **PENALTIES}
        draw = functools.partial(fusedraw.sample, logits, **edits, **FILTERS)
        plain = feature_peers.Edited(logits, "top-k+top-p", FILTERS, edits)
        logs = kept_law(draw(keys=every[0], returns=("kept",)), fusedraw.edit_logits(logits, **edits))
    else:
        words = bitmask(case)
        draw = functools.partial(fusedraw.sample, logits, mask=words, temperature=TEMPERATURE)
        plain = feature_peers.Structured(logits, TEMPERATURE, words)
        logs = (fusedraw.edit_logits(logits, mask=words).double() / TEMPERATURE).log_softmax(-1)

    def check_fused() -> None:
        for keys in every[:2]:
            assert torch.equal(draw(keys=keys), by_reference(functools.partial(draw, keys=keys))), case.name
        check_draws("fusedraw", case, logs, numbered(draw))

    fused = [functools.partial(draw, keys=keys.contiguous()) for keys in every]
    return Work(fused, plain, check_fused, lambda: check_draws("torch", case, logs, plain))


def numbered(draw: Callable[..., Tensor]) -> Callable[[], Tensor]:
    steps = iter(range(10**9))
    return lambda: draw(seed=3, step=next(steps))


def history(logits: Tensor) -> Tensor:
    """Ids [B, 256] as a text has them: drawn from the row itself at T = 1.5."""
    return torch.multinomial((logits / 1.5).softmax(-1), HISTORY, True, generator=seeded(HISTORY))


def bitmask(case: Case) -> Tensor:
    """int32 [B, V / 32]: the allowed tokens of each row."""
    generator = seeded(5)
    shape = (case.batch, case.vocab)
    if case.config == "structured":
        order = torch.rand(shape, generator=generator).topk(64).indices
        allowed = torch.zeros(shape, dtype=torch.bool).scatter_(1, order, True)
    else:
        share = 0.9 if case.config == "structured-open" else 0.5
        allowed = torch.rand(shape, generator=generator) < share
    bits = allowed.view(case.batch, -1, feature_peers.WORD).long() << torch.arange(feature_peers.WORD)
    return bits.sum(-1).to(torch.int32)


def kept_law(out: Any, edited: Tensor) -> Tensor:
    """Log-probabilities float64 [B, V] over what fusedraw keeps of the edited rows."""
    logs = torch.full(edited.shape, -math.inf, dtype=torch.float64)
    for row, (a, b) in enumerate(zip(out.kept_offsets[:-1], out.kept_offsets[1:], strict=True)):
        ids = out.kept_ids[a:b].long()
        logs[row, ids] = edited[row, ids].double().log_softmax(0)
    return logs


def by_reference(call: Callable[[], Any]) -> Any:
    import fusedraw._C as binding

    chosen = binding.isa()
    binding.set_isa("reference")
    try:
        return call()
    finally:
        binding.set_isa(chosen)


def check_draws(name: str, case: Case, logs: Tensor, call: Callable[[], Tensor]) -> None:
    """Draws must have a probability under the law, and its entropy as their mean surprisal."""
    torch.manual_seed(5)
    surprise = torch.where(logs > -math.inf, -logs, 0.0)
    entropy = (logs.exp() * surprise).sum(1)
    varentropy = (logs.exp() * (surprise - entropy.unsqueeze(1)) ** 2).sum(1)
    excess = variance = 0.0
    for _ in range(-(-DRAWS // case.batch)):
        ids = call()
        got = logs.gather(1, ids.unsqueeze(1))[:, 0]
        assert bool((got > -math.inf).all()), f"{name}: a draw lies outside the law on {case.name}"
        excess += float((-got - entropy).sum())
        variance += float(varentropy.sum())
    sigma = excess / math.sqrt(variance) if variance > 0 else 0.0
    assert abs(sigma) < MOST_SIGMA, f"{name}: the draws are {sigma:.1f} sigma off the law on {case.name}"


# The others.


def route_work(case: Case, logits: Tensor) -> Work:
    import fusedraw

    k = EXPERTS[case.vocab]
    noise = "gumbel" if case.config == "route-gumbel" else "none"
    fused = [
        functools.partial(fusedraw.route, logits, k, noise=noise, seed=1, step=step)
        for step in range(KEY_SETS)
    ]
    few = logits[:256]
    plain = feature_peers.Route(logits, k, noise)

    def check_fused() -> None:
        got = fusedraw.route(few, k, noise=noise, seed=1, step=0)
        wanted = by_reference(lambda: fusedraw.route(few, k, noise=noise, seed=1, step=0))
        assert torch.equal(got.ids, wanted.ids) and torch.equal(got.weights, wanted.weights), case.name

    def check_plain() -> None:
        ids, weights, counts = plain()
        out = fused[0]()
        assert int(counts.sum()) == int(out.counts.sum()) == case.batch * k, case.name
        if noise == "none":  # ties of float32 aside, the same experts with the same weights
            torch.testing.assert_close(out.weights, weights, rtol=1e-5, atol=1e-6)
            assert float((out.ids != ids).float().mean()) < 1e-3, case.name
        else:  # each expert is as likely: its count has at most the variance of independent choices
            spread = (out.counts - counts).abs().max() / math.sqrt(2 * case.batch * k / case.vocab)
            assert float(spread) < MOST_SIGMA, f"torch: counts of experts differ on {case.name}"

    return Work(fused, plain, check_fused, check_plain)


def logprob_work(case: Case, logits: Tensor) -> Work:
    import fusedraw

    ids = torch.randint(case.vocab, (case.batch,), generator=seeded(2))
    weight = torch.randn(case.batch, generator=seeded(3))
    gradient = case.config.endswith("+grad")
    plain = feature_peers.TokenLogprob(logits, ids, weight, gradient)

    def fused() -> Tensor:
        if gradient:
            return feature_peers.gradient_of(fusedraw.token_logprob, logits, ids, weight)
        with torch.no_grad():
            return fusedraw.token_logprob(logits, ids)

    def check_one(call: Callable[[], Tensor]) -> None:
        few = slice(0, 4)
        x = logits[few].double()
        wanted = feature_peers.plain_logprob(x, ids[few])
        if gradient:
            score = feature_peers.plain_logprob
            wanted = feature_peers.gradient_of(score, x, ids[few], weight[few].double())
        torch.testing.assert_close(call()[few].double(), wanted, rtol=1e-4, atol=1e-5)

    return Work([fused], plain, lambda: check_one(fused), lambda: check_one(plain))
