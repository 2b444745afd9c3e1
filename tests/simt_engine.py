# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels as an engine of the tests: torch.ops.fusedraw_simt, the operators of csrc/ops/cuda_ops.cpp
on CPU tensors, whose launches the SIMT executor runs with every buffer's bounds declared.

`with engine(EXECUTOR)` (engines.py) calls it; recorded() says what was launched and what it did to memory.

The environment of a process may ask for another library: FUSEDRAW_SIMT_FLAVOUR, one of simt_build's, and
FUSEDRAW_SIMT_KERNELS, a folder to take instead of csrc/cuda (then for float32 alone).
"""

import ctypes
import functools
import json
import os
import re
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import engines
import torch
from simt_build import CSRC, ROOT, build
from torch.utils.cpp_extension import include_paths, library_paths

HERE = Path(__file__).resolve().parent / "simt"
# Beyond simt_build's: what of setup.py's COMPILE_ARGS is not about warnings or the size of the binary.
FLAGS = ("-O2", "-fno-math-errno")
OPS_FLAGS = (
    *("-DFUSEDRAW_SIMT", "-DTORCH_TARGET_VERSION=0x020d000000000000"),
    *("-Wno-unused-parameter", "-Wno-psabi"),  # in torch's headers
    *(f"-isystem{path}" for path in include_paths("cpu")),
)
OPS_SOURCES = (
    *("calls.cpp", "checks.cpp", "route_call.cpp", "softmax_double.cpp"),
    *("token_logprob.cpp", "token_logprob_double.cpp", "verify_call.cpp"),
)
FLOAT32_KERNELS = ("common.cu", "float32.cu", "processed_float32.cu", "route.cu", "verify.cu")
OPS = (
    *(CSRC / "ops" / name for name in OPS_SOURCES),
    HERE / "operators.cpp",
)


def library_path():
    """Built unless it is there."""
    kernels = sorted((CSRC / "cuda").glob("*.cu"))
    if other := os.environ.get("FUSEDRAW_SIMT_KERNELS"):
        kernels = [
            *(Path(other) / name for name in FLOAT32_KERNELS),
            HERE / "only_float32.cpp",
        ]
    sources = (*kernels, *((path, *OPS_FLAGS) for path in OPS))
    link = (*(f"-L{path}" for path in library_paths("cpu")), "-ltorch_cpu")
    flavour = os.environ.get("FUSEDRAW_SIMT_FLAVOUR", "plain")
    return build("operators", sources, flavour, FLAGS, shared=True, link=link)


@functools.lru_cache
def library():
    """The library, loaded, for ctypes; torch has its operators."""
    path = library_path()
    torch.ops.load_library(str(path))
    loaded = ctypes.CDLL(str(path))
    loaded.simt_set_options.argtypes = [ctypes.c_uint64, ctypes.c_int, ctypes.c_int]
    loaded.simt_records.restype = ctypes.c_char_p
    loaded.simt_set_options(0, True, False)
    engines.forcing.append(force_noise)
    return loaded


def operators():
    library()
    return torch.ops.fusedraw_simt


def force_noise(values):
    """As fusedraw._C's: (purpose, id, r64), ...; r64 as a signed integer for torch."""
    words = [word for purpose, i, r64 in values for word in (purpose, i, r64 - (r64 >> 63 << 64))]
    torch.ops.fusedraw_simt.force_noise(words)


@contextmanager
def schedule(seed):
    """0, the default: blocks, warps, lanes in ascending order; 1: descending; others seed random ones."""
    library().simt_set_options(seed, True, False)
    try:
        yield
    finally:
        library().simt_set_options(0, True, False)


@dataclass(frozen=True)
class Launch:
    kernel: str  # as the executor names it: "fusedraw::cuda::sample_kernel<float, false>"
    blocks: int
    threads: int
    read: int  # bytes of global memory
    written: int
    loads16: int  # 16-byte loads, one per lane
    requests: int  # of warps to global memory, and to shared memory
    sectors: int  # of 32 bytes
    shared_requests: int
    conflicts: int  # cycles that bank conflicts cost
    collisions: int  # of shared atomics

    @property
    def name(self):
        """The kernel without namespaces and template arguments."""
        return re.match(r"(?:void )?(?:\w+::)*(\w+)", self.kernel)[1]


@contextmanager
def recorded(requests=False):
    """A list that holds the launches once the block ends; requests: with sectors and conflicts."""
    launches = []
    library().simt_set_options(0, True, requests)
    library().simt_reset_records()
    try:
        yield launches
    finally:
        launches += [Launch(**record) for record in json.loads(library().simt_records())]
        library().simt_set_options(0, True, False)


def run_tests(file, chosen, **environment):
    """Tests of the executor, by pytest's -k, in a process of their own, which may use another library."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "not slow", "-k", chosen]
    return subprocess.run(
        [*command, f"tests/{file}"],
        cwd=ROOT,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
