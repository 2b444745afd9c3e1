# SPDX-License-Identifier: Apache-2.0
"""Several draws of each prompt and what to make of them: vote, take the best, estimate pass@k."""

import math
import numbers
from collections.abc import Hashable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ._checks import check_keys, dtype_name
from .keys import keys_for
from .sampling import sample

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_FLOATS = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class Vote(NamedTuple):
    """The answer that most draws of a prompt gave; P prompts."""

    answers: Any  # int64 [P] (-1: none of the draws gave one), or for lists a list (None)
    votes: Tensor  # int64 [P]: draws that gave it
    share: Tensor  # float64 [P]: of the draws that gave any answer; nan where none did
    draw: Tensor  # int64 [P]: the first draw that gave it, -1 where none did
    tied: Tensor  # bool [P]: another answer had as many votes


class Best(NamedTuple):
    """The draw of the highest score; P prompts."""

    draw: Tensor  # int64 [P]: its number
    score: Tensor  # [P], the dtype of the scores
    tied: Tensor  # bool [P]: another draw scored as high


def keys_of_draws(seed, request_ids, n: int, step=0) -> Tensor:
    """Keys for n draws of each of P requests: uint64 [P * n, 2], the draws of a request side by side.

    Row p * n + j is `derive_keys(seed, request_ids[p], j, step)`, so results come as `out.view(P, n)`, draw j
    of a request does not depend on n, and more draws can be added later.

    Args:
        seed, request_ids, step: as in `derive_keys`; a tensor `step` has length 1 or P.
        n: in [1, 2^32).
    """
    op = "keys_of_draws"
    if isinstance(n, bool) or not isinstance(n, numbers.Integral):
        raise TypeError(f"{op}: n must be an int, got {type(n).__name__}")
    if not 1 <= n < 2**32:
        raise ValueError(f"{op}: n must be in [1, 2^32), got {n}")
    first = keys_for(op, seed, request_ids, step=step)  # checks everything, and tells how many there are
    count, device = first.shape[0], first.device
    parts = {"seed": seed, "request_ids": request_ids, "step": step}
    for name, part in parts.items():
        if isinstance(part, range):
            part = list(part)
        if isinstance(part, (list, tuple)) and len(part) == count:
            parts[name] = [item for item in part for _ in range(n)]
        elif isinstance(part, Tensor) and part.numel() == count:
            parts[name] = _signed(part).reshape(-1).repeat_interleave(int(n))
    samples = torch.arange(int(n), device=device).repeat(count)
    return keys_for(op, parts["seed"], parts["request_ids"], samples, step=parts["step"])


def majority_vote(answers, *, keys=None) -> Vote:
    """The most frequent answer among the n draws of each prompt (self-consistency, Wang et al. 2023).

    Args:
        answers: int [P, n] tensor, negative where a draw gave no answer; or P lists of hashable answers of
            any lengths, None where there is none. Answers count as equal when they compare equal, so bring
            them into one form first.
        keys: [P, 2] as in `sample`: a tie is broken by a draw with the prompt's key, each tied answer being
            as likely. None: by the first draw that gave one of them.

    A tie broken by the first draw is not neutral when draws are ordered; a keyed one is, and repeats.
    Time and memory P * n^2.
    """
    op = "majority_vote"
    if isinstance(answers, Tensor):
        if answers.dtype not in _INTEGERS:
            raise TypeError(f"{op}: answers must be an integer tensor, got {dtype_name(answers.dtype)}")
        if answers.dim() != 2 or answers.shape[1] == 0:
            raise ValueError(f"{op}: answers must be [P, n], n >= 1, got shape {list(answers.shape)}")
        index, votes, tied, given = _vote(op, answers, keys)
        found = answers.long().gather(1, index.clamp(min=0).unsqueeze(1)).squeeze(1)
        return Vote(found.where(index >= 0, -1), votes, votes.double() / given, index, tied)
    numbered = _numbered(op, answers)
    index, votes, tied, given = _vote(op, numbered, keys)
    rows = zip(answers, index.tolist(), strict=True)
    return Vote([row[i] if i >= 0 else None for row, i in rows], votes, votes.double() / given, index, tied)


