# SPDX-License-Identifier: Apache-2.0
"""fusedraw.flashinfer: rows that cannot be drawn from."""

import math

import pytest
import torch
from flashinfer_cases import DRAWS, PROBS, B, each_draw, rows_of, values

with_valid = pytest.mark.parametrize(
    "function, rules",
    [row[:2] for row in DRAWS if not row[2]],
    ids=[row[0].__name__ for row in DRAWS if not row[2]],
)


@with_valid
def test_return_valid(function, rules):
    bad = PROBS.clone()
    bad[1], bad[4, 7] = 0.0, math.nan
    ids, valid = function(bad, *values(rules), seed=1, offset=0, return_valid=True)
    assert valid.tolist() == [True, False, True, True, False, True] and valid.dtype == torch.bool
    assert ids.dtype == torch.int32 and ids[~valid].tolist() == [0, 0]
    good = function(PROBS, *values(rules), seed=1, offset=0)
    assert torch.equal(ids[valid], good[valid])
    index = torch.tensor([1, 0])
    ids, valid = function(bad, *values(rules), index, seed=1, offset=0, return_valid=True)
    assert ids.dtype == torch.int64 and valid.tolist() == [False, True]


@each_draw
def test_bad_rows_raise(function, rules, logits):
    bad = rows_of(logits).clone()
    bad[2, 3] = math.nan
    name = "logits" if logits else "probs"
    with pytest.raises(ValueError, match=f"{function.__name__}: row 2 has status NAN"):
        function(bad, *values(rules))
    with pytest.raises(ValueError, match=f"{function.__name__}: {name} must have no NaN"):
        function(bad, *values(rules), check_nan=True)
    assert function(rows_of(logits), *values(rules), check_nan=True).shape == (B,)


@each_draw
def test_bad_rows_of_numbers(function, rules, logits):
    for x, kind in (
        (rows_of(logits)[0], ValueError),
        ([1.0], TypeError),
        (torch.ones(2, 3).long(), TypeError),
    ):
        with pytest.raises(kind, match=f"{function.__name__}: {'logits' if logits else 'probs'} must be"):
            function(x, *values(rules, 0))
    for number, name in enumerate(rules):
        given = values(rules, 0)
        given[number] = -2 if name == "top_k" else 1.5
        with pytest.raises(ValueError, match=f"{function.__name__}: {name} must be"):
            function(rows_of(logits), *given)
