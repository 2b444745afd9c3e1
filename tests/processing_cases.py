# SPDX-License-Identifier: Apache-2.0
"""Four rows with lists of ids, for edits and rules through the face of the package."""

import fusedraw
import torch
from row_kinds import make_rows

V = 700
X = make_rows("normal", 4, V, seed=11) / 2
KEYS = fusedraw.derive_keys(7, torch.arange(4))
HISTORY = torch.randint(-1, V, (4, 300), generator=torch.Generator().manual_seed(1))
PROMPT = torch.randint(0, V, (4, 50), generator=torch.Generator().manual_seed(2))


def csr(padded):
    rows = [row[row >= 0] for row in padded]
    offsets = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    return torch.cat(rows), offsets
