# SPDX-License-Identifier: Apache-2.0
"""The statuses of R1's rows, and what a bad row gives."""

import math

import pytest
from fusedraw import reference as r1
from reference_cases import INF, NAN


@pytest.mark.parametrize(
    "x, params, status",
    [
        ([0.0, NAN], {"temperature": -1.0}, r1.BAD_PARAM),
        ([0.0], {"temperature": NAN}, r1.BAD_PARAM),
        ([0.0], {"top_p": 1.0001}, r1.BAD_PARAM),
        ([0.0], {"top_p": -1e-9}, r1.BAD_PARAM),
        ([0.0], {"min_p": NAN}, r1.BAD_PARAM),
        ([0.0], {"mix_eps": 2.0}, r1.BAD_PARAM),
        ([0.0], {"top_k": -2}, r1.BAD_PARAM),
        ([INF, NAN], {}, r1.NAN),
        ([INF, -INF], {}, r1.POS_INF),
        ([-INF, -INF], {}, r1.EMPTY),
        ([1.0, NAN, INF], {"mask": [False, False, False]}, r1.EMPTY),
        ([1.0, NAN, INF], {"mask": [True, False, False]}, r1.OK),
        ([0.0], {"top_p": -0.0, "min_p": -1e-60, "temperature": -0.0}, r1.OK),
        ([-1.0, NAN], {"probs": True}, r1.BAD_PARAM),
        ([1.0, NAN], {"probs": True}, r1.NAN),
        ([1.0, 1e300], {"probs": True}, r1.POS_INF),
        ([0.0, -1e-60, -0.0], {"probs": True}, r1.EMPTY),
        ([1.0, -1.0], {"probs": True, "mask": [True, False]}, r1.OK),
    ],
)
def test_statuses(x, params, status):
    out = r1.sample_row(x, **params)
    assert out.status == status
    if status != r1.OK:
        assert out.id == -1 and out.n_kept == out.rank == 0 and not out.explored and out.kept == []
        assert all(math.isnan(v) for v in (out.logp, out.margin, out.kept_mass))


def test_bad_rows_of_the_other_operations():
    rows = [
        r1.softmax_row([NAN, 0.0]),
        r1.softmax_row([0.0, 1.0], -1.0),
        r1.mask_row([-INF, -INF]),
        r1.renorm_row([0.0, 0.0]),
        r1.renorm_row([INF, 0.0], from_logits=True),
    ]
    for status, row in rows:
        assert status != r1.OK and all(map(math.isnan, row)) and len(row) == 2
    assert r1.multinomial_row([0.0, 0.0], 3) == (r1.EMPTY, [-1, -1, -1])
    bad = r1.sample_row([NAN], top_n=2)
    assert bad.top_ids == [-1, -1] and all(map(math.isnan, bad.top_logps)) and math.isnan(bad.entropy)
    with pytest.raises(ValueError, match="ties must be one of"):
        r1.sample_row([0.0], ties="none")
