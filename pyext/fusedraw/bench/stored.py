# SPDX-License-Identifier: Apache-2.0
"""The file of results: one line per case, replaced whole after each of them, so it is never half written.

A run continues the file that it finds when `identity` is the same: the machine, the versions, the code, the
number of rounds and the providers. Else that file is kept beside it, as NAME.previous.json.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .cases import PARTS, Case

IDENTITY = ("machine", "versions", "isa", "code", "malloc_keeps_memory", "rounds", "selected")
FIELDS = {"vocab": int, "batch": int, "dtype": str, "threads": int, "data": str, "config": str}
HEAD = {"command": str, "machine": dict, "versions": dict, "isa": dict, "providers": dict, "left_out": list}
LATER = {"part": "grid", "cache": "hot"}  # what files had before there was more than one

Result = dict[str, Any]


class BenchError(Exception):
    """A bad argument or file, said in one line."""


def identity(head: dict[str, Any]) -> dict[str, Any]:
    return {key: head.get(key) for key in IDENTITY}


def case_of(result: Result) -> Case:
    return Case(**{key: result[key] for key in (*FIELDS, *LATER)})


def code() -> str:
    """A digest of the package as it is installed: a version number does not tell two builds apart."""
    package = Path(__file__).resolve().parent.parent
    digest = hashlib.sha256()
    for path in sorted([*package.glob("_C*.so"), *package.rglob("*.py"), *package.glob("bench/*.cpp")]):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def load(path: Path) -> dict[str, Any]:
    """A stored run, an older one with what it lacks; BenchError where the file is not one."""
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BenchError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, RecursionError):
        raise BenchError(f"{path} is not JSON: expected what `python -m fusedraw bench` stores") from None
    wrong = fault(stored)
    if wrong:
        raise BenchError(f"{path} holds no results of `python -m fusedraw bench`: {wrong}")
    for key, kind in HEAD.items():
        stored.setdefault(key, kind())
    for result in stored["results"]:
        for key, value in LATER.items():
            result.setdefault(key, value)
        result.setdefault("rows", result["data"])
    return stored


def fault(stored: Any) -> str | None:
    if not isinstance(stored, dict) or not isinstance(stored.get("results"), list):
        return "no list `results`"
    if not stored["results"]:
        return "`results` is empty"
    for key, kind in HEAD.items():
        if not isinstance(stored.get(key, kind()), kind):
            return f"`{key}` is no {kind.__name__}"
    for name, about in stored.get("providers", {}).items():
        if not isinstance(about, dict) or not isinstance(about.get("deviations", []), list):
            return f"provider {name!r} is no object with a list of deviations"
    for number, result in enumerate(stored["results"]):
        wrong = fault_of(result)
        if wrong:
            return f"result {number} {wrong}"
    return None


def fault_of(result: Any) -> str | None:
    if not isinstance(result, dict):
        return "is no object"
    for key, kind in FIELDS.items():
        value = result.get(key)
        if not isinstance(value, kind) or isinstance(value, bool) or (isinstance(value, int) and value < 1):
            return f"has no {'positive int' if kind is int else 'str'} `{key}`"
    if result.get("part", LATER["part"]) not in PARTS:
        return f"is of no part among {', '.join(PARTS)}"
    times = result.get("us")
    if not isinstance(times, dict) or not times or not all(map(are_quartiles, times.values())):
        return "has no quartiles `us` by provider"
    return None


def are_quartiles(values: Any) -> bool:
    return (
        isinstance(values, list)
        and len(values) == 4
        and all(isinstance(v, (int, float)) and math.isfinite(v) and v > 0 for v in values)
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
