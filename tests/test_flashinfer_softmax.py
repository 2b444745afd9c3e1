# SPDX-License-Identifier: Apache-2.0
"""fusedraw.flashinfer.softmax."""

import math

import fusedraw
import pytest
import torch
from flashinfer_cases import LOGITS, B
from fusedraw.flashinfer import sampling


def test_softmax():
    t = torch.tensor([0.5, 1.0, 2.0, 0.1, 3.0, 1.0])
    expected = (LOGITS.double() / t[:, None].double()).softmax(-1)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        out = sampling.softmax(LOGITS.to(dtype), t)
        assert out.dtype == torch.float32
        assert torch.allclose(out.double(), expected, atol=1e-6 if dtype.itemsize > 2 else 5e-2)
    assert torch.equal(sampling.softmax(LOGITS), sampling.softmax(LOGITS, 1.0, enable_pdl=True))
    assert torch.equal(sampling.softmax(LOGITS, 2), fusedraw.softmax(LOGITS, 2.0))


def test_softmax_at_temperature_zero():
    x = torch.tensor([[1.0, 3.0, -math.inf, 3.0], [0.0, -1.0, 2.0, -math.inf]])
    expected = torch.tensor([[0.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 0.0]])
    assert torch.equal(sampling.softmax(x, 0.0), expected)
    assert torch.equal(sampling.softmax(x, torch.tensor([0.0, 1e-30])), expected)


def test_softmax_of_bad_rows():
    x = torch.tensor([[1.0, math.nan], [-math.inf, -math.inf], [0.0, 0.0]])
    out = sampling.softmax(x)
    assert out[:2].isnan().all() and out[2].tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    "bad, kind",
    [
        (torch.ones(B + 1), ValueError),
        (torch.ones(1, B), ValueError),
        (torch.ones(B, dtype=torch.int64), ValueError),
        (True, TypeError),
        ("1", TypeError),
        (-1.0, ValueError),
    ],
)
def test_bad_temperature(bad, kind):
    with pytest.raises(kind, match="softmax: temperature must be"):
        sampling.softmax(LOGITS, bad)
