# SPDX-License-Identifier: Apache-2.0
"""All figures of a report, from what is stored: one JSON-able dictionary without times, so that the same
results give the same bytes. docs/audit.md lists what each figure means."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy

from .. import metrics
from . import anomalies, blame, semantic, uncertainty
from ._format import clean
from .plan import AuditError, Condition
from .robustness import certified_share
from .store import Output, Store

SCHEMA = 1
TRACES = 40
NOISES = tuple(10.0**e for e in numpy.arange(-7, 1.01, 0.25))
MOST_FOR_BLEU = 8  # samples of a prompt: every one is compared with all others


def analyse(
    paths: Sequence[Path],
    *,
    embed: Callable | None = None,
    entails: Callable | None = None,
) -> dict[str, Any]:
    """The figures of the files of all processes. Raises AuditError for a file that is not there or foreign.

    embed, entails: see `semantic`; None: no clusters by meaning.
    """
    stores = [Store(path, read_only=True) for path in paths]
    try:
        return _analyse(stores, embed, entails)
    finally:
        for store in stores:
            store.close()


def _analyse(stores: Sequence[Store], embed, entails) -> dict[str, Any]:
    identity = stores[0].get("identity")
    if identity is None:
        raise AuditError(f"{stores[0].path} holds no audit yet")
    if identity["redact"] and (embed or entails):
        raise AuditError("clusters by meaning need the texts, which --redact did not keep")
    conditions = [Condition(**settings) for settings in identity["conditions"]]
    outputs = sorted(
        (output for store in stores for output in store.outputs()),
        key=lambda o: (o.prompt, o.condition, o.sample),
    )
    found = sorted(
        (line for store in stores for line in store.comparisons()),
        key=lambda line: (line["a"], line["b"], line["prompt"], line["sample"]),
    )
    prompts = sorted({row for store in stores for row in store.prompts()})
    lines = [_output(output) for output in outputs]
    _add_outliers(lines, conditions)
    pairs = _pairs(conditions, found)
    extra = {k: stores[0].get(k) for k in ("calibration", "perturbations", "bias", "mutual_information")}
    by_condition = _group(zip(outputs, lines, strict=True), lambda both: both[0].condition)
    described = [_condition(c, conditions[0], by_condition.get(c.name, [])) for c in conditions]
    analysis: dict[str, Any] = {
        "schema": SCHEMA,
        "model": identity["model"],
        "run": {
            "prompts": len(prompts),
            "outputs": len(outputs),
            "tokens": sum(len(o.ids) for o in outputs),
            "redrawn": sum(o.redrawn for o in outputs),
            "max_new_tokens": identity["max_new_tokens"],
            "redacted": identity["redact"],
            "seed": conditions[0].seed,
            "versions": identity["versions"],
            "machine": stores[0].get("machine") or {},
        },
        "conditions": described,
        "pairs": pairs,
        "forks": [_fork(line) for line in found if "token_a" in line],
        "outputs": lines,
        "traces": _traces(outputs, lines, conditions[0]),
        "prompts": _prompts(prompts, outputs, conditions[0], extra["mutual_information"], embed, entails),
        "anomaly_rules": _rules(lines),
        "calibration": extra["calibration"],
        "robustness": _robustness(outputs, conditions, found, extra["perturbations"]),
        "bias": extra["bias"],
        "sweep": [_sweep(line) for line in described],
    }
    analysis["headline"] = headline(analysis)
    return clean(analysis)


# Outputs


def _output(output: Output) -> dict[str, Any]:
    return {
        "prompt": output.prompt,
        "condition": output.condition,
        "sample": output.sample,
        "length": len(output.ids),
        "finished": output.finished,
        "text": output.text,
        **uncertainty.summary(output.columns()),
        "repetition": float(metrics.repetition([output.ids.tolist()])[0]),
        "anomalies": list(output.anomalies),
    }


LEAST_FOR_OUTLIERS = 20  # outputs: of fewer, median and MAD say little, and everything is far from them


def _add_outliers(lines: Sequence[dict[str, Any]], conditions: Sequence[Condition]) -> None:
    """Robust z-scores over the outputs of one law: another one has other figures."""
    laws = {condition.name: tuple(condition.law().values()) for condition in conditions}
    rule = anomalies.RULES["outlier"]
    for group in _group(lines, lambda line: laws[line["condition"]]).values():
        if len(group) < LEAST_FOR_OUTLIERS:
            continue
        columns = {name: [_nan(line[name]) for line in group] for name in anomalies.OUTLIER_COLUMNS}
        found = anomalies.outliers(columns)
        for place in numpy.flatnonzero(found.flagged):
            score, column = float(found.score[place]), found.column[place]
            says = f"{column} lies {score:.1f} robust deviations from the median of {len(group)} outputs"
            made = anomalies.Anomaly(rule.name, score, rule.threshold, None, says)
            group[place]["anomalies"].append(made._asdict())


def _rules(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    flagged: dict[str, int] = defaultdict(int)
    for line in lines:
        for rule in {anomaly["rule"] for anomaly in line["anomalies"]}:
            flagged[rule] += 1
    return [
        {
            "rule": rule.name,
            "says": rule.says,
            "threshold": rule.threshold,
            "unit": rule.unit,
            "flagged": flagged[rule.name],
            "outputs": len(lines),
        }
        for rule in anomalies.RULES.values()
    ]


def _traces(
    outputs: Sequence[Output], lines: Sequence[dict[str, Any]], base: Condition
) -> list[dict[str, Any]]:
    """Tokens of the base's outputs, those with anomalies first, then of others with anomalies."""
    numbered = [n for n, o in enumerate(outputs) if o.condition == base.name or lines[n]["anomalies"]]

    def order(n):
        return (outputs[n].condition != base.name, -len(lines[n]["anomalies"]), n)

    chosen = sorted(numbered, key=order)[:TRACES]
    return [_trace(outputs[n], lines[n]) for n in chosen]


