# SPDX-License-Identifier: Apache-2.0
"""Rows, keys and short calls for the tests of bad and odd input."""

import math

import fusedraw
import torch

B, V = 4, 70
NAN, INF = math.nan, math.inf
FLT_MAX = torch.finfo(torch.float32).max
TINY = 2.0**-149  # the smallest float32
KEYS = fusedraw.derive_keys(11, range(B))


def rows(dtype=torch.float32):
    return torch.randn(B, V, generator=torch.Generator().manual_seed(5)).to(dtype)


def probs(dtype=torch.float32):
    return rows().softmax(-1).to(dtype)


def sample(x=None, **arguments):
    if not {"keys", "seed", "generator"} & set(arguments):
        arguments["keys"] = KEYS
    return fusedraw.sample(rows() if x is None else x, **arguments)


def sample_probs(x=None, **arguments):
    return fusedraw.sample_probs(probs() if x is None else x, keys=KEYS, **arguments)


def multinomial(x=None, n=3, **arguments):
    return fusedraw.multinomial(probs() if x is None else x, n, seed=1, **arguments)


EVERYTHING = (
    *("status", "logp", "logp_full", "logp_raw", "entropy", "varentropy", "margin"),
    *("n_kept", "kept_mass", "rank", "explored", "kept"),
)
