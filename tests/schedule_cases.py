# SPDX-License-Identifier: Apache-2.0
"""Rows and keys for the tests of fusedraw.schedules, and states through a file."""

import io

import fusedraw
import torch

ALPHA = 1e-4  # of a test on fixed keys
LOGITS = torch.randn(6, 300, generator=torch.Generator().manual_seed(3)) * 2
KEYS = fusedraw.derive_keys(9, torch.arange(6), step=2)


def reloaded(state):
    """Through a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file)
