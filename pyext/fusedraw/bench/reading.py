# SPDX-License-Identifier: Apache-2.0
"""Reads stored results for tables and pages: checked, old files made like new ones; the goals of a case.

A file that is not a stored result raises `Unreadable` with one line.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

FLOORS = ("read", "exp")
TITLES = {
    "read": "floor: read",
    "exp": "floor: exp",
    "fusedraw": "fusedraw",
    "fusedraw-avx2": "fusedraw, avx2",
    "fusedraw-scalar": "fusedraw, scalar",
    "torch": "pure PyTorch",
    "torch-compile": "torch.compile",
    "hugging-face": "Hugging Face",
    "numpy": "numpy",
    "bucketed": "bucketed",
    "llama.cpp": "llama.cpp",
    "vllm-cpu": "vLLM CPU",
}
PARTS = ("grid", "growth-vocab", "growth-batch", "features", "cold")
CASE = {"vocab": int, "batch": int, "threads": int, "dtype": str, "data": str, "config": str}
HEAD = {"command": str, "machine": dict, "versions": dict, "results": list}

# How many times as fast as a peer; fusedraw at most so many times the floor that binds.
PEER_GOALS = {"torch": 4.0, "llama.cpp": 4.0, "bucketed": 2.0, "vllm-cpu": 15.0, "hugging-face": 40.0}
GREEDY_GOAL = 2.0  # over every peer but numpy, whose argmax is a read pass
FLOOR_GOAL = 1.2
EXP_BOUND = ("top-p", "mix+top-p", "T+logp+entropy")  # they need sums; the others one read pass
READ_BOUND = ("greedy", "T", "top-k", "top-k+top-p", "min-p")


class Unreadable(ValueError):
    """One line: which file, what was found, what is allowed."""


def load(path: Path) -> dict[str, Any]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise Unreadable(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    except (json.JSONDecodeError, RecursionError) as error:
        raise Unreadable(
            f"{path}: expected the JSON of python -m fusedraw bench, got no JSON ({error})"
        ) from None
    check(path, stored)
    stored.setdefault("left_out", [])
    stored.setdefault("providers", {})
    stored.setdefault("isa", {})
    for line in stored["results"]:
        line.setdefault("part", "grid")
        line.setdefault("rows", line["data"])
        line.setdefault("cache", "hot")
    return stored


def check(path: Path, stored: Any) -> None:
    if not isinstance(stored, dict):
        raise Unreadable(
            f"{path}: expected an object of python -m fusedraw bench, got {type(stored).__name__}"
        )
    kinds: dict[str, type] = {**HEAD, "left_out": list, "providers": dict, "isa": dict}
    for key, kind in kinds.items():
        if key not in stored and key not in HEAD:
            continue
        if not isinstance(stored.get(key), kind):
            found = type(stored[key]).__name__ if key in stored else "nothing"
            raise Unreadable(f'{path}: expected "{key}" to be of type {kind.__name__}, got {found}')
    if not stored["results"]:
        raise Unreadable(f'{path}: expected at least one line in "results", got none')
    for name, about in stored.get("providers", {}).items():
        if not isinstance(about, dict) or not isinstance(about.get("deviations", []), list):
            raise Unreadable(f"{path}: provider {name!r} must be an object, its deviations a list")
    for number, line in enumerate(stored["results"]):
        wrong = line_wrong(line)
        if wrong:
            raise Unreadable(f"{path}: results[{number}]: {wrong}")


def line_wrong(line: Any) -> str | None:
    if not isinstance(line, dict):
        return f"expected an object, got {type(line).__name__}"
    for key, kind in CASE.items():
        value = line.get(key)
        if not isinstance(value, kind) or isinstance(value, bool) or (isinstance(value, int) and value < 1):
            return f'expected "{key}" to be {"a positive int" if kind is int else "a str"}, got {value!r:.60}'
    if line.get("part", "grid") not in PARTS:
        return f"expected part to be one of {', '.join(PARTS)}, got {line['part']!r:.60}"
    us = line.get("us")
    if not isinstance(us, dict) or not us:
        return f'expected "us" to be an object of times, got {us!r:.60}'
    for name, times in us.items():
        good = isinstance(times, list) and len(times) == 4
        if not good or not all(isinstance(t, (int, float)) and math.isfinite(t) and t > 0 for t in times):
            return f"expected four positive numbers for {name!r}, got {times!r:.60}"
    return None


def median(us: dict[str, list[float]], name: str) -> float | None:
    """Stored per provider: lower quartile, median, upper quartile, calls. torch: eager or compiled."""
    names = ("torch", "torch-compile") if name == "torch" else (name,)
    return min((us[n][1] for n in names if n in us), default=None)


def peers(stored: dict[str, Any], lines: list[dict[str, Any]]) -> list[str]:
    """The names of what is no floor and no fusedraw, in the order of TITLES; others at the end."""
    found = {name for line in lines for name in line["us"]}
    kinds = {name: about.get("kind") for name, about in stored.get("providers", {}).items()}
    order = [*TITLES, *sorted(found - set(TITLES))]
    own = {n for n in found if n.startswith("fusedraw") or kinds.get(n) in ("floor", "fusedraw")}
    return [name for name in order if name in found and name not in own and name not in FLOORS]


def title(stored: dict[str, Any], name: str) -> str:
    said = stored.get("providers", {}).get(name, {}).get("title")
    return TITLES.get(name) or (said if isinstance(said, str) else name)


def best_peer(stored: dict[str, Any], line: dict[str, Any]) -> float | None:
    return min((line["us"][n][1] for n in peers(stored, [line])), default=None)


def below(stored: dict[str, Any], line: dict[str, Any]) -> list[str]:
    """What of a case is below the goals, in words; nothing where all that was stored reaches them."""
    us, config = line["us"], line["config"]
    ours = median(us, "fusedraw")
    if ours is None:
        return []
    floor = "exp" if config in EXP_BOUND else "read" if config in READ_BOUND else None
    if floor in us and ours <= FLOOR_GOAL * us[floor][1]:
        return []  # no sampler could be much faster
    out = []
    for name in peers(stored, [line]):
        if name == "torch-compile" and "torch" in us:
            continue  # "torch" is the better of the two
        goal = PEER_GOALS.get("torch" if name == "torch-compile" else name)
        if config == "greedy":
            goal = None if name == "numpy" else GREEDY_GOAL
        if name == "bucketed" and config != "T":
            goal = None
        theirs = median(us, name)
        if goal is not None and theirs is not None and theirs / ours < goal:
            out.append(f"{title(stored, name)} {theirs / ours:.2g} x")
    return out


def time_text(us: float | None) -> str:
    if us is None:
        return "-"
    if us < 100:
        return f"{us:.1f}"
    return f"{us:.0f}" if us < 10_000 else f"{us / 1000:.1f} ms"
