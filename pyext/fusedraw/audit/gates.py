# SPDX-License-Identifier: Apache-2.0
"""Thresholds for CI (`--fail-on "agreement:batch<0.9"`), and the alarm over earlier runs (`--history`)."""

from __future__ import annotations

import difflib
import json
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .plan import AuditError, read_text
from .robustness import drift

_GATE = re.compile(r"\s*([a-z0-9_:. +-]+?)\s*(<=|>=|<|>)\s*([-+0-9.e]+)\s*", re.IGNORECASE)
HISTORY_MOST = 1000  # runs that are kept


@dataclass(frozen=True)
class Gate:
    """Trips where `metric` stands on the wrong side of `limit`."""

    metric: str
    relation: str
    limit: float

    def trips(self, value: float) -> bool:
        return {
            "<": value < self.limit,
            "<=": value <= self.limit,
            ">": value > self.limit,
            ">=": value >= self.limit,
        }[self.relation]

    def __str__(self) -> str:
        return f"{self.metric}{self.relation}{self.limit:g}"


def parse(texts: Sequence[str]) -> list[Gate]:
    """Gates from 'metric<number', several by commas. Raises AuditError."""
    found = []
    for text in (part for whole in texts for part in whole.split(",")):
        match = _GATE.fullmatch(text)
        try:
            found.append(Gate(match[1], match[2], float(match[3])) if match else None)
        except ValueError:
            found.append(None)
        if found[-1] is None:
            raise AuditError(f"--fail-on takes METRIC<NUMBER or METRIC>NUMBER, got {text!r}")
    return found  # type: ignore[return-value]


def check_known(gates: Sequence[Gate], metrics: Sequence[str]) -> None:
    """AuditError for a metric that no report has."""
    for gate in gates:
        if gate.metric not in metrics:
            close = difflib.get_close_matches(gate.metric, metrics, 1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise AuditError(
                f"--fail-on: no figure is named {gate.metric!r}: expected {', '.join(metrics)}{hint}"
            )


def tripped(gates: Sequence[Gate], headline: Mapping[str, float | None]) -> list[str]:
    """A line for each gate that trips. A figure that was not measured trips: it cannot be vouched for."""
    lines = []
    for gate in gates:
        value = headline.get(gate.metric)
        if value is None:
            lines.append(f"{gate}: {gate.metric} was not measured")
        elif gate.trips(value):
            lines.append(f"{gate}: {gate.metric} is {value:.4g}")
    return lines


# Earlier runs


def read_history(path: Path) -> list[dict[str, Any]]:
    """Headlines of earlier runs, oldest first; none where the file is not there yet."""
    if not path.exists():
        return []
    runs = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        try:
            runs.append(json.loads(line))
        except ValueError:
            runs.append(None)
        if not isinstance(runs[-1], dict):
            raise AuditError(f"{path}, line {number}: expected the figures of a run as JSON")
    return runs


def add_to_history(path: Path, headline: Mapping[str, float | None]) -> list[str]:
    """Append this run and say which figures have drifted, by CUSUM against the first runs."""
    runs = [*read_history(path), dict(headline)][-HISTORY_MOST:]
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_text("".join(json.dumps(run) + "\n" for run in runs), encoding="utf-8")
        os.replace(temporary, path)
    except OSError as error:
        raise AuditError(f"{path} cannot be written: {error.strerror or error}") from None
    return [str(alarm) for alarm in drift(runs)]
