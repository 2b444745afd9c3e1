# SPDX-License-Identifier: Apache-2.0
"""Bandits over a grid of settings: which parameters earn the highest score, found while they are used."""

import itertools
import math
import numbers

import torch
from torch import Tensor

from .._checks import check_choice, check_device
from .._noise import ARM_ID, control_uniform
from .._params import COLUMNS, check_value
from ..keys import keys_for
from .base import Controller


def grid(**values) -> list[dict[str, float]]:
    """Every combination of parameter values, the last name varying fastest.

    >>> grid(temperature=(0.7, 1.0), mix_eps=(0.0, 0.05))          # 4 arms
    """
    if not values:
        raise ValueError("grid: give at least one parameter")
    return [dict(zip(values, arm, strict=True)) for arm in itertools.product(*values.values())]


class Bandit(Controller):
    """B independent bandits, one per row, that choose among the same arms.

    >>> bandit = UCB1(grid(temperature=(0.5, 1.0, 1.5)), rows=B)
    >>> out = fusedraw.sample(logits, keys=keys, **bandit.parameters())
    >>> bandit.update(rewards)                                     # float [B] in [0, 1]

    With rows=1 the parameters have length 1 and serve a batch of any size; its reward is one number.

    Args:
        arms: dicts of parameters of `fusedraw.sample` (numbers), all with the same names; see `grid`.
    """

    def __init__(self, arms, rows: int, settings: dict, ranges: dict, device):
        self.arms = [dict(arm) for arm in arms]
        if len(self.arms) < 2:
            raise ValueError(f"{self._op}: arms must be at least two, got {len(self.arms)}")
        names = list(self.arms[0])
        columns = []
        for arm in self.arms:
            if not arm or set(arm) != set(names):
                raise ValueError(f"{self._op}: every arm must set {sorted(names)}, got {sorted(arm)}")
            for name, value in arm.items():
                check_choice(self._op, "a parameter", name, COLUMNS)
                if not isinstance(value, numbers.Real):
                    raise TypeError(f"{self._op}: {name} of an arm must be a number, got {value!r}")
                check_value(self._op, name, value)
            columns.append([float(arm[name]) for name in names])
        self.sets = tuple(names)
        super().__init__(rows, settings, ranges, device)
        self._table = torch.tensor(columns, dtype=torch.float64, device=self.device)
        self._choose(torch.ones(self.rows, dtype=torch.bool, device=self.device))

    def _initial(self) -> dict[str, Tensor]:
        blank = torch.zeros(self.rows, len(self.arms), dtype=torch.float64, device=self.device)
        arm = torch.zeros(self.rows, dtype=torch.int64, device=self.device)
        return {"arm": arm, "pulls": blank, "gain": blank.clone()}

    def _choose(self, chosen: Tensor) -> None:
        """Set the next arm in the rows `chosen` (bool [B])."""
        raise NotImplementedError

    def _learn(self, reward: Tensor) -> None:
        """Take in the reward of the arms in use; a row whose reward is NaN learns nothing."""
        raise NotImplementedError

    def arm(self) -> Tensor:
        """int64 [B]: the arm that each row uses until the next update."""
        return self._state["arm"].clone()

    def pulls(self) -> Tensor:
        """int64 [B, arms]: how often each arm was rewarded."""
        return self._state["pulls"].to(torch.int64)

    def best_arm(self) -> Tensor:
        """int64 [B]: the arm with the highest mean reward so far (the first of equals)."""
        pulls = self._state["pulls"]
        return torch.where(pulls > 0, self._state["gain"] / pulls, -torch.inf).argmax(dim=-1)

    def parameters(self, logits: Tensor | None = None, *, mask=None) -> dict[str, Tensor]:
        """{name: float32 [B]} of the arms in use (int64 for top_k)."""
        values = self._table[self._state["arm"]]
        return {
            name: values[:, column].to(torch.int64 if name == "top_k" else torch.float32)
            for column, name in enumerate(self.sets)
        }

    def update(self, reward) -> None:
        """Take in the rewards of this round, and choose the next arms.

        Args:
            reward: number or tensor of length B, in [0, 1]. Outside, or NaN: ValueError where looking costs
                no device sync (numbers, CPU tensors); elsewhere such a row learns nothing.
        """
        if not isinstance(reward, Tensor):
            if isinstance(reward, bool) or not isinstance(reward, numbers.Real):
                raise TypeError(f"{self._op}: reward must be numbers, got {type(reward).__name__}")
            reward = torch.full((1,), float(reward), dtype=torch.float64, device=self.device)
        if reward.numel() != self.rows or reward.dim() > 1:
            raise ValueError(f"{self._op}: reward must be [{self.rows}], got shape {list(reward.shape)}")
        check_device(self._op, "reward", reward, self.device)
        reward = reward.detach().reshape(-1).to(torch.float64)
        fits = (reward >= 0) & (reward <= 1)
        if reward.is_cpu and not bool(fits.all()):
            row = int((~fits).nonzero()[0])
            raise ValueError(f"{self._op}: reward must be in [0, 1], got {float(reward[row])} in row {row}")
        used = self._used() * fits[:, None]
        reward = torch.where(fits, reward, 0.0)
        self._state["pulls"] = self._state["pulls"] + used
        self._state["gain"] = self._state["gain"] + used * reward[:, None]
        self._learn(torch.where(fits, reward, torch.nan))
        self._choose(fits)

    def sample(self, logits: Tensor, *, mask=None, returns=(), **arguments):
        """One draw with the arms in use. `update` comes later, with the reward."""
        self._check_call(logits, arguments)
        return self._draw(logits, mask, returns, {**arguments, **self.parameters()})

    def _check_logits(self, logits) -> None:
        if self.rows != 1:  # one bandit serves a batch of any size
            super()._check_logits(logits)

    def reset(self, rows=None) -> None:
        super().reset(rows)
        self._choose(self._chosen(rows))

    def _used(self) -> Tensor:
        """float64 [B, arms]: 1 at the arm in use."""
        return torch.nn.functional.one_hot(self._state["arm"], len(self.arms)).to(torch.float64)


