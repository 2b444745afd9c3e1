# SPDX-License-Identifier: Apache-2.0
"""What every schedule has: values as functions of the step, and the interface of torch.optim.lr_scheduler."""

import torch
from torch import Tensor

from .._checks import check_choice
from .._params import COLUMNS, check_value
from .._settings import check_state, check_step, common_length, device_of, setting, step_tensor

PARAMETERS = (*COLUMNS, "exploit")


class Stepped:
    """`step`, `get_last_value`, `state_dict`, `load_state_dict`, as torch.optim.lr_scheduler names them.

    `last_step` is 0 at first; `get_last_value()` is the value of that step, `step()` goes on to the next one.
    """

    def __init__(self, parameter: str | None):
        if parameter is not None:
            check_choice(self._op, "parameter", parameter, PARAMETERS)
        self.parameter = parameter
        self.last_step = 0

    @property
    def _op(self) -> str:
        return type(self).__name__

    def bounds(self) -> tuple[float, float]:
        """The lowest and the highest value that any row can get."""
        raise NotImplementedError

    def check_parameter(self, parameter: str) -> None:
        """Raise ValueError if a value lies outside the range of `parameter` in fusedraw.sample."""
        check_choice(self._op, "parameter", parameter, PARAMETERS)
        for value in self.bounds():
            # top_k is rounded when it leaves; exploit has the range of what it is an alias of.
            bound = round(value) if parameter == "top_k" else value
            try:
                check_value(self._op, "mix_eps" if parameter == "exploit" else parameter, bound)
            except ValueError as error:
                raise ValueError(str(error).replace("mix_eps", parameter)) from None

    def get_last_value(self) -> Tensor:
        """The value of `last_step`: float32 [1] or [B] (int64 for top_k)."""
        raise NotImplementedError

    def state_dict(self) -> dict:
        """What `load_state_dict` of an equally made schedule needs to go on from here."""
        return {"last_step": self.last_step}

    def load_state_dict(self, state: dict) -> None:
        check_state(self._op, state, self.state_dict())
        self.last_step = check_step(self._op, state["last_step"])

    def _outgoing(self, value: Tensor) -> Tensor:
        """One rounding: to float32, or to whole numbers for top_k, which `sample` takes as integers."""
        if self.parameter == "top_k":
            return value.round().to(torch.int64)
        return value.to(torch.float32)


class Schedule(Stepped):
    """A value that depends on the step alone.

    >>> schedule = Linear(0.2, 0.0, steps=1000, parameter="mix_eps")
    >>> ids = fusedraw.sample(logits, mix_eps=schedule.get_last_value(), keys=keys); schedule.step()
    >>> ids = fusedraw.sample(logits, mix_eps=schedule.at(positions), keys=keys)  # without any state

    Settings are numbers or tensors of length 1 or B: a row may have its own start, end and pace.

    Args of every schedule:
        parameter: None, or the parameter of fusedraw.sample that it is for (temperature, top_p, min_p,
            mix_eps, exploit, top_k): all values are then checked against its range here, and those of top_k
            come as int64.
        device: where the values lie if no setting is a tensor. Default: the CPU.
    """

    def __init__(self, settings: dict, ranges: dict, parameter: str | None, device):
        super().__init__(parameter)
        self.device = device_of(settings.values(), device)
        self._settings = {
            name: setting(self._op, name, value, self.device, **ranges.get(name, {}))
            for name, value in settings.items()
        }
        common_length(self._op, self._settings)
        if parameter is not None:
            self.check_parameter(parameter)

    def at(self, step) -> Tensor:
        """The value at `step`: a pure function, whatever `step()` has done.

        Args:
            step: int >= 0, or an integer tensor of length 1 or B (rows at positions of their own) on the
                schedule's device, which is not read.

        Returns: float32 [1] or [B] on the schedule's device (int64 for top_k).
        """
        return self._outgoing(self.exact(step_tensor(self._op, step, self.device)))

    __call__ = at

    def exact(self, step: Tensor) -> Tensor:
        """The value before its rounding: float64 [1] or [B] of a float64 step tensor."""
        raise NotImplementedError

    def step(self) -> None:
        """Go on to the next step."""
        self.last_step += 1

    def get_last_value(self) -> Tensor:
        return self.at(self.last_step)

    def __repr__(self) -> str:
        named = [f"{name}={_plain(value)}" for name, value in self._settings.items()]
        return f"{self._op}({', '.join(named)})"


def _plain(value: Tensor):
    numbers = value.tolist()
    return numbers[0] if len(numbers) == 1 else numbers
