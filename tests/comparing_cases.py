# SPDX-License-Identifier: Apache-2.0
"""Rows and the error rate for the tests of fusedraw.comparing."""

import torch

ALPHA = 1e-6


def random_rows(rows, size, seed=0):
    return 2 * torch.randn(rows, size, generator=torch.Generator().manual_seed(seed))
