# SPDX-License-Identifier: Apache-2.0
"""Builds the programs of this folder: core, engines and R2 without torch, under sanitizers or not.

A flavour is "asan" (AddressSanitizer and UndefinedBehaviorSanitizer, working memory of exact sizes), "tsan",
"plain" (as released) or "fuzzer" (libFuzzer, by clang). Objects are kept under build/simt by the hash of what
they are made of.
"""

import functools
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import simt_build  # noqa: E402

CSRC = simt_build.CSRC
CORPUS = HERE / "corpus"
# setup.py's, as far as they are about the code.
COMMON = ["-std=c++17", "-g1", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra", "-Wno-psabi"]
GCC = ["-Wno-uninitialized", "-Wno-maybe-uninitialized"]  # in GCC's AVX-512 intrinsics
BOTH = "address,undefined"
CHECKED = ["-O1", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer", "-DFUSEDRAW_EXACT_SCRATCH"]
# Flags of the compiler, and of the linker.
FLAVOURS = {
    "asan": ([*GCC, *CHECKED, f"-fsanitize={BOTH}"], [f"-fsanitize={BOTH}"]),
    "tsan": ([*GCC, "-O1", "-fsanitize=thread"], ["-fsanitize=thread"]),
    "plain": ([*GCC, "-O3"], []),
    "fuzzer": (["-w", *CHECKED, f"-fsanitize=fuzzer-no-link,{BOTH}"], [f"-fsanitize=fuzzer,{BOTH}"]),
}
CASES = ("inputs.cpp", "memory.cpp", "cases.cpp", "draws.cpp", "whole_rows.cpp")
PROGRAMS = {
    "drive": ("fuzz_target.cpp", "drive.cpp"),
    "fuzz": ("fuzz_target.cpp",),
    "guard": ("guard.cpp",),
    "threads": ("threads.cpp",),
}


def clang():
    """A clang++ that has libFuzzer, or None."""
    for name in ("clang++", *(f"clang++-{version}" for version in range(21, 13, -1))):
        if (path := shutil.which(name)) is None:
            continue
        archive = subprocess.run([path, "-print-runtime-dir"], capture_output=True, text=True).stdout.strip()
        if any(Path(archive).glob("libclang_rt.fuzzer*.a")):
            return path
    return None


def missing():
    """One line about what has to be there, or None."""
    if simt_build.COMPILER is None:
        return "no g++"
    if not CSRC.is_dir():
        return f"no sources beside the tests: {CSRC}"
    return None


@functools.lru_cache
def build(program, flavour, changed=None):
    """The path of a program, built if need be; `changed` takes the place of the engine of its name."""
    compiler = clang() if flavour == "fuzzer" else simt_build.COMPILER
    flags, link = FLAVOURS[flavour]
    engines = sorted([*CSRC.glob("reference/*.cpp"), *CSRC.glob("cpu/*.cpp")])
    if changed is not None:
        engines = [changed if path.name == changed.name else path for path in engines]
    sources = [*engines, *(HERE / name for name in (*CASES, *PROGRAMS[program]))]
    command = [compiler, *COMMON, *flags]
    simt_build.KEPT.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(simt_build.MAX_JOBS) as pool:
        objects = list(pool.map(lambda source: simt_build.make_object(source, command), sources))
    of = simt_build.digest([], [compiler, *link, *map(str, objects)])
    target = simt_build.KEPT / f"native-{program}-{flavour}-{of}"
    return simt_build.make(target, [compiler, *link, "-pthread", *objects])
