# SPDX-License-Identifier: Apache-2.0
"""Metrics on token ids: known answers, properties, and equality with the reference implementations, whose
values are stored with their origin (metrics_references.py) and computed anew where they are installed."""

import json
import math
import subprocess
import sys
import zlib

import fusedraw
import metrics_references as references
import numpy
import pytest
import torch
from fusedraw import metrics as m
from hypothesis import given
from hypothesis import strategies as st
from strategies import examples

STORED = json.loads(references.FILE.read_text(encoding="utf-8"))
SETS = STORED["sets"]
TEXTS = st.lists(st.lists(st.integers(0, 9), min_size=4, max_size=12), min_size=2, max_size=6)
EXACT = {"rel": 1e-12, "abs": 0}


def gzip_tolerance():
    """Other builds of zlib find other matches."""
    return 0.0005 if STORED["versions"]["zlib"] == zlib.ZLIB_RUNTIME_VERSION else 0.1


def padded(texts, padding=-1):
    width = max(map(len, texts))
    ids = torch.tensor([text + [padding] * (width - len(text)) for text in texts])
    return ids, torch.tensor([len(text) for text in texts])


def ours(texts):
    """Our values of a set, in the form of metrics_references.py."""
    return {
        "sacrebleu": {"self_bleu": m.self_bleu(texts).tolist()},
        "vendi-score": {
            "vendi_score": m.vendi_score(texts),
            "vendi_score_of_words": m.vendi_score(texts, ns=[1]),
            "distinct_n": [m.distinct_n(texts, n) for n in (1, 2, 3, 4)],
        },
        "diversity": {
            "compression_ratio": m.compression_ratio(texts),
            "self_repetition": [m.self_repetition(texts, n) for n in (2, 4)],
            "sum_of_distinct_n_of_first": sum(m.distinct_n(texts[:1], n) for n in (1, 2, 3, 4)),
        },
    }


# The reference implementations


@pytest.mark.parametrize("name", SETS)
def test_equal_to_the_stored_references(name):
    pytest.importorskip("sacrebleu")
    stored, got = SETS[name]["values"], ours(SETS[name]["texts"])
    assert got["sacrebleu"]["self_bleu"] == pytest.approx(stored["sacrebleu"]["self_bleu"], **EXACT)
    for key, value in stored["vendi-score"].items():
        assert got["vendi-score"][key] == pytest.approx(value, **EXACT), key
    theirs = stored["diversity"]
    assert got["diversity"]["self_repetition"] == pytest.approx(theirs["self_repetition"], **EXACT)
    # the package rounds these to three digits
    for key, tolerance in (("compression_ratio", gzip_tolerance()), ("sum_of_distinct_n_of_first", 0.0005)):
        assert got["diversity"][key] == pytest.approx(theirs[key], abs=tolerance), key


def test_compression_of_decoded_text():
    vocabulary = list(dict.fromkeys(word for line in references.SENTENCES for word in line.split()))
    texts = SETS["sentences"]["texts"]
    got = m.compression_ratio(texts, decode=lambda ids: " ".join(vocabulary[i] for i in ids))
    assert got == pytest.approx(STORED["compression_ratio_of_sentences"], abs=gzip_tolerance())
    assert got != pytest.approx(m.compression_ratio(texts), rel=0.05)


@pytest.mark.parametrize("package", references.REFERENCES)
def test_stored_references_are_what_the_packages_say(package):
    """Where a package is installed and runs: otherwise the stored values stand for it."""
    # In a process of its own: stand-ins for unused imports must not stay in this one.
    code = (
        "import json, sys; sys.path.insert(0, sys.argv[1]); import metrics_references as r;"
        "of = r.REFERENCES[sys.argv[2]]; sets = json.loads(r.FILE.read_text())['sets'];"
        "print(json.dumps({name: of(s['texts']) for name, s in sets.items()}))"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, str(references.FILE.parent.parent), package]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{package} does not run here: {done.stderr.strip().splitlines()[-1]}")
    for name, values in json.loads(done.stdout).items():
        for key, value in values.items():
            tolerance = {"abs": gzip_tolerance()} if key == "compression_ratio" else EXACT
            assert value == pytest.approx(SETS[name]["values"][package][key], **tolerance), (name, key)


