# SPDX-License-Identifier: Apache-2.0
"""The stored outputs of audit_outputs.py as one dict each, and what is planted in them afterwards: loops, and
parts of texts in another language or script."""

import json
import re
from functools import cache
from pathlib import Path

import audit_outputs
import numpy

SEED = 7
SHORTEST = audit_outputs.SHORTEST
# Articles 1 and 2 (development), 13, 19 and 24 (held out) of the Universal Declaration of Human Rights.
ARTICLES = json.loads((Path(__file__).parent / "data" / "audit_articles.json").read_text(encoding="utf-8"))
LATIN = ("French", "German", "Spanish")
# Words of a planted part, at least and at most; characters where no blanks part words ("dense").
WORDS = {"latin": (8, 20), "other": (3, 8), "dense": (6, 20)}


@cache
def stored():
    """{kind: [output]}; an output maps ids, the columns, prompt, sample, text or planted to its own."""
    with numpy.load(audit_outputs.FILE) as file:
        arrays = dict(file)
    found = {}
    for kind in audit_outputs.KINDS:
        mine = {name.split("/")[1]: values for name, values in arrays.items() if name.startswith(f"{kind}/")}
        ends = numpy.cumsum(mine["lengths"].astype(int))
        total = ends[-1]
        found[kind] = []
        for number, (end, length) in enumerate(zip(ends, mine.pop("lengths").astype(int), strict=True)):
            found[kind].append(
                {
                    name: values[end - length : end] if len(values) == total else values[number]
                    for name, values in mine.items()
                }
            )
    return found


def prompts():
    with numpy.load(audit_outputs.FILE) as file:
        return file["prompts"].tolist()


def is_held_out(output):
    return bool(output["prompt"] % 2)


def outputs(kind, held_out=True, shortest=0):
    """Clean outputs, or ones with something planted, of one half of the prompts; of `shortest` tokens."""
    chosen = [output for output in stored()[kind] if is_held_out(output) == held_out]
    return [output for output in chosen if len(output["ids"]) >= shortest]


def _random(kind, output):
    return numpy.random.default_rng((SEED, kind, int(output["prompt"]), int(output["sample"])))


def with_loop(output):
    """The output with a phrase of 3 to 10 of its tokens written 3 times or more over what follows it; the
    same length. Gives (output, first step, step after the last)."""
    ids, rng = output["ids"].copy(), _random(1, output)
    period = int(rng.integers(3, min(10, len(ids) // 3) + 1))
    copies = int(rng.integers(3, len(ids) // period + 1))
    start = int(rng.integers(0, len(ids) - period * copies + 1))
    end = start + period * copies
    ids[start:end] = numpy.tile(ids[start : start + period], copies)
    return {**output, "ids": ids}, start, end


def with_switch(output, language, held_out=True):
    """The text with a part of it, half at most, replaced by as many characters, to a blank, of an article in
    another language: (text, from, up to), or None for a text too short for it."""
    text, rng = str(output["text"]), _random(2, output)
    article = " ".join(ARTICLES[language]["held_out" if held_out else "development"])
    dense = " " not in article
    words = list(article) if dense else article.split(" ")
    least, most = WORDS["dense" if dense else "latin" if language in LATIN else "other"]
    first = int(rng.integers(0, len(words) - least + 1))
    blank = "" if dense else " "
    fits = [
        count
        for count in range(least, most + 1)
        if first + count <= len(words) and len(blank.join(words[first : first + count])) <= len(text) / 2
    ]
    blanks = [match.end() for match in re.finditer(r"\s", text)]
    if not fits or not blanks:
        return None
    part = blank.join(words[first : first + int(rng.choice(fits))])
    start = int(rng.choice([place for place in blanks if place + len(part) <= len(text)] or [0]))
    rest = text[start + len(part) :]
    rest = rest[rest.find(" ") :] if " " in rest else ""
    return text[:start] + part + rest, start, start + len(part)


def summary(output):
    """The columns of fusedraw.audit.anomalies.OUTLIER_COLUMNS."""
    columns = {name: output[name].astype(float) for name in ("logp_raw", "entropy", "varentropy", "margin")}
    window = min(16, len(output["ids"]))
    confidence = numpy.convolve(output["confidence"].astype(float), numpy.full(window, 1 / window), "valid")
    means = {name: values.mean() for name, values in columns.items()}
    return {
        "mean_logp_raw": means["logp_raw"],
        "mean_entropy": means["entropy"],
        "mean_varentropy": means["varentropy"],
        "mean_margin": means["margin"],
        "lowest_window_confidence": confidence.min(),
    }


def table(rows):
    """{column: array} of summaries."""
    summaries = [summary(row) for row in rows]
    return {name: numpy.array([each[name] for each in summaries]) for name in summaries[0]}


def auroc(clean, planted):
    """The chance that a planted score is above a clean one, ties counted half (Mann and Whitney 1947)."""
    clean = numpy.sort(numpy.asarray(clean, float))
    below = numpy.searchsorted(clean, planted, "left")
    upto = numpy.searchsorted(clean, planted, "right")
    return float((below + upto).sum() / (2 * len(clean) * len(planted)))
