# SPDX-License-Identifier: Apache-2.0
"""Other Pythons and a newer torch, each in a virtual environment of its own under build/environments:

    python tests/environments/run.py pythons [python3.10 python3.12 ...]
    python tests/environments/run.py torch 2.14.1

`pythons`: for each interpreter that is found, torch 2.13.0 and a wheel that is built there; then import, the
golden rows, torch's contract and bad input, as `make test-wheel` runs them: from outside the checkout. What
is not found is said, and no failure; that none ran is one.
`torch`: the wheel is built by the torch of the Python that runs this and installed, as it is, beside another
torch: one binary for both.

Environments are kept: delete the folder for new ones. TORCH_ARGS: more arguments for `pip install torch`,
such as --index-url https://download.pytorch.org/whl/cpu (the default index has gigabytes of CUDA libraries).
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
TESTS = ROOT / "tests"
BUILD = ROOT / "build" / "environments"
TORCH = "2.13.0"  # of the Makefile
PYTHONS = ("python3.10", "python3.11", "python3.12", "python3.13")
CONTRACT = (
    *("test_import.py", "test_golden.py", "test_torch_*.py"),
    *("test_bad_input_refused.py", "test_bad_input_rows.py", "test_bad_input_table.py"),
)
NEWER = ("test_import.py", "test_golden.py", "test_torch_*.py", "test_matrix.py", "test_facade_*.py")
PROBE = """
import json, sys, importlib.metadata as m
names = ("torch", "setuptools", "ninja", "pytest", "hypothesis")
have = {d.metadata["Name"].lower(): d.version for d in m.distributions()}
print(json.dumps({"python": sys.version.split()[0], **{n: have.get(n) for n in names}}))
"""
COUNTS = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed)")


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in ("pythons", "torch"):
        print(__doc__, file=sys.stderr)
        return 2
    BUILD.mkdir(parents=True, exist_ok=True)
    if sys.argv[1] == "torch":
        if len(sys.argv) != 3:
            print("which torch? e.g. run.py torch 2.14.1", file=sys.stderr)
            return 2
        results = [newer_torch(sys.argv[2])]
    else:
        names = [name for word in sys.argv[2:] for name in word.split()] or PYTHONS
        results = [other_python(name) for name in names]
    print("\nEnvironments")
    for label, outcome, seconds in results:
        print(f"  {label:28s} {seconds:6.0f} s  {outcome}")
    ran = [outcome for _, outcome, _ in results if not outcome.startswith("not run")]
    return 0 if ran and all(outcome.startswith("ok") for outcome in ran) else 1


def other_python(name: str) -> tuple[str, str, float]:
    """(what, "ok ...", "not run ..." or what went wrong, seconds)."""
    start = time.monotonic()
    found = shutil.which(name)
    if found is None or asked(found, PROBE) is None:  # a shim of a version manager is found and does not run
        return name, "not run: no such interpreter", 0.0
    where = BUILD / Path(name).name
    failure = environment(where, found, TORCH)
    python = str(where / "bin" / "python")
    failure = failure or install_wheel(python, build_wheel(python, where.name))
    label = f"{where.name}, torch {TORCH}"
    return label, failure or run_tests(python, where.name, CONTRACT), time.monotonic() - start


def newer_torch(version: str) -> tuple[str, str, float]:
    start = time.monotonic()
    label = f"torch {version}"
    built_by = (asked(sys.executable, PROBE) or {}).get("torch")
    if not (built_by or "").startswith(TORCH):
        return label, f"this Python must have torch {TORCH}, which builds the wheel; it has {built_by}", 0.0
    where = BUILD / f"torch-{version}"
    failure = environment(where, sys.executable, version)
    python = str(where / "bin" / "python")
    failure = failure or install_wheel(python, build_wheel(sys.executable, where.name))
    return label, failure or run_tests(python, where.name, NEWER), time.monotonic() - start


def environment(where: Path, interpreter: str, torch: str) -> str | None:
    """Makes it, or takes the one that is there; None, or what went wrong in one line."""
    python = str(where / "bin" / "python")
    have = asked(python, PROBE) if Path(python).exists() else None
    if have and (have["torch"] or "").startswith(torch) and have["pytest"] and have["ninja"]:
        return None
    print(f"== {where.name}: installing into {where} (several minutes)", flush=True)
    failure = logged(f"{where.name}-venv", [interpreter, "-m", "venv", "--clear", str(where)])
    for arguments in (
        [f"torch=={torch}", *shlex.split(os.environ.get("TORCH_ARGS", ""))],
        ["-r", str(ROOT / "requirements-build.txt"), "-r", str(ROOT / "requirements-test.txt")],
    ):
        failure = failure or pip(where.name, python, *arguments)
    return failure


def build_wheel(python: str, name: str) -> Path | str:
    """By that Python and its torch, without CUDA; or what went wrong."""
    wheels, settings = BUILD / f"{name}-wheel", BUILD / f"{name}.cfg"
    shutil.rmtree(wheels, ignore_errors=True)
    # Objects of its own. (`setup.py build -b ... bdist_wheel` would compile everything twice.)
    settings.write_text(f"[build]\nbuild_base = {BUILD / f'{name}-objects'}\n")
    command = [python, "setup.py", "-q", "bdist_wheel", "-d", str(wheels)]
    variables = {"FUSEDRAW_CUDA": "0", "DIST_EXTRA_CONFIG": str(settings)}
    failure = logged(f"{name}-build", command, variables)
    return failure or next(wheels.glob("*.whl"))


def install_wheel(python: str, wheel: Path | str) -> str | None:
    if isinstance(wheel, str):
        return wheel
    return pip(Path(python).parent.parent.name, python, "--no-deps", "--force-reinstall", str(wheel))


def run_tests(python: str, name: str, patterns) -> str:
    """The tests as tests/wheel/run.py runs them in an environment that has the package."""
    files = sorted(f"tests/{path.name}" for pattern in patterns for path in TESTS.glob(pattern))
    command = [python, str(TESTS / "wheel" / "run.py"), "--installed", "-q", *files]
    print(f"== {name}: {len(files)} files", flush=True)
    failure = logged(f"{name}-tests", command, {"OMP_NUM_THREADS": "1"})
    output = (BUILD / f"{name}-tests.log").read_text()
    counts: dict[str, int] = {}
    for line in output.splitlines():
        if re.search(r" in \d+\.\d+s", line):  # of each pytest: there are two
            for number, what in COUNTS.findall(line):
                counts[what] = counts.get(what, 0) + int(number)
    told = ", ".join(f"{number} {what}" for what, number in counts.items())
    return f"{told}: {failure}" if failure else f"ok: {told}"


def asked(python: str, code: str) -> dict | None:
    done = subprocess.run([python, "-c", code], capture_output=True, text=True)
    return json.loads(done.stdout) if done.returncode == 0 else None


def pip(name: str, python: str, *arguments: str) -> str | None:
    # Without byte code: most of these files are never imported.
    command = [python, "-m", "pip", "--disable-pip-version-check", "install", "--no-compile", *arguments]
    return logged(f"{name}-pip", command)


def logged(log: str, command: list[str], variables: dict[str, str] | None = None) -> str | None:
    """Runs a command with its output in a file; None, or the failure in one line."""
    path = BUILD / f"{log}.log"
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}
    with path.open("w") as file:
        code = subprocess.run(
            command, cwd=ROOT, env={**kept, **(variables or {})}, stdout=file, stderr=subprocess.STDOUT
        ).returncode
    if code == 0:
        return None
    last = path.read_text().strip().splitlines()[-1:] or ["no output"]
    return f"{last[0]} ({path})"


if __name__ == "__main__":
    sys.exit(main())
