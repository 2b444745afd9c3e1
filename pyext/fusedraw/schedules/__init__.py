# SPDX-License-Identifier: Apache-2.0
"""Schedules: parameters of `fusedraw.sample` as functions of the step, one value per row.

>>> from fusedraw import schedules
>>> plan = schedules.Schedules(temperature=schedules.Cosine(1.2, 0.7, steps=500), mix_eps=0.01)
>>> ids = fusedraw.sample(logits, keys=keys, **plan.get_last_value())
>>> plan.step()

`exploit`, the alias 1 - mix_eps, is a parameter like the others. docs/exploring.md has the formulas.
"""

from .base import Schedule
from .compose import Chained, Schedules, Sequential, WarmUp
from .jitter import Choice, Drawn, Jitter, LogUniform, Uniform
from .plateau import Plateau
from .shapes import Constant, Cosine, Exponential, InverseSigmoid, Linear
from .shares import mix_eps_for_sequence, share_of_sequences

__all__ = [
    "Chained",
    "Choice",
    "Constant",
    "Cosine",
    "Drawn",
    "Exponential",
    "InverseSigmoid",
    "Jitter",
    "Linear",
    "LogUniform",
    "Plateau",
    "Schedule",
    "Schedules",
    "Sequential",
    "Uniform",
    "WarmUp",
    "mix_eps_for_sequence",
    "share_of_sequences",
]
