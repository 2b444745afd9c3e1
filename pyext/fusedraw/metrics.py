# SPDX-License-Identifier: Apache-2.0
"""Diversity and quality of generated texts, on token ids.

Texts are an integer tensor [N, L] with `lengths` [N] (None: all L), or N lists or 1-D tensors of ids. No
padding counts. Ids are compared for equality only, so figures depend on the tokenizer: compare within one.

    distinct_n, vendi_score                       diversity of a set: higher is more
    self_bleu, compression_ratio, self_repetition   sameness of a set: higher is less diverse
    repetition                                    sameness within each text
    perplexity, relevance                         quality of each text

Each equals its reference implementation (sacrebleu, vendi-score, diversity) on the fixtures of the tests.
"""

import gzip
import math
import numbers
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import chain

import torch
from torch import Tensor

from ._checks import dtype_name

_INTEGERS = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_GZIP_NAME = len("compressed\0")  # the member's name that the reference's file carries in its header


def distinct_n(ids, n: int = 2, *, lengths=None) -> float:
    """Distinct n-grams over all n-grams of the set, in (0, 1] (Li et al. 2016).

    It falls as texts get longer or more: compare sets of equal size. ValueError if no text has n tokens.
    """
    op = "distinct_n"
    texts, n = _texts(op, ids, lengths), _order(op, n)
    counts = Counter(chain.from_iterable(_ngrams(text, n) for text in texts))
    if not counts:
        raise ValueError(f"{op}: no text has {n} tokens, the longest has {max(map(len, texts))}")
    return len(counts) / counts.total()


def repetition(ids, n: int = 4, *, lengths=None) -> Tensor:
    """seq-rep-n of each text, float64 [N] in [0, 1): 1 - distinct n-grams / n-grams (Welleck et al. 2020).

    0 for a text of fewer than n tokens, which repeats nothing.
    """
    op = "repetition"
    texts, n = _texts(op, ids, lengths), _order(op, n)
    totals = [max(len(text) - n + 1, 0) for text in texts]
    distinct = [len(set(_ngrams(text, n))) for text in texts]
    shares = [1 - d / total if total else 0.0 for d, total in zip(distinct, totals, strict=True)]
    return torch.tensor(shares, dtype=torch.float64)


def self_repetition(ids, n: int = 4, *, lengths=None) -> float:
    """How much texts repeat each other, >= 0 (Salkar et al. 2022; diversity.self_repetition_score).

    The mean over texts of ln(1 + in how many other texts its n-grams occur, summed over its distinct ones).
    """
    op = "self_repetition"
    texts, n = _texts(op, ids, lengths), _order(op, n)
    sets = [set(_ngrams(text, n)) for text in texts]
    holders = Counter(chain.from_iterable(sets))
    elsewhere = [sum(holders[gram] - 1 for gram in grams) for grams in sets]
    return sum(map(math.log1p, elsewhere)) / len(texts)


def self_bleu(ids, max_n: int = 4, *, lengths=None) -> Tensor:
    """BLEU of each text with the others as references, float64 [N] in [0, 100]; its mean is Self-BLEU
    (Zhu et al. 2018).

    sacrebleu's sentence_score computes it, on ids as words: tokenize="none", effective order, exponential
    smoothing (the Texygen paper smooths otherwise; figures compare within one definition). N >= 2.
    ImportError if sacrebleu is not installed.
    """
    op = "self_bleu"
    texts, max_n = _texts(op, ids, lengths), _order(op, max_n, "max_n")
    if len(texts) < 2:
        raise ValueError(f"{op}: needs at least 2 texts, got {len(texts)}")
    try:
        from sacrebleu.metrics import BLEU
    except ImportError as error:
        raise ImportError(f"{op}: needs sacrebleu (pip install sacrebleu): {error}") from error
    bleu = BLEU(tokenize="none", effective_order=True, max_ngram_order=max_n)
    lines = [_as_words(text) for text in texts]
    scores = [bleu.sentence_score(line, lines[:i] + lines[i + 1 :]).score for i, line in enumerate(lines)]
    return torch.tensor(scores, dtype=torch.float64)