def _trace(output: Output, line: dict[str, Any]) -> dict[str, Any]:
    columns = output.columns()
    shown = ("entropy", "logp", "margin", "rank", "confidence")
    return {
        "prompt": output.prompt,
        "condition": output.condition,
        "sample": output.sample,
        "pieces": output.pieces,
        **{name: [float(v) for v in columns[name]] for name in shown},
        "anomalies": line["anomalies"],
    }


# Conditions


def _condition(condition: Condition, base: Condition, both: Sequence[tuple[Output, dict]]) -> dict[str, Any]:
    outputs, lines = [o for o, _ in both], [line for _, line in both]
    ids = [o.ids.tolist() for o in outputs]
    long_enough = any(len(row) >= 2 for row in ids)
    return {
        "name": condition.name,
        "settings": condition.settings(),
        "changes": condition.changes(base),
        "outputs": len(outputs),
        "tokens": sum(map(len, ids)),
        "mean_length": _mean(map(len, ids)),
        "finished": _mean(o.finished for o in outputs),
        "mean_entropy": _mean(line["mean_entropy"] for line in lines),
        "mean_logp": _mean(line["mean_logp"] for line in lines),
        "distinct_2": metrics.distinct_n(ids, 2) if long_enough else None,
        "self_bleu": _self_bleu(outputs),
        "perplexity": _perplexity(outputs),
        "repetition": _mean(line["repetition"] for line in lines),
    }


def _self_bleu(outputs: Sequence[Output]) -> float | None:
    """Mean over prompts with two samples or more; None without sacrebleu."""
    sets = [[o.ids.tolist() for o in group][:MOST_FOR_BLEU] for group in _group(outputs, _prompt_of).values()]
    try:
        return _mean(float(metrics.self_bleu(texts).mean()) for texts in sets if len(texts) > 1)
    except ImportError:
        return None


def _perplexity(outputs: Sequence[Output]) -> float | None:
    """exp of the mean over tokens of -logp_raw."""
    logps = [o.columns()["logp_raw"] for o in outputs if len(o.ids)]
    return float(numpy.exp(-numpy.concatenate(logps).astype(float).mean())) if logps else None


def _sweep(line: dict[str, Any]) -> dict[str, Any]:
    settings = {name: line["settings"][name] for name in ("temperature", "mix_eps")}
    figures = {name: line[name] for name in ("distinct_2", "self_bleu", "perplexity", "repetition")}
    return {"condition": line["name"], **settings, **figures}


# Pairs


