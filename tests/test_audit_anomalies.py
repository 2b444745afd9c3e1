# SPDX-License-Identifier: Apache-2.0
"""Rules for anomalies: what is planted in outputs of SmolLM2 is found (audit_outputs.py made them, half
of the prompts were never looked at when thresholds were chosen), and known answers of each rule."""

import json
import math

import audit_outputs
import audit_planting as planting
import numpy
import pytest
from fusedraw.audit import anomalies
from fusedraw.audit._loops import longest_loop
from fusedraw.audit._scripts import strongest_switch

LEAST_AUROC, MOST_AUROC_OF_LENGTH = 0.95, 0.7
LEAST_OUTPUTS = 200  # clean and planted each
MOST_FALSE_ALARMS = 0.05
LEAST_FOUND = {"entropy_spike": 0.85, "script_switch": 0.75}  # at the threshold; all others 0.95
GENERATED = ("entropy_spike", "near_tie", "off_nucleus")
LANGUAGES = {
    "script_switch: language": planting.LATIN,
    "script_switch: script": [name for name in planting.ARTICLES if name not in planting.LATIN],
}
CASES = ("repetition", *GENERATED, *LANGUAGES, "outlier")


def rule_of(case):
    return case.split(":")[0]


def score_of(output, rule, text=None):
    return anomalies.scores(output, output["ids"], text)[rule]


def measured(case, held_out):
    """(scores of clean outputs, of planted ones, lengths of clean ones, of planted ones), lengths in tokens,
    or in characters where a text is looked at."""
    rule = rule_of(case)
    clean = planting.outputs("clean", held_out)
    if case == "repetition":
        planted = [
            planting.with_loop(output)[0] for output in clean if len(output["ids"]) >= planting.SHORTEST
        ]
    elif case in LANGUAGES:
        names = LANGUAGES[case]
        texts = [
            planting.with_switch(output, names[number % len(names)], held_out)
            for number, output in enumerate(clean)
        ]
        texts = [made[0] for made in texts if made]
        return (
            [strongest_switch(str(output["text"])).evidence for output in clean],
            [strongest_switch(text).evidence for text in texts],
            [len(str(output["text"])) for output in clean],
            [len(text) for text in texts],
        )
    else:
        planted = planting.outputs(case, held_out)
    lengths = [len(output["ids"]) for output in clean], [len(output["ids"]) for output in planted]
    if case == "outlier":
        reference = planting.table(planting.outputs("clean", held_out=False))
        found = [anomalies.outliers(planting.table(rows), reference).score for rows in (clean, planted)]
        return found[0].tolist(), found[1].tolist(), *lengths
    return [score_of(o, rule) for o in clean], [score_of(o, rule) for o in planted], *lengths


# Planted in held-out outputs


def test_the_stored_outputs_are_those_of_the_script():
    assert planting.prompts() == list(audit_outputs.PROMPTS)
    assert planting.stored().keys() == set(audit_outputs.KINDS)
    assert audit_outputs.FILE.stat().st_size <= 1_500_000
    clean = {(int(o["prompt"]), int(o["sample"])): o["ids"] for o in planting.stored()["clean"]}
    for kind in GENERATED:  # the same keys: equal up to the first planted step
        for output in planting.stored()[kind]:
            first = int(output["planted"][0])
            original = clean[int(output["prompt"]), int(output["sample"])]
            assert output["ids"][:first].tolist() == original[:first].tolist()


@pytest.mark.parametrize("case", CASES)
def test_planted_anomalies_are_found(case):
    clean, planted, clean_lengths, planted_lengths = measured(case, held_out=True)
    assert min(len(clean), len(planted)) >= LEAST_OUTPUTS
    assert planting.auroc(clean, planted) >= LEAST_AUROC
    of_length = planting.auroc(clean_lengths, planted_lengths)
    assert max(of_length, 1 - of_length) < MOST_AUROC_OF_LENGTH


