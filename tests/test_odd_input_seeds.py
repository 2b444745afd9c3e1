# SPDX-License-Identifier: Apache-2.0
"""Seeds and steps of all 64 bits, and beyond."""

import numpy as np
import torch
from input_cases import rows, sample


def test_seeds_count_mod_2_to_the_64():
    x = rows()
    for seed, same in [
        (-1, 2**64 - 1),
        (2**63, -(2**63)),
        (2**64, 0),
        (2**64 + 5, 5),
        (-(2**64) - 7, -7),
        (10**30, 10**30 % 2**64),
    ]:
        assert torch.equal(sample(x, seed=seed), sample(x, seed=same))
    for seed in (-1, 2**63, 2**40 + 3):
        assert torch.equal(sample(x, seed=np.array(seed % 2**64, "u8")[()]), sample(x, seed=seed))
    assert torch.equal(sample(x, seed=np.int64(-5)), sample(x, seed=-5))
    assert torch.equal(sample(x, seed=np.int32(5)), sample(x, seed=5))
    many = torch.zeros(1, 2**15)  # the high bits matter
    assert len({sample(many, seed=5 + (bit << 32)).item() for bit in range(50)}) > 45


def test_steps_of_64_bits():
    x = torch.zeros(1, 2**15)
    for step, same in [(-1, 2**64 - 1), (-(2**63), 2**63)]:
        assert sample(x, seed=1, step=step) == sample(x, seed=1, step=same)
    assert len({sample(x, seed=1, step=step << 32).item() for step in range(50)}) > 45
