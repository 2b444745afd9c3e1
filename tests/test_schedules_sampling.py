# SPDX-License-Identifier: Apache-2.0
"""Schedules: their values go straight into `sample`."""

import fusedraw
import torch
from fusedraw.schedules import (
    Cosine,
    Exponential,
    Linear,
    Schedules,
    WarmUp,
)
from schedule_cases import KEYS, LOGITS


def test_values_go_straight_into_sample():
    """Six rows with settings of their own draw what each draws alone with numbers."""
    rows = torch.arange(6)
    plan = Schedules(
        temperature=Linear(0.5 + 0.1 * rows, 1.5, 10),
        top_p=Cosine(1.0, 0.5 + 0.05 * rows, 10),
        min_p=Exponential(0.1, 0.9 - 0.1 * rows),
        mix_eps=WarmUp(0.1 * rows, 20),
        top_k=Linear(5 + 10 * rows, 100, 10),
    )
    values = plan.at(4)
    assert values["top_k"].dtype == torch.int64
    together = fusedraw.sample(LOGITS, keys=KEYS, returns=("logp",), **values)
    for row in range(6):
        numbers = {name: tensor[row if len(tensor) > 1 else 0].item() for name, tensor in values.items()}
        alone = fusedraw.sample(LOGITS[row : row + 1], keys=KEYS[row : row + 1], returns=("logp",), **numbers)
        assert alone.ids[0] == together.ids[row] and torch.equal(alone.logp[0], together.logp[row])


def test_rows_at_positions_of_their_own():
    plan = Schedules(temperature=Linear(0.5, 2.0, 10))
    positions = torch.tensor([0, 3, 10, 4, 4, 99])
    ids = fusedraw.sample(LOGITS, keys=KEYS, **plan.at(positions))
    for row, step in enumerate(positions.tolist()):
        alone = fusedraw.sample(LOGITS[row : row + 1], keys=KEYS[row : row + 1], **plan.at(step))
        assert alone[0] == ids[row]