def _pairs(conditions: Sequence[Condition], found: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    grouped = _group(found, lambda line: (line["a"], line["b"]))
    names = [(a, b) for n, a in enumerate(conditions) for b in conditions[n + 1 :]]
    return [blame.summary(a, b, grouped.get((a.name, b.name), [])) for a, b in names]


_FORK = (
    *("a", "b", "prompt", "sample", "token_a", "token_b", "text_a", "text_b", "logits_equal"),
    *("margin_a", "margin_b", "token_of_a_on_logits_of_b"),
    *("same_on_same_logits", "same_on_other_logits"),
)


def _fork(line: dict[str, Any]) -> dict[str, Any]:
    return {
        **{name: line[name] for name in _FORK},
        "step": line["fork"],
        "difference": line["fork_difference"],
        "ulp": line["fork_ulp"],
    }


# Prompts


def _prompts(prompts, outputs, base: Condition, information, embed, entails) -> list[dict[str, Any]]:
    groups = _group((o for o in outputs if o.condition == base.name), _prompt_of)
    lines = []
    for number, text, digest in prompts:
        group = groups.get(number, [])
        ids = [o.ids.tolist() for o in group]
        line: dict[str, Any] = {
            "prompt": number,
            "text": text,
            "digest": digest,
            "samples": len(group),
            "exact_agreement": None,
            "agreement": None,
            "lexical_similarity": None,
            "clusters": None,
            "semantic_entropy": None,
            "mutual_information": information[number] if information else None,
        }
        if len(ids) > 1:
            told = uncertainty.agreement(ids)
            line["agreement"], line["exact_agreement"] = float(told.share), float(told.exact)
            line["lexical_similarity"] = float(uncertainty.lexical_similarity(ids))
        lines.append(line)
    if embed is not None or entails is not None:
        _add_clusters(lines, groups, embed, entails)
    return lines


def _add_clusters(lines, groups, embed, entails) -> None:
    """Clusters by meaning of the samples of each prompt; the user's model is called once for all."""
    several = [line for line in lines if line["samples"] > 1]
    texts = [o.text for line in several for o in groups[line["prompt"]]]
    owners = [line["prompt"] for line in several for _ in groups[line["prompt"]]]
    if not texts:
        return
    if entails is not None:
        labels = semantic.clusters_by_entailment(texts, entails, groups=owners)
    else:
        labels = semantic.clusters_by_embedding(texts, embed, groups=owners)
    own = _group(zip(owners, labels, strict=True), lambda both: both[0])
    for line in several:
        found = [int(label) for _, label in own[line["prompt"]]]
        line["clusters"] = len(set(found))
        line["semantic_entropy"] = float(semantic.semantic_entropy(found))


# Robustness


def _robustness(outputs, conditions: Sequence[Condition], found, perturbations) -> dict[str, Any]:
    base = conditions[0]
    rows = [o.columns()["margin"] for o in outputs if o.condition == base.name]
    margins = numpy.concatenate(rows) if rows else numpy.empty(0)
    same = {
        (a.name, b.name) for a in conditions for b in conditions if blame.same_law(a, b) and not b.perturb
    }
    noise = [line["difference"] for line in found if (line["a"], line["b"]) in same]
    certificate = [{"noise": n, "share": float(certified_share(margins, n))} for n in NOISES if len(margins)]
    return {
        "certificate": certificate,
        "measured_noise": max(noise, default=None),
        "perturbations": perturbations or [],
    }


# The figures that --fail-on, --history and TensorBoard know

OF_THE_BASE = (
    *("mean_entropy", "mean_logp", "perplexity", "repetition", "distinct_2", "finished", "mean_length"),
)
OF_CALIBRATION = ("ece", "brier", "nll", "temperature")


def headline_names(conditions: Sequence[str], rules: Sequence[str]) -> list[str]:
    """The names of `headline`; conditions: those beside the base."""
    return [
        *(f"{kind}:{name}" for name in conditions for kind in ("agreement", "equal")),
        *("sampler_differences", "anomalies", *(f"anomalies:{rule}" for rule in rules)),
        *(*OF_THE_BASE, "self_agreement", *OF_CALIBRATION),
        *("measured_noise", "perturbation_agreement", "bias_js", "bias_p_value"),
    ]


def headline(analysis: dict[str, Any]) -> dict[str, float | None]:
    base = analysis["conditions"][0]
    lines, run, rules = analysis["outputs"], analysis["run"], analysis["anomaly_rules"]
    beside = [pair for pair in analysis["pairs"] if pair["a"] == base["name"]]
    calibrated, robust, biased = analysis["calibration"] or {}, analysis["robustness"], analysis["bias"] or {}
    kept = [p["agreement"] for p in robust["perturbations"] if p["agreement"] is not None]
    values: dict[str, float | None] = {
        "sampler_differences": sum(p["sampler"] for p in analysis["pairs"]) + run["tokens"] - run["redrawn"],
        "anomalies": _mean(bool(line["anomalies"]) for line in lines),
        **{f"anomalies:{r['rule']}": r["flagged"] / r["outputs"] if r["outputs"] else None for r in rules},
        **{name: base[name] for name in OF_THE_BASE},
        "self_agreement": _mean(p["agreement"] for p in analysis["prompts"] if p["agreement"] is not None),
        **{name: calibrated.get(name) for name in OF_CALIBRATION},
        "measured_noise": robust["measured_noise"],
        "perturbation_agreement": _mean(kept),
        "bias_js": biased.get("mean_js"),
        "bias_p_value": biased.get("p_value"),
    }
    for pair in beside:
        values[f"agreement:{pair['b']}"] = pair["agreement"]
        values[f"equal:{pair['b']}"] = pair["equal"] / pair["compared"] if pair["compared"] else None
    names = headline_names([pair["b"] for pair in beside], [rule["rule"] for rule in rules])
    return {name: values[name] for name in names}


# Small things


def _prompt_of(output: Output) -> int:
    return output.prompt


def _group(items: Iterable, key: Callable) -> dict[Any, list]:
    out: dict[Any, list] = {}
    for item in items:
        out.setdefault(key(item), []).append(item)
    return out


def _mean(values: Iterable) -> float | None:
    found = [float(v) for v in values]
    return math.fsum(found) / len(found) if found else None


def _nan(value: Any) -> float:
    return math.nan if value is None else float(value)
