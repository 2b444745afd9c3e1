# SPDX-License-Identifier: Apache-2.0
"""Plateau: a value that changes when a metric has stopped improving."""

import torch
from torch import Tensor

from .._checks import check_choice, check_device
from .._settings import INF, check_state, check_step, common_length, device_of, load_tensor, setting
from .base import Stepped

_MODES = ("min", "max")
_THRESHOLD_MODES = ("rel", "abs")


class Plateau(Stepped):
    """Multiplies the value by `factor` when the metric has not improved for more than `patience` steps: the
    rule of torch.optim.lr_scheduler.ReduceLROnPlateau, for every row by its own metric.

    >>> explore = Plateau(0.01, factor=2.0, patience=5, limit=0.2, mode="max", parameter="mix_eps")
    >>> explore.step(reward)  # [1] or [B]: more chance where the reward has stalled

    Args (numbers, or tensors of length 1 or B):
        value: where it begins.
        factor: > 0 and not 1: below 1 lowers the value, above 1 raises it.
        patience: whole, >= 0: steps without improvement that are let pass.
        threshold: >= 0: what counts as improvement, relative ("rel": best * (1 -+ threshold)) or absolute
            ("abs": best -+ threshold).
        cooldown: whole, >= 0: steps after a change in which nothing is counted.
        limit: the value never passes it: a floor for factor < 1 (default 0), a ceiling for factor > 1
            (default inf, which no parameter in [0, 1] admits).
        mode: "min" or "max": whether a lower or a higher metric is better.
        rows: the number of rows, if no setting tells it and the metric has one entry per row.
    """

    def __init__(
        self,
        value,
        factor,
        patience=10,
        *,
        threshold=1e-4,
        threshold_mode="rel",
        cooldown=0,
        limit=None,
        mode="min",
        rows=1,
        parameter=None,
        device=None,
    ):
        super().__init__(parameter)
        op = self._op
        check_choice(op, "mode", mode, _MODES)
        check_choice(op, "threshold_mode", threshold_mode, _THRESHOLD_MODES)
        given = (value, factor, patience, threshold, cooldown, limit)
        self.device = device_of(given, device)

        def checked(name, number, **bounds):
            return setting(op, name, number, self.device, **bounds)

        settings = {
            "value": checked("value", value, low=0.0),
            "factor": checked("factor", factor, above=0.0),
            "patience": checked("patience", patience, low=0.0, integer=True),
            "threshold": checked("threshold", threshold, low=0.0),
            "cooldown": checked("cooldown", cooldown, low=0.0, integer=True),
        }
        if bool((settings["factor"] == 1.0).any()):
            raise ValueError(f"{op}: factor must not be 1")
        rises = settings["factor"] > 1.0
        if limit is None:
            settings["limit"] = torch.where(rises, INF, 0.0).to(torch.float64)
        else:
            settings["limit"] = checked("limit", limit, low=0.0)
        length = common_length(op, settings)
        if rows not in (1, length) and length != 1:
            raise ValueError(f"{op}: rows must be {length} like the settings, got {rows}")
        self.rows = max(length, rows)
        self._settings = {name: tensor.expand(self.rows) for name, tensor in settings.items()}
        self._rises = self._settings["factor"] > 1.0
        wrong = torch.where(
            self._rises,
            self._settings["limit"] < self._settings["value"],
            self._settings["limit"] > self._settings["value"],
        )
        if bool(wrong.any()):
            raise ValueError(f"{op}: limit must be >= value for factor > 1 and <= value for factor < 1")
        self.mode, self.threshold_mode = mode, threshold_mode
        worst = INF if mode == "min" else -INF
        blank = torch.zeros(self.rows, dtype=torch.float64, device=self.device)
        self._state = {
            "value": self._settings["value"].clone(),
            "best": blank + worst,
            "bad_steps": blank.clone(),
            "cooldown_left": blank.clone(),
        }
        if parameter is not None:
            self.check_parameter(parameter)

    def bounds(self) -> tuple[float, float]:
        ends = torch.cat([self._settings["value"], self._settings["limit"]])
        return float(ends.min()), float(ends.max())

    def step(self, metric) -> None:
        """Take in the metric of this step: a number or a tensor of length 1 or B.

        A NaN raises ValueError where seeing it costs no device sync (numbers, CPU tensors); elsewhere it
        counts as no improvement.
        """
        op = self._op
        if isinstance(metric, Tensor):
            if metric.dim() > 1 or metric.numel() not in (1, self.rows):
                raise ValueError(
                    f"{op}: metric must have length 1 or {self.rows}, got shape {list(metric.shape)}"
                )
            check_device(op, "metric", metric, self.device)
            metric = metric.detach().reshape(-1).to(torch.float64)
            if metric.is_cpu and bool(metric.isnan().any()):
                raise ValueError(f"{op}: metric must not be NaN, got {metric.tolist()}")
        else:
            metric = setting(op, "metric", metric, self.device)
        state, limits = self._state, self._settings
        better = self._better(metric, state["best"])
        state["best"] = torch.where(better, metric, state["best"])
        bad = torch.where(better, 0.0, state["bad_steps"] + 1.0)
        cooling = state["cooldown_left"] > 0.0
        left = torch.where(cooling, state["cooldown_left"] - 1.0, 0.0)
        bad = torch.where(cooling, 0.0, bad)
        due = bad > limits["patience"]
        changed = state["value"] * limits["factor"]
        changed = torch.where(
            self._rises, torch.minimum(changed, limits["limit"]), torch.maximum(changed, limits["limit"])
        )
        state["value"] = torch.where(due, changed, state["value"])
        state["cooldown_left"] = torch.where(due, limits["cooldown"], left)
        state["bad_steps"] = torch.where(due, 0.0, bad)
        self.last_step += 1

    def get_last_value(self) -> Tensor:
        return self._outgoing(self._state["value"])

    def state_dict(self) -> dict:
        return {"last_step": self.last_step, **{name: t.clone() for name, t in self._state.items()}}

    def load_state_dict(self, state: dict) -> None:
        check_state(self._op, state, self.state_dict())
        loaded = {name: load_tensor(self._op, name, state[name], old) for name, old in self._state.items()}
        self.last_step = check_step(self._op, state["last_step"])
        self._state = loaded

    def _better(self, metric: Tensor, best: Tensor) -> Tensor:
        sign = -1.0 if self.mode == "min" else 1.0
        margin = self._settings["threshold"]
        if self.threshold_mode == "abs":
            bar = best + sign * margin
        else:  # an infinite best times 1 -+ threshold could be NaN
            bar = torch.where(best.isinf(), best, best * (1.0 + sign * margin))
        return metric < bar if self.mode == "min" else metric > bar

    def __repr__(self) -> str:
        return f"Plateau(value={self._state['value'].tolist()}, mode={self.mode!r})"
