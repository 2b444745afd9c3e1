# SPDX-License-Identifier: Apache-2.0
"""What all controllers share: resumption, reset, rows that do not influence each other, errors."""

import math

import fusedraw
import pytest
import torch
from controller_cases import ARMS, REAL, keys_of, reloaded
from fusedraw import controllers
from fusedraw.controllers import (
    EXP3,
    UCB1,
    AdaptiveP,
    DynamicTemperature,
    Mirostat2,
    TargetEntropy,
    TargetMeanEntropy,
)

# All of them: state, reset, errors

MAKERS = {
    "TargetEntropy": lambda rows: TargetEntropy(torch.linspace(1, 5, 8)[:rows], vocab_size=49152, rows=rows),
    "TargetMeanEntropy": lambda rows: TargetMeanEntropy(
        torch.linspace(1, 5, 8)[:rows], vocab_size=49152, rows=rows
    ),
    "Mirostat2": lambda rows: Mirostat2(torch.linspace(1, 4, 8)[:rows], rows=rows),
    "DynamicTemperature": lambda rows: DynamicTemperature(torch.linspace(0.2, 0.8, 8)[:rows], 1.6, rows=rows),
    "AdaptiveP": lambda rows: AdaptiveP(torch.linspace(0.1, 0.9, 8)[:rows], rows=rows),
    "UCB1": lambda rows: UCB1(ARMS, rows=rows, width=torch.linspace(0.2, 1, 8)[:rows]),
    "EXP3": lambda rows: EXP3(ARMS, seed=2, gamma=torch.linspace(0.2, 1, 8)[:rows], rows=rows),
}


def advance(control, step, rows=None):
    """One step; the draws of all rows, and what followed from them."""
    chosen = torch.arange(8) if rows is None else rows
    keys = fusedraw.derive_keys(6, chosen, step=step)
    logits = REAL[(chosen + 5 * step) % 16]
    out = control.sample(logits, keys=keys, returns=("logp",))
    if hasattr(control, "arm"):
        control.update((out.ids % 2).double())
    return torch.stack([out.ids.double(), out.logp.double()])


@pytest.mark.parametrize("name", MAKERS)
def test_resumption(name):
    first, second = MAKERS[name](8), MAKERS[name](8)
    for step in range(4):
        advance(first, step)
    second.load_state_dict(reloaded(first.state_dict()))
    for step in range(4, 8):
        assert torch.equal(advance(first, step), advance(second, step))
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("name", MAKERS)
def test_state_dict_is_a_copy(name):
    control = MAKERS[name](8)
    state = control.state_dict()
    before = {key: tensor.clone() for key, tensor in state.items()}
    advance(control, 0)
    assert all(torch.equal(state[key], before[key]) for key in before)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("as_mask", [False, True])
def test_reset_of_some_rows(name, as_mask):
    """The rows that are reset go on like new ones, the others as if nothing had been."""
    used, untouched, new = (MAKERS[name](8) for _ in range(3))
    for step in range(3):
        advance(used, step)
        advance(untouched, step)
    rows = [1, 6]
    chosen = torch.zeros(8, dtype=torch.bool)
    chosen[rows] = True
    used.reset(chosen if as_mask else rows)
    for key, tensor in used.state_dict().items():
        assert torch.equal(tensor[rows], new.state_dict()[key][rows])
        assert torch.equal(tensor[~chosen], untouched.state_dict()[key][~chosen])
    for step in range(3):
        draws, fresh, old = (advance(control, step) for control in (used, new, untouched))
        assert torch.equal(draws[:, chosen], fresh[:, chosen])
        assert torch.equal(draws[:, ~chosen], old[:, ~chosen])


@pytest.mark.parametrize("name", MAKERS)
def test_batch_mates_do_not_matter(name):
    many, few = MAKERS[name](8), MAKERS[name](3)
    for step in range(4):
        assert torch.equal(advance(many, step)[:, :3], advance(few, step, torch.arange(3)))


@pytest.mark.parametrize("name", ["TargetMeanEntropy", "Mirostat2", "AdaptiveP"])
def test_a_bad_row_keeps_its_state(name):
    control = MAKERS[name](8)
    advance(control, 0)
    before = control.state_dict()
    logits = REAL[:8].clone()
    logits[3, 100] = math.nan
    out = control.sample(logits, keys=keys_of(8, 1), check="status")
    assert out.status.tolist() == [0, 0, 0, 2, 0, 0, 0, 0] and out.ids[3] == -1
    for key, tensor in control.state_dict().items():
        assert tensor[3] == before[key][3] and not tensor.isnan().any()


def test_every_public_name_is_there():
    for name in controllers.__all__:
        assert getattr(fusedraw.controllers, name).__doc__
