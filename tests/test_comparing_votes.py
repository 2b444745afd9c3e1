# SPDX-License-Identifier: Apache-2.0
"""Several draws of a prompt: votes against counting by hand."""

import collections
import itertools
import math

import fusedraw
import pytest
import torch
from comparing_cases import ALPHA
from engines import INF
from fusedraw.comparing import (
    best_of_n,
    keys_of_draws,
    majority_vote,
    pass_at_k,
)
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from strategies import examples


def test_keys_of_draws():
    got = keys_of_draws(5, [10, 2**64 - 1, 3], 4, step=6)
    expected = [fusedraw.derive_keys(5, r, j, step=6)[0] for r in (10, 2**64 - 1, 3) for j in range(4)]
    assert torch.equal(got.view(torch.int64), torch.stack(expected).view(torch.int64))
    assert got.dtype == torch.uint64 and len({tuple(key) for key in got.tolist()}) == 12
    tensors = torch.tensor([10, -1, 3]).view(torch.uint64)
    for ids in (tensors, [10, 2**64 - 1, 3]):
        again = keys_of_draws(torch.tensor([5, 5, 5]), ids, 4, step=torch.tensor([6, 6, 6]))
        assert torch.equal(again.view(torch.int64), got.view(torch.int64))
    assert torch.equal(
        keys_of_draws(5, range(3), 2).view(torch.int64), keys_of_draws(5, [0, 1, 2], 2).view(torch.int64)
    )
    # one request and several steps: derive_keys widens it, and so does this
    wide = keys_of_draws(5, 7, 2, step=torch.tensor([0, 1]))
    assert torch.equal(wide[2].view(torch.int64), fusedraw.derive_keys(5, 7, 0, step=1)[0].view(torch.int64))
    with pytest.raises(ValueError, match=r"keys_of_draws: n must be in \[1, 2\^32\), got 0"):
        keys_of_draws(5, [1], 0)
    with pytest.raises(TypeError, match="n must be an int"):
        keys_of_draws(5, [1], 2.0)


@examples(60)
@given(st.lists(st.lists(st.integers(-1, 4), min_size=5, max_size=5), min_size=1, max_size=6))
def test_majority_vote_counts(rows):
    got = majority_vote(torch.tensor(rows))
    letters = majority_vote([[None if v < 0 else "abcde"[v] for v in row] for row in rows])
    for i, row in enumerate(rows):
        counts = collections.Counter(v for v in row if v >= 0)  # ties: most_common gives the first seen
        if not counts:
            assert got.answers[i] == got.draw[i] == -1 and got.votes[i] == 0 and math.isnan(got.share[i])
            assert letters.answers[i] is None
            continue
        answer, votes = counts.most_common(1)[0]
        assert (got.answers[i], got.votes[i], got.draw[i]) == (answer, votes, row.index(answer))
        assert got.share[i].item() == votes / counts.total()
        assert got.tied[i] == (list(counts.values()).count(votes) > 1)
        assert letters.answers[i] == "abcde"[answer] and letters.draw[i] == got.draw[i]


def test_ties_of_a_vote_are_broken_by_the_key():
    n = 30_000
    answers = torch.tensor([[7, 5, 5, 9, 7, 9, 2]]).expand(n, -1)
    keys = fusedraw.derive_keys(3, torch.arange(n))
    got = majority_vote(answers, keys=keys)
    counts = [int((got.answers == a).sum()) for a in (7, 5, 9)]
    assert sum(counts) == n and stats.chisquare(counts).pvalue > ALPHA
    assert got.tied.all() and (got.votes == 2).all()
    assert all(got.draw[got.answers == a].unique().tolist() == [i] for a, i in ((7, 0), (5, 1), (9, 3)))
    part = majority_vote(answers[:50].flip(0), keys=keys[:50])
    assert torch.equal(part.answers, got.answers[:50])  # the key decides, not the company
    clear = majority_vote(torch.tensor([[4, 6, 6], [-1, -1, -1]]), keys=keys[:2])
    assert clear.answers.tolist() == [6, -1] and not clear.tied.any()


def test_best_of_n():
    scores = torch.tensor([[0.1, 0.9, 0.3], [2.0, 2.0, 1.0], [-INF, -INF, -5.0], [-INF, -INF, -INF]])
    got = best_of_n(scores)
    assert got.draw.tolist() == [1, 0, 2, 0] and got.score.dtype == torch.float32
    assert torch.equal(got.score, scores.amax(1)) and got.tied.tolist() == [False, True, False, True]
    keys = fusedraw.derive_keys(9, torch.arange(20_000))
    drawn = best_of_n(scores[1:2].expand(20_000, -1), keys=keys).draw
    assert stats.chisquare(torch.bincount(drawn, minlength=3)[:2]).pvalue > ALPHA and drawn.max() == 1
    assert torch.equal(best_of_n(scores[:1].expand(9, -1), keys=keys[:9]).draw, torch.ones(9).long())


def test_pass_at_k_is_the_share_of_subsets():
    for n, c in itertools.product(range(1, 7), range(7)):
        correct = torch.arange(n)[None] < c
        for k in range(1, n + 1):
            subsets = list(itertools.combinations(correct[0].tolist(), k))
            assert pass_at_k(correct, k).item() == sum(map(any, subsets)) / len(subsets)
    many = torch.arange(2000)[None] < 3  # beyond the reach of factorials in floating point
    assert pass_at_k(many, 1000).item() == pytest.approx(1 - 1000 * 999 * 998 / (2000 * 1999 * 1998))
