# SPDX-License-Identifier: Apache-2.0
"""Other Pythons and a newer torch, each in a virtual environment of its own under build/environments:

    python tests/environments/run.py pythons [python3.10 python3.12 ...]
    python tests/environments/run.py torch 2.14.1

`pythons`: for each interpreter that is found, torch 2.13.0 and a wheel that is built there; then import, the
golden rows, torch's contract and bad input, as `make test-wheel` runs them: from outside the checkout. What
is not found is said, and no failure; that none ran is one.
`torch`: the wheel is built by the torch of the Python that runs this and installed, as it is, beside another
torch: one binary for both.

How each ended is kept in docs/evidence/environments.json. Environments are kept, too: delete the folder for
new ones. TORCH_ARGS: see tests/venvs.py.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
sys.path.append(str(TESTS))

from venvs import ROOT, TORCH, Venv, report  # noqa: E402

BUILD = ROOT / "build" / "environments"
STORED = ROOT / "docs" / "evidence" / "environments.json"
NEEDED = (["-r", str(ROOT / "requirements-build.txt"), "-r", str(ROOT / "requirements-test.txt")],)
PYTHONS = ("python3.10", "python3.11", "python3.12", "python3.13")
CONTRACT = ("test_import.py", "test_golden.py", "test_torch_*.py", "test_bad_input_*.py")
NEWER = ("test_import.py", "test_golden.py", "test_torch_*.py", "test_matrix.py", "test_facade_*.py")
PROBE = "import importlib.metadata as m; print(*(d.version for d in m.distributions(name='torch')))"
COUNTS = re.compile(r"(\d+) (passed|failed|errors?|skipped|xfailed)")


def main() -> int:
    if len(sys.argv) < 2 or sys.argv[1] not in ("pythons", "torch"):
        print(__doc__, file=sys.stderr)
        return 2
    if sys.argv[1] == "torch":
        if len(sys.argv) != 3:
            print("which torch? e.g. run.py torch 2.14.1", file=sys.stderr)
            return 2
        results = [newer_torch(sys.argv[2])]
    else:
        names = [name for word in sys.argv[2:] for name in word.split()] or PYTHONS
        results = [other_python(name) for name in names]
    report("Environments", results)
    ended = {label: outcome for label, outcome, _ in results if not outcome.startswith("not run")}
    known = json.loads(STORED.read_text()) if STORED.exists() else {}
    STORED.write_text(json.dumps(dict(sorted({**known, **ended}.items())), indent=1) + "\n")
    ran = ended.values()
    return 0 if ran and all(outcome.startswith("ok") for outcome in ran) else 1


def other_python(name: str) -> tuple[str, str, float]:
    """(what, "ok ...", "not run ..." or what went wrong, seconds)."""
    start = time.monotonic()
    found = shutil.which(name)
    if found is None or torch_of(found) is None:  # a shim of a version manager is found and does not run
        return name, "not run: no such interpreter", 0.0
    venv = Venv(BUILD / Path(name).name)
    failure = venv.made(found, TORCH, *NEEDED) or venv.install_wheel(venv.build_wheel())
    label = f"{venv.where.name}, torch {TORCH}"
    return label, failure or run_tests(venv, CONTRACT), time.monotonic() - start


def newer_torch(version: str) -> tuple[str, str, float]:
    start = time.monotonic()
    label, built_by = f"torch {version}", torch_of(sys.executable)
    if not (built_by or "").startswith(TORCH):
        return label, f"this Python must have torch {TORCH}, which builds the wheel; it has {built_by}", 0.0
    venv = Venv(BUILD / f"torch-{version}")
    failure = venv.made(sys.executable, version, *NEEDED)
    failure = failure or venv.install_wheel(venv.build_wheel(sys.executable))
    return label, failure or run_tests(venv, NEWER), time.monotonic() - start


def run_tests(venv: Venv, patterns) -> str:
    """The tests as tests/wheel/run.py runs them in an environment that has the package."""
    wheel_tests = str(TESTS / "wheel" / "run.py")
    command = [venv.python, wheel_tests, "--installed", "-q", *(f"tests/{pattern}" for pattern in patterns)]
    print(f"== {venv.where.name}: {', '.join(patterns)}", flush=True)
    failure = venv.logged("tests", command, {"OMP_NUM_THREADS": "1"})
    counts: dict[str, int] = {}
    for line in venv.beside("tests.log").read_text().splitlines():
        if re.search(r" in \d+\.\d+s", line):  # of each pytest: there are two
            for number, what in COUNTS.findall(line):
                counts[what] = counts.get(what, 0) + int(number)
    told = ", ".join(f"{number} {what}" for what, number in counts.items())
    return f"{told}: {failure}" if failure else f"ok: {told}"


def torch_of(python: str) -> str | None:
    """The version of its torch, "" without one; None where it does not run."""
    done = subprocess.run([python, "-c", PROBE], capture_output=True, text=True)
    return done.stdout.strip() if done.returncode == 0 else None


if __name__ == "__main__":
    sys.exit(main())
