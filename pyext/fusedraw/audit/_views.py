# SPDX-License-Identifier: Apache-2.0
"""What the page shows of an analysis: the names of report.html.jinja, outputs token by token, anomalies."""

from __future__ import annotations

import math
from typing import Any

from . import _rows, tables
from ._format import finite, number, plural, short, visible
from ._rows import Row, piece, rule
from ._summary import flagged, sentences, tiles, verdict

MOST_OUTPUTS, MOST_STRIPS, MOST_TOKENS = 24, 8, 256
LEVELS = 10  # of the colours of a strip
EXCERPT = 240  # letters of an output


def view(analysis: Row) -> Row:
    run, model = analysis.get("run") or {}, analysis.get("model") or {}
    shown, scales = strips(analysis)
    return {
        "name": visible(str(model.get("name") or "a model")),
        "lead": lead(run, model, analysis),
        "redacted": bool(run.get("redacted")),
        "verdict": verdict(analysis),
        "sentences": sentences(analysis),
        "tiles": tiles(analysis),
        "conditions": _rows.conditions(analysis),
        "pairs": _rows.pairs(analysis),
        "forks": _rows.forks(analysis),
        "strips": shown,
        "traces": len(analysis.get("traces") or []),
        "scales": {name: number(value) for name, value in scales.items()},
        "rules": _rows.rules(analysis),
        "outputs": outputs(analysis),
        "prompts": _rows.prompts(analysis),
        "calibration": _rows.calibration(analysis.get("calibration")),
        "sweep": _rows.sweep(analysis),
        "perturbations": _rows.perturbations(analysis),
        "noise": number((analysis.get("robustness") or {}).get("measured_noise")),
        "bias": _rows.bias(analysis.get("bias")),
        "facts": facts(run, model),
        "files": ["report.json", *(f"{name}.csv" for name in tables.COLUMNS)],
    }


def lead(run: Row, model: Row, analysis: Row) -> str:
    parts = [plural(run[k], k.removesuffix("s")) for k in ("prompts", "outputs", "tokens") if run.get(k)]
    parts.insert(1, plural(len(analysis.get("conditions") or []), "condition"))
    if model.get("parameters"):
        parts.append(f"a model of {number(model['parameters'] / 1e6)} million parameters")
    return f"{', '.join(parts)}."


def strips(analysis: Row) -> tuple[list[Row], dict[str, float]]:
    """The outputs to show token by token, those with most anomalies first, and where the colours end."""
    found = [t for t in analysis.get("traces") or [] if t.get("entropy")]
    found.sort(key=lambda t: (-len(t.get("anomalies") or []), -max(finite(x) or 0.0 for x in t["entropy"])))
    chosen = found[:MOST_STRIPS]
    scales = {
        "entropy": scale([x for t in chosen for x in t["entropy"][:MOST_TOKENS]]),
        "surprise": scale([-x for t in chosen for x in (t.get("logp") or [])[:MOST_TOKENS] if x is not None]),
    }
    return [strip(t, scales) for t in chosen], scales


def scale(values: list[Any]) -> float:
    """Nats at which the strongest colour begins: 95 of 100 tokens are below; a multiple of a half."""
    known = sorted(x for x in map(finite, values) if x is not None)
    return max(1.0, math.ceil(2 * known[int(0.95 * (len(known) - 1))]) / 2) if known else 1.0


def strip(trace: Row, scales: dict[str, float]) -> Row:
    entropy, pieces = trace["entropy"], trace.get("pieces")
    shown = min(len(entropy), MOST_TOKENS)
    columns = [padded(trace.get(k), shown) for k in ("entropy", "logp", "margin", "rank")]
    marks: dict[int, list[str]] = {}
    for anomaly in trace.get("anomalies") or []:
        if anomaly.get("at") is not None:
            marks.setdefault(anomaly["at"], []).append(rule(anomaly.get("rule")))
    tokens = []
    for n, (spread, logp, margin, rank) in enumerate(zip(*columns, strict=True)):
        said = (
            f"token {n}: log-prob. {number(logp)}, entropy {number(spread)} nats, margin {number(margin)}, "
        )
        said += f"rank {number(rank)}" + (f" – {', '.join(marks[n])}" if n in marks else "")
        text = pieces[n] if pieces is not None and n < len(pieces) else None
        tokens.append(
            {
                "text": str(n) if text is None else piece(text),
                "breaks": text is not None and text.endswith("\n"),
                "entropy": level(spread, scales["entropy"]),
                "surprise": level(None if logp is None else -logp, scales["surprise"]),
                "said": said,
                "marked": n in marks,
            }
        )
    place = f"Prompt {trace.get('prompt')}, sample {trace.get('sample')}"
    return {
        "title": f"{place}, {short(trace['condition'], 40)}",
        "anomalies": list(map(anomaly_said, trace.get("anomalies") or [])),
        "tokens": tokens,
        "left": f"{len(entropy) - shown:,} more tokens in tokens.csv." if len(entropy) > shown else "",
        "positions": pieces is None,
        "trace": trace,
    }


def padded(values: list[Any] | None, length: int) -> list[Any]:
    return [*(values or [])[:length], *[None] * (length - len(values or []))]


def level(value: Any, most: float) -> int:
    return min(LEVELS - 1, max(0, int(LEVELS * (finite(value) or 0.0) / most)))


def anomaly_said(anomaly: Row) -> dict[str, str]:
    at = f"token {anomaly['at']}, " if anomaly.get("at") is not None else ""
    figures = f"score {number(anomaly.get('score'))}, threshold {number(anomaly.get('threshold'))}"
    says = f"{visible(anomaly.get('says') or '')} ({at}{figures})"
    return {"rule": rule(anomaly.get("rule")), "says": says}


def outputs(analysis: Row) -> Row:
    """Those that break most rules first."""
    found = [row for row in analysis.get("outputs") or [] if row.get("anomalies")]
    found.sort(key=lambda row: -len({a.get("rule") for a in row["anomalies"]}))
    shown = [
        {
            "place": f"prompt {row.get('prompt')}, sample {row.get('sample')}",
            "condition": short(row["condition"], 40),
            "figures": [number(row.get(k)) for k in ("length", "mean_entropy", "perplexity")],
            "anomalies": list(map(anomaly_said, row["anomalies"])),
            "text": None if row.get("text") is None else short(row["text"], EXCERPT),
        }
        for row in found[:MOST_OUTPUTS]
    ]
    left = f"{len(found) - len(shown):,} more in anomalies.csv." if len(found) > len(shown) else ""
    return {
        "rows": shown,
        "left": left,
        "flagged": flagged(analysis),
        "all": len(analysis.get("outputs") or []),
    }


def facts(run: Row, model: Row) -> list[tuple[str, str]]:
    out = [(f"model, {name}", value) for name, value in model.items()]
    for group in ("machine", "versions"):
        found = run.get(group)
        out += list(found.items()) if isinstance(found, dict) else []
    out += [(name.replace("_", " "), run[name]) for name in ("max_new_tokens", "seed") if name in run]
    return [(visible(str(k)), number(v) if finite(v) is not None else visible(str(v))) for k, v in out]