def compression_ratio(ids, *, decode: Callable[[list[int]], str] | None = None, lengths=None) -> float:
    """Size of the texts, joined by blanks, over their gzip size (Shaib et al. 2024).

    Equal to diversity.compression_ratio before it rounds to 3 digits, which compresses twice (the second pass
    adds some 23 bytes) and counts its file's name: kept, so that figures agree with published ones.

    Args:
        decode: ids of one text -> str, for a figure on the text; None: the ids in decimal, as words.
    """
    op = "compression_ratio"
    parts = [(decode or _as_words)(list(text)) for text in _texts(op, ids, lengths)]
    if any(not isinstance(part, str) for part in parts):
        raise TypeError(f"{op}: decode must return str, got {type(parts[0]).__name__}")
    data = " ".join(parts).encode()
    return len(data) / (len(gzip.compress(gzip.compress(data))) + _GZIP_NAME)


def vendi_score(ids, ns: Sequence[int] = (1, 2, 3, 4), *, lengths=None) -> float:
    """n-gram Vendi score: how many texts unlike each other the set is worth, in [1, N] (Friedman and Dieng
    2023; vendi_score.text_utils.ngram_vendi_score).

    exp of the entropy of the eigenvalues of K / N, K the cosine similarities of n-gram counts averaged over
    `ns`. ValueError for a text shorter than max(ns), whose similarity to itself would not be 1.
    """
    op = "vendi_score"
    texts = _texts(op, ids, lengths)
    if not isinstance(ns, (list, tuple, range)) or not ns:
        raise ValueError(f"{op}: ns must be a list of n-gram lengths, got {ns!r}")
    ns = [_order(op, n) for n in ns]
    for number, text in enumerate(texts):
        if len(text) < max(ns):
            raise ValueError(
                f"{op}: every text must have at least {max(ns)} tokens, text {number} has {len(text)}"
            )
    kernel = sum(_cosines([Counter(_ngrams(text, n)) for text in texts]) for n in ns) / len(ns)
    shares = torch.linalg.eigvalsh(kernel / len(texts))
    shares = shares[shares > 0]  # rounding leaves some an ulp below 0
    return math.exp(-torch.xlogy(shares, shares).sum().item())


def perplexity(logps, *, lengths=None) -> Tensor:
    """exp(-mean log-probability) of each text, float64 [N]; inf where a token had probability 0.

    Args:
        logps: float [N, L], in nats, with `lengths` [N] >= 1; or N lists or 1-D tensors. Of `sample`:
            `logp_raw` tells what the model itself thinks of the tokens, whatever drew them, and is what
            settings are compared by; `logp` tells how surprised the sampler was.
    """
    op = "perplexity"
    if isinstance(logps, Tensor) and not logps.is_floating_point():
        raise TypeError(f"{op}: logps must be a float tensor, got {dtype_name(logps.dtype)}")
    rows = _rows(op, "logps", logps, lengths)
    for number, row in enumerate(rows):
        if not row:
            raise ValueError(f"{op}: every text must have at least 1 token, text {number} has none")
        if any(isinstance(value, bool) or not isinstance(value, numbers.Real) for value in row):
            raise TypeError(f"{op}: logps must hold numbers, text {number} does not")
        if any(value > 0 or value != value for value in row):
            raise ValueError(f"{op}: logps must be <= 0 and not NaN, text {number} holds {max(row)}")
    means = torch.tensor([math.fsum(row) / len(row) for row in rows], dtype=torch.float64)
    return means.neg().exp()


def relevance(texts: Sequence, prompts: Sequence, embed: Callable) -> Tensor:
    """Cosine similarity of each text to its prompt under an embedder of yours, float64 [N] in [-1, 1].

    Args:
        texts: N of whatever `embed` takes (strings, ids).
        prompts: N of them, or one for all.
        embed: called with `texts`, then with `prompts`; gives [len, D] numbers (tensor or array). A vector of
            zeros is similar to nothing: 0.
    """
    op = "relevance"
    if len(prompts) not in (1, len(texts)):
        raise ValueError(f"{op}: prompts must be 1 or {len(texts)}, got {len(prompts)}")
    ours, theirs = (_embeddings(op, embed, items) for items in (texts, prompts))
    if ours.shape[1] != theirs.shape[1]:
        raise ValueError(f"{op}: embed gave {ours.shape[1]} and {theirs.shape[1]} dimensions")
    return torch.nn.functional.cosine_similarity(ours, theirs, eps=1e-300)


