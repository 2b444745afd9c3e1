# SPDX-License-Identifier: Apache-2.0
"""CUDA without torch's CUDAExtension, which a CPU build of torch refuses: finds nvcc, runs it, says what to
link.

FUSEDRAW_CUDA: unset: CUDA is built where nvcc is found; 1: its absence is an error; 0: no CUDA.
TORCH_CUDA_ARCH_LIST: what to compile for, "9.0" or "9.0+PTX", separated by blanks, commas or semicolons.
MAX_JOBS: how many files are compiled at a time, as for ninja.
"""

import os
import re
import shlex
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

# As far as the nvcc at hand knows them; the newest also as PTX, which later GPUs compile for themselves.
DEFAULT_ARCHS = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0", "12.0")


class CudaError(Exception):
    """What stands in the way of building CUDA code."""


class Toolkit(NamedTuple):
    nvcc: str
    version: str  # of nvcc
    archs: tuple  # that it compiles for, "7.5" ...
    cudart: str  # path of libcudart_static.a


def wanted(environ):
    """What FUSEDRAW_CUDA asks for: True, False, or None where nothing is asked for."""
    value = environ.get("FUSEDRAW_CUDA", "")
    if value not in ("", "0", "1"):
        raise CudaError(f"FUSEDRAW_CUDA must be 0, 1 or unset, got {value!r}")
    return None if value == "" else value == "1"


def find_nvcc(environ):
    """(path or None, the places that were looked at)."""
    places = []
    if home := environ.get("CUDA_HOME"):
        places.append(os.path.join(home, "bin", "nvcc"))
        if shutil.which(places[0]):
            return places[0], places
    places.append("nvcc on PATH")
    return shutil.which("nvcc", path=environ.get("PATH", "")), places


def toolkit(environ):
    """The toolkit to build with, or None where CUDA is not to be built."""
    want = wanted(environ)
    if want is False:
        return None
    nvcc, places = find_nvcc(environ)
    if nvcc is None:
        if want:
            raise CudaError(f"FUSEDRAW_CUDA=1, but there is no nvcc: looked for {' and '.join(places)}")
        return None
    return probe(nvcc)


def probe(nvcc):
    """Asks nvcc, which may be a wrapper script, for its version, its architectures and its own folders."""
    listed = _ask(nvcc, "--list-gpu-arch")
    plan = _ask(nvcc, "-v", "--dryrun", "x.cu")  # compiles nothing, and the file need not exist
    return Toolkit(
        nvcc, parse_version(_ask(nvcc, "--version")), parse_known_archs(listed), _find_cudart(nvcc, plan)
    )


def parse_version(text):
    found = re.search(r"\bV(\d+(\.\d+)+)", text) or re.search(r"release (\d+(\.\d+)+)", text)
    if found is None:
        raise CudaError(f"nvcc --version is not understood: {text.strip()!r}")
    return found[1]


