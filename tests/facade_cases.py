# SPDX-License-Identifier: Apache-2.0
"""Rows, keys and settings for the tests of the Python face, and what its outputs are."""

import fusedraw
import torch
from fusedraw import sample

B, V = 5, 90
KEYS = fusedraw.derive_keys(21, range(B), step=2)
X = torch.randn(B, V, generator=torch.Generator().manual_seed(8)) * 2
PROBS = X.softmax(-1)
OUTPUTS = (
    *("status", "logp", "logp_full", "logp_raw", "entropy", "varentropy", "margin"),
    *("n_kept", "kept_mass", "rank", "explored", "kept"),
)
DTYPES = {
    "status": torch.uint8,
    **dict.fromkeys(("logp", "logp_full", "logp_raw", "entropy", "varentropy", "margin"), torch.float32),
    "n_kept": torch.int64,
    "kept_mass": torch.float32,
    "rank": torch.int64,
    "explored": torch.bool,
}
RULES = {"temperature": 0.7, "top_k": 30, "top_p": 0.9, "min_p": 0.01, "mix_eps": 0.1}


def equal(a, b):
    """Equal outputs, field by field (NaN equals NaN)."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.nan_to_num(9), b.nan_to_num(9))
    return len(a) == len(b) and all(
        (p is None and q is None) or equal(p, q) for p, q in zip(a, b, strict=True)
    )


def wide(**arguments):
    return sample(X, keys=KEYS, returns=OUTPUTS, top_n=3, **arguments)
