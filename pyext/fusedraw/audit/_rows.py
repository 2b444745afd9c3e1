# SPDX-License-Identifier: Apache-2.0
"""The tables of the page: columns, the rows that are most telling, and how many more the CSV files hold.

A cell is a text, or a dict that the template draws: {"blame"}, {"token", "said"} or {"tokens"}.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ._format import NONE, finite, number, percent, short, visible

Row = dict[str, Any]
Column = tuple[str, Callable[[Row], Any]]
MOST_ROWS, MOST_FORKS, MOST_PROMPTS = 45, 24, 30
YES = {True: "yes", False: "no"}
BLAMES = ("sampler", "logits", "both", "settings", "none")  # the order of pairs and of forks


def table(file: str, columns: list[Column], rows: list[Row], total: int, words: tuple[int, ...] = ()) -> Row:
    """`words`: the columns that hold text, which is set to the left and may break."""
    left = f"{total - len(rows):,} more in {file}.csv." if total > len(rows) else ""
    cells = [[cell(row) for _, cell in columns] for row in rows]
    names = [name for name, _ in columns]
    return {"columns": names, "rows": cells, "left": left, "file": f"{file}.csv", "words": words}


def num(key: str, digits: int = 3) -> Callable[[Row], str]:
    return lambda row: number(row.get(key), digits)


def pct(key: str) -> Callable[[Row], str]:
    return lambda row: percent(row.get(key))


def word(key: str, letters: int = 40) -> Callable[[Row], str]:
    return lambda row: NONE if row.get(key) is None else short(str(row[key]), letters)


def both(row: Row) -> str:
    return f"{short(str(row.get('a')), 24)} / {short(str(row.get('b')), 24)}"


def base_of(analysis: Row) -> str | None:
    """The condition that changes nothing."""
    return next((c["name"] for c in analysis.get("conditions") or [] if not c.get("changes")), None)


def conditions(analysis: Row) -> Row:
    found = analysis.get("conditions") or []
    place = {c["name"]: str(n + 1) for n, c in enumerate(found)}

    def moved(row: Row) -> str:
        settings = row.get("settings") or {}
        return ", ".join(f"{k} {setting(settings.get(k))}" for k in row.get("changes") or []) or "base"

    columns: list[Column] = [
        ("", lambda row: place[row["name"]]),
        ("condition", word("name")),
        ("differs by", moved),
        ("outputs", num("outputs")),
        ("tokens each", num("mean_length")),
        ("ended", pct("finished")),
        ("entropy, nats", num("mean_entropy")),
        ("log-prob.", num("mean_logp")),
        ("perplexity", num("perplexity")),
        ("repeats", pct("repetition")),
    ]
    return table("conditions", columns, found[:MOST_ROWS], len(found), (1, 2))


def setting(value: Any) -> str:
    return number(value) if finite(value) is not None else short(str(value), 24)


def pairs(analysis: Row) -> Row:
    """Two tables: those with the base or that blame the sampler; the others, which follow from them."""
    found, base = analysis.get("pairs") or [], base_of(analysis)
    order = sorted(found, key=lambda p: p.get("blame") != "sampler")
    first = [p for p in order if p.get("blame") == "sampler" or base in (p["a"], p["b"]) or base is None]
    chosen = {id(p) for p in first}
    others = [p for p in order if id(p) not in chosen]
    columns: list[Column] = [
        ("pair", both),
        ("to blame", lambda p: {"blame": str(p.get("blame"))} if p.get("compared") else NONE),
        ("in words", word("says", 400)),
        ("outputs equal", lambda p: percent(p["equal"] / p["compared"]) if p.get("compared") else NONE),
        ("agreement", pct("agreement")),
        ("forks", num("forks")),
        ("logits equal", num("logits_equal")),
        ("same token on the same logits", num("same_logits_same_token")),
        ("sampler", num("sampler")),
        ("logits differ by", num("max_difference")),
        ("margin", num("median_margin")),
        ("fork at", num("first_difference_median")),
    ]
    made = [table("pairs", columns, rows[:MOST_ROWS], len(rows), (0, 1, 2)) for rows in (first, others)]
    return {"first": made[0], "others": made[1], "more": len(others)}


def forks(analysis: Row) -> Row:
    """In turn one of each pair, the least margin first, pairs whose logits moved before the others."""
    found = analysis.get("forks") or []
    blames = {(p["a"], p["b"]): p.get("blame") for p in analysis.get("pairs") or []}
    groups: dict[tuple[str, str], list[Row]] = {}
    for fork in sorted(found, key=lambda f: known(f.get("margin_a"))):
        groups.setdefault((fork["a"], fork["b"]), []).append(fork)
    turns = [
        (n, BLAMES.index(blames[key]) if blames.get(key) in BLAMES else len(BLAMES), fork)
        for key, group in groups.items()
        for n, fork in enumerate(group[:MOST_FORKS])
    ]
    turns.sort(key=lambda turn: turn[:2])
    tokens: list[Column] = [
        ("token of the first", lambda f: token(f.get("text_a"), f.get("token_a"))),
        ("token of the second", lambda f: token(f.get("text_b"), f.get("token_b"))),
    ]
    told = any(f.get("token_a") is not None for f in found)  # not in a redacted run
    columns: list[Column] = [
        ("pair", both),
        *(tokens if told else []),
        ("logits differ by", lambda f: "bit-equal" if f.get("logits_equal") else number(f.get("difference"))),
        (
            "same token on the same logits",
            lambda f: NONE if (same := f.get("same_on_same_logits")) is None else YES[bool(same)],
        ),
        ("margin, first", num("margin_a")),
        ("margin, second", num("margin_b")),
        ("prompt", num("prompt")),
        ("sample", num("sample")),
        ("step", num("step")),
    ]
    shown = [fork for *_, fork in turns[:MOST_FORKS]]
    return table("forks", columns, shown, len(found), (0, 1, 2) if told else (0,))


def known(value: Any) -> float:
    """For sorting: what is not known comes last."""
    x = finite(value)
    return math.inf if x is None else x


def token(text: str | None, index: Any) -> Any:
    said = f"id {index}" if index is not None else NONE
    return said if text is None else {"token": piece(text[:24]), "said": said}


def piece(text: str) -> str:
    """One token: its line ends and tabs become signs."""
    return visible(text).replace("\n", "↵").replace("\t", "⇥")


def rule(name: Any) -> str:
    return short(str(name), 40).replace("_", " ")


def rules(analysis: Row) -> Row:
    found = analysis.get("anomaly_rules") or []
    columns: list[Column] = [
        ("rule", lambda r: rule(r.get("rule"))),
        ("what it looks for", word("says", 300)),
        ("threshold", lambda r: f"{number(r.get('threshold'))} {r.get('unit') or ''}".strip()),
        ("outputs", num("flagged")),
        ("share", lambda r: percent(r["flagged"] / r["outputs"]) if r.get("outputs") else NONE),
    ]
    return table("anomaly_rules", columns, found, len(found), (0, 1))


def prompts(analysis: Row) -> Row:
    """The least agreement first; one whose agreement is unknown (one sample) last."""
    found = analysis.get("prompts") or []
    texts = any(p.get("text") is not None for p in found)
    columns: list[Column] = [
        ("prompt", num("prompt")),
        ("text", word("text", 120)) if texts else ("digest", word("digest", 16)),
        ("samples", num("samples")),
        ("exactly equal", pct("exact_agreement")),
        ("agreement", pct("agreement")),
        ("lexical similarity", pct("lexical_similarity")),
        ("meanings", num("clusters")),
        ("semantic entropy, nats", num("semantic_entropy")),
        ("mutual information, nats", num("mutual_information")),
    ]
    order = sorted(found, key=lambda p: known(p.get("agreement")))
    return table("prompts", columns, order[:MOST_PROMPTS], len(found), (1,))


def calibration(found: Row | None) -> Row | None:
    if not found:
        return None
    told: list[Column] = [
        ("tokens", num("tokens")),
        ("accuracy", pct("accuracy")),
        ("ECE", pct("ece")),
        ("largest gap (MCE)", pct("mce")),
        ("Brier", num("brier")),
        ("NLL, nats", num("nll")),
        ("area under risk", num("risk_coverage_area")),
        ("fitted temperature", num("temperature", 4)),
        ("ECE at it", pct("ece_after")),
        ("NLL at it", num("nll_after")),
    ]
    columns: list[Column] = [
        ("bin", lambda b: f"{number(b.get('low'), 2)} to {number(b.get('high'), 2)}"),
        ("tokens", num("count")),
        ("confidence", pct("confidence")),
        ("right", pct("accuracy")),
    ]
    bins = found.get("bins") or []
    return {
        "source": visible(str(found.get("source") or "")),
        "figures": [(name, cell(found)) for name, cell in told],
        "bins": table("calibration", columns, bins, len(bins), (0,)),
    }


def sweep(analysis: Row) -> Row:
    found = analysis.get("sweep") or []
    columns: list[Column] = [
        ("condition", word("condition")),
        ("temperature", num("temperature")),
        ("mix_eps", num("mix_eps")),
        ("distinct bigrams", pct("distinct_2")),
        ("self-BLEU", num("self_bleu")),
        ("perplexity", num("perplexity")),
        ("repeats", pct("repetition")),
    ]
    return table("sweep", columns, found[:MOST_ROWS], len(found), (0,))


def perturbations(analysis: Row) -> Row:
    found = (analysis.get("robustness") or {}).get("perturbations") or []
    columns: list[Column] = [
        ("rewording", word("name")),
        ("prompts", num("prompts")),
        ("same first token", pct("agreement")),
        ("JS, nats", num("js")),
    ]
    return table("perturbations", columns, found[:MOST_ROWS], len(found), (0,))


def bias(found: Row | None) -> Row | None:
    if not found:
        return None
    figures = [
        ("mean divergence", f"{number(found.get('mean_js'))} nats"),
        ("same group, other wording", f"{number(found.get('baseline_js'))} nats"),
        ("p, tokens of outputs", number(found.get("p_value"))),
    ]
    more = found.get("outputs") if isinstance(found.get("outputs"), dict) else {}
    figures += [(f"outputs: {rule(k)}", number(v)) for k, v in (more or {}).items() if finite(v) is not None]
    order = sorted(found.get("pairs") or [], key=lambda p: -(finite(p.get("js")) or 0.0))
    place = {id(p): n + 1 for n, p in enumerate(order)}
    columns: list[Column] = [
        ("words", lambda p: both(p) if p.get("a") and p.get("b") else f"pair {place[id(p)]}"),
        ("template", word("template", 120)),
        ("JS, nats", num("js")),
        ("total variation", num("total_variation")),
        ("likeliest after the first", lambda p: likeliest(p.get("top_a"))),
        ("after the second", lambda p: likeliest(p.get("top_b"))),
    ]
    return {"figures": figures, "pairs": table("bias", columns, order[:MOST_ROWS], len(order), (0, 1, 4, 5))}


def likeliest(tokens: list[Any] | None) -> Row:
    return {"tokens": [piece(str(text)[:40]) for text in (tokens or [])[:5]]}