def _embeddings(op: str, embed: Callable, items: Sequence) -> Tensor:
    vectors = torch.as_tensor(embed(items)).detach().cpu().double()
    if vectors.dim() != 2 or len(vectors) != len(items):
        raise ValueError(f"{op}: embed must give [{len(items)}, D], got shape {list(vectors.shape)}")
    return vectors


def _texts(op: str, ids, lengths) -> list[list[int]]:
    """The token ids of each text, without padding."""
    if isinstance(ids, Tensor) and ids.dtype not in _INTEGERS:
        raise TypeError(f"{op}: ids must be an integer tensor, got {dtype_name(ids.dtype)}")
    rows = _rows(op, "ids", ids, lengths)
    for number, row in enumerate(rows):
        if any(isinstance(token, bool) or not isinstance(token, numbers.Integral) for token in row):
            raise TypeError(f"{op}: ids must hold integers, text {number} does not")
        if any(token < 0 for token in row):
            raise ValueError(f"{op}: ids must be >= 0, text {number} holds {min(row)}: give lengths")
    return rows


def _rows(op: str, name: str, x, lengths) -> list[list]:
    """[N, L] cut to `lengths`, or N sequences, as lists of Python numbers; N >= 1."""
    if hasattr(x, "tolist"):  # a tensor or an array
        if len(x.shape) != 2:
            raise ValueError(f"{op}: {name} must be [N, L], got shape {list(x.shape)}")
        rows = x.tolist()
    elif isinstance(x, (list, tuple)):
        if lengths is not None:
            raise ValueError(f"{op}: lengths goes with a tensor [N, L]; lists have their own")
        rows = [row.tolist() if hasattr(row, "tolist") else row for row in x]
        for number, row in enumerate(rows):
            if not isinstance(row, (list, tuple, range)):
                raise TypeError(f"{op}: {name}[{number}] must be a list, got {type(row).__name__}")
        rows = [list(row) for row in rows]
    else:
        raise TypeError(f"{op}: {name} must be [N, L] or a list of lists, got {type(x).__name__}")
    if not rows:
        raise ValueError(f"{op}: {name} must hold at least one text, got none")
    if lengths is None:
        return rows
    ends = lengths.tolist() if hasattr(lengths, "tolist") else list(lengths)
    if len(ends) != len(rows):
        raise ValueError(f"{op}: lengths must be {len(rows)}, one for each text, got {len(ends)}")
    width = len(rows[0])
    for end in ends:
        if isinstance(end, bool) or not isinstance(end, int) or not 0 <= end <= width:
            raise ValueError(f"{op}: lengths must be ints in [0, {width}], got {end}")
    return [row[:end] for row, end in zip(rows, ends, strict=True)]


def _order(op: str, n, name: str = "n") -> int:
    if isinstance(n, bool) or not isinstance(n, numbers.Integral):
        raise TypeError(f"{op}: {name} must be an int, got {type(n).__name__}")
    if n < 1:
        raise ValueError(f"{op}: {name} must be >= 1, got {n}")
    return int(n)


def _ngrams(text: Sequence[int], n: int):
    return zip(*(text[i:] for i in range(n)), strict=False)


def _as_words(text: Sequence[int]) -> str:
    return " ".join(map(str, text))


def _cosines(counts: list[Counter]) -> Tensor:
    """Cosine similarities of non-empty counts, float64 [N, N]."""
    holders: dict = {}  # n-gram -> [(text, count)]: most have one holder, and need no product
    for text, count in enumerate(counts):
        for gram, times in count.items():
            holders.setdefault(gram, []).append((text, times))
    products = torch.zeros((len(counts), len(counts)), dtype=torch.float64)
    for shared in holders.values():
        if len(shared) > 1:
            index, counted = torch.tensor(shared).unbind(1)
            products[index.unsqueeze(1), index] += torch.outer(counted, counted)
    squares = [sum(times * times for times in count.values()) for count in counts]
    norms = torch.tensor(squares, dtype=torch.float64).sqrt()
    cosines = products / torch.outer(norms, norms)
    return cosines.fill_diagonal_(1.0)