class UCB1(Bandit):
    """Auer, Cesa-Bianchi and Fischer, "Finite-time analysis of the multiarmed bandit problem", 2002.

    Every arm once, in order; then the arm with the highest `mean + width * sqrt(2 ln n / n_j)`, the first of
    equals. For independent rewards in [0, 1] and width = 1 the expected regret after n rounds is at most
    `8 * sum(ln n / gap_j) + (1 + pi^2 / 3) * sum(gap_j)` over the arms with gap_j > 0.

    Args:
        width: > 0, a number or a tensor of length 1 or B: below 1 it explores less than the bound allows.
    """

    def __init__(self, arms, *, rows: int = 1, width=1.0, device=None):
        super().__init__(arms, rows, {"width": width}, {"width": {"above": 0.0}}, device)

    def _choose(self, chosen: Tensor) -> None:
        pulls, gain = self._state["pulls"], self._state["gain"]
        rounds = pulls.sum(dim=-1, keepdim=True).clamp(min=1.0)
        bonus = self._settings["width"][:, None] * torch.sqrt(2.0 * rounds.log() / pulls)
        index = torch.where(pulls > 0, gain / pulls + bonus, torch.inf)
        self._state["arm"] = torch.where(chosen, index.argmax(dim=-1), self._state["arm"])

    def _learn(self, reward: Tensor) -> None:
        """The counts and sums of the base are all it needs."""


class EXP3(Bandit):
    """Auer, Cesa-Bianchi, Freund and Schapire, "The nonstochastic multiarmed bandit problem", 2002.

    `p_j = (1 - gamma) * w_j / sum(w) + gamma / K`, one arm is drawn from p, and its weight becomes
    `w_j * exp(gamma * reward / (K * p_j))`. For any sequence of rewards in [0, 1], however they were chosen,
    the expected regret after n rounds against the best single arm is at most `2.63 * sqrt(n * K * ln K)` with
    `gamma = min(1, sqrt(K * ln K / ((e - 1) * n)))`.

    The arms are drawn with keyed noise (docs/law.md, Control noise): a row's arm is a function of seed, row,
    round and rewards. Weights are kept as logarithms.

    Args:
        seed: int, as in `derive_keys`.
        horizon: number of rounds n for which gamma is chosen, whole, >= 1. Or instead
        gamma: in (0, 1], a number or a tensor of length 1 or B.
    """

    def __init__(self, arms, *, seed: int, horizon=None, gamma=None, rows: int = 1, device=None):
        arms = list(arms)
        if (horizon is None) == (gamma is None):
            raise ValueError(f"{self._op}: give one of horizon and gamma")
        if gamma is None:
            if isinstance(horizon, bool) or not isinstance(horizon, numbers.Integral) or horizon < 1:
                raise ValueError(f"{self._op}: horizon must be an int >= 1, got {horizon}")
            count = max(len(arms), 2)
            gamma = min(1.0, math.sqrt(count * math.log(count) / ((math.e - 1.0) * int(horizon))))
        keys_for(self._op, seed, 0)  # its errors now
        self._seed = seed
        super().__init__(arms, rows, {"gamma": gamma}, {"gamma": {"above": 0.0, "high": 1.0}}, device)

    def _initial(self) -> dict[str, Tensor]:
        initial = super()._initial()
        initial["log_weights"] = torch.zeros_like(initial["pulls"])
        return initial

    def probabilities(self) -> Tensor:
        """float64 [B, arms]: the law from which the arm in use was drawn."""
        gamma = self._settings["gamma"][:, None]
        return (1.0 - gamma) * torch.softmax(self._state["log_weights"], dim=-1) + gamma / len(self.arms)

    def _choose(self, chosen: Tensor) -> None:
        # The round is part of the key, so a row that is reset begins anew with the draws of a new row.
        rounds = self._state["pulls"].sum(dim=-1).to(torch.int64)
        rows = torch.arange(self.rows, device=self.device)
        v = control_uniform(keys_for(self._op, self._seed, rows, step=rounds), [ARM_ID])
        # The first arm whose running sum exceeds v; rounding may leave the last sum below it.
        arm = (self.probabilities().cumsum(dim=-1) <= v).sum(dim=-1).clamp(max=len(self.arms) - 1)
        self._state["arm"] = torch.where(chosen, arm, self._state["arm"])

    def _learn(self, reward: Tensor) -> None:
        estimate = self._used() * torch.nan_to_num(reward, nan=0.0)[:, None] / self.probabilities()
        weights = self._state["log_weights"]
        weights = weights + self._settings["gamma"][:, None] * estimate / len(self.arms)
        self._state["log_weights"] = weights - weights.amax(dim=-1, keepdim=True)
