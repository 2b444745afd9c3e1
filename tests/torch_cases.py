# SPDX-License-Identifier: Apache-2.0
"""Rows, parameters and calls of every operator, for the tests of fusedraw as torch sees it."""

import fusedraw
import pytest
import torch
from fusedraw import _ops

B, V = 3, 70
HALVES = [torch.float32, torch.bfloat16, torch.float16]
ALL_OUTPUTS, KEPT = (1 << 12) - 1, 1 << 11
PROBS_OUTPUTS = ALL_OUTPUTS & ~0b111100  # logp_full, logp_raw, entropy, varentropy need logits
RAISE, PROBS, LOG, KEEP_ZERO = 128, 64, 1, 256
INT64 = torch.int64


def rows(dtype=torch.float32, shape=(B, V)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype)


X = rows()


def params(n=1):
    return torch.tensor([[0.8, 0.9, 0.01, 0.1, 20.0]], dtype=torch.float64).repeat(n, 1)


def keys(n=B):
    return fusedraw.derive_keys(4, range(n)).view(INT64)


def bits(x):
    return torch.randint(-(2**31), 2**31, (x.shape[0], -(-x.shape[1] // 32)), dtype=torch.int32)


# (name, op, arguments of x), for opcheck and for the fakes
CALLS = [
    ("sample", _ops.sample, lambda x: (x, params(), keys(), None, RAISE, 0, 0)),
    ("sample, mask", _ops.sample, lambda x: (x, params(B), keys(), x > -1, 5, 1, 0)),
    ("sample, bits", _ops.sample, lambda x: (x, params(B), keys().view(torch.uint64), bits(x), 8, 1 << 9, 2)),
    ("sample, everything", _ops.sample, lambda x: (x, params(), keys(), None, 1 | RAISE, ALL_OUTPUTS, 5)),
    ("sample, kept", _ops.sample, lambda x: (x, params(), keys(), None, 2, KEPT, 0)),
    ("sample_probs", _ops.sample, lambda x: (x.softmax(-1), params(), keys(), None, PROBS, PROBS_OUTPUTS, 0)),
    ("row_keys", _ops.row_keys, lambda x: (x, -3, 2**62)),
    ("softmax", _ops.softmax, lambda x: (x, params(B)[:, 0].clone(), None, 0)),
    ("log_softmax", _ops.softmax, lambda x: (x, params()[:, 0].clone(), x > -1, LOG)),
    ("top_k_mask", _ops.filter, lambda x: (x, params(), None, KEEP_ZERO, 0)),
    ("top_p_renorm", _ops.filter, lambda x: (x.softmax(-1), params(B), x > -1, PROBS | 4, 1)),
    ("multinomial", _ops.multinomial, lambda x: (x.softmax(-1), keys(), 5, False, 0)),
    ("multinomial 1", _ops.multinomial, lambda x: (x.softmax(-1), keys(), 1, False, RAISE)),
    ("multinomial, again", _ops.multinomial, lambda x: (x.softmax(-1), keys(), 5, True, 0)),
]
DERIVE = [
    (torch.tensor([1]), torch.arange(5), torch.tensor([0]), torch.tensor([7])),
    (torch.arange(4), torch.arange(4), torch.arange(4), torch.arange(4)),
    (torch.tensor([1]), torch.tensor([2]), torch.tensor([3]), torch.tensor([4])),
]
each_call = pytest.mark.parametrize(
    "op, arguments", [row[1:] for row in CALLS], ids=[row[0] for row in CALLS]
)


def same(a, b):
    """Equal to the bit, in tensors however nested; NaN equals NaN."""
    if isinstance(a, torch.Tensor):
        nan = a.is_floating_point() and torch.equal(a.isnan(), b.isnan())
        return (
            a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num()) if nan else torch.equal(a, b)
        )
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b
