# SPDX-License-Identifier: Apache-2.0
"""Schedules: what is refused."""

import math

import pytest
import torch
from fusedraw.schedules import (
    Chained,
    Choice,
    Constant,
    Cosine,
    Exponential,
    InverseSigmoid,
    Jitter,
    Linear,
    Plateau,
    Schedules,
    Sequential,
    Uniform,
    WarmUp,
)

REFUSED = {
    "mix_eps above 1": (lambda: Linear(0.1, 1.5, 10, parameter="mix_eps"), r"mix_eps must be in \[0, 1\]"),
    "mix_eps below 0": (lambda: Schedules(mix_eps=Cosine(0.1, -0.1, 5)), r"mix_eps must be in \[0, 1\]"),
    "one row": (lambda: Schedules(top_p=torch.tensor([0.5, 1.5])), r"top_p must be in \[0, 1\], got 1.5"),
    "exploit": (lambda: Constant(2.0, parameter="exploit"), r"exploit must be in \[0, 1\]"),
    "cold": (lambda: Schedules(temperature=Linear(-1, 1, 3)), "temperature must be >= 0"),
    "product": (
        lambda: Chained([Constant(2.0), Linear(0, 1, 5)], parameter="min_p"),
        r"min_p must be in \[0, 1\], got 2",
    ),
    "nan": (lambda: Linear(0.1, math.nan, 10), "Linear: end must be finite, got nan"),
    "nan in a row": (lambda: Constant(torch.tensor([0.1, math.nan])), "value must be finite, got nan"),
    "no steps": (lambda: Linear(0, 1, 0), "steps must be >= 1, got 0"),
    "half a step": (lambda: Cosine(0, 1, 2.5), "steps must be whole, got 2.5"),
    "gamma 0": (lambda: Exponential(1, 0.0), "gamma must be > 0, got 0"),
    "gamma 2": (lambda: Exponential(1, 2.0), "gamma must be <= 1, got 2"),
    "k": (lambda: InverseSigmoid(1, 0, 0.5), "k must be >= 1"),
    "lengths": (lambda: Linear(torch.rand(2), torch.rand(3), 5), "end must have length 1 or 2"),
    "milestones": (lambda: Sequential([1, 2, 3], [5, 4]), "milestones must be > 0 and increase"),
    "too few": (lambda: Sequential([1, 2, 3], [5]), r"milestones must be one fewer than schedules \(3\)"),
    "empty": (lambda: Chained([]), "schedules must not be empty"),
    "negative step": (lambda: Linear(0, 1, 5).at(-1), "step must be >= 0, got -1"),
    "other parameter": (
        lambda: Schedules(top_p=Constant(1, parameter="min_p")),
        "top_p got a schedule made for min_p",
    ),
    "no parameter": (lambda: Schedules(heat=1.0), "a parameter must be 'temperature'"),
    "state": (
        lambda: Constant(1.0).load_state_dict({"epoch": 3}),
        r"a state must have the keys \['last_step'",
    ),
    "factor": (lambda: Plateau(0.1, 1.0), "factor must not be 1"),
    "limit": (lambda: Plateau(0.5, 2.0, limit=0.1), "limit must be >= value for factor > 1"),
    "no limit": (lambda: Plateau(0.1, 2.0, parameter="mix_eps"), r"mix_eps must be in \[0, 1\], got inf"),
    "nan metric": (lambda: Plateau(0.5, 0.5).step(math.nan), "metric must be finite, got nan"),
    "nan metrics": (
        lambda: Plateau(0.5, 0.5, rows=2).step(torch.tensor([1.0, math.nan])),
        "metric must not be NaN",
    ),
    "prior ends": (
        lambda: Jitter(seed=1, mix_eps=Uniform(0.5, 1.5)),
        r"mix_eps must be in \[0, 1\], got 1.5",
    ),
    "prior order": (lambda: Jitter(seed=1, top_p=Uniform(0.9, 0.5)), "top_p must have low <= high"),
    "endless prior": (
        lambda: Jitter(seed=1, temperature=torch.distributions.Normal(1.0, 0.1)),
        "the prior of temperature must stay finite, it reaches -",
    ),
    "nan choice": (lambda: Jitter(seed=1, top_p=Choice((1.0, math.nan, 0.5))), "it reaches nan"),
    "no choice": (lambda: Choice(()), "values must not be empty"),
    "no prior": (lambda: Jitter(seed=1), "give at least one prior"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name):
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        make()


def test_refuses_types():
    with pytest.raises(TypeError, match="start must be a number or a tensor, got str"):
        Linear("a", 1, 3)
    with pytest.raises(TypeError, match="step must be an int or an integer tensor"):
        Linear(0, 1, 3).at(1.5)
    with pytest.raises(TypeError, match="must be a schedule of the step alone, got a Plateau"):
        WarmUp(Plateau(0.5, 0.5), 3)
    with pytest.raises(TypeError, match="mix_eps is a Plateau: no function of the step"):
        Schedules(mix_eps=Plateau(0.5, 0.5)).at(3)
    with pytest.raises(TypeError, match="step needs a metric"):
        Schedules(mix_eps=Plateau(0.5, 0.5)).step()
    with pytest.raises(TypeError, match=r"the prior of top_p must have icdf\(u\), got float"):
        Jitter(seed=1, top_p=0.9)
