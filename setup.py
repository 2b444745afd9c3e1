# SPDX-License-Identifier: Apache-2.0
"""Builds fusedraw._C: the engines, the operators (torch's stable ABI) and the pybind11 module.

Needs torch, setuptools and ninja in the environment that builds (`pip install --no-build-isolation .`).
"""

import os

import torch
from setuptools import Extension, setup
from torch.utils.cpp_extension import BuildExtension, include_paths, library_paths

# Listed, not globbed: a stray file never changes a build.
SOURCES = [
    "csrc/reference/reference.cpp",
    "csrc/cpu/scalar.cpp",
    "csrc/cpu/avx2.cpp",
    "csrc/cpu/avx512.cpp",
    "csrc/cpu/neon.cpp",
    "csrc/cpu/scratch.cpp",
    "csrc/ops/checks.cpp",
    "csrc/ops/cpu_ops.cpp",
    "csrc/ops/registry.cpp",
    "csrc/ops/schema.cpp",
    "csrc/bindings/module.cpp",
]

# The law fixes every rounding: no contraction, no fast-math, no -march (target regions instead).
COMPILE_ARGS = [
    "-std=c++17",
    "-O3",
    "-g0",
    # Python's own flags ask for wrapping signed arithmetic, which slows address computation by 8 % here.
    "-fno-wrapv",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fvisibility=hidden",
    "-Wall",
    "-Wextra",
    "-Wno-unused-parameter",  # in torch's headers
    # GCC's AVX-512 intrinsics start from an undefined register by design.
    "-Wno-uninitialized",
    "-Wno-maybe-uninitialized",
    # Lambdas of the passes return vectors; none of them crosses a translation unit.
    "-Wno-psabi",
    # torch 2.13's stable ABI: the binary runs on every newer torch.
    "-DTORCH_TARGET_VERSION=0x020d000000000000",
]


def extension() -> Extension:
    if tuple(int(p) for p in torch.__version__.split("+")[0].split(".")[:2]) < (2, 13):
        raise SystemExit(f"fusedraw needs torch >= 2.13, found {torch.__version__}")
    args = COMPILE_ARGS + os.environ.get("FUSEDRAW_CXXFLAGS", "").split()
    return Extension(
        "fusedraw._C",
        SOURCES,
        # torch's own copy of the pybind11 headers comes with its include paths.
        include_dirs=include_paths("cpu"),
        library_dirs=library_paths("cpu"),
        libraries=["torch_cpu", "torch"],
        extra_compile_args={"cxx": args},
        extra_link_args=os.environ.get("FUSEDRAW_LDFLAGS", "").split(),
        language="c++",
    )


setup(ext_modules=[extension()], cmdclass={"build_ext": BuildExtension})