@pytest.mark.parametrize("case", CASES)
def test_thresholds_part_clean_from_planted(case):
    clean, planted, *_ = measured(case, held_out=True)
    limit = anomalies.RULES[rule_of(case)].threshold
    assert numpy.mean(numpy.array(clean) >= limit) <= MOST_FALSE_ALARMS
    assert numpy.mean(numpy.array(planted) >= limit) >= LEAST_FOUND.get(rule_of(case), 0.95)


@pytest.mark.parametrize("kind", GENERATED)
def test_the_place_is_found(kind):
    """The step of an anomaly lies within what was planted, or where a window reaches into it."""
    early = anomalies.SPIKE_WINDOW - 1 if kind == "entropy_spike" else 0
    late = anomalies.SPIKE_WINDOW if kind == "entropy_spike" else 0  # the context stays odd for a while
    hits = []
    for output in planting.outputs(kind):
        first, end = map(int, output["planted"])
        for found in anomalies.find(output, output["ids"]):
            if found.rule == kind:
                hits.append(first - early <= found.at < end + late)
    assert numpy.mean(hits) >= 0.95


def test_the_place_of_a_loop_is_found():
    hits = []
    for output in planting.outputs("clean", shortest=planting.SHORTEST):
        looped, first, end = planting.with_loop(output)
        found = [a for a in anomalies.find(looped, looped["ids"]) if a.rule == "repetition"]
        hits.append(first - 10 <= found[0].at < end)
    assert numpy.mean(hits) >= 0.95


def test_clean_outputs_of_code_tables_and_emoji():
    """What looks odd and is not: of code, markdown, JSON and emoji few are flagged, loops apart, which
    outputs of emoji do run into."""
    words = ("function", "bash", "SQL", "table", "emoji", "HTML", "CSS", "JSON", "YAML")
    prompts = planting.prompts()
    odd = [
        output
        for half in (True, False)
        for output in planting.outputs("clean", half)
        if any(word in prompts[output["prompt"]] for word in words)
    ]
    assert len(odd) > 60
    flagged = [
        found.rule
        for output in odd
        for found in anomalies.find(output, output["ids"], str(output["text"]))
        if found.rule != "repetition"
    ]
    assert len(flagged) <= 0.05 * len(odd) * (len(anomalies.RULES) - 2)


# Known answers


@pytest.mark.parametrize(
    "ids, copies, period, start, length",
    [
        ([], 1.0, 0, 0, 0),
        ([5], 1.0, 0, 0, 0),
        (list(range(20)), 1.0, 0, 0, 0),
        ([1, 2, 3, 4] * 3, 3.0, 4, 0, 12),
        ([9, 8, 1, 2, 3, 1, 2, 3, 1, 2, 7], 1 + 5 / 3, 3, 2, 8),  # the last copy is a part
        ([7] * 10, 4.0, 1, 0, 10),  # a phrase of one counts as three
        ([7] * 8, 1 + 7 / 3, 1, 0, 8),
        ([1, 2, 3, 9, 1, 2, 3], 1.0, 0, 0, 0),  # not at once
    ],
)
def test_longest_loop(ids, copies, period, start, length):
    loop = longest_loop(ids)
    assert loop == (pytest.approx(copies), period, start, length)


ENGLISH = "The cat sat on the mat and it was happy with the food that you gave to her in the morning. "


@pytest.mark.parametrize(
    "text",
    [
        "",
        "12 + 34 = 46",
        ENGLISH,
        ENGLISH + "The angle α is π/2, Δx → 0, and μ is the mean.",
        ENGLISH + "In Russian it is «привет» and in Chinese 你好.",
        ENGLISH + "He flew from Rio de Janeiro to Los Angeles by way of La Paz.",
        ENGLISH + "The café sells crème brûlée.",
        "def f(x):\n    return {'de': x, 'la': [y for y in x if y is not None]}\n",
        "| a | b |\n|---|---|\n| 🍎 | 👍🏽 |\n",
        "Le chat est dans la maison, et il ne veut pas en sortir avec nous.",
        "Каждый человек имеет право на свободу убеждений.",
        "我每天用Python写代码，也用GPU训练模型。",
    ],
)
def test_one_language_is_no_switch(text):
    assert strongest_switch(text).evidence < anomalies.RULES["script_switch"].threshold


