# SPDX-License-Identifier: Apache-2.0
"""Builds fusedraw._C: the engines, the operators (torch's stable ABI) and the pybind11 module.

Needs torch, setuptools and ninja in the environment that builds (`pip install --no-build-isolation .`). CUDA
kernels are built where nvcc is found; build_cuda.py says what FUSEDRAW_CUDA and TORCH_CUDA_ARCH_LIST do.
"""

import os
import sys
from pathlib import Path

import torch
from setuptools import Extension, setup
from torch.utils.cpp_extension import BuildExtension, include_paths, library_paths

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT))  # a build frontend does not

import build_cuda  # noqa: E402
from build_sdist import Sdist  # noqa: E402

# Listed, not globbed: a stray file never changes a build.
SOURCES = [
    "csrc/reference/mixture.cpp",
    "csrc/reference/reference.cpp",
    "csrc/reference/token_logprob.cpp",
    "csrc/reference/route.cpp",
    "csrc/reference/verify.cpp",
    "csrc/cpu/scalar.cpp",
    "csrc/cpu/avx2.cpp",
    "csrc/cpu/avx512.cpp",
    "csrc/cpu/neon.cpp",
    "csrc/cpu/scratch.cpp",
    "csrc/ops/calls.cpp",
    "csrc/ops/checks.cpp",
    "csrc/ops/cpu_ops.cpp",
    "csrc/ops/registry.cpp",
    "csrc/ops/route_call.cpp",
    "csrc/ops/schema.cpp",
    "csrc/ops/softmax_double.cpp",
    "csrc/ops/token_logprob.cpp",
    "csrc/ops/token_logprob_double.cpp",
    "csrc/ops/verify_call.cpp",
    "csrc/bindings/module.cpp",
]
# With CUDA, these too: by the host compiler, and by nvcc.
CUDA_HOST_SOURCES = ["csrc/ops/cuda_ops.cpp"]
CUDA_SOURCES = [
    "csrc/cuda/common.cu",
    "csrc/cuda/float32.cu",
    "csrc/cuda/bfloat16.cu",
    "csrc/cuda/float16.cu",
    "csrc/cuda/processed_float32.cu",
    "csrc/cuda/processed_bfloat16.cu",
    "csrc/cuda/processed_float16.cu",
    "csrc/cuda/route.cu",
    "csrc/cuda/verify.cu",
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
]
# torch's stable ABI: a binary for one version runs on every newer one. What is released is built for
# TARGET_TORCH; in place it also builds with older ones, for machines that have no other (docs/cuda.md).
OLDEST_TORCH, TARGET_TORCH = (2, 11), (2, 13)
NVCC_ARGS = [
    "-std=c++17",
    "-O3",
    "-fmad=false",
    "-Xcompiler=-fPIC,-fvisibility=hidden,-ffp-contract=off,-fno-math-errno,-Wall,-Wno-psabi",
]


class Build(BuildExtension):
    """With the objects of nvcc, kept in build/cuda, which outlives the temporary folders of pip."""

    def build_extension(self, ext):
        self.force = True  # ninja knows what is out of date, by headers and by flags
        if ext.toolkit is not None:
            csrc = ROOT / "csrc"
            headers = [*csrc.glob("core/*.h"), *csrc.glob("cuda/*.h"), *csrc.glob("cuda/*.cuh")]
            flags = [*NVCC_ARGS, *build_cuda.arch_flags(ext.archs)]
            objects = build_cuda.compile_objects(
                ext.toolkit, CUDA_SOURCES, flags, headers, ROOT / "build" / "cuda", os.environ
            )
            # The runtime goes in whole and hidden: the result needs no CUDA library and no driver to load.
            ext.extra_objects = [*objects, ext.toolkit.cudart]
            ext.libraries = [*ext.libraries, "rt", "dl", "pthread"]
            ext.extra_link_args = [*ext.extra_link_args, "-Wl,--exclude-libs,libcudart_static.a"]
        super().build_extension(ext)


def extension() -> Extension:
    found = tuple(int(p) for p in torch.__version__.split("+")[0].split(".")[:2])
    if found < OLDEST_TORCH:
        raise SystemExit(f"fusedraw needs torch >= 2.13 (2.11 in place), found {torch.__version__}")
    # Names in messages (__FILE__) without this machine's folders: the same binary wherever it is built.
    places = {ROOT: "fusedraw", Path(torch.__file__).parent: "torch"}
    args = [*COMPILE_ARGS, *(f"-ffile-prefix-map={place}={name}" for place, name in places.items())]
    if found >= TARGET_TORCH:
        args.append(f"-DTORCH_TARGET_VERSION={TARGET_TORCH[0] << 56 | TARGET_TORCH[1] << 48:#018x}")
    libraries = ["torch_cpu", "torch"]
    sources, archs = [*SOURCES], []
    try:
        toolkit = build_cuda.toolkit(os.environ)
        if toolkit is not None:
            archs = build_cuda.choose_archs(os.environ.get("TORCH_CUDA_ARCH_LIST", ""), toolkit.archs)
    except build_cuda.CudaError as error:
        raise SystemExit(f"fusedraw: {error}") from None
    if toolkit is not None:
        sources += CUDA_HOST_SOURCES
        args += [
            f'-DFUSEDRAW_CUDA_ARCHS="{",".join(archs)}"',
            f'-DFUSEDRAW_NVCC_VERSION="{toolkit.version}"',
        ]
        if found < TARGET_TORCH:
            libraries.append("torch_cuda")  # of a torch that has CUDA
    ext = Extension(
        "fusedraw._C",
        sources,
        # torch's own copy of the pybind11 headers comes with its include paths.
        include_dirs=include_paths("cpu"),
        library_dirs=library_paths("cpu"),
        libraries=libraries,
        extra_compile_args={"cxx": args + os.environ.get("FUSEDRAW_CXXFLAGS", "").split()},
        extra_link_args=os.environ.get("FUSEDRAW_LDFLAGS", "").split(),
        language="c++",
    )
    ext.toolkit, ext.archs = toolkit, archs
    return ext


setup(ext_modules=[extension()], cmdclass={"build_ext": Build, "sdist": Sdist})
