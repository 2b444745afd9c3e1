# SPDX-License-Identifier: Apache-2.0
"""Schedules out of schedules: warm-up, one after the other, products, and one schedule per parameter."""

import numbers

import torch
from torch import Tensor

from .._checks import check_choice
from .._settings import check_state, common_length, device_of, setting
from .base import PARAMETERS, Schedule, Stepped
from .shapes import Constant


class WarmUp(Schedule):
    """`target` times a factor that rises linearly from `start_factor` to 1 in `steps` steps (torch's
    LinearLR). The target's clock runs from step 0.

    Args:
        target: a number, a tensor of length 1 or B, or a schedule.
        steps: whole, >= 1.
        start_factor: in [0, 1].
    """

    def __init__(self, target, steps, start_factor=0.0, *, parameter=None, device=None):
        self.target = _as_schedule("WarmUp", "target", target, device)
        ranges = {
            "steps": {"low": 1.0, "integer": True},
            "start_factor": {"low": 0.0, "high": 1.0},
        }
        settings = {"steps": steps, "start_factor": start_factor}
        super().__init__(settings, ranges, parameter, self.target.device)

    def exact(self, step: Tensor) -> Tensor:
        first = self._settings["start_factor"]
        factor = first + (1.0 - first) * (step / self._settings["steps"]).clamp(max=1.0)
        return self.target.exact(step) * factor

    def bounds(self) -> tuple[float, float]:
        return _product(self.target.bounds(), (float(self._settings["start_factor"].min()), 1.0))


class Sequential(Schedule):
    """One schedule after the other (torch's SequentialLR): number k + 1 takes over at `milestones[k]` and
    sees its own steps from 0.

    >>> Sequential([WarmUp(1.0, 100), Cosine(1.0, 0.3, 900)], milestones=[100])

    Args:
        schedules: at least one schedule of the step alone (or number, which stays constant).
        milestones: increasing steps, one fewer than schedules.
    """

    def __init__(self, schedules, milestones, *, parameter=None, device=None):
        op = type(self).__name__
        self.schedules = _as_schedules(op, schedules, device)
        self.milestones = list(milestones)
        if len(self.milestones) != len(self.schedules) - 1:
            raise ValueError(
                f"{op}: milestones must be one fewer than schedules ({len(self.schedules)}), "
                f"got {len(self.milestones)}"
            )
        before = 0
        for milestone in self.milestones:
            if isinstance(milestone, bool) or not isinstance(milestone, numbers.Integral):
                raise TypeError(f"{op}: milestones must be ints, got {type(milestone).__name__}")
            if milestone <= before:
                raise ValueError(f"{op}: milestones must be > 0 and increase, got {self.milestones}")
            before = milestone
        super().__init__({}, {}, parameter, self.schedules[0].device)

    def exact(self, step: Tensor) -> Tensor:
        value = self.schedules[0].exact(step)
        for milestone, schedule in zip(self.milestones, self.schedules[1:], strict=True):
            own = (step - milestone).clamp(min=0.0)
            value = torch.where(step >= milestone, schedule.exact(own), value)
        return value

    def bounds(self) -> tuple[float, float]:
        lows, highs = zip(*[schedule.bounds() for schedule in self.schedules], strict=True)
        return min(lows), max(highs)

    def __repr__(self) -> str:
        return f"Sequential({self.schedules}, milestones={self.milestones})"


class Chained(Schedule):
    """The product of schedules that run at the same time, as torch's ChainedScheduler multiplies factors.

    >>> Chained([Cosine(1.0, 0.3, 1000), WarmUp(1.0, 100)])
    """

    def __init__(self, schedules, *, parameter=None, device=None):
        self.schedules = _as_schedules(type(self).__name__, schedules, device)
        super().__init__({}, {}, parameter, self.schedules[0].device)

    def exact(self, step: Tensor) -> Tensor:
        value = self.schedules[0].exact(step)
        for schedule in self.schedules[1:]:
            value = value * schedule.exact(step)
        return value

    def bounds(self) -> tuple[float, float]:
        extent = self.schedules[0].bounds()
        for schedule in self.schedules[1:]:
            extent = _product(extent, schedule.bounds())
        return extent

    def __repr__(self) -> str:
        return f"Chained({self.schedules})"


