# SPDX-License-Identifier: Apache-2.0
"""Rows, keys and arms for the tests of controllers."""

import io
import math
from pathlib import Path

import fusedraw
import numpy as np
import torch
from fusedraw.controllers import grid

ALPHA = 1e-4  # of a test on fixed keys
LN2 = math.log(2)
REAL = torch.from_numpy(
    np.load(Path(fusedraw.__file__).parent / "data" / "real_logits.npz")["logits"].astype(np.float32)
)
SHARES = torch.tensor([0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.98], dtype=torch.float64)
ARMS = grid(temperature=(0.5, 1.0), mix_eps=(0.0, 0.1))  # of a bandit


def keys_of(rows, step, seed=1):
    return fusedraw.derive_keys(seed, torch.arange(rows), step=step)


def reloaded(state):
    """Through a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file)


def softmax(x, temperature=1.0):
    weights = [math.exp((v - max(x)) / temperature) for v in x]
    return [w / sum(weights) for w in weights]
