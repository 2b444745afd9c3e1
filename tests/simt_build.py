# SPDX-License-Identifier: Apache-2.0
"""Builds programs that run CUDA kernels on the SIMT executor: g++ alone, objects kept under build/simt by the
hash of what they are made of. A flavour is "plain", "asan", "tsan" or "coverage"."""

import functools
import hashlib
import os
import shutil
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CSRC, KEPT = ROOT / "csrc", ROOT / "build" / "simt"
COMMON = ["-std=c++17", "-O1", "-g", "-fPIC", "-ffp-contract=off", "-Wall", "-Wextra", "-Wno-unknown-pragmas"]
ASAN = ["-fsanitize=address", "-fno-omit-frame-pointer"]
# Flags of the executor, of kernels and what launches them, and of the linker. Under ThreadSanitizer the
# executor is not instrumented: what orders the kernels' threads is what it says, not how it is made.
FLAVOURS = {
    "plain": ([], [], []),
    "asan": (ASAN, ASAN, ["-fsanitize=address"]),
    "tsan": (["-DFD_SIMT_TSAN=1"], ["-fsanitize=thread"], ["-fsanitize=thread"]),
    "coverage": ([], ["--coverage"], ["--coverage"]),
}
MAX_JOBS = 2
MAX_AGE_S = 7 * 86400  # of what nobody used
COMPILER = shutil.which("g++")
VERSION = subprocess.run([COMPILER, "--version"], capture_output=True, text=True).stdout if COMPILER else ""


def digest(paths, words):
    h = hashlib.sha256("\0".join(words).encode())
    for path in paths:
        h.update(str(path).encode() + b"\0" + Path(path).read_bytes() + b"\0")
    return h.hexdigest()[:20]


def execute(command):
    done = subprocess.run(["nice", *map(str, command)], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}\n{done.stderr[:4000]}"
    return done.stdout


def coverage_notes(target):
    """What gcov needs of an object of the coverage flavour."""
    return target.parent.glob(f"{target.stem}.*.gcno")


def make(target, command):
    """Runs command + [-o, target] unless the target is there; complete or absent, also with many at it."""
    if target.exists():
        for used in (target, *coverage_notes(target)):
            os.utime(used)
        return target
    partial = target.with_suffix(f".{os.getpid()}.partial")
    execute([*command, "-o", partial])
    os.replace(partial, target)
    return target


def make_object(source, command):
    """The object of a source, named after what it is made of: the command, the source and its includes."""
    included = execute([*command, "-MM", source]).replace("\\\n", " ").split()[1:]
    of = digest(included, [VERSION, *command])
    return make(KEPT / f"{source.stem}-{of}.o", [*command, "-c", source])


@functools.lru_cache
def build(name, sources, flavour="plain", flags=(), shared=False, link=()):
    """The program (or shared object) `name` made of `sources` (.cpp and .cu, compiled as C++) and the
    executor. A source is a path or (path, flags of its own ...); all arguments are tuples, so that what was
    built is remembered. What has not changed is not built again."""
    if COMPILER is None or not (CSRC / "simt").is_dir():
        pytest.skip("the executor needs g++ and the sources")
    KEPT.mkdir(parents=True, exist_ok=True)
    engine_flags, kernel_flags, link_flags = FLAVOURS[flavour]
    steps = [(path, [COMPILER, *COMMON, *engine_flags]) for path in sorted((CSRC / "simt").glob("*.cpp"))]
    for source in sources:
        path, *own = source if isinstance(source, tuple) else (source,)
        steps.append((Path(path), [COMPILER, *COMMON, *kernel_flags, *flags, *own, "-x", "c++"]))
    with ThreadPoolExecutor(MAX_JOBS) as pool:
        objects = list(pool.map(lambda step: make_object(*step), steps))
    of = digest([], [VERSION, *map(str, objects), *link_flags, *link])
    command = [COMPILER, *link_flags, *(["-shared"] if shared else []), *objects, *link, "-ldl"]
    built = make(KEPT / f"{name}-{flavour}-{of}{'.so' if shared else ''}", command)
    for path in KEPT.iterdir():
        if time.time() - path.stat().st_mtime > MAX_AGE_S:
            path.unlink(missing_ok=True)
    return built


def run(program, *arguments, timeout=600):
    """Runs a program; under ThreadSanitizer at fixed addresses, which its older runtimes need."""
    command = [str(program), *map(str, arguments)]
    if "-tsan-" in program.name and (setarch := shutil.which("setarch")):
        command = [setarch, "-R", *command]
    # One report is enough, and is the exit code.
    env = {**os.environ, "TSAN_OPTIONS": "exitcode=66 atexit_sleep_ms=0", "ASAN_OPTIONS": "exitcode=67"}
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout, env=env)
