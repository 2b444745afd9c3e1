# SPDX-License-Identifier: Apache-2.0
"""Sweeps against single calls."""

import fusedraw
import pytest
import torch
from comparing_cases import random_rows
from engines import INF, make_keys
from fusedraw.comparing import (
    sweep,
)


def test_sweep_is_the_product_in_order():
    plan = sweep({"mix_eps": [0, 0.01, 0.1], "top_k": [None, 5]}, rows=4)
    assert plan.shape == (3, 2) and len(plan) == 6
    expected = [{"mix_eps": share, "top_k": k} for share in (0, 0.01, 0.1) for k in (None, 5)]
    assert plan.settings == list(plan) == expected
    assert plan.labels[:2] == ["mix_eps=0, top_k=None", "mix_eps=0, top_k=5"]
    assert plan.parameters["mix_eps"].tolist() == [0] * 8 + [0.01] * 8 + [0.1] * 8
    assert plan.parameters["top_k"].tolist() == ([0] * 4 + [5] * 4) * 3
    assert plan.parameters["top_k"].dtype == torch.int64 and set(plan.parameters) == {"mix_eps", "top_k"}


def test_one_batch_is_each_setting_alone():
    """The batch gives, row by row, what single calls with the same keys give."""
    x, keys = random_rows(5, 400), fusedraw.derive_keys(7, range(5))
    grid = {"temperature": [0.0, 0.8, INF], "top_k": [0, 20], "top_p": [0.9, None]}
    plan = sweep({**grid, "min_p": torch.tensor([0, 0.5]), "mix_eps": (0.0, 0.4)}, rows=5)
    returns = ("logp", "explored")
    out = fusedraw.sample(plan.repeat(x), keys=plan.repeat(keys), **plan.parameters, returns=returns)
    alone = [fusedraw.sample(x, keys=keys, **setting, returns=returns) for setting in plan]
    for name in ("ids", *returns):
        expected = torch.stack([getattr(single, name) for single in alone])
        got = plan.split(getattr(out, name))
        assert got.shape == (3, 2, 2, 2, 2, 5)
        assert torch.equal(got.reshape(48, 5), expected), name
    fired = plan.split(out.explored)
    assert not fired[..., 0, :].any() and fired[..., 1, :].any()


def test_repeat_and_split_are_inverse():
    plan = sweep({"mix_eps": [0, 0.5], "top_p": [0.5, 0.9, 1]}, rows=3)
    x = torch.arange(12).reshape(3, 4)
    back = plan.split(plan.repeat(x))
    assert back.shape == (2, 3, 3, 4) and (back == x).all()
    assert plan.repeat(["a", "b", "c"]) == ["a", "b", "c"] * 6
    assert plan.repeat(make_keys(3).view(torch.uint64)).dtype == torch.uint64


def test_table():
    plan = sweep({"mix_eps": [0, 0.25], "top_k": [0, 5]})
    table = plan.table(distinct=torch.tensor([[0.5, 0.25], [1.0, 2 / 3]]), label=plan.labels)
    assert list(table.columns) == ["mix_eps", "top_k", "distinct", "label"] and len(table) == 4
    assert list(table)[3] == {
        "mix_eps": 0.25, "top_k": 5, "distinct": pytest.approx(2 / 3), "label": "mix_eps=0.25, top_k=5"
    }  # fmt: skip
    lines = str(table).split("\n")
    assert lines[0].split() == ["mix_eps", "top_k", "distinct", "label"] and len(set(map(len, lines))) == 1
    assert lines[4].split()[:3] == ["0.25", "5", "0.6667"]
    with pytest.raises(ValueError, match="table needs 4 values of x, one a setting, got 3"):
        plan.table(x=[1, 2, 3])
    with pytest.raises(ValueError, match="has a parameter 'top_k'"):
        plan.table(top_k=[1, 2, 3, 4])


def test_sweep_refuses_rows_of_another_number():
    plan = sweep({"mix_eps": [0, 0.5]}, rows=3)
    for method, x, message in (
        (plan.repeat, torch.zeros(4, 2), r"repeat takes \[3, ...\], got shape \[4, 2\]"),
        (plan.repeat, ["a"], "repeat takes 3 items, got 1"),
        (plan.split, torch.zeros(3), r"split takes \[6, ...\], got shape \[3\]"),
    ):
        with pytest.raises(ValueError, match=message):
            method(x)