def test_fixtures_are_those_of_the_script():
    assert {name: entry["texts"] for name, entry in SETS.items()} == references.fixtures()


# Known answers


def test_distinct_n():
    assert m.distinct_n([[1, 2, 1, 2], [2, 1]], 1) == 2 / 6
    assert m.distinct_n([[1, 2, 1, 2], [2, 1]], 2) == 2 / 4  # none across the seam of two texts
    assert m.distinct_n([[5], [1, 2]], 2) == 1.0
    with pytest.raises(ValueError, match="distinct_n: no text has 3 tokens, the longest has 2"):
        m.distinct_n([[5], [1, 2]], 3)


def test_repetition():
    got = m.repetition([[1, 2, 3, 4], [1, 1, 1, 1], [1, 2, 1, 2, 1], [7]], 2)
    assert got.tolist() == [0.0, 1 - 1 / 3, 1 - 2 / 4, 0.0] and got.dtype == torch.float64
    text = SETS["loops"]["texts"][0]
    assert m.repetition([text], 3).item() == 1 - m.distinct_n([text], 3)


def test_self_repetition():
    # texts 0, 1 and 2 share (1, 2), text 3 is alone; that text 1 has it twice adds nothing
    texts = [[1, 2, 9], [1, 2, 1, 2], [0, 1, 2], [4, 4, 4]]
    assert m.self_repetition(texts, 2) == pytest.approx(3 * math.log(3) / 4)
    assert m.self_repetition([[1, 2, 3]], 2) == 0


def test_self_bleu():
    pytest.importorskip("sacrebleu")
    got = m.self_bleu([[1, 2, 3, 4], [1, 2, 3, 5], [6, 7]])
    # precisions 3/4, 2/3, 1/2, then none of 1, which exponential smoothing makes 1/2
    expected = 100 * (3 / 4 * 2 / 3 * 1 / 2 * 1 / 2) ** 0.25
    assert got[:2].tolist() == pytest.approx([expected, expected]) and got[2] == 0
    # one digit more must not make two ids alike
    assert m.self_bleu([[1, 11, 111], [11, 1, 1111]], max_n=1)[0].item() == pytest.approx(200 / 3)


def test_vendi_score():
    assert m.vendi_score([[1, 2, 3, 4]] * 5) == pytest.approx(1.0)
    assert m.vendi_score([[i, i, i, i] for i in range(7)]) == pytest.approx(7.0)
    # two pairs of equal texts, unlike each other
    assert m.vendi_score([[1, 2, 3, 4], [5, 6, 7, 8]] * 2) == pytest.approx(2.0)
    # cosine 1/2: eigenvalues 3/4 and 1/4
    expected = math.exp(-0.75 * math.log(0.75) - 0.25 * math.log(0.25))
    assert m.vendi_score([[1, 2], [1, 3]], ns=[1]) == pytest.approx(expected)


def test_perplexity():
    logps = torch.tensor([[0.5, 0.5, 0.5], [0.25, 1.0, 0.1], [1.0, 0.0, 1.0]]).log()
    got = m.perplexity(logps, lengths=[3, 2, 3])
    assert got.dtype == torch.float64 and got[:2].tolist() == pytest.approx([2.0, 2.0]) and got[2] == math.inf
    assert m.perplexity([[math.log(0.2)], logps[0]]).tolist() == pytest.approx([5.0, 2.0])


def test_perplexity_of_a_uniform_law_is_its_size():
    keys = fusedraw.derive_keys(1, range(6))
    out = fusedraw.sample(torch.zeros(6, 40), keys=keys, returns=("logp_raw",))
    assert m.perplexity(out.logp_raw.reshape(2, 3)).tolist() == pytest.approx([40.0, 40.0], rel=1e-6)