class Schedules:
    """A schedule for each of several parameters: the dict that `fusedraw.sample` takes as keywords.

    >>> plan = Schedules(temperature=Cosine(1.2, 0.7, 1000), mix_eps=Exponential(0.1, 0.99))
    >>> ids = fusedraw.sample(logits, keys=keys, **plan.get_last_value()); plan.step()

    Args: parameters of `sample` (temperature, top_p, min_p, mix_eps or exploit, top_k), each a schedule, a
        `Plateau`, or a number. A value outside the parameter's range raises ValueError here.
    """

    def __init__(self, **schedules):
        op = type(self).__name__
        if not schedules:
            raise ValueError(f"{op}: give at least one parameter")
        if "exploit" in schedules and "mix_eps" in schedules:
            raise ValueError(f"{op}: give one of mix_eps and exploit, which is 1 - mix_eps")
        self.schedules: dict[str, Stepped] = {}
        for name, schedule in schedules.items():
            check_choice(op, "a parameter", name, PARAMETERS)
            if not isinstance(schedule, Stepped):
                schedule = _as_schedule(op, name, schedule, None)
            if schedule.parameter not in (None, name):
                raise ValueError(f"{op}: {name} got a schedule made for {schedule.parameter}")
            schedule.check_parameter(name)
            schedule.parameter = name
            self.schedules[name] = schedule

    def at(self, step) -> dict[str, Tensor]:
        """{name: value at `step`}, a pure function. TypeError if there is a Plateau, which has none."""
        for name, schedule in self.schedules.items():
            if not isinstance(schedule, Schedule):
                raise TypeError(f"Schedules: {name} is a {type(schedule).__name__}: no function of the step")
        return {name: schedule.at(step) for name, schedule in self.schedules.items()}  # type: ignore[attr-defined]

    def get_last_value(self) -> dict[str, Tensor]:
        return {name: schedule.get_last_value() for name, schedule in self.schedules.items()}

    def step(self, metric=None) -> None:
        """Go on to the next step; `metric` is what every Plateau among them is fed."""
        for name, schedule in self.schedules.items():
            if isinstance(schedule, Schedule):
                schedule.step()
            elif metric is None:
                raise TypeError(f"Schedules: step needs a metric, {name} is a {type(schedule).__name__}")
            else:
                schedule.step(metric)  # type: ignore[attr-defined]

    def parameters(self) -> dict[str, Tensor]:
        """`get_last_value`, under the name that FeedbackLoop asks a controller for."""
        return self.get_last_value()

    def update(self, score=None) -> None:
        """`step`, under the name that FeedbackLoop asks a controller for."""
        self.step(score)

    def state_dict(self) -> dict:
        return {name: schedule.state_dict() for name, schedule in self.schedules.items()}

    def load_state_dict(self, state: dict) -> None:
        check_state("Schedules", state, self.schedules)
        for name, schedule in self.schedules.items():
            schedule.load_state_dict(state[name])


def _as_schedule(op: str, name: str, value, device) -> Schedule:
    if isinstance(value, Schedule):
        return value
    if isinstance(value, Stepped):
        raise TypeError(f"{op}: {name} must be a schedule of the step alone, got a {type(value).__name__}")
    device = device_of([value], device)
    setting(op, name, value, device)  # its errors under the name of the caller
    return Constant(value, device=device)


def _as_schedules(op: str, schedules, device) -> list[Schedule]:
    found = [_as_schedule(op, "schedules", schedule, device) for schedule in schedules]
    if not found:
        raise ValueError(f"{op}: schedules must not be empty")
    device = found[0].device
    probes = {}
    for number, schedule in enumerate(found):
        if schedule.device != device:
            raise ValueError(f"{op}: all schedules must be on {device}, got one on {schedule.device}")
        probes[f"schedules[{number}]"] = schedule.at(0)
    common_length(op, probes)
    return found


def _product(a: tuple[float, float], b: tuple[float, float]) -> tuple[float, float]:
    corners = [x * y for x in a for y in b]
    return min(corners), max(corners)
