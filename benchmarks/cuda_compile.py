# SPDX-License-Identifier: Apache-2.0
"""Compiles csrc/cuda for one architecture at a time, with the flags of setup.py, and reads what the compiler
says of each kernel and its machine code."""

from __future__ import annotations

import ast
import functools
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

from sass import code

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))
import build_cuda  # noqa: E402

CSRC, KEPT = ROOT / "csrc", HERE / "build" / "cuda"
MAX_AGE_S = 7 * 86400  # of compiled code that nobody used
# Where nvdisasm lies when it came as a wheel (requirements-cuda.txt).
WHEELS = Path(sysconfig.get_paths()["purelib"]) / "nvidia"


@dataclass
class Function:
    """What ptxas says of a kernel, or of a function that one calls."""

    name: str
    stack: int
    spill_stores: int
    spill_loads: int


@dataclass
class Kernel(Function):
    registers: int
    shared: int  # bytes, static
    functions: list[Function] = field(default_factory=list)  # that were not inlined

    @property
    def spills(self) -> int:
        """Bytes, stored and loaded, in it and in what it calls."""
        return sum(f.spill_stores + f.spill_loads for f in (self, *self.functions))


def nvcc_flags() -> list[str]:
    """Those of setup.py, but for the host compiler's; and source lines, and what ptxas has to say."""
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") == "NVCC_ARGS":
            flags = [f for f in ast.literal_eval(node.value) if not f.startswith("-Xcompiler")]
            return [*flags, "-lineinfo", "-Xptxas=-v"]
    raise RuntimeError("cuda_compile: setup.py assigns no NVCC_ARGS")


def sources() -> list[Path]:
    return sorted((CSRC / "cuda").glob("*.cu"))


def digest() -> str:
    """Of everything that the kernels and the executor are made of."""
    h = hashlib.sha256()
    for folder in ("core", "cuda", "simt"):
        for path in sorted(p for p in (CSRC / folder).iterdir() if p.is_file()):
            h.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return h.hexdigest()[:16]


def toolkit() -> build_cuda.Toolkit | None:
    nvcc, _ = build_cuda.find_nvcc(os.environ)
    return build_cuda.probe(nvcc) if nvcc else None


def archs_of(kit: build_cuda.Toolkit) -> list[int]:
    """The default architectures that this nvcc compiles for: 75, 80, ..."""
    return [int(a.replace(".", "")) for a in build_cuda.DEFAULT_ARCHS if a in kit.archs]


def tool(name: str) -> str | None:
    """nvdisasm: the newest wheel's, else what is on PATH."""
    found = sorted(WHEELS.glob(f"cu*/bin/{name}"))
    return str(found[-1]) if found else shutil.which(name)


def run(*command: str) -> str:
    done = subprocess.run(["nice", *command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}\n{(done.stderr or done.stdout)[-4000:]}")
    return done.stdout + done.stderr


# Names


def plain_name(text: str) -> str:
    """A demangled name without result, parameters, and the namespaces that nvcc makes of a file's name."""
    text = re.sub(r"_INTERNAL_\w+?::", "", text)
    depth, start = 0, 0
    for at, c in enumerate(text):
        depth += (c in "<") - (c in ">")
        if depth == 0 and c == " ":
            start = at + 1
        if depth == 0 and c == "(":
            return text[start:at]
    return text[start:]


@functools.cache
def demangled(name: str) -> str:
    return plain_name(run("c++filt", name).strip())


# What ptxas says

_PROPERTIES = re.compile(r"Function properties for (\S+)")
_FRAME = re.compile(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")
_USED = re.compile(r"Used (\d+) registers(?:.*?(\d+) bytes smem)?")


def parse_ptxas(text: str) -> list[Kernel]:
    """The kernels in what `-Xptxas -v` prints; names are mangled. A kernel's own lines come first, then those
    of the functions that it calls."""
    kernels: list[Kernel] = []
    entry = name = None
    frame = (0, 0, 0)
    for line in text.splitlines():
        if found := re.search(r"Compiling entry function '(\S+)'", line):
            entry = found[1]
        elif found := _PROPERTIES.search(line):
            name = found[1]
        elif found := _FRAME.search(line):
            frame = tuple(map(int, found.groups()))
            if name != entry and kernels:
                kernels[-1].functions.append(Function(name, *frame))
        elif found := _USED.search(line):
            if entry is None:
                raise ValueError(f"cuda_compile: ptxas says {line!r} of no kernel")
            kernels.append(Kernel(entry, *frame, int(found[1]), int(found[2] or 0)))
    return kernels


# Compiled files


@dataclass
class Compiled:
    source: str  # "bfloat16"
    arch: int
    cubin: Path
    kernels: list[Kernel]

    @functools.cached_property
    def machine_code(self) -> dict[str, code.Kernel]:
        """By demangled name."""
        found = code.parse(run(tool("nvdisasm"), "-gi", "-c", str(self.cubin)))
        return {demangled(name): kernel for name, kernel in found.items()}

    @functools.cached_property
    def constants(self) -> dict[str, dict[int, bytes]]:
        banks = code.constant_banks(self.cubin.read_bytes())
        return {demangled(name): bank for name, bank in banks.items()}


def compile_all(kit: build_cuda.Toolkit, archs: list[int], only: tuple[str, ...] = ()) -> list[Compiled]:
    """Every source (or those of these names) for every architecture; what has not changed is not compiled
    again."""
    of = hashlib.sha256(json.dumps([digest(), kit.version, nvcc_flags()]).encode()).hexdigest()[:16]
    folder = KEPT / of
    folder.mkdir(parents=True, exist_ok=True)
    chosen = [source for source in sources() if not only or source.stem in only]
    jobs = [(source, arch) for arch in archs for source in chosen]
    with ThreadPoolExecutor(build_cuda.jobs_at_a_time(os.environ)) as pool:
        done = list(pool.map(lambda job: compile_one(kit, folder, *job), jobs))
    os.utime(folder)
    for old in KEPT.iterdir():
        if old != folder and time.time() - old.stat().st_mtime > MAX_AGE_S:
            shutil.rmtree(old, ignore_errors=True)
    return done


def compile_one(kit: build_cuda.Toolkit, folder: Path, source: Path, arch: int) -> Compiled:
    cubin = folder / f"{source.stem}-{arch}.cubin"
    said = cubin.with_suffix(".txt")
    if not (cubin.exists() and said.exists()):
        part = cubin.with_suffix(f".{os.getpid()}.part")
        text = run(kit.nvcc, *nvcc_flags(), f"-arch=sm_{arch}", "-cubin", "-o", str(part), str(source))
        said.write_text(text)
        os.replace(part, cubin)
    kernels = parse_ptxas(said.read_text())
    for kernel in kernels:
        kernel.name = demangled(kernel.name)
        for function in kernel.functions:
            function.name = demangled(function.name)
    return Compiled(source.stem, arch, cubin, kernels)


def as_stored(kernel: Kernel) -> dict:
    return {**asdict(kernel), "spills": kernel.spills}
