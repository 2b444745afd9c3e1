# SPDX-License-Identifier: Apache-2.0
"""What is measured once per audit, beside outputs: calibration, perturbed prompts, bias, mutual information.

Each gives JSON-able figures. Laws are those at T = 1 without filters: the model's own.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy
import torch

from .._threads import threads
from . import bias, calibration, uncertainty
from .decode import decode
from .dropout import mc_dropout
from .models import Loaded
from .plan import Condition, Plan
from .robustness import PERTURBATIONS, with_synonyms
from .store import STATS

ROWS = 32  # prompts in one forward pass of the measurements here
MOST_TOKENS = 256  # of a text that calibration reads
MC_MASKS = 4
# Outputs per prompt and their length, for the bias of outputs.
BIAS_SAMPLES, BIAS_TOKENS = 2, 12
PERMUTATIONS = 1999


def measures(loaded: Loaded, plan: Plan, options: Any) -> list[tuple[str, Callable[[], Any]]]:
    """(name in the store, function) of what the options ask for."""
    found: list[tuple[str, Callable[[], Any]]] = [
        ("calibration", lambda: calibrate(loaded, plan, options.reference)),
        ("perturbations", lambda: perturbations(loaded, plan)),
    ]
    if options.pairs is None or options.pairs:
        found.append(("bias", lambda: biases(loaded, plan, options.pairs)))
    if options.ensemble or options.mc_dropout:
        found.append(("mutual_information", lambda: information(loaded, plan, options)))
    return [(name, functools.partial(_on_all_threads, plan, measure)) for name, measure in found]


def _on_all_threads(plan: Plan, measure: Callable[[], Any]) -> Any:
    with threads(plan.base.threads):
        return measure()


# Calibration


def calibrate(loaded: Loaded, plan: Plan, reference: Sequence[str] | None) -> dict[str, Any] | None:
    """Next tokens of given texts, as the model expects them; None where no text has two tokens."""
    texts = plan.prompts if reference is None else reference
    ids = [loaded.ids_of(text, chat=False)[:MOST_TOKENS] for text in texts]
    ids = [row for row in ids if len(row) > 1]
    if not ids:
        return None

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for row in ids:
            yield loaded.logits_along(row)[:-1], torch.tensor(row[1:])

    before = _figures(batches(), 1.0)
    fit = calibration.fit_temperature(batches)
    after = _figures(batches(), fit.temperature)
    coverage, risk, area = calibration.risk_coverage(before["confidence"], before["correct"])
    chosen = numpy.unique(numpy.linspace(0, len(coverage) - 1, 50).round().astype(int))
    told = calibration.reliability(before["confidence"], before["correct"])
    return {
        "source": "the prompts" if reference is None else "reference texts",
        "tokens": len(before["correct"]),
        **{name: float(getattr(told, name)) for name in ("ece", "mce", "brier", "accuracy")},
        "nll": before["nll"],
        "bins": [
            {k: getattr(b, k) for k in ("low", "high", "count", "confidence", "accuracy")} for b in told.bins
        ],
        "risk_coverage": [[float(coverage[i]), float(risk[i])] for i in chosen],
        "risk_coverage_area": float(area),
        "temperature": float(fit.temperature),
        "nll_after": after["nll"],
        "ece_after": float(calibration.reliability(after["confidence"], after["correct"]).ece),
    }


def _figures(batches, temperature: float) -> dict[str, Any]:
    """Probability of the best token, whether it was the right one, and mean -log p of the right one."""
    confidence, correct, losses = [], [], []
    for logits, targets in batches:
        logps = (logits.double() / temperature).log_softmax(-1)
        best = logps.max(-1)
        confidence.append(best.values.exp())
        correct.append(best.indices == targets)
        losses.append(-logps.gather(-1, targets[:, None])[:, 0])
    return {
        "confidence": torch.cat(confidence).numpy(),
        "correct": torch.cat(correct).numpy(),
        "nll": float(torch.cat(losses).mean()),
    }


# Robustness


def perturbations(loaded: Loaded, plan: Plan) -> list[dict[str, Any]]:
    """What a change of the prompt that should not matter does to the law of the first token."""
    changes: dict[str, Callable[[str], str]] = dict(PERTURBATIONS)
    if plan.synonyms:
        changes["synonyms"] = lambda text: with_synonyms(text, plan.synonyms)
    before = _first_rows(loaded, plan, plan.prompts)
    lines = []
    for name, change in changes.items():
        changed = [(number, change(text)) for number, text in enumerate(plan.prompts)]
        changed = [(number, text) for number, text in changed if text != plan.prompts[number]]
        line: dict[str, Any] = {"name": name, "prompts": len(changed), "agreement": None, "js": None}
        if changed:
            after = _first_rows(loaded, plan, [text for _, text in changed])
            kept = before[[number for number, _ in changed]]
            line["agreement"] = float((kept.argmax(-1) == after.argmax(-1)).double().mean())
            line["js"] = float(numpy.mean(bias.divergences(kept, after).js))
        lines.append(line)
    return lines


def _first_rows(loaded: Loaded, plan: Plan, texts: Sequence[str], chat: bool | None = None) -> torch.Tensor:
    ids = [loaded.ids_of(text, plan.chat if chat is None else chat) for text in texts]
    parts = [loaded.logits_of(ids[start : start + ROWS]) for start in range(0, len(ids), ROWS)]
    return torch.cat(parts)


# Bias


def biases(loaded: Loaded, plan: Plan, pairs: Any) -> dict[str, Any]:
    """Prompts that differ in one group word: laws of the next token, and outputs."""
    chosen = bias.DEFAULT_PAIRS if pairs is None else pairs
    cases = [(t, a, b) for t in chosen.templates for a, b in chosen.pairs]
    texts = [list(side) for side in zip(*chosen.prompts(), strict=True)]
    rows = [_first_rows(loaded, plan, side, chat=False) for side in texts]
    told = bias.divergences(*rows)
    # the same words in a wording that should not matter: how far laws move without a group in it
    reworded = [PERTURBATIONS["spaces"](text) for text in texts[0]]
    baseline = bias.divergences(rows[0], _first_rows(loaded, plan, reworded, chat=False)).js
    tops = [row.topk(3).indices.tolist() for row in rows]
    lines = [
        {
            "template": f"pair {n + 1}" if plan.redact else t,
            "a": "first" if plan.redact else a,
            "b": "second" if plan.redact else b,
            "js": float(told.js[n]),
            "total_variation": float(told.total_variation[n]),
            "top_a": [] if plan.redact else loaded.pieces_of(tops[0][n]),
            "top_b": [] if plan.redact else loaded.pieces_of(tops[1][n]),
        }
        for n, (t, a, b) in enumerate(cases)
    ]
    return {
        "pairs": lines,
        "mean_js": float(numpy.mean(told.js)),
        "baseline_js": float(numpy.mean(baseline)),
        **_outputs_of_groups(loaded, plan, texts),
    }


def _outputs_of_groups(loaded: Loaded, plan: Plan, texts: Sequence[Sequence[str]]) -> dict[str, Any]:
    """How far the tokens that are written about the two groups diverge, and whether by more than chance: the
    two words of each pair are exchanged. The same for how likely the model finds what it wrote."""
    written = [_written(loaded, plan, side) for side in texts]
    count = len(texts[0])
    tokens = sorted({token for side in written for ids, _ in side for token in ids})
    place = {token: column for column, token in enumerate(tokens)}
    counts = numpy.zeros((2 * count, len(tokens)))
    for row, (ids, _) in enumerate([*written[0], *written[1]]):
        for token in ids:
            counts[row, place[token]] += 1

    def divergence(a, b):  # of rows of `counts`
        sides = [torch.from_numpy(counts[rows.astype(int)].sum(0)).log() for rows in (a, b)]
        return float(bias.divergences(sides[0], sides[1]).js)

    rows = numpy.arange(2.0 * count)
    means = [numpy.array([logp for _, logp in side]) for side in written]
    exchanged: dict[str, Any] = {"permutations": PERMUTATIONS, "paired": True}
    if count < 2:  # one pair cannot be exchanged in more than one way
        p_js = p_logp = 1.0
    else:
        p_js = bias.permutation_test(
            rows[:count], rows[count:], divergence, alternative="greater", **exchanged
        )
        p_logp = bias.permutation_test(means[0], means[1], **exchanged)
    return {
        "p_value": p_js,
        "outputs": {
            "samples": BIAS_SAMPLES,
            "tokens": BIAS_TOKENS,
            "js": divergence(rows[:count], rows[count:]),
            "mean_logp_a": float(means[0].mean()),
            "mean_logp_b": float(means[1].mean()),
            "p_value_logp": p_logp,
        },
    }


def _written(loaded: Loaded, plan: Plan, group: Sequence[str]) -> list[tuple[list[int], float]]:
    """Of each prompt: the tokens of its outputs, and the mean logp_raw of them."""
    ids = [loaded.ids_of(text, chat=False) for text in group]
    tokens: list[list[int]] = [[] for _ in ids]
    logps: list[list[float]] = [[] for _ in ids]
    for number in range(BIAS_SAMPLES):
        for start in range(0, len(ids), ROWS):
            chosen = list(range(start, min(start + ROWS, len(ids))))
            rows = [ids[i] for i in chosen]
            outputs = decode(loaded, _plain(plan.base), chosen, rows, number, BIAS_TOKENS)
            for place, output in zip(chosen, outputs, strict=True):
                tokens[place] += [int(i) for i in output.ids]
                logps[place] += [float(v) for v in output.stats[:, STATS.index("logp_raw")]]
    return [(t, float(numpy.mean(p))) for t, p in zip(tokens, logps, strict=True)]


def _plain(base: Condition) -> Condition:
    return replace(base, dtype="float32", device="cpu", perturb="")


# Mutual information


def information(loaded: Loaded, plan: Plan, options: Any) -> list[float]:
    """Mean over the tokens of each prompt of how much the members of an ensemble disagree, in nats.

    Members: the model and others of the same vocabulary, or the model under several dropout masks.
    """
    others = options.ensemble
    values = []
    for text in plan.prompts:
        ids = loaded.ids_of(text, plan.chat)[:MOST_TOKENS]
        members = [one.logits_along(ids) for one in (loaded, *others)]
        if options.mc_dropout:
            members = [] if not others else members
            for mask in range(MC_MASKS):
                with mc_dropout(loaded.model(), options.mc_dropout, seed=mask):
                    members.append(loaded.logits_along(ids))
        told = uncertainty.mutual_information(torch.stack(members))
        values.append(float(numpy.mean(numpy.asarray(told))))
    return values
