# SPDX-License-Identifier: Apache-2.0
"""The analysis as CSV files: every number of the report, one table a file.

UTF-8, comma, a header, one line per row; nothing where a number is missing, true and false in small letters,
lists as JSON. A text that a spreadsheet would take for a formula has an apostrophe in front; numbers never
have. Always the same files: one without rows has its header, so no table of an earlier report stays.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator
from typing import Any

from ._format import visible

FORMULA = tuple("=+-@\uff1d\uff0b\uff0d\uff20")  # the last four: full width, which spreadsheets take as well
PLACE = ("prompt", "condition", "sample")
ANOMALY = ("rule", "score", "threshold", "at", "says")
TRACE = ("entropy", "logp", "margin", "rank", "confidence")
# The first columns of each file; a row's other fields follow in the order in which they first come.
COLUMNS: dict[str, tuple[str, ...]] = {
    "conditions": ("name", "changes", "outputs", "tokens"),
    "pairs": ("a", "b", "compared", "equal", "agreement", "forks", "blame", "says"),
    "forks": ("a", "b", "prompt", "sample", "step", "token_a", "token_b", "text_a", "text_b"),
    "outputs": (*PLACE, "length", "finished", "anomalies", "text"),
    "tokens": (*PLACE, "step", "piece", *TRACE),
    "anomalies": (*PLACE, *ANOMALY),
    "anomaly_rules": ("rule", "says", "threshold", "flagged", "outputs"),
    "prompts": ("prompt", "digest", "samples", "exact_agreement", "agreement", "text"),
    "calibration": ("low", "high", "count", "confidence", "accuracy"),
    "risk_coverage": ("coverage", "risk"),
    "certificate": ("noise", "share"),
    "perturbations": ("name", "prompts", "agreement", "js"),
    "bias": ("template", "a", "b", "js", "total_variation"),
    "sweep": ("condition", "temperature", "mix_eps"),
    "scalars": ("section", "name", "value"),
}


def files(analysis: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """(name of the file, its text) of each table, one at a time."""
    for name, columns in COLUMNS.items():
        yield f"{name}.csv", text(columns, ROWS[name](analysis))


def text(columns: tuple[str, ...], rows: Iterable[dict[str, Any]]) -> str:
    made = list(rows)
    names = list(dict.fromkeys([*columns, *(key for row in made for key in row)]))
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(map(cell, names))
    writer.writerows([cell(row.get(name)) for name in names] for row in made)
    return out.getvalue()


def cell(value: Any) -> str | int | float | None:
    if value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    said = visible(value) if isinstance(value, str) else visible(json.dumps(value, ensure_ascii=False))
    # A spreadsheet drops white space in front before it looks for a formula.
    return f"'{said}" if said.lstrip().startswith(FORMULA) else said


def part(analysis: dict[str, Any], section: str, key: str) -> list[Any]:
    """A list inside a section that may be None."""
    return list((analysis.get(section) or {}).get(key) or [])


def conditions(analysis: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for row in analysis.get("conditions") or []:
        flat = {**row, "changes": " ".join(row.get("changes") or []), **(row.get("settings") or {})}
        yield {k: v for k, v in flat.items() if k != "settings"}


def outputs(analysis: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for row in analysis.get("outputs") or []:
        yield {**row, "anomalies": " ".join(str(a.get("rule")) for a in row.get("anomalies") or [])}


def anomalies(analysis: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for row in analysis.get("outputs") or []:
        for found in row.get("anomalies") or []:
            yield {**{k: row.get(k) for k in PLACE}, **{k: found.get(k) for k in ANOMALY}}


def tokens(analysis: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for trace in analysis.get("traces") or []:
        place = {k: trace.get(k) for k in PLACE}
        columns = {"piece": trace.get("pieces"), **{k: trace.get(k) for k in TRACE}}
        for step in range(len(trace.get("entropy") or [])):
            values = {k: v[step] if v is not None and step < len(v) else None for k, v in columns.items()}
            yield {**place, "step": step, **values}


def risk_coverage(analysis: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for coverage, risk in part(analysis, "calibration", "risk_coverage"):
        yield {"coverage": coverage, "risk": risk}


def scalars(analysis: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What stands alone: the headline, the model, the run, and the single numbers of the later sections."""
    for section in ("headline", "model", "run", "calibration", "robustness", "bias"):
        yield from flat(section, "", analysis.get(section) or {})


def flat(section: str, before: str, values: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(section, f"{before}{name}.", value)
        elif not isinstance(value, list):
            yield {"section": section, "name": before + name, "value": value}


ROWS: dict[str, Any] = {
    "conditions": conditions,
    "pairs": lambda a: a.get("pairs") or [],
    "forks": lambda a: a.get("forks") or [],
    "outputs": outputs,
    "tokens": tokens,
    "anomalies": anomalies,
    "anomaly_rules": lambda a: a.get("anomaly_rules") or [],
    "prompts": lambda a: a.get("prompts") or [],
    "calibration": lambda a: part(a, "calibration", "bins"),
    "risk_coverage": risk_coverage,
    "certificate": lambda a: part(a, "robustness", "certificate"),
    "perturbations": lambda a: part(a, "robustness", "perturbations"),
    "bias": lambda a: part(a, "bias", "pairs"),
    "sweep": lambda a: a.get("sweep") or [],
    "scalars": scalars,
}
