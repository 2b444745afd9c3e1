# SPDX-License-Identifier: Apache-2.0
"""Calls the CUDA engine's launchers on the CPU: on the executor, which counts bytes, or only to learn what
they would launch and with which parameters (cuda_launches.cpp)."""

from __future__ import annotations

import ctypes
import functools
import json
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "tests"))
import simt_build  # noqa: E402

SOURCE = HERE / "cuda_launches.cpp"
DTYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
ALIGNMENT = 256
COLUMNS = ("temperature", "top_p", "min_p", "mix_eps", "top_k")
OFF = {"temperature": 1.0, "top_p": 1.0, "min_p": 0.0, "mix_eps": 0.0, "top_k": 0}
BY_PRODUCTS = ("logp", "entropy")


class Arguments(ctypes.Structure):
    _fields_ = (
        ("logits", ctypes.c_void_p),
        *((name, ctypes.c_int64) for name in ("dtype", "rows", "cols", "row_stride")),
        ("params", ctypes.c_double * len(COLUMNS)),
        ("keys", ctypes.c_void_p),
        ("order", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("ids", "logp", "entropy", "workspace")),
    )


@functools.cache
def library():
    """The launchers, built when they have changed."""
    path = simt_build.build("cuda-launches", (SOURCE,), flags=("-O2", "-Wno-unused-parameter"), shared=True)
    loaded = ctypes.CDLL(str(path))
    loaded.fusedraw_sample.restype = ctypes.c_char_p
    loaded.fusedraw_sample.argtypes = [ctypes.POINTER(Arguments), ctypes.c_int64, ctypes.c_int]
    loaded.fusedraw_sample_workspace.restype = ctypes.c_int64
    return loaded


def aligned(size: int, dtype: torch.dtype) -> torch.Tensor:
    """`size` elements in new memory that begins at a multiple of ALIGNMENT."""
    item = torch.empty((), dtype=dtype).element_size()
    room = torch.zeros(size * item + ALIGNMENT, dtype=torch.uint8)
    start = -room.data_ptr() % ALIGNMENT
    return room[start : start + size * item].view(dtype)


@dataclass
class Call:
    """A call of `sample`: its buffers, and what was launched (a dict per launch, in order)."""

    buffers: dict[str, torch.Tensor]
    arguments: Arguments
    launches: list[dict]

    @property
    def ids(self) -> torch.Tensor:
        return self.buffers["ids"]


def sample(
    logits: torch.Tensor,
    keys: torch.Tensor,
    settings: dict,
    record: bool = False,
    as_rows: int | None = None,
) -> Call:
    """Runs, or with `record` only prepares, `fusedraw.sample(logits, keys=keys, **settings)`.

    as_rows: the call is that of a batch of so many rows, of which only the first len(logits) exist and run.
    It must be one that gives each row one thread block.
    """
    returns = settings.get("returns", ())
    unknown = set(settings) - set(COLUMNS) - {"returns"} | set(returns) - set(BY_PRODUCTS)
    if unknown:
        raise ValueError(f"cuda_launches: not prepared for {', '.join(sorted(unknown))}")
    rows, cols = logits.shape
    x = aligned(logits.numel(), logits.dtype).view(rows, cols)
    x.copy_(logits)
    buffers = {
        "logits": x,
        "keys": aligned(keys.numel(), torch.int64).view_as(keys).copy_(keys),
        "ids": aligned(rows, torch.int64),
        **{name: aligned(rows, torch.float32) for name in returns},
    }
    a = Arguments(dtype=DTYPES[x.dtype], rows=as_rows or rows, cols=cols, row_stride=cols)
    a.params[:] = [float(settings.get(name, OFF[name])) for name in COLUMNS]
    for name, tensor in buffers.items():
        setattr(a, name, tensor.data_ptr())
    lib = library()
    size = lib.fusedraw_sample_workspace(ctypes.byref(a))
    if size > 0:
        buffers["workspace"] = aligned(size, torch.uint8)
        a.workspace = buffers["workspace"].data_ptr()
    said = json.loads(lib.fusedraw_sample(ctypes.byref(a), rows if as_rows else 0, record).decode())
    if "error" in said:
        raise RuntimeError(f"cuda_launches: {said['error']}")
    return Call(buffers, a, said["launches"])
