# SPDX-License-Identifier: Apache-2.0
"""`make coverage`: which lines of csrc/core, csrc/cpu and pyext the tests run.

    python tests/covered/run.py [--report-only]

Copies the checkout to build/coverage/src, builds it there with --coverage, runs the tests that need neither a
device nor a compiler, and writes docs/coverage.md and docs/coverage.json. Processes that tests start are
counted too. --report-only: reads again what the last run left. Exit status 1 if a test failed or a part is
below GOAL.

Counted: csrc/core and csrc/cpu by gcov (a line counts once, whichever instruction set ran it; neon.cpp and
simd_neon.h are not compiled here: `make test-aarch64` runs them under emulation), pyext by coverage.py. The
law in Python (reference*.py) is counted in its own tests alone: it would take hours beside everything else.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.append(str(ROOT / "tests"))

from machine import processor  # noqa: E402

BUILD = ROOT / "build" / "coverage"
SRC = BUILD / "src"
GOAL = 95.0
VLLM = "pyext/fusedraw/vllm"  # most of it runs beside vLLM alone: `make test-integrations`
CXXFLAGS = "--coverage -fprofile-update=atomic -O1"
# They compile, need a device, or read documents: no line of what is counted runs only there. Statistics and
# memory repeat one call many times.
LEFT_OUT = (
    *("test_aarch64.py", "test_build.py", "test_cuda_*.py", "test_docs.py", "test_gpu_suite.py"),
    *("test_layers.py", "test_memory.py", "test_mutants.py", "test_native.py", "test_release.py"),
    *("test_sass.py", "test_scaling.py", "test_simt_executor.py", "test_stability.py"),
    "test_statistics*.py",
)
SETTINGS = """[run]
parallel = true
source_pkgs = fusedraw
patch = subprocess
sigterm = true
data_file = {data}
{omit}
[report]
exclude_also =
    if TYPE_CHECKING:
    @overload
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--report-only", action="store_true")
    failed = 0
    if not parser.parse_args().report_only:
        copy()
        build()
        failed = run_tests()
    figures = {"machine": machine(), "cpp": cpp_figures(), "python": python_figures()}
    (ROOT / "docs" / "coverage.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    (ROOT / "docs" / "coverage.md").write_text(page(figures), encoding="utf-8")
    for name, part in parts(figures).items():
        print(f"{name:12s} {share(part):6.2f} % of {totals(part)[0]} lines")
    if low(figures):
        print(f"below {GOAL:g} %: {', '.join(low(figures))}")
    return 1 if failed or low(figures) else 0


def copy() -> None:
    shutil.rmtree(BUILD, ignore_errors=True)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            target = SRC / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target)


def build() -> None:
    """The extension hides where it was built; gcov has to know."""
    flags = f"{CXXFLAGS} -fprofile-prefix-map={SRC}={SRC}"
    variables = {"FUSEDRAW_CUDA": "0", "FUSEDRAW_CXXFLAGS": flags, "FUSEDRAW_LDFLAGS": "--coverage"}
    command = [sys.executable, "setup.py", "-q", "build_ext", "--inplace"]
    subprocess.run(command, cwd=SRC, env={**os.environ, **variables}, check=True)


def run_tests() -> int:
    """Once without plain Python's law, once its own tests; the worse exit status."""
    skipped = [path for name in LEFT_OUT for path in (SRC / "tests").glob(name)]
    law = sorted(str(path) for path in (SRC / "tests").glob("test_reference_*.py"))
    most = [f"--ignore={path}" for path in (*skipped, *law)]
    # The executor of CUDA kernels is compiled first; all weights are a billion runs of one line.
    few = "not executor and not all_weights"
    return max(
        counted("most", ["tests", *most, "-k", few], "omit = */fusedraw/reference*.py"),
        counted("law", law, ""),
    )


def counted(name: str, arguments: list[str], omit: str) -> int:
    settings = BUILD / f"{name}.ini"
    settings.write_text(SETTINGS.format(data=BUILD / f"{name}.data", omit=omit))
    variables = {"COVERAGE_RCFILE": str(settings), "PYTHONPATH": str(SRC / "pyext"), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "coverage", "run", f"--rcfile={settings}", "-m", "pytest", "-q"]
    command += ["-m", "not slow", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, cwd=SRC, env={**os.environ, **variables}).returncode


