# SPDX-License-Identifier: Apache-2.0
"""Jitter: parameters drawn per row from a prior, by keys, and written down.

The draw is a pure function of (seed, step, row), or of the keys given: noise of purpose CONTROL, one id per
parameter (docs/law.md), so it is independent of the tokens drawn with the same keys, and what one parameter
gets does not depend on which others are jittered.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from .._checks import check_choice, check_keys
from .._noise import control_uniform
from .._params import COLUMNS, check_value
from .._settings import check_rows_number, check_state, check_step, device_of, setting
from ..keys import keys_for


class Uniform(NamedTuple):
    """The uniform law on [low, high]; both numbers or tensors of length 1 or B."""

    low: float | Tensor
    high: float | Tensor

    def icdf(self, u: Tensor) -> Tensor:
        return self.low + (self.high - self.low) * u


class LogUniform(NamedTuple):
    """The law whose logarithm is uniform on [ln low, ln high], low > 0: equal chance for equal ratios."""

    low: float | Tensor
    high: float | Tensor

    def icdf(self, u: Tensor) -> Tensor:
        low, high = (torch.as_tensor(end, dtype=torch.float64, device=u.device) for end in self)
        # Clamped: exp(log(x)) may pass x by a rounding, and so leave the parameter's range.
        value = torch.exp(torch.log(low) + (torch.log(high) - torch.log(low)) * u)
        return torch.maximum(torch.minimum(value, high), low)


@dataclass(frozen=True)
class Choice:
    """One of `values`, each as likely as the others."""

    values: tuple

    def __post_init__(self):
        if not self.values:
            raise ValueError("Choice: values must not be empty")

    def icdf(self, u: Tensor) -> Tensor:
        table = torch.tensor(self.values, dtype=torch.float64, device=u.device)
        return table[(u * len(self.values)).to(torch.int64).clamp(max=len(self.values) - 1)]


class Drawn(NamedTuple):
    """An entry of `Jitter.log`."""

    step: int
    values: dict[str, Tensor]  # float32 [B] per parameter (int64 for top_k)


class Jitter:
    """Draws parameters of `fusedraw.sample` per row from a prior.

    >>> jitter = Jitter(seed=7, rows=8, temperature=LogUniform(0.5, 1.5), mix_eps=Choice((0.0, 0.02)))
    >>> out = fusedraw.sample(logits, keys=keys, **jitter.get_last_value()); jitter.step()
    >>> jitter.log[-1].values["temperature"]                       # what those rows were drawn with

    Args:
        seed: int, as in `derive_keys`.
        rows: number of rows, B. The row is the request id of the key, unless
        request_ids: int64 or uint64 [B] gives each row its own, wherever it stands in the batch.
        period: steps between two draws; None: one draw for the whole sequence.
        device: where the values lie. Default: that of request_ids, else the CPU.
        priors: for any of temperature, top_p, min_p, mix_eps and top_k (rounded): `Uniform`, `LogUniform`,
            `Choice`, or anything with `icdf(u)`, such as a torch.distributions.Distribution. Its ends
            (u = 2^-65 and 1 - 2^-53) must lie in the parameter's range.

    Uniform and Choice give the same bits on every device; what needs a logarithm may differ in the last bit
    of a float32 between devices: replay the logged values where that counts.
    """

    def __init__(self, *, seed, rows=1, request_ids=None, period=1, device=None, **priors):
        op = self._op = "Jitter"
        if not priors:
            raise ValueError(f"{op}: give at least one prior, e.g. temperature=Uniform(0.7, 1.3)")
        if request_ids is None:
            self.rows = check_rows_number(op, rows)
            request_ids = torch.arange(self.rows, device=device_of((), device))
        elif not isinstance(request_ids, Tensor) or request_ids.dim() != 1:
            raise TypeError(f"{op}: request_ids must be an int64 or uint64 tensor [B]")
        self.rows, self.device = request_ids.numel(), request_ids.device
        if period is not None:
            setting(op, "period", period, self.device, 1.0, integer=True)
        keys_for(op, seed, request_ids)  # its errors now, not in the first step
        self._seed, self._requests, self._period = seed, request_ids, period
        self.priors = dict(sorted(priors.items(), key=lambda item: _column(op, item[0])))
        self.last_step = 0
        self.log: list[Drawn] = []
        for name, prior in self.priors.items():
            self._check_prior(name, prior)

    def at(self, step: int) -> dict[str, Tensor]:
        """{parameter: float32 [B]} at `step` (int64 for top_k). A pure function; nothing is logged."""
        offset = 0 if self._period is None else check_step(self._op, step) // int(self._period)
        return self.from_keys(keys_for(self._op, self._seed, self._requests, step=offset))

    __call__ = at

    def from_keys(self, keys: Tensor) -> dict[str, Tensor]:
        """The same for keys [B, 2] of the caller, e.g. those of the `sample` call."""
        check_keys(self._op, keys, self.rows, self.device)
        noise = control_uniform(keys, [_column(self._op, name) for name in self.priors])
        return {
            name: _rounded(name, prior.icdf(noise[:, column]))
            for column, (name, prior) in enumerate(self.priors.items())
        }

    def get_last_value(self) -> dict[str, Tensor]:
        """The values of `last_step`, and an entry in `log` the first time they are asked for."""
        if not self.log or self.log[-1].step != self.last_step:
            self.log.append(Drawn(self.last_step, self.at(self.last_step)))
        return dict(self.log[-1].values)

    def step(self) -> None:
        """Go on to the next step."""
        self.last_step += 1

    def table(self) -> dict[str, Tensor]:
        """The log as {parameter: [steps, B]}, with "step" int64 [steps], on the CPU."""
        columns = {"step": torch.tensor([entry.step for entry in self.log], dtype=torch.int64)}
        for name in self.priors:
            rows = [entry.values[name] for entry in self.log]
            columns[name] = torch.stack(rows).cpu() if rows else torch.empty(0, self.rows)
        return columns

    def state_dict(self) -> dict:
        """The step alone: everything else follows from it. The log is not in it."""
        return {"last_step": self.last_step}

    def load_state_dict(self, state: dict) -> None:
        check_state(self._op, state, self.state_dict())
        self.last_step = check_step(self._op, state["last_step"])

    def _check_prior(self, name: str, prior) -> None:
        op = self._op
        if not callable(getattr(prior, "icdf", None)):
            raise TypeError(f"{op}: the prior of {name} must have icdf(u), got {type(prior).__name__}")
        if isinstance(prior, Choice):
            values = [float(value) for value in prior.values]
        else:  # an inverse distribution function rises: its ends bound all values
            first, last = [self._end(name, prior, u) for u in (2.0**-65, 1.0 - 2.0**-53)]
            if bool((first > last).any()):
                raise ValueError(f"{op}: the prior of {name} must have low <= high")
            values = [*first.tolist(), *last.tolist()]
        for value in values:
            if not math.isfinite(value):
                raise ValueError(f"{op}: the prior of {name} must stay finite, it reaches {value}")
            check_value(op, name, round(value) if name == "top_k" else value)

    def _end(self, name: str, prior, u: float) -> Tensor:
        """The value of each row at one end of the prior."""
        value = prior.icdf(torch.full((self.rows,), u, dtype=torch.float64, device=self.device))
        if not isinstance(value, Tensor) or value.shape != (self.rows,):
            raise ValueError(f"{self._op}: the prior of {name} must give one value per row ({self.rows})")
        return value


def _column(op: str, name: str) -> int:
    check_choice(op, "a parameter", name, COLUMNS)
    return COLUMNS.index(name)


def _rounded(name: str, value: Tensor) -> Tensor:
    return value.round().to(torch.int64) if name == "top_k" else value.to(torch.float32)
