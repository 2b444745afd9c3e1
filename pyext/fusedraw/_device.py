# SPDX-License-Identifier: Apache-2.0
"""Where the kernels run: on the CPU, and on CUDA devices in a build with CUDA code (CUDA_ARCHS). Rows on
any other device are drawn by the CPU kernels and sent back.

The law is the same on every device, so the detour costs time (two copies and a sync) and changes no bit.
"""

import sys
import warnings

import torch
from torch import Tensor

from . import _C

CUDA_ARCHS = tuple(_C.build_info()["cuda_archs"].replace(",", " ").split())
HAS_CUDA = bool(CUDA_ARCHS)
KERNEL_DEVICES = {"cpu", "meta", *(("cuda",) if HAS_CUDA else ())}

_warned = False


def kernel_device(device: torch.device) -> torch.device:
    """The device whose kernels serve `device`: itself, or the CPU (which warns once per process)."""
    if device.type in KERNEL_DEVICES:
        return device
    if not torch.compiler.is_compiling():
        _warn_once(device)
    return torch.device("cpu")


def is_plain(x) -> bool:
    """Whether `x` is a tensor as such (no subclass, no fake) on a device with kernels of ours."""
    return x.__class__ is Tensor and (x.is_cpu or (HAS_CUDA and x.is_cuda))


def move(device: torch.device, *values):
    """The tensors among `values` on `device`, everything else as it is."""
    return [value.to(device) if isinstance(value, Tensor) else value for value in values]


def _warn_once(device: torch.device) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"fusedraw has no kernels for {device.type} in this build: rows are copied to the CPU, drawn "
            f"there and sent back (same tokens, slower). See `python -m fusedraw info`.",
            UserWarning,
            stacklevel=_callers_level(),
        )


def _callers_level() -> int:
    """The stack level of the first caller outside the package, as warnings.warn counts in _warn_once."""
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__package__") == __package__:
        level, frame = level + 1, frame.f_back
    return level
