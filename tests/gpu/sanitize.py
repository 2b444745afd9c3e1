# SPDX-License-Identifier: Apache-2.0
"""compute-sanitizer's four tools over the reduced tests; where there is no device, says so in one line.

python tests/gpu/sanitize.py                    memcheck, racecheck, initcheck, synccheck
python tests/gpu/sanitize.py racecheck -- -k sample
"""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import on_device  # noqa: E402

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
FOUND = 86  # exit code of compute-sanitizer where it has something to say
# torch asks for the state of events and learns "not ready": no error of ours.
OPTIONS = ("--target-processes", "all", "--report-api-errors", "no", "--error-exitcode", str(FOUND))


def find_sanitizer():
    """On PATH, of a toolkit in CUDA_HOME or /usr/local/cuda, or of the wheel in requirements-cuda.txt."""
    wheels = sorted((Path(sysconfig.get_paths()["purelib"]) / "nvidia").glob("cu*/bin/compute-sanitizer"))
    homes = [Path(home) / "bin" for home in (os.environ.get("CUDA_HOME"), "/usr/local/cuda") if home]
    found = shutil.which("compute-sanitizer")
    places = [found, *(shutil.which("compute-sanitizer", path=str(home)) for home in homes), *wheels[-1:]]
    return next((str(place) for place in places if place), None)


def command_of(sanitizer, tool, more):
    tests = [sys.executable, str(HERE / "run.py"), "-q", "-x", str(HERE / "reduced.py"), *more]
    return [sanitizer, "--tool", tool, *OPTIONS, *tests]


def main():
    words = sys.argv[1:]
    split = words.index("--") if "--" in words else len(words)
    tools, more = words[:split] or list(TOOLS), words[split + 1 :]
    if unknown := set(tools) - set(TOOLS):
        print(f"sanitize-gpu: there are {', '.join(TOOLS)}, got {', '.join(sorted(unknown))}")
        return 2
    reason = on_device.missing()
    if reason is None and on_device.ON_CPU:
        reason = "compute-sanitizer looks at CUDA devices only"
    if reason:
        print(f"sanitize-gpu: skipped, {reason}")
        return 0
    sanitizer = find_sanitizer()
    if sanitizer is None:
        print("sanitize-gpu: no compute-sanitizer: pip install -r requirements-cuda.txt")
        return 1
    # Each tensor then has an allocation of its own, whose bounds memcheck knows.
    environment = {**os.environ, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"}
    results = {}
    for tool in tools:
        print(f"sanitize-gpu: {tool}", flush=True)
        results[tool] = subprocess.run(command_of(sanitizer, tool, more), env=environment).returncode
    for tool, code in results.items():
        said = {0: "nothing found", FOUND: "ERRORS, above"}.get(code, f"failed with exit code {code}")
        print(f"sanitize-gpu: {tool}: {said}")
    return int(any(results.values()))


if __name__ == "__main__":
    sys.exit(main())
