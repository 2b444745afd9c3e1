# SPDX-License-Identifier: Apache-2.0
"""The operators on a device, for the tests that are written for the executor.

Stands in for the module simt_engine (run.py sees to that): `with engine(EXECUTOR)` then gives the tensors of
a test to torch.ops.fusedraw on the device, in the layout that they have on the CPU, and the results back. On
a device "cpu" the tensors are copied and the CPU engine answers: so the tests' own code runs everywhere.
"""

import functools
import os
from contextlib import nullcontext

import fusedraw  # noqa: F401  (registers the operators)
import torch
from torch.utils._pytree import tree_map

DEVICE = torch.device(os.environ.get("FUSEDRAW_TEST_DEVICE", "cuda"))
ON_CPU = DEVICE.type == "cpu"
NAMES = (
    "sample",
    "sample_processed",
    "row_keys",
    "derive_keys",
    "softmax",
    "filter",
    "multinomial",
    "verify",
    "mixture",
    "route",
    "token_logprob",
    "token_logprob_backward",
)
PARAMETERS = {
    "sample": 1,
    "sample_processed": 2,
    "softmax": 1,
    "filter": 1,
}  # which argument is one row for all, or one for each


def missing():
    """Why the tests cannot run here, in one line, or None."""
    if ON_CPU:
        return None
    if DEVICE.type != "cuda":
        return f"FUSEDRAW_TEST_DEVICE must be cuda, cuda:1, ... or cpu, got {DEVICE}"
    if not torch.cuda.is_available():
        return f"no CUDA device (torch {torch.__version__})"
    if (DEVICE.index or 0) >= torch.cuda.device_count():
        return f"there is no {DEVICE}"
    from fusedraw._device import HAS_CUDA

    return None if HAS_CUDA else "this build of fusedraw has no CUDA code: build it where nvcc is found"


def move(tensor):
    """A copy on the device with the same strides and offset, whatever lies between its elements."""
    if tensor.numel() == 0:
        return tensor.to(DEVICE)
    span = 1 + sum((n - 1) * stride for n, stride in zip(tensor.shape, tensor.stride(), strict=True))
    # From the offset modulo 64 on, so that addresses keep their alignment within a cache line.
    lead = min(tensor.storage_offset(), tensor.storage_offset() % 64)
    flat = torch.as_strided(tensor.detach(), (lead + span,), (1,), tensor.storage_offset() - lead)
    there = flat.clone() if ON_CPU else flat.to(DEVICE)
    return torch.as_strided(there, tensor.shape, tensor.stride(), lead)


class Operator:
    def __init__(self, name):
        self.name, self.operator, self.calls = name, getattr(torch.ops.fusedraw, name).default, 0

    @property
    def default(self):
        return self

    def __call__(self, *arguments):
        self.calls += 1
        there = list(tree_map(lambda a: move(a) if isinstance(a, torch.Tensor) else a, arguments))
        at = PARAMETERS.get(self.name)
        # One row of parameters may lie on either side: every other call leaves it on the CPU.
        if at is not None and arguments[at].shape[0] == 1 and self.calls % 2:
            there[at] = arguments[at]
        out = self.operator(*there)
        return tree_map(lambda v: v.cpu() if isinstance(v, torch.Tensor) else v, out)


class Operators:
    def __init__(self):
        for name in NAMES:
            setattr(self, name, Operator(name))


# What test files ask simt_engine for.


@functools.cache
def library():
    torch.ops.fusedraw_simt = Operators()
    return torch.ops.fusedraw_simt


def operators():
    return library()


def schedule(seed):
    """A device has its own."""
    return nullcontext()


def recorded(requests=False):
    """Only the executor counts."""
    raise NotImplementedError("launches of a device are not recorded")
