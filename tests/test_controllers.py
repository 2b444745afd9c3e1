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
    FeedbackLoop,
    Mirostat2,
    TargetEntropy,
    TargetMeanEntropy,
    grid,
    solve_temperature,
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


REFUSED = {
    "target above ln V": (
        lambda: TargetEntropy(torch.tensor([1.0, 7.0]), vocab_size=1000, rows=2),
        r"TargetEntropy: a target entropy of 7 nats is infeasible in row 1: it lies in \[0, 6.90776\]",
    ),
    "mean above ln V": (
        lambda: TargetMeanEntropy(12.0, vocab_size=49152),
        "TargetMeanEntropy: a target entropy of 12 nats is infeasible",
    ),
    "negative target": (lambda: TargetEntropy(-1.0, vocab_size=9), "target must be >= 0, got -1"),
    "nan target": (lambda: solve_temperature(REAL, math.nan), "target must be finite, got nan"),
    "targets": (lambda: solve_temperature(REAL, torch.ones(3)), "target must have length 1 or 16, got 3"),
    "tolerance": (lambda: solve_temperature(REAL, 1.0, tolerance=0.0), r"tolerance must be in \(0, 1\)"),
    "infeasible": (lambda: solve_temperature(REAL, 1.0, infeasible="ok"), "infeasible must be 'raise' or"),
    "tau": (lambda: Mirostat2(0.0), "Mirostat2: tau must be > 0, got 0"),
    "eta": (lambda: Mirostat2(3.0, eta=math.nan), "eta must be finite, got nan"),
    "surprise": (lambda: Mirostat2(3.0, surprise="bits"), "surprise must be 'kept' or 'full'"),
    "order": (lambda: DynamicTemperature(2.0, 1.0), "min_temperature must be <= max_temperature"),
    "p": (lambda: AdaptiveP(1.5), r"target must be in \[0, 1\], got 1.5"),
    "decay": (lambda: AdaptiveP(0.5, decay=0.999), r"decay must be in \[0, 0.99\], got 0.999"),
    "rows": (lambda: Mirostat2(torch.ones(3), rows=2), "tau must have length 1 or 2, got 3"),
    "no rows": (lambda: Mirostat2(1.0, rows=0), "rows must be >= 1, got 0"),
    "one arm": (lambda: UCB1(grid(top_p=(0.5,))), "arms must be at least two, got 1"),
    "arm range": (lambda: UCB1(grid(mix_eps=(0.5, 1.5))), r"UCB1: mix_eps must be in \[0, 1\], got 1.5"),
    "arm nan": (lambda: UCB1(grid(mix_eps=(0.5, math.nan))), r"mix_eps must be in \[0, 1\], got nan"),
    "arm names": (lambda: UCB1([{"top_p": 0.5}, {"min_p": 0.5}]), "every arm must set"),
    "arm name": (lambda: UCB1(grid(heat=(1, 2))), "a parameter must be 'temperature'"),
    "reward": (lambda: UCB1(ARMS, rows=2).update(torch.tensor([0.5, 1.5])), r"in \[0, 1\], got 1.5 in row 1"),
    "nan reward": (lambda: UCB1(ARMS).update(math.nan), r"reward must be in \[0, 1\], got nan"),
    "rewards": (lambda: UCB1(ARMS, rows=3).update(0.5), r"reward must be \[3\]"),
    "gamma": (lambda: EXP3(ARMS, seed=1, gamma=1.5), "gamma must be <= 1, got 1.5"),
    "horizon": (lambda: EXP3(ARMS, seed=1), "give one of horizon and gamma"),
    "logits": (
        lambda: Mirostat2(3.0, rows=2).sample(REAL),
        r"logits must be \[2, V\], got shape \[16, 49152\]",
    ),
    "decided": (
        lambda: Mirostat2(3.0, rows=16).sample(REAL, min_p=0.1),
        "min_p is what the controller decides",
    ),
    "by-product": (
        lambda: Mirostat2(3.0, rows=16).update(fusedraw.sample(REAL, seed=1, returns=("logp_full",))),
        "update needs `logp`",
    ),
    "state": (lambda: Mirostat2(3.0).load_state_dict({"nu": 1}), r"a state must have the keys \['mu'\]"),
    "state rows": (
        lambda: Mirostat2(3.0, rows=2).load_state_dict({"mu": torch.ones(3)}),
        r"mu of the state must have shape \[2\], got \[3\]",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name):
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        make()


def test_refuses_types_and_rows():
    with pytest.raises(TypeError, match="it changes the logits"):
        AdaptiveP(0.5).parameters(REAL)
    with pytest.raises(IndexError, match=r"rows must be in \[0, 2\), got \[5\]"):
        Mirostat2(3.0, rows=2).reset([5])
    with pytest.raises(TypeError, match="vocab_size must be an int, got float"):
        TargetEntropy(1.0, vocab_size=10.0)
    with pytest.raises(TypeError, match="score must be callable, got int"):
        FeedbackLoop(print, 3, UCB1(ARMS), 5)
    with pytest.raises(TypeError, match=r"controller must have parameters\(\), got int"):
        FeedbackLoop(print, print, 3, 5)
    with pytest.raises(ValueError, match="stop must be >= 0 rounds, got -1"):
        FeedbackLoop(print, print, UCB1(ARMS), -1)


def test_every_public_name_is_there():
    for name in controllers.__all__:
        assert getattr(fusedraw.controllers, name).__doc__
