# SPDX-License-Identifier: Apache-2.0
"""Odd input that is no error, from the table: most results are compared with plain Python."""

import fusedraw
import pytest
import torch
from bad_input import WORKS


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


def test_low_temperature_draws_ties_evenly():
    x = torch.tensor([[1.0, 3.0, 3.0, 2.0, 3.0]]).expand(3000, 5)
    counts = fusedraw.sample(x, temperature=1e-30, seed=9).bincount(minlength=5)
    assert counts[[0, 3]].tolist() == [0, 0] and (counts[[1, 2, 4]] > 880).all()  # 1000 each, sd 26
