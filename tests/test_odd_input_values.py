# SPDX-License-Identifier: Apache-2.0
"""Odd input that is no error, from the table: most results are compared with plain Python."""

import fusedraw
import pytest
import torch
from bad_input import WORKS
from input_cases import EVERYTHING, INF, KEYS, V, rows, sample


@pytest.mark.parametrize(
    "row",
    [
        pytest.param(row, id=f"{row.function}: {row.what}", marks=pytest.mark.slow if row.slow else ())
        for row in WORKS
    ],
)
def test_works(row):
    if row.slow and fusedraw.isa() == "reference":
        pytest.skip("hours with the reference engine")
    assert row.holds() is True


@pytest.mark.parametrize("name", ["top_k", "top_p", "min_p", "mix_eps"])
def test_none_is_off(name):
    assert torch.equal(sample(**{name: None}), sample())


def test_minus_infinity_is_never_drawn():
    x = rows()
    x[:, ::2] = -INF
    for step in range(200):
        assert (sample(x, seed=3, keys=None, step=step, mix_eps=0.5, mix_support="valid") % 2 == 1).all()


def test_low_temperature_draws_ties_evenly():
    x = torch.tensor([[1.0, 3.0, 3.0, 2.0, 3.0]]).expand(3000, 5)
    counts = fusedraw.sample(x, temperature=1e-30, seed=9).bincount(minlength=5)
    assert counts[[0, 3]].tolist() == [0, 0] and (counts[[1, 2, 4]] > 880).all()  # 1000 each, sd 26


def test_empty_batch():
    x = torch.zeros(0, V)
    out = sample(x, keys=KEYS[:0], returns=EVERYTHING, top_n=3)
    assert out.ids.shape == (0,) and out.ids.dtype == torch.int64
    assert out.kept_offsets.tolist() == [0] and out.kept_ids.shape == (0,) and out.top_ids.shape == (0, 3)
    for ids in (sample(x, seed=1), fusedraw.sample(x), sample(x, seed=torch.tensor([1]))):
        assert ids.shape == (0,)
    assert fusedraw.softmax(x).shape == (0, V) and fusedraw.top_k_mask(x, 3).shape == (0, V)
    assert fusedraw.multinomial(x, 3, seed=1).shape == (0, 3)