@pytest.mark.parametrize(
    "part, main, other",
    [
        ("Le chat est dans la maison et il ne veut pas sortir.", "English", "French"),
        ("Der Hund liegt nicht im Haus und er kommt auch nicht zu uns.", "English", "German"),
        ("El perro no está en la casa porque es muy tarde.", "English", "Spanish"),
        ("Каждый человек имеет право.", "Latin", "Cyrillic"),
        ("Όλοι οι άνθρωποι γεννιούνται.", "Latin", "Greek"),
        ("人人生而自由。", "Latin", "Han and kana"),
        ("모든 인간은 자유롭다.", "Latin", "Hangul"),
        ("כל בני האדם נולדו.", "Latin", "Hebrew"),
        ("يولد جميع الناس أحرارا.", "Latin", "Arabic"),
    ],
)
def test_a_switch_is_placed(part, main, other):
    switch = strongest_switch(ENGLISH + part + " " + ENGLISH)
    assert switch.evidence >= anomalies.RULES["script_switch"].threshold
    assert (switch.main, switch.other) == (main, other)
    assert len(ENGLISH) <= switch.start < switch.end <= len(ENGLISH) + len(part)


def test_letters_of_one_word_change_script():
    text = "I write Python程序每天 now"
    switch = strongest_switch(text)
    assert text[switch.start : switch.end] == "程序每天"


def stats_of(n, **columns):
    base = {"entropy": [1.0] * n, "margin": [1.0] * n, "logp_raw": [-1.0] * n}
    return base | {name: values for name, values in columns.items()}


def rules_found(*args, **kwargs):
    return {found.rule: found for found in anomalies.find(*args, **kwargs)}


def test_find_on_a_quiet_output():
    assert anomalies.find(stats_of(20), range(20), ENGLISH) == []
    scores = anomalies.scores(stats_of(20), range(20), ENGLISH)
    assert list(scores) == [name for name in anomalies.RULES if name != "outlier"]
    assert scores == {
        "repetition": 1.0,
        "entropy_spike": pytest.approx(0.0),
        "near_tie": 0.0,
        "off_nucleus": 0.0,
        "script_switch": 0.0,
    }


def test_find_places_each():
    n = 20
    entropy = [1.0] * 10 + [6.0] * 4 + [1.0] * 6
    logp_raw = [-1.0] * 16 + [-12.0] + [-1.0] * 3
    margin = [1.0] * 5 + [1e-5] + [1.0] * 14
    stats = stats_of(n, entropy=entropy, logp_raw=logp_raw, margin=margin)
    found = rules_found(stats, [*range(8), *[1, 2, 3, 4] * 3], ENGLISH + "我爱你们所有人")
    assert {name: each.at for name, each in found.items()} == {
        "repetition": 8,
        "entropy_spike": 10,
        "near_tie": 5,
        "off_nucleus": 16,
        "script_switch": None,
    }
    assert found["entropy_spike"].score == pytest.approx(5.0)
    assert found["near_tie"].score == pytest.approx(5.0)
    assert found["off_nucleus"].score == pytest.approx(11.0)
    assert all(each.threshold == anomalies.RULES[name].threshold for name, each in found.items())


def test_thresholds_of_the_caller():
    stats = stats_of(20, margin=[1.0] * 19 + [1e-3])
    assert rules_found(stats, range(20)).keys() == set()
    found = rules_found(stats, range(20), thresholds={"near_tie": 3.0})
    assert found["near_tie"].threshold == 3.0
    with pytest.raises(ValueError, match="find: no rule 'loops', the rules are repetition, "):
        anomalies.find(stats, range(20), thresholds={"loops": 1.0})


