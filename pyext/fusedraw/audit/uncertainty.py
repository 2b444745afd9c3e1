# SPDX-License-Identifier: Apache-2.0
"""How uncertain a model was: of a token, of an output, of a prompt with several samples, of an ensemble.

    token_confidence, window_confidence   of tokens and of windows of them (DeepConf, Fu et al. 2025)
    summary                               of one output, from its columns of numbers per token
    agreement, lexical_similarity         of the samples of one prompt
    mutual_information                    of the members of an ensemble, or of MC dropout

Everything is in nats. `semantic` compares samples by meaning.
"""

import itertools
import math
import numbers
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch

from .._checks import dtype_name

WINDOW = 16  # tokens; Fu et al. take 2048 for proofs of 10^4 tokens, and outputs here have some 64
BEST = 20  # tokens of which the confidence is the mean; vLLM gives as many, and the paper takes them
BOTTOM = 0.1  # the share of the windows that is the bottom of an output (the paper's "bottom 10 %")
_CHUNK = 2**22  # float64 numbers of an ensemble's logits at a time: 32 MiB

# Field of `summary` -> column, how its tokens become one number.
_FIELDS: dict[str, tuple[str, Callable]] = {
    "mean_logp": ("logp", np.mean),
    "mean_logp_raw": ("logp_raw", np.mean),
    "mean_entropy": ("entropy", np.mean),
    "max_entropy": ("entropy", np.max),
    "mean_varentropy": ("varentropy", np.mean),
    "mean_margin": ("margin", np.mean),
    "min_margin": ("margin", np.min),
    "mean_rank": ("rank", np.mean),
    "mean_kept_mass": ("kept_mass", np.mean),
    "explored": ("explored", np.mean),
    "mean_confidence": ("confidence", np.mean),
}


class Agreement(NamedTuple):
    """How alike the samples of one prompt are, means over all pairs, each in [0, 1]."""

    share: float  # tokens before the first difference, over the longer one's length
    exact: float  # of the pairs that are equal from end to end


def token_confidence(logits, best: int = BEST) -> np.ndarray:
    """DeepConf's token confidence: minus the mean log-probability of the `best` likeliest tokens.

    The more the law is peaked, the less its runners-up have, and the higher the confidence: it is at least
    ln(best), that of a law which is flat over `best` tokens.

    Args:
        logits: float [..., V], array or CPU tensor; all V tokens count where V < best.

    Returns: float64 [...], nats; +inf where fewer than `best` tokens have a probability.
    Raises: TypeError for other dtypes; ValueError for a row that is no law (NaN, +inf, all -inf).
    """
    op = "token_confidence"
    x = _logits(op, logits, "[..., V]", 1)
    best = min(_count(op, "best", best), x.shape[-1])
    logps = x.double().topk(best, dim=-1).values - x.double().logsumexp(-1, keepdim=True)
    return _whole(op, -logps.mean(-1))


def window_confidence(confidence, window: int = WINDOW) -> np.ndarray:
    """DeepConf's group confidence: the mean confidence of every `window` tokens in a row.

    Args:
        confidence: float [n], one a token (token_confidence).
        window: tokens, >= 1.

    Returns: float64 [n - window + 1], number i of tokens i to i + window - 1; one number, the mean of all,
        for n <= window; none for n = 0. Its least is the paper's "lowest group confidence", its last the
        "tail confidence".
    """
    op = "window_confidence"
    tokens = _column(op, "confidence", confidence)
    window = _count(op, "window", window)
    if len(tokens) <= window:
        return tokens.mean(keepdims=True) if len(tokens) else tokens
    # Not by differences of running sums: each window's mean is to depend on its own tokens alone.
    return np.lib.stride_tricks.sliding_window_view(tokens, window).mean(-1)


