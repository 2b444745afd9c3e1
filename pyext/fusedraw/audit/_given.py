# SPDX-License-Identifier: Apache-2.0
"""What callers bring, checked: lists, NumPy arrays and tensors as float64 arrays, numbers in their range."""

import math
import numbers

import numpy
from torch import Tensor


def array(op: str, name: str, values, shape: str, dims: int | None = None) -> numpy.ndarray:
    """float64, finite and not empty; `shape` is how the message names what is wanted, e.g. "[n]"."""
    out = _as_array(op, name, values)
    if out.size == 0 or (out.ndim == 0 if dims is None else out.ndim != dims):
        raise ValueError(f"{op}: {name} must be {shape} and not empty, got shape {list(out.shape)}")
    if not numpy.isfinite(out).all():
        bad = int((~numpy.isfinite(out)).sum())
        raise ValueError(f"{op}: {name} must be finite, got {bad} NaN or infinite")
    return out


def nonnegative(op: str, name: str, values) -> numpy.ndarray:
    """float64 of any shape, >= 0; inf is allowed."""
    out = _as_array(op, name, values)
    if not (out >= 0).all():  # NaN too
        raise ValueError(f"{op}: {name} must be >= 0 and not NaN, got {out[~(out >= 0)].flat[0]}")
    return out


def number(op: str, name: str, value, least=-math.inf, above=-math.inf) -> float:
    """A finite number, >= least and > above."""
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{op}: {name} must be a number, got {type(value).__name__}")
    if not math.isfinite(value) or value < least or value <= above:
        limit = f" > {above:g}" if above > -math.inf else f" >= {least:g}" if least > -math.inf else ""
        raise ValueError(f"{op}: {name} must be finite{' and' if limit else ''}{limit}, got {value}")
    return float(value)


def integer(op: str, name: str, value, least: int) -> int:
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{op}: {name} must be an int, got {type(value).__name__}")
    if value < least:
        raise ValueError(f"{op}: {name} must be >= {least}, got {value}")
    return int(value)


def _as_array(op: str, name: str, values) -> numpy.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.double().numpy() if values.is_floating_point() else values.numpy()  # bfloat16
    try:
        out = numpy.asarray(values)
    except ValueError:  # rows of different lengths
        raise TypeError(f"{op}: {name} must hold numbers in equal rows") from None
    if out.dtype.kind not in "fiub":
        raise TypeError(f"{op}: {name} must hold numbers in equal rows, got {type(values).__name__}")
    return out.astype(numpy.float64)
