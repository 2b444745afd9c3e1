# SPDX-License-Identifier: Apache-2.0
"""Rows of all kinds with parameters of all kinds, and what single rows of a batch have given: for the tests
of invariance."""

import torch
from engines import (
    F32,
    assert_same,
    make_keys,
    make_params,
)
from row_kinds import make_rows

SIZE = 1500  # six blocks, the last one partial
ROWS = 64
SPLIT = 200_000  # logits in one row that more than one thread shares
PARAMS = (
    make_params(),
    make_params(0.7, top_k=20),
    make_params(1.3, 0.9, 0.01, 0.5),
    make_params(0.9, 0.8, top_k=400),
    make_params(0.0, mix_eps=0.5),
)


def batch(rows=ROWS, size=SIZE, dtype=F32):
    """Rows of all kinds with parameters of all kinds."""
    kinds = ("normal", "peaked", "tied", "holes", "sunken")
    x = torch.cat([make_rows(kinds[i % len(kinds)], 1, size, i, dtype) for i in range(rows)])
    params = torch.cat([PARAMS[i // 3 % len(PARAMS)] for i in range(rows)])
    return x, params, make_keys(rows, 3)


def rows_of(out, index):
    """What these rows of a batch have given, kept ids included."""
    index = torch.as_tensor(index)
    offsets = out["kept_offsets"]
    picked = {k: v[index] for k, v in out.items() if not k.startswith("kept_i") and k != "kept_offsets"}
    picked["kept_ids"] = torch.cat([out["kept_ids"][offsets[i] : offsets[i + 1]] for i in index])
    picked["kept_sizes"] = (offsets[1:] - offsets[:-1])[index]
    return picked


def check_rows(whole, index, part, label):
    assert_same(rows_of(part, range(len(index))), rows_of(whole, index), label)
