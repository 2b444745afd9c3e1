# SPDX-License-Identifier: Apache-2.0
"""The report for a terminal and for logs: the same figures as plain text, 100 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

WIDTH = 100
SHOWN_ANOMALIES = 10


def text(analysis: dict[str, Any]) -> str:
    """All sections that have something to say."""
    parts = [
        _head(analysis),
        _conditions(analysis),
        _blame(analysis),
        _anomalies(analysis),
        _uncertainty(analysis),
        _calibration(analysis),
        _robustness(analysis),
        _bias(analysis),
    ]
    return "\n\n".join(part for part in parts if part)


def _head(analysis) -> str:
    model, run = analysis["model"], analysis["run"]
    lines = [
        f"{model['name']}: {run['outputs']} outputs of {run['prompts']} prompts under "
        f"{len(analysis['conditions'])} conditions, {run['tokens']} tokens",
        f"sampler: {run['redrawn']} of {run['tokens']} tokens drawn again from their logits came out equal; "
        f"differences from equal logits, law and key: {sum(p['sampler'] for p in analysis['pairs'])}",
    ]
    return "\n".join(lines)


def _conditions(analysis) -> str:
    rows = [
        ("condition", "changes", "outputs", "length", "entropy", "perplexity", "distinct-2", "repetition")
    ]
    for line in analysis["conditions"]:
        changes = ", ".join(f"{name}={line['settings'][name]}" for name in line["changes"]) or "-"
        figures = [line["mean_entropy"], line["perplexity"], line["distinct_2"], line["repetition"]]
        cells = [line["name"], changes, str(line["outputs"]), _cell(line["mean_length"], ".1f")]
        rows.append((*cells, *(_cell(f, ".3g") for f in figures)))
    return "Conditions\n" + table(rows, left=2)


def _blame(analysis) -> str:
    base = analysis["conditions"][0]["name"]
    pairs = [p for p in analysis["pairs"] if p["a"] == base]
    if not pairs:
        return ""
    rows = [("beside the base", "equal", "agreement", "first fork", "logits differ by", "to blame")]
    for p in pairs:
        equal = f"{p['equal']} of {p['compared']}"
        first = (
            "-" if p["first_difference_median"] is None else f"token {p['first_difference_median'] + 1:.0f}"
        )
        gap = f"{p['max_difference']:.2g}"
        rows.append((p["b"], equal, _cell(p["agreement"], ".2f"), first, gap, p["blame"]))
    said = [_wrapped(p["says"]) for p in pairs]
    return "Who is to blame\n" + table(rows, left=1) + "\n" + "\n".join(said)


def _anomalies(analysis) -> str:
    rows = [("rule", "flagged", "threshold")]
    for rule in analysis["anomaly_rules"]:
        rows.append(
            (rule["rule"], f"{rule['flagged']} of {rule['outputs']}", _cell(rule["threshold"], ".4g"))
        )
    flagged = [line for line in analysis["outputs"] if line["anomalies"]]
    flagged.sort(key=lambda line: -len(line["anomalies"]))
    shown = []
    for line in flagged[:SHOWN_ANOMALIES]:
        told = "; ".join(anomaly["says"] for anomaly in line["anomalies"])
        where = f"prompt {line['prompt']}, {line['condition']}, sample {line['sample']}"
        shown.append(_wrapped(f"{where}: {told}"))
    more = len(flagged) - len(shown)
    shown += [f"  and {more} more, in anomalies.csv"] if more > 0 else []
    return "\n".join(["Which outputs look wrong", table(rows, left=1), *shown])


def _uncertainty(analysis) -> str:
    rows = [("prompt", "samples", "agreement", "similar", "clusters", "text")]
    for line in analysis["prompts"]:
        if line["agreement"] is None:
            continue
        short = textwrap.shorten(line["text"] or "(redacted)", 50, placeholder=" ...")
        figures = (_cell(line["agreement"], ".2f"), _cell(line["lexical_similarity"], ".2f"))
        clusters = _cell(line["clusters"], "d")
        rows.append((str(line["prompt"]), str(line["samples"]), *figures, clusters, short))
    return "Samples of one prompt\n" + table(rows, left=0, last_left=True) if len(rows) > 1 else ""


def _calibration(analysis) -> str:
    told = analysis["calibration"]
    if not told:
        return ""
    return _wrapped(
        f"Calibration on {told['tokens']} tokens of {told['source']}: ECE {told['ece']:.3f}, Brier "
        f"{told['brier']:.3f}, NLL {told['nll']:.3f}, accuracy {told['accuracy']:.3f}; best temperature "
        f"{told['temperature']:.3f} (ECE there {told['ece_after']:.3f})",
        "",
    )


def _robustness(analysis) -> str:
    told = analysis["robustness"]
    lines = []
    if told["measured_noise"] is not None:
        lines.append(f"Logit differences between conditions of one law: up to {told['measured_noise']:.3g}")
    for line in told["perturbations"]:
        if line["prompts"]:
            lines.append(
                f"Prompts changed in {line['name']}: best first token the same in {line['agreement']:.0%} of "
                f"{line['prompts']}, Jensen-Shannon divergence {line['js']:.3f} nats"
            )
    return "\n".join(lines)


def _bias(analysis) -> str:
    told = analysis["bias"]
    if not told:
        return ""
    return _wrapped(
        f"Paired prompts, {len(told['pairs'])} of them: next-token laws differ by {told['mean_js']:.3f} nats "
        f"(Jensen-Shannon; by another wording {told['baseline_js']:.3f}), outputs: p = {told['p_value']:.2g}",
        "",
    )


def table(rows: Sequence[Sequence[str]], left: int, last_left: bool = False) -> str:
    """Aligned columns; the first `left` ones, and the last where asked, to the left."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        cells = []
        for place, (cell, width) in enumerate(zip(row, widths, strict=True)):
            to_left = place < left or (last_left and place == len(row) - 1)
            cells.append(cell.ljust(width) if to_left else cell.rjust(width))
        lines.append(("  " + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def _cell(value, form: str) -> str:
    return "-" if value is None else format(value, form)


def _wrapped(text: str, indent: str = "  ") -> str:
    return textwrap.fill(text, WIDTH, initial_indent=indent, subsequent_indent=indent + "  ")
