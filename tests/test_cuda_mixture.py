# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of `mixture`, run by the SIMT executor, equal the reference engine bit for bit; bounds,
races and unwritten words are checked meanwhile."""

import pytest
import torch
from engines import (
    BF16,
    EXECUTOR,
    F16,
    F32,
    INF,
    NAN,
    both,
    engine,
    make_keys,
    make_params,
)
from hypothesis import given
from hypothesis import strategies as st
from mixture_cases import HOW, make_weights, mixture, several
from row_kinds import make_mask, make_rows
from simt_engine import schedule
from strategies import examples, modes, param_rows

MEANS = HOW[:2]


def law_of(how, rows=1):
    line = [0.3, 0.7] if how in MEANS else [1.5, 0.05]
    return make_weights(*[[v + 0.01 * r for v in line] for r in range(rows)])


@pytest.mark.parametrize("how", HOW)
@examples(15)
@given(data=st.data())
def test_generated(how, data):
    members, weights, rows = data.draw(several(how))
    params, mode = data.draw(param_rows(len(rows.x), rows.x.shape[1])), data.draw(modes)
    both(mixture, members, weights, how, params, rows.keys, rows.mask, mode)


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("dtype", [F32, BF16, F16])
@pytest.mark.parametrize("size", [1, 255, 257, 1001])
def test_odd_and_unaligned_rows(how, dtype, size):
    wide = [make_rows("normal", 3, size + 3, i, dtype) for i in range(2)]
    members = [x[:, 1 + i : 1 + i + size] for i, x in enumerate(wide)]
    mask = make_mask("rows-0.95", 3, size, 4)
    params = make_params(0.8, 0.95, mix_eps=0.1)
    both(mixture, members, law_of(how, 3), how, params, make_keys(3), mask)


@pytest.mark.parametrize("how", HOW)
def test_a_long_row_in_any_order_of_threads(how):
    members = [make_rows("normal", 1, 40_001, i) for i in range(2)]
    for seed in (0, 1, 7):
        with schedule(seed):
            both(mixture, members, law_of(how), how, make_params(0.8, 0.9))


@pytest.mark.parametrize("how", HOW)
def test_bad_rows(how):
    members = [make_rows("normal", 4, 300, i) for i in range(2)]
    members[0][0, 3], members[1][1, 299], members[1][2] = NAN, INF, -INF
    params = make_params().repeat(4, 1)
    both(mixture, members, law_of(how, 4), how, params)
    params[0, 0], params[3, 1] = NAN, 2.0
    weights = law_of(how, 4)
    weights[1, 0] = NAN
    both(mixture, members, weights, how, params)


def test_one_tensor_as_every_member():
    x = make_rows("peaked", 2, 500, 3)
    with engine(EXECUTOR):
        out = mixture([x] * 5, make_weights(range(1, 6)), "arithmetic")
    assert torch.equal(out["ids"], both(mixture, [x], make_weights([1.0]), "geometric")["ids"])