def test_relevance():
    vectors = {"a": [1.0, 0.0], "b": [1.0, 1.0], "c": [-2.0, 0.0], "none": [0.0, 0.0]}

    def embed(items):
        return numpy.array([vectors[item] for item in items])

    got = m.relevance(["a", "b", "c", "none"], ["a"], embed)
    assert got.tolist() == pytest.approx([1.0, math.sqrt(0.5), -1.0, 0.0])
    assert m.relevance(["a", "b"], ["c", "b"], embed).tolist() == pytest.approx([-1.0, 1.0])
    with pytest.raises(ValueError, match=r"relevance: embed must give \[2, D\], got shape \[1, 2\]"):
        m.relevance(["a", "b"], ["a"], lambda items: embed(items[:1]))
    with pytest.raises(ValueError, match="relevance: prompts must be 1 or 3, got 2"):
        m.relevance(["a", "b", "c"], ["a", "b"], embed)


# Properties

SET_METRICS = {
    "distinct_n": m.distinct_n,
    "self_repetition": m.self_repetition,
    "compression_ratio": m.compression_ratio,
    "vendi_score": m.vendi_score,
    "repetition": lambda texts, **more: sorted(m.repetition(texts, 2, **more).tolist()),
}


@pytest.mark.parametrize("name", SET_METRICS)
@examples(25)
@given(texts=TEXTS)
def test_forms_of_the_same_texts_give_the_same(name, texts):
    metric = SET_METRICS[name]
    expected = metric(texts)
    ids, lengths = padded(texts)
    assert metric(ids, lengths=lengths) == expected
    assert metric(ids.to(torch.int32).numpy(), lengths=lengths.tolist()) == expected
    assert metric([torch.tensor(text) for text in texts]) == expected


@pytest.mark.parametrize("name", [name for name in SET_METRICS if name != "compression_ratio"])
@examples(25)
@given(texts=TEXTS, rng=st.randoms(use_true_random=False))
def test_order_and_names_of_tokens_do_not_matter(name, texts, rng):
    metric = SET_METRICS[name]
    expected = metric(texts)
    names = rng.sample(range(50000), 10)
    changed = [[names[token] for token in text] for text in texts]
    rng.shuffle(changed)
    assert metric(changed) == pytest.approx(expected, rel=1e-9)


@examples(25)
@given(texts=TEXTS)
def test_bounds(texts):
    assert 0 < m.distinct_n(texts, 2) <= 1
    assert 1 - 1e-9 <= m.vendi_score(texts) <= len(texts) + 1e-9
    # more of the same: no new n-gram, no more diversity
    assert m.distinct_n(texts * 2, 2) == m.distinct_n(texts, 2) / 2
    assert m.vendi_score(texts * 2) == pytest.approx(m.vendi_score(texts), rel=1e-9)


def test_directions():
    """What repeats is less diverse by every metric."""
    pytest.importorskip("sacrebleu")
    varied, same = SETS["long"]["texts"], [text[:30] * 2 for text in SETS["long"]["texts"][:2]] * 5
    assert m.distinct_n(varied) > m.distinct_n(same) and m.vendi_score(varied) > m.vendi_score(same)
    assert m.self_bleu(varied).mean() < m.self_bleu(same).mean()
    assert m.compression_ratio(varied) < m.compression_ratio(same)
    assert m.self_repetition(varied) < m.self_repetition(same)
    assert m.repetition(varied).mean() < m.repetition(same).mean()


# Bad input

IDS = torch.tensor([[1, 2, 3, 4], [5, 6, 7, 8]])


def test_self_bleu_says_what_it_needs(monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu.metrics", None)
    with pytest.raises(ImportError, match="self_bleu: needs sacrebleu"):
        m.self_bleu(IDS)
