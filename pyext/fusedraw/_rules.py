# SPDX-License-Identifier: Apache-2.0
"""Rules and penalties beyond the five parameters of a call: checking and packing, as in `_params`.

None is "off" for each of them. The op takes one float64 tensor [1 or B, 9] with the columns of RULES and
rounds every column to float32 first.
"""

import functools
import math
import numbers
from typing import NamedTuple

import torch
from torch import Tensor

from ._checks import as_float, check_tensor, dtype_name, listing
from ._params import NUMBER_DTYPES, ROUNDS_TO_ONE, ROUNDS_TO_ZERO, HasTensor

MODE_TEMPERATURE_LAST = 1 << 9


class Range(NamedTuple):
    """Bounds, inclusive, of the float64 numbers that round to an allowed float32."""

    neutral: float
    low: float
    high: float
    text: str


_ABOVE_ZERO = math.nextafter(2.0**-150, 1.0)  # a tie goes to 0
_FINITE_END = math.nextafter(2.0**128 - 2.0**103, 0.0)  # a tie goes to infinity
_UNIT = Range(0.0, -ROUNDS_TO_ZERO, ROUNDS_TO_ONE, "in [0, 1]")
_FINITE = Range(0.0, -_FINITE_END, _FINITE_END, "finite")
RULES = {
    "top_n_sigma": Range(0.0, -ROUNDS_TO_ZERO, math.inf, ">= 0"),
    "typical_p": _UNIT._replace(neutral=1.0),
    "epsilon_cutoff": _UNIT,
    "eta_cutoff": _UNIT,
    "xtc_threshold": _UNIT._replace(neutral=0.1),
    "xtc_probability": _UNIT,
    "repetition_penalty": Range(1.0, _ABOVE_ZERO, _FINITE_END, "> 0 and finite"),
    "frequency_penalty": _FINITE,
    "presence_penalty": _FINITE,
}
NAMES = tuple(RULES)
OFF = (None,) * len(NAMES)


def check_rules(op: str, values) -> tuple:
    """The rules in the order of NAMES, numbers checked and converted, tensors as they are."""
    if values[4] is not None and values[5] is None:
        raise ValueError(f"{op}: xtc_threshold needs xtc_probability")
    return tuple([_check_rule(op, name, value) for name, value in zip(NAMES, values, strict=True)])


def _check_rule(op, name, value):
    limits = RULES[name]
    if value is None:
        return limits.neutral
    if isinstance(value, Tensor):
        if value.dtype not in NUMBER_DTYPES:
            allowed = listing(dtype_name(dtype) for dtype in NUMBER_DTYPES)
            raise TypeError(f"{op}: {name} tensor must be {allowed}, got {dtype_name(value.dtype)}")
        check_tensor(op, name, value)
        return value
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{op}: {name} must be a number or a tensor, got {type(value).__name__}")
    number = as_float(value)
    if not limits.low <= number <= limits.high:  # NaN fails too
        raise ValueError(f"{op}: {name} must be {limits.text}, got {value}")
    return number


@functools.lru_cache(maxsize=1024, typed=True)
def _cached(op, *values):
    for value in values:
        if isinstance(value, Tensor):
            raise HasTensor
    checked = check_rules(op, values)
    with torch.inference_mode(False):
        packed = torch.tensor([checked], dtype=torch.float64, device="cpu")
    if type(packed) is not Tensor:  # fakes are being made: not to be remembered
        raise HasTensor
    return packed


def packed_numbers(op: str, values):
    """float64 [1, 9] on the CPU if all rules are numbers, remembered; else None."""
    if torch.compiler.is_compiling():
        return None
    try:
        return _cached(op, *values)
    except (HasTensor, TypeError):
        return None


def is_neutral(name: str, value) -> bool:
    """Whether a rule is off for sure: a tensor may be anything."""
    return value is None or (isinstance(value, numbers.Real) and value == RULES[name].neutral)
