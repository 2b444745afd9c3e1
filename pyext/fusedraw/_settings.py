# SPDX-License-Identifier: Apache-2.0
"""Settings of schedules and controllers: numbers or tensors with one entry per row, checked once.

They are kept in float64 and every value that leaves is rounded to float32 once, as the law rounds its
parameters. Reading a tensor's data here waits for its device; it happens when an object is made, never in a
step.
"""

import math
import numbers

import torch
from torch import Tensor

from ._checks import check_device

INF = math.inf


def device_of(settings, device=None) -> torch.device:
    """The device of the first tensor among `settings`, else `device`, else the CPU."""
    for value in settings:
        if isinstance(value, Tensor):
            return value.device
    return torch.device("cpu" if device is None else device)


def setting(
    op: str,
    name: str,
    value,
    device: torch.device,
    low: float = -INF,
    high: float = INF,
    *,
    above: float | None = None,
    integer: bool = False,
) -> Tensor:
    """float64 [1] or [n] on `device` from a number or a 0-D or 1-D tensor.

    Args:
        low, high: inclusive range. NaN and infinities never pass.
        above: an exclusive lower bound, instead of `low`.
        integer: whether the values must be whole.

    Raises: TypeError for what is no number, ValueError with the name, the value and the range.
    """
    if isinstance(value, Tensor):
        if value.dtype is torch.bool or value.is_complex():
            raise TypeError(f"{op}: {name} must be real numbers, got a {value.dtype} tensor")
        if value.dim() > 1 or value.numel() == 0:
            raise ValueError(f"{op}: {name} must be 0-D or 1-D, got shape {list(value.shape)}")
        check_device(op, name, value, device)
        tensor = value.detach().reshape(-1).to(torch.float64).clone()
        found = tensor.tolist()
    else:
        if isinstance(value, bool) or not isinstance(value, numbers.Real):
            raise TypeError(f"{op}: {name} must be a number or a tensor, got {type(value).__name__}")
        found = [float(value)]
        tensor = torch.full((1,), found[0], dtype=torch.float64, device=device)
    for number in found:
        if not math.isfinite(number):
            raise ValueError(f"{op}: {name} must be finite, got {number}")
        if integer and number != int(number):
            raise ValueError(f"{op}: {name} must be whole, got {number}")
        if above is not None and not number > above:
            raise ValueError(f"{op}: {name} must be > {above:g}, got {number:g}")
        if not low <= number <= high:
            raise ValueError(f"{op}: {name} must be {_range(low, high)}, got {number:g}")
    return tensor


def common_length(op: str, settings: dict[str, Tensor]) -> int:
    """The one length > 1 among the settings, or 1."""
    rows = 1
    for name, value in settings.items():
        length = value.numel()
        if length != 1 and rows not in (1, length):
            raise ValueError(f"{op}: {name} must have length 1 or {rows} like the rest, got {length}")
        rows = max(rows, length)
    return rows


def check_rows_number(op: str, rows) -> int:
    if isinstance(rows, bool) or not isinstance(rows, numbers.Integral):
        raise TypeError(f"{op}: rows must be an int, got {type(rows).__name__}")
    if rows < 1:
        raise ValueError(f"{op}: rows must be >= 1, got {rows}")
    return int(rows)


def step_tensor(op: str, step, device: torch.device) -> Tensor:
    """float64 [1] or [B] from an int >= 0 or an integer tensor: exact up to 2^53. A tensor is not read."""
    if isinstance(step, Tensor):
        if step.dtype.is_floating_point or step.is_complex() or step.dtype is torch.bool:
            raise TypeError(f"{op}: step must be an int or an integer tensor, got a {step.dtype} tensor")
        if step.dim() > 1:
            raise ValueError(f"{op}: step must be 0-D or 1-D, got shape {list(step.shape)}")
        check_device(op, "step", step, device)
        return step.reshape(-1).to(torch.float64)
    return torch.full((1,), check_step(op, step), dtype=torch.float64, device=device)


def check_step(op: str, step) -> int:
    if isinstance(step, bool) or not isinstance(step, numbers.Integral):
        raise TypeError(f"{op}: step must be an int or an integer tensor, got {type(step).__name__}")
    if step < 0:
        raise ValueError(f"{op}: step must be >= 0, got {step}")
    return int(step)


def check_state(op: str, state, expected) -> None:
    """`state` is a dict with exactly the keys of `expected`."""
    if not isinstance(state, dict):
        raise TypeError(f"{op}: a state must be a dict, got {type(state).__name__}")
    if set(state) != set(expected):
        raise ValueError(f"{op}: a state must have the keys {sorted(expected)}, got {sorted(state)}")


def load_tensor(op: str, name: str, value, like: Tensor) -> Tensor:
    """A copy of `value` with the dtype and device of `like`, whose shape it must have."""
    value = torch.as_tensor(value)
    if value.shape != like.shape:
        raise ValueError(
            f"{op}: {name} of the state must have shape {list(like.shape)}, got {list(value.shape)}"
        )
    return value.detach().to(device=like.device, dtype=like.dtype, copy=True)


def _range(low: float, high: float) -> str:
    if high == INF:
        return f">= {low:g}"
    return f"<= {high:g}" if low == -INF else f"in [{low:g}, {high:g}]"