def summary(stats: Mapping, window: int = WINDOW) -> dict[str, float | None]:
    """One output in numbers: fields of these names, None where one is no finite number (no token).

    mean_logp, mean_logp_raw; perplexity (exp(-mean_logp_raw)); mean_entropy, max_entropy, mean_varentropy;
    mean_margin, min_margin; mean_rank; mean_kept_mass; explored (share of the tokens, in [0, 1]);
    mean_confidence, and of windows of it lowest_window_confidence, bottom_window_confidence (mean of the
    lowest tenth, at least one) and tail_confidence (of the last).

    Args:
        stats: column -> float [n], one number a token: some of logp, logp_raw, entropy, varentropy, margin,
            rank, kept_mass, explored, confidence. A column that is missing leaves its fields out.

    Raises: ValueError for columns of different lengths.
    """
    op = "summary"
    columns = {name: _column(op, name, values) for name, values in stats.items()}
    lengths = {name: len(values) for name, values in columns.items()}
    if len(set(lengths.values())) > 1:
        raise ValueError(f"{op}: columns must have one length, got {lengths}")
    fields = {
        field: _finite(reduce(columns[column])) if len(columns[column]) else None
        for field, (column, reduce) in _FIELDS.items()
        if column in columns
    }
    if "logp_raw" in columns:
        mean = fields["mean_logp_raw"]
        with np.errstate(over="ignore"):
            fields["perplexity"] = None if mean is None else _finite(np.exp(-mean))
    if "confidence" in columns:
        windows = window_confidence(columns["confidence"], window)
        lowest = np.sort(windows)
        parts = {
            "lowest_window_confidence": lowest[:1],
            "bottom_window_confidence": lowest[: max(1, int(BOTTOM * len(lowest)))],
            "tail_confidence": windows[-1:],
        }
        fields |= {name: _finite(part.mean()) if len(part) else None for name, part in parts.items()}
    return fields


def agreement(texts_or_ids: Sequence) -> Agreement:
    """How far the samples of one prompt agree before they part, and how many pairs never do.

    Args:
        texts_or_ids: M >= 2 lists or 1-D arrays of token ids; or strings, whose characters count as tokens.
            Two empty ones agree.
    """
    samples = _samples("agreement", texts_or_ids, strings=True)
    shares = [_common_share(a, b) for a, b in itertools.combinations(samples, 2)]
    return Agreement(math.fsum(shares) / len(shares), shares.count(1.0) / len(shares))


def lexical_similarity(ids: Sequence) -> float:
    """Mean ROUGE-L F1 over the pairs of samples of one prompt, in [0, 1] (Lin 2004; as a measure of
    uncertainty: Kuhn et al. 2023).

    F1 = 2 LCS / (length of one + length of the other), with LCS the length of the longest common
    subsequence: the tokens that both have, in the same order, not necessarily in a row.

    Args:
        ids: M >= 2 lists or 1-D arrays of token ids, or lists of words. Two empty ones are alike.

    Costs some 0.5 us a token of a pair, for texts of up to some hundred tokens; more for longer ones.
    """
    samples = _samples("lexical_similarity", ids, strings=False)
    total = 0.0
    for number, a in enumerate(samples[:-1]):
        places: dict = {}  # token -> bit i for each i where a has it
        for i, token in enumerate(a):
            places[token] = places.get(token, 0) | 1 << i
        for b in samples[number + 1 :]:
            total += 1.0 if a == b else 2 * _lcs(places, len(a), b) / (len(a) + len(b))
    return total / math.comb(len(samples), 2)


