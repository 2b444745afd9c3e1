# SPDX-License-Identifier: Apache-2.0
"""fusedraw.flashinfer: where the noise of a row comes from."""

import fusedraw
import pytest
import torch
from flashinfer_cases import B, V, each_draw, rows_of, values


@each_draw
def test_seed_of_a_row_is_its_own(function, rules, logits):
    """A row with its seed draws the same alone, elsewhere in the batch, and with other companions."""
    x = rows_of(logits)
    seeds, offsets = torch.arange(100, 100 + B), torch.arange(B) * 7
    ids = function(x, *values(rules), seed=seeds, offset=offsets)
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    moved = function(x[order], *[v[order] for v in values(rules)], seed=seeds[order], offset=offsets[order])
    assert torch.equal(moved, ids[order])
    for row in range(B):
        alone = function(
            x[row : row + 1], *values(rules, row), seed=seeds[row : row + 1], offset=offsets[row : row + 1]
        )
        assert torch.equal(alone, ids[row : row + 1])
    unsigned = function(x, *values(rules), seed=seeds.view(torch.uint64), offset=offsets.view(torch.uint64))
    assert torch.equal(unsigned, ids)
    by_keys = fusedraw.derive_keys(seeds, torch.zeros(B, dtype=torch.int64), step=offsets)
    given = dict(zip(rules, values(rules), strict=True))
    draw = fusedraw.sample if logits else fusedraw.sample_probs
    assert torch.equal(draw(x, **given, ties="all", keys=by_keys).int(), ids)


@each_draw
def test_one_seed_for_all(function, rules, logits):
    x = rows_of(logits)
    ids = function(x, *values(rules), seed=5, offset=9)
    assert torch.equal(function(x, *values(rules), seed=torch.tensor([5]), offset=torch.tensor([9])), ids)
    flat = torch.zeros(200, V)
    flat = flat if logits else flat + 1
    many = function(flat, *values(rules, 5), seed=5, offset=9)
    assert len(many.unique()) > 20  # rows of one seed have their own noise
    assert not torch.equal(function(flat, *values(rules, 5), seed=5, offset=10), many)
    assert not torch.equal(function(flat, *values(rules, 5), seed=6, offset=9), many)


@each_draw
def test_generator(function, rules, logits):
    x = rows_of(logits).repeat(5, 1)
    given = [value.repeat(5) for value in values(rules)]
    first = function(x, *given, generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(function(x, *given, generator=generator), first)
    assert not torch.equal(function(x, *given, generator=generator), first)
    torch.manual_seed(4)
    by_default = function(x, *given)
    torch.manual_seed(4)
    assert torch.equal(function(x, *given), by_default)


BAD_SEEDS = [
    ({"seed": 1}, "give seed and offset together, got seed alone"),
    ({"offset": 1}, "give seed and offset together, got offset alone"),
    ({"seed": 1, "offset": 1, "generator": torch.Generator()}, "generator"),
    ({"seed": torch.tensor([1]), "offset": 1}, "both be tensors or both be ints"),
    ({"seed": torch.tensor([1.0]), "offset": torch.tensor([1])}, "seed tensor must be int64 or uint64"),
    ({"seed": torch.tensor([1]), "offset": torch.tensor([1, 2])}, "offset tensor must be"),
    ({"seed": torch.tensor(1), "offset": torch.tensor([1])}, "seed tensor must be"),
]


@each_draw
def test_bad_seeds(function, rules, logits):
    for bad, message in BAD_SEEDS:
        with pytest.raises(ValueError, match=message):
            function(rows_of(logits), *values(rules), **bad)