def parse_known_archs(text):
    """'compute_75 compute_100' -> ('7.5', '10.0'), in ascending order."""
    found = {(int(n) // 10, int(n) % 10) for n in re.findall(r"\bcompute_(\d+)", text)}
    return tuple(f"{major}.{minor}" for major, minor in sorted(found))


def library_folders(plan):
    """The folders of -L in what `nvcc -v --dryrun` prints, then those of its TOP."""
    line = re.search(r"^#\$ LIBRARIES=(.*)$", plan, flags=re.M)
    folders = [word[2:] for word in shlex.split(line[1])] if line else []
    if top := re.search(r"^#\$ TOP=(.*)$", plan, flags=re.M):
        folders += [os.path.join(top[1].strip(), name) for name in ("lib64", "lib")]
    return [os.path.normpath(folder) for folder in folders]


def choose_archs(text, known):
    """What to compile for, ascending: ["7.5", "9.0+PTX"], from TORCH_CUDA_ARCH_LIST (empty: the default)."""
    words = re.split(r"[;,\s]+", text.strip()) if text.strip(" ;,\t\n") else []
    if not words:
        chosen = [arch for arch in DEFAULT_ARCHS if arch in known]
        if not chosen:
            raise CudaError(
                f"nvcc compiles for none of {', '.join(DEFAULT_ARCHS)}, but for {', '.join(known)}"
            )
        return [*chosen[:-1], chosen[-1] + "+PTX"]
    chosen = {}
    for word in filter(None, words):
        # 9.0a and 10.0f are 9.0 and 10.0 with features that no kernel here uses.
        found = re.fullmatch(r"(\d+\.\d)[af]?(\+PTX)?", word)
        if found is None:
            raise CudaError(f"TORCH_CUDA_ARCH_LIST must hold entries like 9.0 or 9.0+PTX, got {word!r}")
        if found[1] not in known:
            raise CudaError(
                f"TORCH_CUDA_ARCH_LIST asks for {word}, this nvcc compiles for {', '.join(known)}"
            )
        chosen[found[1]] = chosen.get(found[1], "") or found[2] or ""
    return [arch + chosen[arch] for arch in known if arch in chosen]


def arch_flags(archs):
    """nvcc's flags for ["7.5", "9.0+PTX"]."""
    flags = []
    for arch in archs:
        number = arch.removesuffix("+PTX").replace(".", "")
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if arch.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def compile_objects(toolkit, sources, flags, headers, folder, environ):
    """Compiles what is not up to date, in parallel; the objects, in the order of `sources`.

    They lie in `folder`, each beside the command that made it. One that is newer than its source and all of
    `headers`, by the same command, is kept.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    newest = max(os.path.getmtime(path) for path in headers)
    jobs = []
    for source in sources:
        target = folder / (Path(source).stem + ".o")
        command = [toolkit.nvcc, *flags, "-c", source]
        made_by = target.with_suffix(".command")
        said = f"{toolkit.version} {shlex.join(command)}"
        old = max(newest, os.path.getmtime(source))
        if not (target.exists() and target.stat().st_mtime > old and _text(made_by) == said):
            jobs.append((command, target, made_by, said))
    if jobs:
        with ThreadPoolExecutor(jobs_at_a_time(environ)) as pool:
            list(pool.map(_compile, jobs))
    return [str(folder / (Path(source).stem + ".o")) for source in sources]


def jobs_at_a_time(environ):
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limit = environ.get("MAX_JOBS", "")
    return max(1, min(cores, int(limit))) if limit.isdigit() else cores


def _compile(job):
    command, target, made_by, said = job
    # Under another name until it is whole: two builds of one tree may run at a time.
    part = target.with_suffix(f".{os.getpid()}.o")
    print(shlex.join(command), flush=True)
    try:
        done = subprocess.run([*command, "-o", str(part)], capture_output=True, text=True)
        if done.stdout or done.stderr:
            print(done.stdout + done.stderr, flush=True)
        if done.returncode:
            raise CudaError(
                f"nvcc did not compile {command[-1]} (above; FUSEDRAW_CUDA=0 builds without CUDA):\n"
                + (done.stderr or done.stdout)[-4000:]
            )
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)
    made_by.write_text(said)


def _ask(nvcc, *arguments):
    try:
        done = subprocess.run([nvcc, *arguments], capture_output=True, text=True)
    except OSError as error:
        raise CudaError(f"{nvcc} does not run: {error}") from error
    if done.returncode:
        raise CudaError(f"{nvcc} {' '.join(arguments)} failed: {(done.stderr or done.stdout).strip()}")
    return done.stdout + done.stderr


def _find_cudart(nvcc, plan):
    folders = library_folders(plan)
    for folder in folders:
        path = os.path.join(folder, "libcudart_static.a")
        if os.path.isfile(path):
            return path
    raise CudaError(f"{nvcc} comes without libcudart_static.a: looked in {', '.join(folders) or 'no folder'}")


def _text(path):
    return path.read_text() if path.exists() else None
