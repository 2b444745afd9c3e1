# SPDX-License-Identifier: Apache-2.0
"""Uncertainty of tokens, outputs, prompts, ensembles: by hand, against plain loops, against the mixture."""

import itertools
import math
import subprocess
import sys

import fusedraw
import numpy as np
import pytest
import torch
from fusedraw.audit import uncertainty as u
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

TEXTS = st.lists(st.lists(st.integers(0, 6), max_size=90), min_size=2, max_size=5)
NAN, INF = math.nan, math.inf


def rows(*shape, seed=0, spread=3.0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * spread


def lcs(a, b):
    """Length of the longest common subsequence, by the table of the textbook."""
    table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
    for i, x in enumerate(a):
        for j, y in enumerate(b):
            table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
    return table[-1][-1]


# DeepConf


def test_token_confidence_by_hand():
    logits = torch.tensor([[0.5, 0.3, 0.15, 0.05], [0.25, 0.25, 0.25, 0.25]]).log() + 7
    expected = [-(math.log(0.5) + math.log(0.3)) / 2, math.log(4)]
    assert u.token_confidence(logits, best=2) == pytest.approx(expected, rel=1e-6)
    assert u.token_confidence(logits)[1] == pytest.approx(math.log(4), rel=1e-6)  # all four count
    assert u.token_confidence(rows(2, 3, 50).numpy()).shape == (2, 3)
    assert u.token_confidence([0.0, -INF], best=1) == 0
    assert u.token_confidence([0.0, -INF], best=2) == INF


def test_token_confidence_of_a_flat_law_is_the_least():
    flat = u.token_confidence(torch.zeros(u.BEST))
    assert flat == pytest.approx(math.log(u.BEST), rel=1e-12)
    assert (u.token_confidence(rows(50, 200)) > flat).all()


def test_window_confidence_is_the_mean_of_each_window():
    confidence = rows(40).abs().tolist()
    expected = [math.fsum(confidence[i : i + 16]) / 16 for i in range(25)]
    assert u.window_confidence(confidence) == pytest.approx(expected, rel=1e-12)
    assert u.window_confidence([1, 2, 6], 2).tolist() == [1.5, 4]
    assert u.window_confidence([1, 2, 6], 3).tolist() == [3]
    assert u.window_confidence([1, 2, 6], 4).tolist() == [3]
    assert u.window_confidence([1, 2, 6], 1).tolist() == [1, 2, 6]
    assert u.window_confidence([]).tolist() == []


def test_a_window_depends_on_its_own_tokens_alone():
    far = u.window_confidence([1e30] + [0.1] * 20, 4)
    assert far[-1] == u.window_confidence([0.1] * 20, 4)[-1]


# One output


def test_summary_by_hand():
    logp_raw = np.array([-1.0, -3.0], np.float32)
    stats = {
        "logp": [-0.5, -1.5],
        "logp_raw": logp_raw,
        "entropy": torch.tensor([0.25, 1.75]),
        "varentropy": [1.0, 0.5],
        "margin": [4.0, 0.5],
        "rank": [0, 3],
        "kept_mass": [1.0, 0.5],
        "explored": [0, 1],
        "confidence": [6.0, 2.0],
        "best_logp": [-0.1, -0.2],
    }
    assert u.summary(stats, window=1) == {
        "mean_logp": -1.0,
        "mean_logp_raw": -2.0,
        "perplexity": pytest.approx(math.exp(2), rel=1e-15),
        "mean_entropy": 1.0,
        "max_entropy": 1.75,
        "mean_varentropy": 0.75,
        "mean_margin": 2.25,
        "min_margin": 0.5,
        "mean_rank": 1.5,
        "mean_kept_mass": 0.75,
        "explored": 0.5,
        "mean_confidence": 4.0,
        "lowest_window_confidence": 2.0,
        "bottom_window_confidence": 2.0,
        "tail_confidence": 2.0,
    }
    assert all(type(value) is float for value in u.summary(stats).values())


def test_summary_of_windows():
    confidence = [5.0] * 20 + [1.0, 2.0, 3.0, 4.0] + [5.0] * 16
    fields = u.summary({"confidence": confidence}, window=1)
    assert fields["lowest_window_confidence"] == 1
    assert fields["bottom_window_confidence"] == 2.5  # of 40 windows the lowest 4
    assert fields["tail_confidence"] == 5
    fields = u.summary({"confidence": confidence}, window=4)
    assert fields["lowest_window_confidence"] == 2.5


def test_summary_has_no_number_that_json_cannot_hold():
    empty = u.summary({name: [] for name in ("logp", "logp_raw", "entropy", "margin", "confidence")})
    assert len(empty) == 11 and set(empty.values()) == {None}
    assert u.summary({"margin": [INF, 2.0]}) == {"mean_margin": None, "min_margin": 2.0}
    assert u.summary({"logp_raw": [-1000.0]}) == {"mean_logp_raw": -1000.0, "perplexity": None}
    assert u.summary({"logp_raw": [NAN]}) == {"mean_logp_raw": None, "perplexity": None}
    assert u.summary({}) == {}


# Samples of one prompt


def test_agreement_by_hand():
    assert u.agreement([[1, 2, 3, 4], [1, 2, 9, 4]]) == (0.5, 0.0)
    assert u.agreement([[1, 2], [1, 2, 3, 4]]) == (0.5, 0.0)
    assert u.agreement([[1, 2], np.array([1, 2], np.int32), torch.tensor([7, 2])]) == (1 / 3, 1 / 3)
    assert u.agreement([[], []]) == (1.0, 1.0)
    assert u.agreement([[], [5]]) == (0.0, 0.0)
    assert u.agreement(["abcd", "abc", "abcd"]) == (pytest.approx((0.75 + 1 + 0.75) / 3), 1 / 3)


def test_rouge_l_of_the_paper():
    """Lin 2004, section 3.1: ROUGE-L 3/4 and 2/4 for sentences of four words, so F1 is the same."""
    reference, second, third, fourth = (
        text.split()
        for text in (
            "police killed the gunman",
            "police kill the gunman",
            "the gunman kill police",
            "the gunman police killed",
        )
    )
    assert u.lexical_similarity([reference, second]) == 0.75
    assert u.lexical_similarity([reference, third]) == 0.5
    assert u.lexical_similarity([reference, fourth]) == 0.5
    assert u.lexical_similarity([reference, second, third]) == pytest.approx((0.75 + 0.5 + 0.5) / 3)


def test_rouge_l_by_hand():
    assert u.lexical_similarity([[1, 2, 3], [1, 3]]) == 0.8  # LCS 2: precision 1, recall 2/3
    assert u.lexical_similarity([[1, 2], [3, 4]]) == 0
    assert u.lexical_similarity([[5, 5, 5], [5]]) == 0.5
    assert u.lexical_similarity([[], []]) == 1
    assert u.lexical_similarity([[], [1]]) == 0
    assert u.lexical_similarity([np.array([1, 2], np.int32), torch.tensor([1, 2]), [1, 2]]) == 1


@given(TEXTS)
@examples(100)
def test_rouge_l_equals_the_textbook(texts):
    pairs = list(itertools.combinations(texts, 2))
    scores = [2 * lcs(a, b) / (len(a) + len(b)) if a or b else 1.0 for a, b in pairs]
    found = u.lexical_similarity(texts)
    assert found == pytest.approx(math.fsum(scores) / len(scores), rel=1e-12)
    assert u.lexical_similarity(texts[::-1]) == pytest.approx(found, rel=1e-12)


@given(TEXTS)
@examples(100)
def test_agreement_equals_plain_loops(texts):
    shares, exact = [], []
    for a, b in itertools.combinations(texts, 2):
        common = 0
        while common < min(len(a), len(b)) and a[common] == b[common]:
            common += 1
        shares.append(common / max(len(a), len(b)) if a or b else 1.0)
        exact.append(a == b)
    found = u.agreement(texts)
    assert found.share == pytest.approx(sum(shares) / len(shares), rel=1e-12)
    assert found.exact == sum(exact) / len(exact)


# Ensembles


def test_mutual_information_by_hand():
    laws = np.array([[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]])
    mean = laws.mean(0)
    expected = -(mean * np.log(mean)).sum() + (laws * np.log(laws)).sum() / 2
    found = u.mutual_information(np.log(laws))
    assert found.dtype == np.float64 and found.shape == ()
    assert found == pytest.approx(expected, rel=1e-12)


def test_mutual_information_is_that_of_the_mixture():
    members = rows(5, 40, 300)
    members[2, :, ::7] = -INF  # what one member excludes
    expected = fusedraw.mixture(members, seed=0, returns=("mutual_information",)).mutual_information
    found = u.mutual_information(members)
    assert found == pytest.approx(expected.double().numpy(), rel=1e-5, abs=1e-6)
    assert u.mutual_information(members.view(5, 8, 5, 300)).shape == (8, 5)


def test_mutual_information_between_its_bounds():
    same = rows(1, 200, 50).expand(7, 200, 50)  # their mean, of 7, is rounded to either side
    assert (u.mutual_information(same) < 1e-14).all() and (u.mutual_information(same) >= 0).all()
    apart = torch.where(torch.eye(4, dtype=torch.bool), 0.0, -INF)  # each is sure of a token of its own
    assert u.mutual_information(apart) == pytest.approx(math.log(4), rel=1e-14)
    assert u.mutual_information(rows(1, 3, 9)) == pytest.approx([0, 0, 0], abs=1e-14)


def test_mutual_information_in_parts(monkeypatch):
    members = rows(3, 11, 20)
    whole = u.mutual_information(members)
    monkeypatch.setattr(u, "_CHUNK", 3 * 20 * 4)
    assert (u.mutual_information(members) == whole).all()


# Input


BAD = [
    (lambda: u.token_confidence([1, 2]), TypeError, "token_confidence: logits must be floats, got int64"),
    (lambda: u.token_confidence(torch.zeros(3, 0)), ValueError, "logits must be [..., V], got shape [3, 0]"),
    (lambda: u.token_confidence([0.0, NAN]), ValueError, "got 1 of 1 rows that do not"),
    (lambda: u.token_confidence([-INF, -INF]), ValueError, "at least one finite"),
    (lambda: u.token_confidence([0.0], best=0), ValueError, "best must be >= 1, got 0"),
    (lambda: u.window_confidence([1.0], 0), ValueError, "window_confidence: window must be >= 1, got 0"),
    (lambda: u.window_confidence([1.0], 1.5), TypeError, "window must be an int, got float"),
    (lambda: u.window_confidence([[1.0]]), ValueError, "confidence must be [n], got shape [1, 1]"),
    (
        lambda: u.summary({"logp": [0.0], "rank": [1, 2]}),
        ValueError,
        "summary: columns must have one length, got {'logp': 1, 'rank': 2}",
    ),
    (lambda: u.agreement([[1]]), ValueError, "agreement: needs at least 2 samples, got 1"),
    (lambda: u.agreement("ab"), TypeError, "samples must be a list of them, got str"),
    (lambda: u.agreement([[1], "a"]), TypeError, "all strings or all ids, got both"),
    (lambda: u.agreement([[1], None]), TypeError, "sample 1 must be a list, got NoneType"),
    (lambda: u.lexical_similarity(["a b", "a"]), TypeError, "lists of ids or of words, got str"),
    (lambda: u.lexical_similarity([np.zeros((2, 2)), [1]]), ValueError, "sample 0 must be 1-D"),
    (lambda: u.mutual_information([0.0, 1.0]), ValueError, "logits must be [M, ..., V], got shape [2]"),
    (lambda: u.mutual_information(torch.zeros(0, 2, 3)), ValueError, "needs at least 1 member"),
    (lambda: u.mutual_information([[0.0, 0.0], [INF, 0.0]]), ValueError, "got 1 of 1 rows"),
]


@pytest.mark.parametrize(("call", "error", "says"), BAD, ids=[says for _, _, says in BAD])
def test_bad_input_is_named(call, error, says):
    with pytest.raises(error) as caught:
        call()
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_import_of_the_package_leaves_the_audit_out():
    code = "import sys, fusedraw; sys.exit(any(name.startswith('fusedraw.audit') for name in sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True)