def best_of_n(scores: Tensor, *, keys=None) -> Best:
    """The draw with the highest score among the n draws of each prompt.

    Args:
        scores: float [P, n], no NaN (that waits for the device); -inf rules a draw out.
        keys: [P, 2] as in `sample`: a tie is broken by a draw with the prompt's key. None: the lowest index.
    """
    op = "best_of_n"
    if not isinstance(scores, Tensor):
        raise TypeError(f"{op}: scores must be a torch.Tensor, got {type(scores).__name__}")
    if scores.dtype not in _FLOATS:
        raise TypeError(f"{op}: scores must be a float tensor, got {dtype_name(scores.dtype)}")
    if scores.dim() != 2 or scores.shape[1] == 0:
        raise ValueError(f"{op}: scores must be [P, n], n >= 1, got shape {list(scores.shape)}")
    if scores.isnan().any():
        raise ValueError(
            f"{op}: scores must not be NaN, got some in row {int(scores.isnan().any(1).int().argmax())}"
        )
    top = scores.amax(1, keepdim=True)
    candidates = scores == top
    index = _pick(op, candidates, keys)
    return Best(index, top.squeeze(1), candidates.sum(1) > 1)


def pass_at_k(correct: Tensor, k: int) -> Tensor:
    """pass@k: the probability that at least one of k draws is correct, estimated without bias from n >= k.

    1 - C(n - c, k) / C(n, k) with c correct ones among n (Chen et al. 2021, equation 1), in exact integers
    until the division; 1 - (1 - c/n)^k would be biased.

    Args:
        correct: bool [P, n].
        k: in [1, n].

    Returns:
        float64 [P] on the CPU; the mean over prompts is the benchmark's figure.
    """
    op = "pass_at_k"
    if not isinstance(correct, Tensor) or correct.dtype is not torch.bool:
        got = dtype_name(correct.dtype) if isinstance(correct, Tensor) else type(correct).__name__
        raise TypeError(f"{op}: correct must be a bool tensor, got {got}")
    if correct.dim() != 2:
        raise ValueError(f"{op}: correct must be [P, n], got shape {list(correct.shape)}")
    n = correct.shape[1]
    if isinstance(k, bool) or not isinstance(k, numbers.Integral):
        raise TypeError(f"{op}: k must be an int, got {type(k).__name__}")
    if not 1 <= k <= n:
        raise ValueError(f"{op}: k must be in [1, {n}], the number of draws, got {k}")
    ways = math.comb(n, k)
    passed = [(ways - math.comb(n - c, k)) / ways for c in correct.sum(1).tolist()]
    return torch.tensor(passed, dtype=torch.float64)


def _vote(op: str, answers: Tensor, keys):
    """(index [P] or -1, votes [P], tied [P], answers given [P]) of int [P, n], negative: none."""
    given = answers >= 0
    same = (answers.unsqueeze(2) == answers.unsqueeze(1)) & given.unsqueeze(2)
    counts = same.sum(2)
    most = counts.amax(1, keepdim=True)
    earlier = same.tril(-1).any(2)  # an earlier draw gave the same answer
    candidates = (counts == most) & given & ~earlier
    index = _pick(op, candidates, keys)
    return index, most.squeeze(1), candidates.sum(1) > 1, given.sum(1)


def _pick(op: str, candidates: Tensor, keys) -> Tensor:
    """One True of each row of bool [P, n], int64 [P]: the first, or by a draw; -1 where there is none."""
    if keys is None:
        return candidates.int().argmax(1).where(candidates.any(1), -1)
    check_keys(op, keys, candidates.shape[0], candidates.device)
    return sample(candidates.float(), temperature=math.inf, mask=candidates, keys=keys, check="status")


def _numbered(op: str, answers) -> Tensor:
    """Lists of answers as int64 [P, n]: equal answers of a row get equal numbers, None and padding -1."""
    if isinstance(answers, (str, bytes)) or not isinstance(answers, (list, tuple)):
        raise TypeError(f"{op}: answers must be a tensor or lists of answers, got {type(answers).__name__}")
    rows = []
    for number, row in enumerate(answers):
        if isinstance(row, (str, bytes)) or not isinstance(row, (list, tuple)):
            raise TypeError(f"{op}: answers[{number}] must be a list of answers, got {type(row).__name__}")
        seen: dict[Hashable, int] = {}
        try:
            rows.append([-1 if answer is None else seen.setdefault(answer, len(seen)) for answer in row])
        except TypeError as error:
            raise TypeError(f"{op}: answers[{number}] must hold hashable answers: {error}") from None
    width = max([1, *map(len, rows)])
    padded = [row + [-1] * (width - len(row)) for row in rows]
    return torch.tensor(padded, dtype=torch.int64).reshape(len(rows), width)


def _signed(part: Tensor) -> Tensor:
    """The same bits in a dtype that indexing ops know."""
    return part.view(torch.int64) if part.dtype == torch.uint64 else part
