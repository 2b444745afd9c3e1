# SPDX-License-Identifier: Apache-2.0
"""Comparing settings, with and without chance: the same noise for all, paired scores, honest intervals.

    coupled          the same rows under several settings with common noise
    sweep            a grid of parameters as one batch, with parameters per row and common keys
    compare          paired scores: mean difference, bootstrap interval, effect size, p-value
    keys_of_draws    keys for n draws of each prompt
    majority_vote    self-consistency over them
    best_of_n        the best of them by a score
    pass_at_k        how likely one of k is correct

Metrics to compare by are in `fusedraw.metrics`. `compare` needs scipy; nothing else here does.
"""

from ._coupling import Coupled, coupled
from ._paired import Comparison, compare
from ._sweep import Sweep, Table, sweep
from ._voting import Best, Vote, best_of_n, keys_of_draws, majority_vote, pass_at_k

__all__ = [
    "Best",
    "Comparison",
    "Coupled",
    "Sweep",
    "Table",
    "Vote",
    "best_of_n",
    "compare",
    "coupled",
    "keys_of_draws",
    "majority_vote",
    "pass_at_k",
    "sweep",
]