def cpp_figures() -> dict:
    """File -> lines and the numbers of those that did not run."""
    report = BUILD / "gcovr.json"
    command = [sys.executable, "-m", "gcovr", "--root", str(SRC), "--json", str(report)]
    command += ["--filter", ".*csrc/core/", "--filter", ".*csrc/cpu/", "--exclude", ".*neon"]
    # Counters of hot loops go beyond what gcovr believes; headers of torch are not looked at.
    command += ["--gcov-ignore-parse-errors=all", "--gcov-ignore-errors=all"]
    command += ["--merge-mode-functions=merge-use-line-min", *map(str, (SRC / "build").glob("temp*"))]
    subprocess.run(command, cwd=SRC, check=True, stderr=subprocess.DEVNULL)
    found = {}
    for file in json.loads(report.read_text())["files"]:
        counts: dict[int, int] = {}
        for line in file["lines"]:  # one for each function that the line belongs to
            if not line.get("gcovr/noncode"):
                number = line["line_number"]
                counts[number] = max(counts.get(number, 0), line["count"])
        name = file["file"][file["file"].index("csrc/") :]
        missing = sorted(number for number, count in counts.items() if not count)
        found[name] = {"lines": len(counts), "missing": missing}
    return found


def python_figures() -> dict:
    """The same of pyext."""
    settings, report = BUILD / "all.ini", BUILD / "python.json"
    settings.write_text(SETTINGS.format(data=BUILD / "all.data", omit=""))
    data = [str(path) for name in ("most", "law") for path in BUILD.glob(f"{name}.data*")]
    coverage = [sys.executable, "-m", "coverage"]
    subprocess.run([*coverage, "combine", f"--rcfile={settings}", "--keep", "-q", *data], cwd=SRC, check=True)
    # Tests import copies of the package, too.
    command = [*coverage, "json", f"--rcfile={settings}", "-q", "-o", str(report)]
    command += ["--include=*/pyext/fusedraw/*"]
    subprocess.run(command, cwd=SRC, check=True)
    found = {}
    for name, file in json.loads(report.read_text())["files"].items():
        name = name[name.index("pyext/") :]
        found[name] = {"lines": file["summary"]["num_statements"], "missing": file["missing_lines"]}
    return found


def machine() -> str:
    compiler = subprocess.run(["g++", "--version"], capture_output=True, text=True).stdout.splitlines()[0]
    return f"{processor()}; Python {platform.python_version()}; {compiler}"


def parts(figures: dict) -> dict:
    cpp = figures["cpp"]
    return {
        "csrc/core": {n: f for n, f in cpp.items() if n.startswith("csrc/core")},
        "csrc/cpu": {n: f for n, f in cpp.items() if n.startswith("csrc/cpu")},
        "pyext": {n: f for n, f in figures["python"].items() if "/vllm/" not in n},
        VLLM: {n: f for n, f in figures["python"].items() if "/vllm/" in n},
    }


def totals(files: dict) -> tuple[int, int]:
    """Lines, and how many of them did not run."""
    return sum(f["lines"] for f in files.values()), sum(len(f["missing"]) for f in files.values())


def share(files: dict) -> float:
    lines, missing = totals(files)
    return 100.0 * (lines - missing) / lines


def low(figures: dict) -> list[str]:
    """The parts below the goal."""
    return [name for name, part in parts(figures).items() if name != VLLM and share(part) < GOAL]


def ranges(numbers: list[int]) -> str:
    """1-3, 7."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)


def page(figures: dict) -> str:
    lines = [
        "# Coverage",
        "",
        "Written by `make coverage`; `tests/covered/run.py` says what is counted and how. Figures:",
        "`coverage.json`.",
        "",
        "| part | lines | run | share |",
        "|---|---|---|---|",
    ]
    for name, part in parts(figures).items():
        total, missing = totals(part)
        lines.append(f"| {name} | {total} | {total - missing} | {share(part):.2f} % |")
    lines += [
        "",
        "`pyext/fusedraw/vllm/` is not part of pyext here: most of it runs beside vLLM alone,",
        "in the environment of `make test-integrations`.",
    ]
    lines += ["", f"Machine: {figures['machine']}.", "", "## Lines that did not run", ""]
    for name, part in parts(figures).items():
        lines += [f"### {name}", "", "| file | lines | did not run |", "|---|---|---|"]
        some = {n: f for n, f in sorted(part.items()) if f["missing"]}
        lines += [f"| `{n}` | {f['lines']} | {ranges(f['missing'])} |" for n, f in some.items()]
        whole = len(part) - len(some)
        lines += ["", f"Every line of the other {whole} files ran.", ""]
    return "\n".join(lines).rstrip() + "\n"


if __name__ == "__main__":
    sys.exit(main())
