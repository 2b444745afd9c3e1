# SPDX-License-Identifier: Apache-2.0
"""Rows, parameters and functions that the tests of fusedraw.flashinfer draw with."""

import pytest
import torch
from fusedraw.flashinfer import sampling

B, V = 6, 60

LOGITS = torch.randn(B, V, generator=torch.Generator().manual_seed(3)) * 2
LOGITS[2] = (LOGITS[2] * 2).round()  # ties
LOGITS[3] = LOGITS[3, 0]  # nothing but ties
PROBS = LOGITS.softmax(-1)
PER_ROW = {
    "top_k": torch.tensor([1, 2, 5, 10, 59, 60]),
    "top_p": torch.tensor([0.05, 0.3, 0.5, 0.7, 0.9, 1.0]),
    "min_p": torch.tensor([0.0, 0.01, 0.1, 0.3, 0.7, 1.0]),
}
# (function, its rules, whether it takes logits)
DRAWS = [
    (sampling.sampling_from_probs, (), False),
    (sampling.sampling_from_logits, (), True),
    (sampling.top_p_sampling_from_probs, ("top_p",), False),
    (sampling.top_k_sampling_from_probs, ("top_k",), False),
    (sampling.min_p_sampling_from_probs, ("min_p",), False),
    (sampling.top_k_top_p_sampling_from_probs, ("top_k", "top_p"), False),
    (sampling.top_k_top_p_sampling_from_logits, ("top_k", "top_p"), True),
]
each_draw = pytest.mark.parametrize("function, rules, logits", DRAWS, ids=[row[0].__name__ for row in DRAWS])


def rows_of(logits):
    return LOGITS if logits else PROBS


def values(rules, row=None):
    return [PER_ROW[name] if row is None else PER_ROW[name][row].item() for name in rules]
