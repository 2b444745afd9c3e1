# SPDX-License-Identifier: Apache-2.0
"""Schedules: their formulas."""

import math

import fusedraw
import pytest
import torch
from fusedraw import schedules
from fusedraw.schedules import (
    Chained,
    Constant,
    Cosine,
    Exponential,
    InverseSigmoid,
    Linear,
    Sequential,
    WarmUp,
)


def value(schedule, step):
    (number,) = schedule.at(step).tolist()
    return number


SHAPES = {
    "constant": (Constant(0.3), lambda t: 0.3),
    "linear": (Linear(0.2, 1.0, 8), lambda t: 0.2 + 0.8 * min(t / 8, 1)),
    "cosine": (Cosine(1.2, 0.7, 10), lambda t: 0.7 + 0.5 * (1 + math.cos(math.pi * min(t / 10, 1))) / 2),
    "exponential": (Exponential(0.5, 0.9, 0.05), lambda t: 0.05 + 0.45 * 0.9**t),
    "inverse sigmoid": (InverseSigmoid(1.0, 0.1, 5), lambda t: 0.1 + 0.9 * 5 / (5 + math.exp(t / 5))),
    "warm-up": (WarmUp(Linear(1, 0, 20), 4, 0.1), lambda t: (1 - t / 20) * (0.1 + 0.9 * min(t / 4, 1))),
    "sequential": (
        Sequential([0.5, Linear(1, 0, 4), Constant(0.25)], [3, 9]),
        lambda t: 0.5 if t < 3 else max(1 - (t - 3) / 4, 0) if t < 9 else 0.25,
    ),
    "chained": (Chained([Linear(1, 0, 20), Exponential(1, 0.5)]), lambda t: (1 - t / 20) * 0.5**t),
}


@pytest.mark.parametrize("name", SHAPES)
def test_formula(name):
    schedule, formula = SHAPES[name]
    for t in range(20):
        assert value(schedule, t) == pytest.approx(formula(t), rel=1e-6, abs=1e-9), t


@pytest.mark.parametrize("name", SHAPES)
def test_values_are_float32_and_a_pure_function_of_the_step(name):
    schedule, _ = SHAPES[name]
    steps = torch.tensor([7, 0, 19, 3])
    at_once = schedule.at(steps)
    assert at_once.dtype == torch.float32 and at_once.shape == (4,)
    assert at_once.tolist() == [value(schedule, t) for t in steps.tolist()]
    assert torch.equal(schedule(steps), at_once)


@pytest.mark.parametrize("kind", [Linear, Cosine])
def test_ends_are_exact(kind):
    schedule = kind(0.1, 0.7, 3)
    assert schedule.at(0).item() == torch.tensor(0.1).item()
    assert schedule.at(3).item() == schedule.at(10**9).item() == torch.tensor(0.7).item()


def test_rows_have_their_own_settings():
    start, steps = torch.tensor([0.1, 0.2, 0.9]), torch.tensor([2, 4, 8])
    together = Linear(start, 0.5, steps)
    for t in (0, 1, 3, 8):
        alone = [value(Linear(s, 0.5, n), t) for s, n in zip(start.double(), steps, strict=True)]
        assert together.at(t).tolist() == alone


def test_inverse_sigmoid_does_not_overflow():
    assert value(InverseSigmoid(1.0, 0.25, 1), 10**6) == 0.25


def test_every_public_name_is_there():
    for name in schedules.__all__:
        assert getattr(fusedraw.schedules, name).__doc__
