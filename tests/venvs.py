# SPDX-License-Identifier: Apache-2.0
"""Virtual environments that tests run in, made once and kept, and fusedraw's wheel for them: what
tests/environments/run.py and tests/integrations/run.py share.

TORCH_ARGS: more arguments for `pip install torch`, such as
--index-url https://download.pytorch.org/whl/cpu (the default index has gigabytes of CUDA libraries).
"""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH = "2.13.0"
NO_REGISTRY = re.compile(
    r"NewConnectionError|NameResolutionError|Connection refused|Connection to \S+ timed out"
    r"|ProxyError|Temporary failure in name resolution|from versions: none"
)


@dataclass(frozen=True)
class Venv:
    """An environment and what lies beside it: the output of what is done in it, <name>-<what>.log."""

    where: Path

    @property
    def python(self) -> str:
        return str(self.where / "bin" / "python")

    def made(self, interpreter: str, torch: str, *others: list[str]) -> str | None:
        """Takes it as it is if it was made so, else makes it anew; None, or what went wrong in one line.

        torch: its version; others: arguments of `pip install`, a list for each call.
        """
        version = subprocess.run([interpreter, "-VV"], capture_output=True, text=True).stdout
        texts = [Path(word).read_text() for words in others for word in words if word.endswith(".txt")]
        wanted = hashlib.sha256(repr((version, torch, others, texts)).encode()).hexdigest()
        stamp = self.where / "installed"
        if stamp.is_file() and stamp.read_text() == wanted:
            return None
        print(f"== {self.where.name}: installing into {self.where} (several minutes)", flush=True)
        self.where.parent.mkdir(parents=True, exist_ok=True)
        failure = self.logged("venv", [interpreter, "-m", "venv", "--clear", str(self.where)])
        of_torch = [f"torch=={torch}", *shlex.split(os.environ.get("TORCH_ARGS", ""))]
        for arguments in (of_torch, *others):
            failure = failure or self.pip(*arguments)
        if failure is None:
            stamp.write_text(wanted)
        return failure

    def pip(self, *arguments: str) -> str | None:
        # Without byte code: most of these files are never imported.
        command = [self.python, "-m", "pip", "--disable-pip-version-check", "install", "--no-compile"]
        return self.logged("pip", [*command, *arguments])

    def build_wheel(self, python: str | None = None) -> Path | str:
        """fusedraw's, by this Python and its torch or by another, without CUDA; or what went wrong."""
        wheels, settings = self.beside("wheel"), self.beside("build.cfg")
        shutil.rmtree(wheels, ignore_errors=True)
        # Objects of its own. (`setup.py build -b ... bdist_wheel` would compile everything twice.)
        settings.write_text(f"[build]\nbuild_base = {self.beside('objects')}\n")
        command = [python or self.python, "setup.py", "-q", "bdist_wheel", "-d", str(wheels)]
        failure = self.logged("build", command, {"FUSEDRAW_CUDA": "0", "DIST_EXTRA_CONFIG": str(settings)})
        return failure or next(wheels.glob("*.whl"))

    def install_wheel(self, wheel: Path | str) -> str | None:
        """What build_wheel gave."""
        return wheel if isinstance(wheel, str) else self.pip("--no-deps", "--force-reinstall", str(wheel))

    def logged(self, what: str, command: list[str], variables: dict[str, str] | None = None) -> str | None:
        """Runs a command with its output in a file; None, or the failure in one line."""
        path = self.beside(f"{what}.log")
        environment = {**outside(), **(variables or {})}
        with path.open("w") as file:
            code = subprocess.run(
                command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT
            ).returncode
        if code == 0:
            return None
        output, log = path.read_text(), path.relative_to(ROOT)
        if "pip" in command and NO_REGISTRY.search(output):
            return f"not installed: a package registry was not reached or lacks a package ({log})"
        last = output.strip().splitlines()[-1:] or ["no output"]
        return f"{last[0]} ({log})"

    def beside(self, what: str) -> Path:
        return self.where.parent / f"{self.where.name}-{what}"


def outside() -> dict[str, str]:
    """The variables of this process without what would lead a Python out of its environment."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "VIRTUAL_ENV")}


def report(title: str, results: list[tuple[str, str, float]]) -> None:
    """(what, how it ended, seconds) of each."""
    print(f"\n{title}")
    width = max(len(label) for label, _, _ in results)
    for label, outcome, seconds in results:
        print(f"  {label:{width}s} {seconds:6.0f} s  {outcome}")
