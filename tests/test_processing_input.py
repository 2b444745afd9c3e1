# SPDX-License-Identifier: Apache-2.0
"""Edits and rules that are refused, and how."""

import math

import fusedraw
import pytest
import torch
from processing_cases import HISTORY, KEYS, PROMPT, V, X

BAD = [
    ({"repetition_penalty": 1.2}, ValueError, "repetition_penalty needs history or prompt"),
    ({"frequency_penalty": 0.1, "prompt": PROMPT}, ValueError, "frequency_penalty needs history"),
    ({"presence_penalty": 0.1}, ValueError, "presence_penalty needs history"),
    ({"repetition_penalty": 0, "history": HISTORY}, ValueError, "repetition_penalty must be > 0 and finite"),
    ({"repetition_penalty": math.inf, "history": HISTORY}, ValueError, "repetition_penalty must be > 0"),
    ({"frequency_penalty": math.nan, "history": HISTORY}, ValueError, "frequency_penalty must be finite"),
    (
        {"presence_penalty": "1", "history": HISTORY},
        TypeError,
        "presence_penalty must be a number or a tensor",
    ),
    ({"typical_p": 1.5}, ValueError, r"typical_p must be in \[0, 1\], got 1.5"),
    ({"epsilon_cutoff": -0.1}, ValueError, "epsilon_cutoff must be in"),
    ({"eta_cutoff": True}, TypeError, "eta_cutoff must be a number"),
    ({"top_n_sigma": -1}, ValueError, "top_n_sigma must be >= 0"),
    ({"xtc_threshold": 0.2}, ValueError, "xtc_threshold needs xtc_probability"),
    ({"temperature_last": 1}, TypeError, "temperature_last must be a bool, got int"),
    ({"typical_p": torch.ones(3)}, ValueError, "typical_p must have length 1 or 4"),
    ({"typical_p": torch.ones(4, dtype=torch.bool)}, TypeError, "typical_p tensor must be"),
    ({"history": [1, 2, 3]}, TypeError, r"history must be a tensor \[B, L\] or a pair"),
    ({"history": HISTORY.float()}, TypeError, "history must be int32 or int64, got float32"),
    ({"history": HISTORY[:3]}, ValueError, r"history must be \[4, L\], got shape \[3, 300\]"),
    ({"history": HISTORY[0]}, ValueError, r"history must be \[4, L\], got shape \[300\]"),
    ({"prompt": (PROMPT[0], torch.tensor([0, 50, 50]))}, ValueError, r"offsets \[5\]"),
    ({"prompt": (PROMPT[0], torch.tensor([0, 50], dtype=torch.int32))}, TypeError, "offsets of prompt"),
    (
        {"prompt": (PROMPT[0], torch.tensor([0, 49]))},
        ValueError,
        "offsets of prompt must rise from 0 to the 50",
    ),
    ({"prompt": (PROMPT[0], torch.tensor([0, 30, 20, 40, 50]))}, ValueError, "must rise"),
    ({"history": torch.full((4, 1), V)}, ValueError, "BAD_PARAM"),
    ({"logit_bias": {V: 1.0}}, ValueError, rf"logit_bias must hold ids in \[0, {V}\), got {V}"),
    ({"logit_bias": {1: math.nan}}, ValueError, "logit_bias must be a number or -inf"),
    ({"logit_bias": {"1": 1.0}}, TypeError, "logit_bias must hold token ids"),
    ({"logit_bias": {1: "x"}}, TypeError, "logit_bias must map ids to numbers"),
    ({"logit_bias": [{1: 1.0}]}, ValueError, "logit_bias must hold 4 dicts"),
    ({"logit_bias": 3}, TypeError, "logit_bias must be a dict"),
    ({"suppress": [V]}, ValueError, "suppress must hold ids"),
    ({"suppress": 3}, TypeError, "suppress must be ids"),
    ({"suppress": list(range(V))}, ValueError, "EMPTY"),
    ({"deny_mask": torch.zeros(3, dtype=torch.bool)}, ValueError, "mask must be"),
    ({"deny_mask": [True]}, TypeError, "deny_mask must be a torch.Tensor"),
    (
        {
            "deny_mask": torch.zeros(V, dtype=torch.bool),
            "mask": torch.zeros((V + 31) // 32, dtype=torch.int32),
        },
        TypeError,
        "mask and deny_mask must be of one kind",
    ),
]


@pytest.mark.parametrize(("arguments", "error", "text"), BAD, ids=lambda v: str(v)[:40])
def test_bad_input(arguments, error, text):
    with pytest.raises(error, match=text):
        fusedraw.sample(X, keys=KEYS, **arguments)
