# SPDX-License-Identifier: Apache-2.0
"""A row's result does not depend on the batch: its size, its order, its other rows."""

import pytest
import torch
from engines import (
    ENGINES,
    FAST,
    INF,
    NAN,
    bits_of,
    engine,
    make_keys,
    make_params,
    sample,
)
from hypothesis import given
from hypothesis import strategies as st
from invariance_cases import PARAMS, ROWS, batch, check_rows
from strategies import examples, modes, param_rows, row_batches


@pytest.mark.parametrize("name", ENGINES)
def test_batch_size_position_and_order(name):
    x, params, keys = batch()
    g = torch.Generator().manual_seed(4)
    parts = [[i] for i in range(0, ROWS, 9)]
    parts += [torch.randperm(ROWS, generator=g)[:n].tolist() for n in (2, 3, 7, 8, 33, ROWS)]
    parts += [torch.randint(0, ROWS, (ROWS * 3,), generator=g).tolist()]  # with repetitions
    with engine(name):
        whole = sample(x, params, keys, top_n=4)
        for index in parts:
            part = sample(x[index], params[index], keys[index], top_n=4)
            check_rows(whole, index, part, f"{name}, rows {index}")


@pytest.mark.parametrize("name", FAST)
def test_a_thousand_copies(name):
    """One row a thousand times, with one key: one token."""
    x, params, keys = batch(len(PARAMS) * 3)
    with engine(name):
        alone = sample(x, params, keys, outputs=bits_of("logp"))
        for i in range(len(x)):
            many = sample(x[i].expand(1000, -1), params[i : i + 1], keys[i].expand(1000, 2), outputs=2)
            assert (many["ids"] == alone["ids"][i]).all() and (many["logp"] == alone["logp"][i]).all()


@examples(80)
@given(row_batches(), st.data(), modes)
def test_mates_do_not_matter(rows, data, mode):
    """Other logits, keys, parameters, NaN and refused parameters in the other rows change nothing."""
    n, size = rows.x.shape
    params = data.draw(param_rows(n, size)).expand(n, 5)
    with engine(data.draw(st.sampled_from(FAST))):
        alone = [
            sample(
                rows.x[i : i + 1],
                params[i : i + 1],
                rows.keys[i : i + 1],
                rows.mask[i : i + 1] if rows.mask is not None and rows.mask.dim() == 2 else rows.mask,
                mode,
                top_n=3,
            )
            for i in range(n)
        ]
        mate = torch.full((1, size), data.draw(st.sampled_from([NAN, INF, -INF, 0.0, 7.0]))).to(rows.x.dtype)
        mate_params = make_params(data.draw(st.sampled_from([1.0, NAN, 0.0])), 0.5, mix_eps=0.5)
        x = torch.cat([mate, rows.x, mate])
        mask = rows.mask
        if mask is not None and mask.dim() == 2:
            mask = torch.cat([mask[:1], mask, ~mask[:1]])
        keys = torch.cat([make_keys(1), rows.keys, make_keys(1, 9)])
        together = sample(x, torch.cat([mate_params, params, mate_params]), keys, mask, mode, top_n=3)
    for i in range(n):
        check_rows(together, [i + 1], alone[i], "with mates")
