# SPDX-License-Identifier: Apache-2.0
"""Two stored runs side by side: per case and provider the old median, the new one, and their ratio.

A machine that others share is faster on one day than on another, and the floors with it: `over floor` is the
ratio of the times as multiples of the floor `exp` (or `read`) measured in the same run on the same case. A
line is marked where each of the two medians lies outside the quartiles of the other run.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from . import stored
from .cases import Case

FLOORS = ("exp", "read")
HEADER = f"{'case':62} {'provider':15} {'old us':>10} {'new us':>10} {'ratio':>6} {'over floor':>10}"


@dataclass
class Line:
    case: Case
    provider: str
    old: float
    new: float
    floor_ratio: float | None  # of the floor of the case: new over old
    outside: bool

    @property
    def ratio(self) -> float:
        return self.new / self.old

    @property
    def over_floor(self) -> float | None:
        return self.ratio / self.floor_ratio if self.floor_ratio else None

    def __str__(self) -> str:
        over = "-" if self.over_floor is None else f"{self.over_floor:.2f}"
        mark = ("  slower" if self.ratio > 1 else "  faster") if self.outside else ""
        times = f"{self.old:>10.4g} {self.new:>10.4g} {self.ratio:>6.2f} {over:>10}"
        return f"{self.case.name:62} {self.provider:15} {times}{mark}"


def outside(old: list[float], new: list[float]) -> bool:
    """Neither median lies within the other's quartiles."""
    return not old[0] <= new[1] <= old[2] and not new[0] <= old[1] <= new[2]


def lines(old: dict[str, Any], new: dict[str, Any]) -> Iterator[Line]:
    before = {stored.case_of(result): result["us"] for result in old["results"]}
    for result in new["results"]:
        case, us = stored.case_of(result), result["us"]
        was = before.get(case, {})
        floor = next((name for name in FLOORS if name in us and name in was), None)
        ratio = us[floor][1] / was[floor][1] if floor else None
        for name in us:
            if name in was:
                own = None if name in FLOORS else ratio
                yield Line(case, name, was[name][1], us[name][1], own, outside(was[name], us[name]))


def mean_ratio(values: list[float]) -> float:
    return math.exp(sum(map(math.log, values)) / len(values))


def text(old: dict[str, Any], new: dict[str, Any]) -> str:
    """The whole comparison, with its summary at the end."""
    found = list(lines(old, new))
    if not found:
        return "compare: the two runs have no case in common"
    out = [HEADER, *map(str, found), ""]
    for name in dict.fromkeys(line.provider for line in found):
        mine = [line for line in found if line.provider == name]
        over = [line.over_floor for line in mine if line.over_floor is not None]
        said = f"{name}: {len(mine)} cases, new / old {mean_ratio([line.ratio for line in mine]):.3f}"
        if over:
            said += f", over the floor {mean_ratio(over):.3f}"
        slower = sum(line.outside and line.ratio > 1 for line in mine)
        faster = sum(line.outside and line.ratio < 1 for line in mine)
        out.append(
            f"{said} (geometric means); outside both quartile ranges: {slower} slower, {faster} faster"
        )
    news = {stored.case_of(result) for result in new["results"]}
    olds = {stored.case_of(result) for result in old["results"]}
    if news ^ olds:
        out.append(f"in the old run only: {len(olds - news)} cases; in the new one only: {len(news - olds)}")
    differ = [key for key in ("machine", "versions", "isa") if old.get(key) != new.get(key)]
    if differ:
        out.append(f"the two runs differ in {', '.join(differ)}: look at what is over the floor")
    return "\n".join(out)
