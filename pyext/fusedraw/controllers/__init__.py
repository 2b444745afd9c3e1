# SPDX-License-Identifier: Apache-2.0
"""Controllers: parameters of the next draw from what was drawn, one state per row.

>>> from fusedraw import controllers
>>> control = controllers.Mirostat2(tau=3.0, rows=logits.shape[0])
>>> out = control.sample(logits, keys=keys)

docs/exploring.md has the formulas and says where they come from.
"""

from .adaptive_p import AdaptiveP
from .bandit import EXP3, UCB1, Bandit, grid
from .base import Controller
from .entropy import (
    DynamicTemperature,
    EntropySolution,
    TargetEntropy,
    TargetMeanEntropy,
    solve_temperature,
)
from .loop import FeedbackLoop, Round
from .mirostat import Mirostat2

__all__ = [
    "EXP3",
    "UCB1",
    "AdaptiveP",
    "Bandit",
    "Controller",
    "DynamicTemperature",
    "EntropySolution",
    "FeedbackLoop",
    "Mirostat2",
    "Round",
    "TargetEntropy",
    "TargetMeanEntropy",
    "grid",
    "solve_temperature",
]