def test_rules_without_their_columns_or_text_are_left_out():
    assert list(anomalies.scores({}, [1, 2, 3])) == ["repetition"]
    assert list(anomalies.scores({"entropy": [1.0, 2.0, 3.0]}, [1, 2, 3])) == ["repetition", "entropy_spike"]


def test_no_tokens_and_numbers_that_are_not_finite():
    odd = [math.nan, math.inf, -math.inf, None]
    for stats, ids in ((stats_of(0), []), ({name: odd for name in stats_of(0)}, [1, 2, 3, 4])):
        scores = anomalies.scores(stats, ids, "")
        assert all(map(math.isfinite, scores.values()))
        assert anomalies.find(stats, ids, "") == []
    impossible = stats_of(4, logp_raw=[-1.0, -math.inf, -1.0, -1.0], margin=[1.0, 0.0, 1.0, math.inf])
    found = rules_found(impossible, [1, 2, 3, 4])
    assert (found["off_nucleus"].at, found["near_tie"].at) == (1, 1)
    json.dumps([each._asdict() for each in found.values()], allow_nan=False)


def test_columns_of_another_length_are_refused():
    with pytest.raises(ValueError, match="scores: margin must have 3 numbers, one for each id, got 2"):
        anomalies.scores({"margin": [1.0, 2.0]}, [1, 2, 3])
    with pytest.raises(ValueError, match=r"find: ids must be integers \[n\], got float64 \[2\]"):
        anomalies.find({}, [1.0, 2.0])


def test_outliers():
    values = [1.0, 2.0, 3.0, 4.0, 100.0]
    found = anomalies.outliers({"a": values, "same": [5.0] * 5, "b": [0.0, 1.0, math.nan, 2.0, None]})
    assert found.unused == ("same",)
    assert found.z["a"].tolist() == pytest.approx([(v - 3) / 1.4826 for v in values])  # median 3, MAD 1
    assert found.z["b"].tolist() == pytest.approx([-1 / 1.4826, 0.0, 0.0, 1 / 1.4826, 0.0])
    assert found.flagged.tolist() == [False] * 4 + [True]
    assert found.column[4] == "a" and found.score[4] == pytest.approx(97 / 1.4826)
    assert anomalies.outliers({"a": values}, threshold=1.0).flagged.tolist() == [
        True,
        False,
        False,
        False,
        True,
    ]


def test_outliers_against_a_reference():
    found = anomalies.outliers({"a": [3.0, 30.0]}, reference={"a": [1.0, 2.0, 3.0, 4.0, 5.0]})
    assert found.flagged.tolist() == [False, True]
    with pytest.raises(ValueError, match="outliers: the reference lacks the column a"):
        anomalies.outliers({"a": [1.0]}, reference={"b": [1.0]})


def test_outliers_of_nothing():
    assert anomalies.outliers({"a": []}).score.tolist() == []
    flat = anomalies.outliers({"a": [1.0, 1.0]})
    assert flat.flagged.tolist() == [False, False] and flat.column == ["", ""]
    for table in ({}, {"a": [1.0], "b": [1.0, 2.0]}):
        with pytest.raises(ValueError, match="outliers: columns must have one length, got "):
            anomalies.outliers(table)


def test_what_the_rules_say():
    for name, rule in anomalies.RULES.items():
        assert rule.name == name and rule.says and rule.unit and rule.source
        assert math.isfinite(rule.threshold)


def main():
    """The table of docs/audit.md: AUROC, and the shares found and falsely flagged at the threshold."""
    for case in CASES:
        limit = anomalies.RULES[rule_of(case)].threshold
        for held_out in (False, True):
            clean, planted, a, b = (numpy.array(x) for x in measured(case, held_out))
            print(
                f"{case:26} {'held out' if held_out else 'development':12} {len(clean)} {len(planted):4}"
                f"  AUROC {planting.auroc(clean, planted):.3f}  found {numpy.mean(planted >= limit):.3f}"
                f"  false {numpy.mean(clean >= limit):.3f}  length {planting.auroc(a, b):.3f}"
            )


if __name__ == "__main__":
    main()
