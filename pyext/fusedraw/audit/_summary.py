# SPDX-License-Identifier: Apache-2.0
"""What the analysis says, in sentences: the top of the report, its tiles, TensorBoard's text."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from ._format import finite, listed, number, percent, plural

# In the order in which they are told. NEUTRAL leave the law and the key alone.
SETTINGS = {
    "batch": "batch size",
    "threads": "thread count",
    "dtype": "dtype",
    "device": "device",
    "seed": "seed",
    "temperature": "temperature",
    "mix_eps": "mix_eps",
    "top_p": "top-p",
    "top_k": "top-k",
    "min_p": "min-p",
    "mix_support": "mix_support",
    "perturb": "wording of the prompt",
}
NEUTRAL = ("batch", "threads", "dtype", "device")


@dataclass(frozen=True)
class Said:
    kind: str  # "good", "warn", "bad" or "plain"
    text: str
    title: str = ""


@dataclass(frozen=True)
class Change:
    """One setting moved alone, over all such pairs; shares of outputs, and of tokens before the fork."""

    setting: str
    compared: int
    equal: float | None
    agreement: float | None


def changes(analysis: dict[str, Any]) -> list[Change]:
    """From pairs whose settings differ in one thing, those with the base where there are any."""
    settings = {c["name"]: c.get("settings") or {} for c in analysis.get("conditions") or []}
    base = next((c["name"] for c in analysis.get("conditions") or [] if not c.get("changes")), None)
    groups: dict[str, list[dict[str, Any]]] = {}
    for pair in analysis.get("pairs") or []:
        a, b = settings.get(pair["a"], {}), settings.get(pair["b"], {})
        moved = [k for k in {**a, **b} if k != "samples" and a.get(k) != b.get(k)]
        if len(moved) == 1:
            groups.setdefault(moved[0], []).append(pair)
    out = []
    for setting in [*SETTINGS, *sorted(set(groups) - set(SETTINGS))]:
        found = groups.get(setting, [])
        found = [p for p in found if base in (p["a"], p["b"])] or found
        compared = sum(p.get("compared") or 0 for p in found)
        if compared:
            equal = sum(p.get("equal") or 0 for p in found) / compared
            shares = [(finite(p.get("agreement")), p["compared"]) for p in found if p.get("compared")]
            known = [(share, n) for share, n in shares if share is not None]
            weight = sum(n for _, n in known)
            agreement = sum(s * n for s, n in known) / weight if weight else None
            out.append(Change(setting, compared, equal, agreement))
    return out


def total(analysis: dict[str, Any], section: str, key: str) -> int:
    return sum(row.get(key) or 0 for row in analysis.get(section) or [])


def flagged(analysis: dict[str, Any]) -> int:
    return sum(bool(row.get("anomalies")) for row in analysis.get("outputs") or [])


def verdict(analysis: dict[str, Any]) -> Said:
    """Whom the differences come from. Raises nothing: what is not known is said so."""
    # Of an audit that was stopped, some pairs have nothing in common yet.
    pairs = [p for p in analysis.get("pairs") or [] if p.get("compared")]
    forks, sampler = total(analysis, "pairs", "forks"), total(analysis, "pairs", "sampler")
    again = redrawn(analysis)
    if sampler or (again and again[0] < again[1]):
        text = f"At {sampler:,} of {plural(forks, 'fork')} the logits, the key and the parameters were equal "
        text += "and the tokens differ. "
        if again:
            text += (
                f"{again[1] - again[0]:,} of {plural(again[1], 'token')}, drawn again, came out different. "
            )
        text += "The contract excludes that: please report it, with report.json."
        return Said("bad", text, "The sampler is to blame.")
    proof = (
        f" All {plural(again[1], 'token')}, drawn again from their logits, came out equal." if again else ""
    )
    if not pairs:
        several = len(analysis.get("conditions") or []) > 1
        why = "No output was made under two conditions." if several else "There was one condition alone."
        return Said("plain", why + proof, "Nothing compared.")
    if not forks:
        text = (
            f"In {plural(len(pairs), 'pair')} of conditions every output is the same, token for token.{proof}"
        )
        return Said("good", text, "Nothing changed.")
    blamed = {kind: [p for p in pairs if p.get("blame") == kind] for kind in ("logits", "settings", "both")}
    parts = [f"At none of {plural(forks, 'fork')} did equal logits, key and parameters give another token."]
    for kind, why in (
        ("logits", "it was the model's logits that moved the draw"),
        ("settings", "the logits changed nothing, and the seed or a setting moved the draw, as asked"),
        ("both", "it was the one, the other or both"),
    ):
        if blamed[kind]:
            count = sum(p.get("forks") or 0 for p in blamed[kind])
            parts.append(f"In {plural(len(blamed[kind]), 'pair')} ({plural(count, 'fork')}) {why}.")
    only = bool(blamed["logits"]) and not blamed["settings"] and not blamed["both"]
    title = "Not the sampler: the logits." if only else "Not the sampler."
    return Said("good", " ".join(parts) + proof, title)


def redrawn(analysis: dict[str, Any]) -> tuple[int, int] | None:
    """(tokens that came out equal when drawn again from their recorded logits, all tokens)."""
    run = analysis.get("run") or {}
    count, tokens = run.get("redrawn"), run.get("tokens")
    return (count, tokens) if isinstance(count, int) and isinstance(tokens, int) and tokens else None


def sentences(analysis: dict[str, Any]) -> list[Said]:
    """The summary under the verdict, most telling first."""
    told = (changed, look_wrong, calibrated, uncertain, robust, biased)
    return [said for said in (tell(analysis) for tell in told) if said]


def changed(analysis: dict[str, Any]) -> Said | None:
    found = changes(analysis)
    if not found:
        return None
    parts = [
        f"{'none' if c.equal == 1 else 'all' if c.equal == 0 else percent(1 - (c.equal or 0))} "
        f"with another {SETTINGS.get(c.setting, c.setting)}"
        for c in found
    ]
    moved = [c for c in found if c.setting in NEUTRAL and c.equal is not None and c.equal < 1]
    text = f"Outputs that change: {listed(parts)}."
    if moved:
        names = listed([SETTINGS[c.setting] for c in moved])
        verb = "changes" if len(moved) == 1 else "change"
        text += f" {names[0].upper()}{names[1:]} {verb} neither law nor key, only the rounding of sums."
    return Said("warn" if moved else "plain", text, "What changes the outputs")


def look_wrong(analysis: dict[str, Any]) -> Said | None:
    outputs = len(analysis.get("outputs") or [])
    if not outputs:
        return None
    wrong = flagged(analysis)
    if not wrong:
        return Said(
            "good", f"No rule fires on any of {plural(outputs, 'output')}.", "Outputs that look wrong"
        )
    rules = [r for r in analysis.get("anomaly_rules") or [] if r.get("flagged")]
    rules.sort(key=lambda r: -r["flagged"])
    names = listed([f"{str(r['rule']).replace('_', ' ')} {r['flagged']:,}" for r in rules])
    text = f"{wrong:,} of {plural(outputs, 'output')} ({percent(wrong / outputs)}) break a rule"
    text += f": {names}." if names else "."
    return Said("warn", f"{text} A rule points; it does not prove.", "Outputs that look wrong")


def calibrated(analysis: dict[str, Any]) -> Said | None:
    found = analysis.get("calibration")
    if not found or finite(found.get("ece")) is None:
        return Said("plain", "Not measured: there was no text to be right or wrong about.", "Calibration")
    ece = found["ece"]
    bins = [b for b in found.get("bins") or [] if b.get("count")]
    count = sum(b["count"] for b in bins)
    gap = sum(b["count"] * (b["confidence"] - b["accuracy"]) for b in bins) / count if count else 0.0
    way = "over-confident" if gap > 0 else "under-confident"
    text = f"Probability and share of right tokens differ by {percent(ece)} on average"
    text += f" over {plural(found['tokens'], 'token')}" if found.get("tokens") else ""
    text += f"; the model is {way if abs(gap) >= ece / 2 else 'over- and under-confident in turn'}."
    if finite(found.get("temperature")) is not None and finite(found.get("ece_after")) is not None:
        better = (
            f"A temperature of {number(found['temperature'])} would make it {percent(found['ece_after'])}."
        )
        text = f"{text} {better}"
    return Said("good" if ece < 0.05 else "warn", text, "Calibration")


def uncertain(analysis: dict[str, Any]) -> Said | None:
    entropy = mean_entropy(analysis)
    if entropy is None:
        return None
    text = f"Mean entropy of a token is {number(entropy)} nats: as open as an even choice among "
    return Said("plain", f"{text}{number(math.exp(min(entropy, 50.0)), 2)} tokens.", "Uncertainty")


def mean_entropy(analysis: dict[str, Any]) -> float | None:
    told = finite((analysis.get("headline") or {}).get("mean_entropy"))
    if told is not None:
        return told
    found = [finite(c.get("mean_entropy")) for c in analysis.get("conditions") or []]
    known = [x for x in found if x is not None]
    return sum(known) / len(known) if known else None


def certified(analysis: dict[str, Any]) -> tuple[float, float] | None:
    """The measured noise, and the share of steps whose best token no such noise can change."""
    found = analysis.get("robustness") or {}
    noise = finite(found.get("measured_noise"))
    curve = [
        (p["noise"], p["share"]) for p in found.get("certificate") or [] if finite(p.get("share")) is not None
    ]
    if noise is None or not curve:
        return None
    after = [share for at, share in sorted(curve) if at >= noise]
    # The next point to the right, not between: the share that is certain.
    return (noise, after[0]) if after else None


def robust(analysis: dict[str, Any]) -> Said | None:
    found = certified(analysis)
    if not found:
        return None
    noise, share = found
    text = f"Between runs that change no law, logits differ by up to {number(noise)}. Noise of that size "
    text += (
        "can change the best token at no step."
        if share == 1
        else (f"provably cannot change the best token at {percent(share)} of the steps.")
    )
    return Said("good" if share >= 0.99 else "warn", text, "Robustness")


def biased(analysis: dict[str, Any]) -> Said | None:
    found = analysis.get("bias")
    if not found or finite(found.get("mean_js")) is None:
        return None
    text = f"One group word for another moves the next token's law by {number(found['mean_js'])} nats (JS)"
    base, p = finite(found.get("baseline_js")), finite(found.get("p_value"))
    text += f"; other wording for the same group by {number(base)}" if base is not None else ""
    text += f". Do outputs use other tokens? p = {number(p)}." if p is not None else "."
    return Said("warn" if p is not None and p < 0.05 else "plain", text, "Group words")


@dataclass(frozen=True)
class Tile:
    kind: str
    value: str
    name: str
    note: str = ""


def tiles(analysis: dict[str, Any]) -> list[Tile]:
    """The figures that one looks at first; those that were not measured are left out."""
    out = []
    outputs, forks = len(analysis.get("outputs") or []), total(analysis, "pairs", "forks")
    if any(p.get("compared") for p in analysis.get("pairs") or []):
        again = redrawn(analysis)
        sampler = total(analysis, "pairs", "sampler") + (again[1] - again[0] if again else 0)
        out.append(
            Tile(
                "bad" if sampler else "good",
                f"{sampler:,}",
                "sampler differences",
                f"of {plural(forks, 'fork')}",
            )
        )
    for change in changes(analysis):
        if change.setting in (*NEUTRAL, "seed"):
            kind = "plain" if change.setting == "seed" else "good" if change.equal == 1 else "warn"
            name = f"unchanged by {SETTINGS[change.setting]}"
            out.append(Tile(kind, percent(change.equal), name, f"of {plural(change.compared, 'output')}"))
    if outputs:
        wrong = flagged(analysis)
        note = f"{wrong:,} of {outputs:,}"
        out.append(Tile("warn" if wrong else "good", percent(wrong / outputs), "look wrong", note))
    ece = finite((analysis.get("calibration") or {}).get("ece"))
    if ece is not None:
        out.append(Tile("good" if ece < 0.05 else "warn", percent(ece), "calibration error", "ECE, mean gap"))
    entropy = mean_entropy(analysis)
    if entropy is not None:
        note = f"nats, about {number(math.exp(min(entropy, 50.0)), 2)} choices"
        out.append(Tile("plain", number(entropy), "mean entropy", note))
    return out