def mutual_information(logits) -> np.ndarray:
    """What members disagree about, in nats: the entropy of their mean law less the mean of their entropies.

    The part of the uncertainty that is the model's and not the text's (epistemic; Houlsby et al. 2011, for
    MC dropout Gal et al. 2017), the generalised Jensen-Shannon divergence: 0 where all say the same, at most
    ln M. What `fusedraw.mixture` returns in float32 for M <= 32.

    Args:
        logits: float [M, ..., V], array or CPU tensor: M >= 1 members, at the temperature that counts.

    Returns: float64 [...] in [0, ln M].
    Raises: TypeError for other dtypes; ValueError for a row that is no law (NaN, +inf, all -inf).
    """
    op = "mutual_information"
    x = _logits(op, logits, "[M, ..., V]", 2)
    if not x.shape[0]:
        raise ValueError(f"{op}: needs at least 1 member, got shape {list(x.shape)}")
    members, vocab = x.shape[0], x.shape[-1]
    parts = []
    for rows in x.reshape(members, -1, vocab).split(max(1, _CHUNK // (members * vocab)), dim=1):
        laws = rows.double().softmax(-1)
        inner = torch.special.entr(laws).sum(-1).mean(0)
        parts.append(torch.special.entr(laws.mean(0)).sum(-1) - inner)
    found = torch.cat(parts).clamp(min=0)  # rounding leaves equal members an ulp below 0
    return _whole(op, found.reshape(x.shape[1:-1]))


def _lcs(places: dict, length: int, other: Sequence) -> int:
    """Length of the longest common subsequence of a text of `length` tokens, given by `places`, and another.

    A column of the usual table a token, as bits: bit i is 0 where the entry i exceeds the one before it
    (Hyyro 2004). Bits beyond `length` are carries, and reach no lower one.
    """
    full = (1 << length) - 1
    column = full
    for matches in filter(None, map(places.get, other)):
        raised = column & matches
        column = (column + raised) | (column - raised)
    return length - (column & full).bit_count()


def _common_share(a: Sequence, b: Sequence) -> float:
    if a == b:
        return 1.0
    shorter, longer = sorted((len(a), len(b)))
    differs = map(operator.ne, a, b)
    return next((i for i, other in enumerate(differs) if other), shorter) / longer


def _samples(op: str, samples, strings: bool) -> list:
    """The samples as lists, or as the strings they are; at least two."""
    if isinstance(samples, str) or not isinstance(samples, (list, tuple)):
        raise TypeError(f"{op}: samples must be a list of them, got {type(samples).__name__}")
    if len(samples) < 2:
        raise ValueError(f"{op}: needs at least 2 samples, got {len(samples)}")
    if len({isinstance(sample, str) for sample in samples}) > 1:
        raise TypeError(f"{op}: samples must be all strings or all ids, got both")
    if isinstance(samples[0], str):
        if not strings:
            raise TypeError(f"{op}: samples must be lists of ids or of words, got str")
        return list(samples)
    rows = [sample.tolist() if hasattr(sample, "tolist") else sample for sample in samples]
    for number, row in enumerate(rows):
        if not isinstance(row, (list, tuple)):
            raise TypeError(f"{op}: sample {number} must be a list, got {type(samples[number]).__name__}")
        if row and isinstance(row[0], list):
            raise ValueError(f"{op}: sample {number} must be 1-D, got {len(row)} lists")
    return [list(row) for row in rows]


def _column(op: str, name: str, values) -> np.ndarray:
    """Float64 [n]. Sums of float32 numbers are taken in float64."""
    column = np.asarray(values, dtype=np.float64)
    if column.ndim != 1:
        raise ValueError(f"{op}: {name} must be [n], got shape {list(column.shape)}")
    return column


def _count(op: str, name: str, value) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{op}: {name} must be an int, got {type(value).__name__}")
    if value < 1:
        raise ValueError(f"{op}: {name} must be >= 1, got {value}")
    return int(value)


def _finite(value) -> float | None:
    return float(value) if math.isfinite(value) else None


def _logits(op: str, logits, form: str, dimensions: int) -> torch.Tensor:
    x = torch.as_tensor(logits).detach()
    if not x.is_floating_point():
        raise TypeError(f"{op}: logits must be floats, got {dtype_name(x.dtype)}")
    if x.dim() < dimensions or not x.shape[-1]:
        raise ValueError(f"{op}: logits must be {form}, got shape {list(x.shape)}")
    return x


def _whole(op: str, found: torch.Tensor) -> np.ndarray:
    """`found` as an array; NaN is what a row gives that is no law."""
    if bad := int(found.isnan().sum()):
        raise ValueError(
            f"{op}: each row must hold finite numbers or -inf, at least one finite, got {bad} of "
            f"{found.numel()} rows that do not"
        )
    return found.cpu().numpy()
