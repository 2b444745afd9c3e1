# SPDX-License-Identifier: Apache-2.0
"""The chance that a sequence holds a token that explores."""

import math
from decimal import Decimal, localcontext

import fusedraw
import pytest
import torch
from fusedraw.schedules import (
    mix_eps_for_sequence,
    share_of_sequences,
)
from schedule_cases import ALPHA
from scipy import stats


@pytest.mark.parametrize("share", [1e-15, 1e-9, 0.01, 0.5, 0.999999])
@pytest.mark.parametrize("length", [1, 17, 100_000])
def test_mix_eps_for_sequence_to_the_last_digits(share, length):
    with localcontext() as context:
        context.prec = 60
        exact = 1 - (1 - Decimal(share)) ** (1 / Decimal(length))
    assert mix_eps_for_sequence(share, length) == pytest.approx(float(exact), rel=1e-14)
    assert share_of_sequences(mix_eps_for_sequence(share, length), length) == pytest.approx(share, rel=1e-9)
    tensor = mix_eps_for_sequence(torch.tensor([share], dtype=torch.float64), length)
    assert tensor.dtype == torch.float32 and tensor.item() == pytest.approx(float(exact), rel=1e-7)


def test_mix_eps_for_sequence_ends_and_rows():
    assert mix_eps_for_sequence(0, 10) == 0.0 and mix_eps_for_sequence(1, 10) == 1.0
    rows = mix_eps_for_sequence(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([4, 1, 7]))
    assert rows.tolist() == [0.0, 0.5, 1.0]
    with pytest.raises(ValueError, match="length must have length 1 or 3"):
        mix_eps_for_sequence(torch.rand(3), torch.tensor([1, 2]))
    for wrong in ((1.5, 3), (math.nan, 3), (0.5, 0), (0.5, 2.5)):
        with pytest.raises(ValueError, match=r"mix_eps_for_sequence: (share|length) must be"):
            mix_eps_for_sequence(*wrong)


def test_share_of_sequences_that_explore():
    """3000 texts of 25 tokens, of which 30 % shall hold an exploring token."""
    texts, length = 3000, 25
    mix_eps = mix_eps_for_sequence(0.3, length)
    logits = torch.zeros(texts, 4)
    fired = torch.zeros(texts, dtype=torch.bool)
    for step in range(length):
        keys = fusedraw.derive_keys(1, torch.arange(texts), step=step)
        fired |= fusedraw.sample(logits, keys=keys, mix_eps=mix_eps, returns=("explored",)).explored
    assert stats.binomtest(int(fired.sum()), texts, 0.3).pvalue > ALPHA
