# SPDX-License-Identifier: Apache-2.0
"""fusedraw.flashinfer: dtypes, indices, numbers and tensors, and the same draws by `sample`."""

import fusedraw
import pytest
import torch
from flashinfer_cases import B, V, each_draw, rows_of, values


@each_draw
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_ids(function, rules, logits, dtype):
    x = rows_of(logits).to(dtype)
    ids = function(x, *values(rules), seed=1, offset=2)
    assert ids.dtype == torch.int32 and ids.shape == (B,) and ids.device == x.device
    assert ((ids >= 0) & (ids < V)).all()
    if dtype == torch.float64:
        assert torch.equal(ids, function(x.float(), *values(rules), seed=1, offset=2))
    for deterministic in (True, False):
        assert torch.equal(
            function(x, *values(rules), None, deterministic=deterministic, seed=1, offset=2), ids
        )


@each_draw
def test_a_row_is_drawn_as_by_sample(function, rules, logits):
    keys = fusedraw.derive_keys(11, range(B), step=4)
    given = dict(zip(rules, values(rules), strict=True))
    draw = fusedraw.sample if logits else fusedraw.sample_probs
    expected = draw(rows_of(logits), **given, ties="all", keys=keys)
    assert torch.equal(function(rows_of(logits), *values(rules), seed=11, offset=4), expected.int())


@each_draw
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_indices(function, rules, logits, dtype):
    """Rows and their parameters are shared; the noise is that of the place or of the seed."""
    index = torch.tensor([3, 0, 0, 5, 2, 2, 2, 1], dtype=dtype)
    x = rows_of(logits)
    ids = function(x, *values(rules), index, seed=3, offset=0)
    assert ids.dtype == dtype and ids.shape == (8,)
    spread = [value[index] for value in values(rules)]
    assert torch.equal(ids, function(x[index], *spread, seed=3, offset=0).to(dtype))
    for rule in range(len(rules)):  # one number for all rows
        given = values(rules, 4)
        mixed = values(rules)
        mixed[rule] = given[rule]
        assert function(x, *mixed, index, seed=3, offset=0).shape == (8,)
    one = function(x[:1], *values(rules, 0), torch.zeros(4, dtype=dtype), seed=3, offset=0)
    assert torch.equal(one, function(x[:1].repeat(4, 1), *values(rules, 0), seed=3, offset=0).to(dtype))
    for wrong, kind in (
        (index.short(), TypeError),
        ([0], TypeError),
        (index[None], ValueError),
        (index - 1, ValueError),
        (index + 1, ValueError),
    ):
        with pytest.raises(kind, match=f"{function.__name__}: indices must be"):
            function(x, *values(rules), wrong)
    if rules:
        with pytest.raises(ValueError, match=f"{rules[0]} must be"):
            function(x, *[value[:3] for value in values(rules)], index)


@each_draw
def test_numbers_and_tensors_are_one(function, rules, logits):
    x = rows_of(logits)
    for row in range(B):
        numbers = function(x, *values(rules, row), seed=2, offset=1)
        tensors = function(x, *[value[row].expand(B) for value in values(rules)], seed=2, offset=1)
        assert torch.equal(numbers, tensors)
