# SPDX-License-Identifier: Apache-2.0
"""The file of results: one line per case, replaced whole after each of them, so it is never half written.

A run continues the file that it finds when `identity` is the same: the machine, the versions, the code, the
number of rounds and the providers. Else that file is kept beside it, as NAME.previous.json.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .cases import Case

IDENTITY = ("machine", "versions", "isa", "code", "malloc_keeps_memory", "rounds", "selected")
FIELDS = {"vocab": int, "batch": int, "dtype": str, "threads": int, "data": str, "config": str}
LATER = {"part": "grid", "cache": "hot"}  # what files had before there was more than one

Result = dict[str, Any]


class BenchError(Exception):
    """A bad argument or file, said in one line."""


def identity(head: dict[str, Any]) -> dict[str, Any]:
    return {key: head.get(key) for key in IDENTITY}


def case_of(result: Result) -> Case:
    return Case(**{key: result[key] for key in FIELDS}, **{k: result.get(k, v) for k, v in LATER.items()})


def code() -> str:
    """A digest of the package as it is installed: a version number does not tell two builds apart."""
    package = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted([*package.glob("_C*.so"), *package.rglob("*.py"), *package.glob("bench/*.cpp")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def load(path: Path) -> dict[str, Any]:
    """A stored run, or BenchError where the file is not one."""
    try:
        stored = json.loads(path.read_text())
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError:
        raise BenchError(f"{path} is not JSON: expected what `python -m fusedraw bench` stores") from None
    wrong = fault(stored)
    if wrong:
        raise BenchError(f"{path} holds no results of `python -m fusedraw bench`: {wrong}")
    return stored


def fault(stored: Any) -> str | None:
    if not isinstance(stored, dict) or not isinstance(stored.get("results"), list):
        return "no list `results`"
    for number, result in enumerate(stored["results"]):
        if not isinstance(result, dict):
            return f"result {number} is no object"
        for key, kind in FIELDS.items():
            if not isinstance(result.get(key), kind):
                return f"result {number} has no {kind.__name__} `{key}`"
        times = result.get("us")
        if not isinstance(times, dict) or not all(are_quartiles(values) for values in times.values()):
            return f"result {number} has no quartiles `us` by provider"
    return None


def are_quartiles(values: Any) -> bool:
    return (
        isinstance(values, list)
        and len(values) == 4
        and all(isinstance(v, (int, float)) and v > 0 for v in values)
    )


def text(head: dict[str, Any], lines: Iterable[str]) -> str:
    """One line per case: readable, and a diff shows the cases that changed."""
    return json.dumps(head, indent=1)[:-2] + ',\n "results": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n"


def write(path: Path, content: str) -> None:
    """Replaces the file in one step."""
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(content)
    scratch.replace(path)


def put_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.stem}.previous.json")
    path.replace(aside)
    return aside


def check_writable(path: Path) -> None:
    """BenchError where no file can be written there; makes its folder."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise IsADirectoryError(0, "is a folder")
        scratch = path.with_name(f".{path.name}.{os.getpid()}")
        scratch.touch()
        scratch.unlink()
    except OSError as error:
        raise BenchError(f"cannot write {path}: {error.strerror or error}") from None
