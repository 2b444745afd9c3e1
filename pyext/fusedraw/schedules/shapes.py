# SPDX-License-Identifier: Apache-2.0
"""The shapes: constant, linear, cosine, exponential, inverse sigmoid.

Each goes from `start` to `end`; which of the two is larger is free. t is the step.
"""

import math

import torch
from torch import Tensor

from .base import Schedule


class Constant(Schedule):
    """Always `value`."""

    def __init__(self, value, *, parameter=None, device=None):
        super().__init__({"value": value}, {}, parameter, device)

    def exact(self, step: Tensor) -> Tensor:
        return self._settings["value"] + 0.0 * step

    def bounds(self) -> tuple[float, float]:
        return _extent(self._settings["value"])


class _Between(Schedule):
    """`end + (start - end) * share(t)` with a share that falls from 1 (or nearly) towards 0."""

    def __init__(self, start, end, pace: dict, ranges: dict, parameter, device):
        super().__init__({"start": start, "end": end, **pace}, ranges, parameter, device)

    def share(self, step: Tensor) -> Tensor:
        raise NotImplementedError

    def exact(self, step: Tensor) -> Tensor:
        start, end, share = self._settings["start"], self._settings["end"], self.share(step)
        # lerp would leave `start` by a rounding at share = 1.
        return torch.where(share == 1.0, start, end + (start - end) * share)

    def bounds(self) -> tuple[float, float]:
        return _extent(torch.cat([self._settings["start"], self._settings["end"]]))


class Linear(_Between):
    """From `start` to `end` in `steps` equal steps, then `end`: share = 1 - min(t / steps, 1).

    Args:
        steps: whole, >= 1.
    """

    def __init__(self, start, end, steps, *, parameter=None, device=None):
        super().__init__(start, end, {"steps": steps}, _STEPS, parameter, device)

    def share(self, step: Tensor) -> Tensor:
        return 1.0 - (step / self._settings["steps"]).clamp(max=1.0)


class Cosine(_Between):
    """Half a cosine wave from `start` to `end` in `steps` steps, then `end` (Loshchilov and Hutter, SGDR,
    2017): share = (1 + cos(pi * min(t / steps, 1))) / 2.

    Args:
        steps: whole, >= 1.
    """

    def __init__(self, start, end, steps, *, parameter=None, device=None):
        super().__init__(start, end, {"steps": steps}, _STEPS, parameter, device)

    def share(self, step: Tensor) -> Tensor:
        done = (step / self._settings["steps"]).clamp(max=1.0)
        return torch.where(done < 1.0, (1.0 + torch.cos(math.pi * done)) / 2.0, 0.0)


class Exponential(_Between):
    """share = gamma^t: torch's ExponentialLR for `end` = 0, the usual decay of epsilon to a floor for more.

    Args:
        gamma: in (0, 1]. Half of the way is gone after ln 2 / -ln(gamma) steps.
        end: what is approached, never reached.
    """

    def __init__(self, start, gamma, end=0.0, *, parameter=None, device=None):
        super().__init__(
            start, end, {"gamma": gamma}, {"gamma": {"above": 0.0, "high": 1.0}}, parameter, device
        )

    def share(self, step: Tensor) -> Tensor:
        return self._settings["gamma"] ** step


class InverseSigmoid(_Between):
    """share = k / (k + exp(t / k)), from scheduled sampling (Bengio et al., NeurIPS 2015).

    Flat, then a fall around t = k * ln k, then flat. At t = 0 the share is k / (k + 1), not 1.

    Args:
        k: >= 1: larger is later and slower.
    """

    def __init__(self, start, end, k, *, parameter=None, device=None):
        super().__init__(start, end, {"k": k}, {"k": {"low": 1.0}}, parameter, device)

    def share(self, step: Tensor) -> Tensor:
        k = self._settings["k"]
        return torch.sigmoid(k.log() - step / k)  # the same number, without an exp that overflows


_STEPS = {"steps": {"low": 1.0, "integer": True}}


def _extent(values: Tensor) -> tuple[float, float]:
    return float(values.min()), float(values.max())
