# SPDX-License-Identifier: Apache-2.0
"""sample_processed of the CUDA engine, run by the SIMT executor, equals the reference bit for bit: rows in
parts and whole, odd lengths, real rows, every list and rule. What it launches, reads and writes:
test_cuda_processed_traffic.py."""

import math
import sys

import pytest
import test_processed as processed
import torch
from engines import (
    ALL,
    BF16,
    EXECUTOR,
    F16,
    F32,
    assert_same,
    bits_of,
    both,
    engine,
    make_keys,
    make_params,
    named_outputs,
    op,
)
from hypothesis import given
from hypothesis import strategies as st
from processed_cases import LAST, Edits, make_edits, make_rules, process
from row_kinds import KINDS, make_mask, make_rows
from simt_build import ROOT
from simt_engine import library, schedule
from strategies import examples

sys.path.append(str(ROOT))
from fusedraw.bench import data

DTYPES = (F32, BF16, F16)


@pytest.fixture(autouse=True)
def on_the_executor(monkeypatch):
    """The imported tests compare the executor with the reference, and no instruction sets."""
    library()
    monkeypatch.setattr(processed, "on_every_engine", both)
    monkeypatch.setattr(processed, "ENGINES", ["reference", EXECUTOR])


test_generated_rows = examples(80)(given(st.data())(processed.test_generated_rows.hypothesis.inner_test))
test_edits_are_those_of_float32 = processed.test_edits_are_those_of_float32
test_a_removed_token_is_not_looked_at = processed.test_a_removed_token_is_not_looked_at
test_neutral_rules_change_nothing = processed.test_neutral_rules_change_nothing
test_lists_that_are_not_allowed = processed.test_lists_that_are_not_allowed
test_rules_that_are_not_allowed = processed.test_rules_that_are_not_allowed


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_kind_of_row(kind, dtype):
    processed.test_every_kind_of_row(kind, dtype, 1000)


# Long rows

FAR = 262_144 + 700  # more blocks than shared memory has maxima of, and than marks of edits
MANY = 130  # rows that are not split
RULES = (
    {"repetition_penalty": 1.3, "frequency_penalty": 0.2, "presence_penalty": 0.1},
    {"top_n_sigma": 1.5, "repetition_penalty": 0.8},
    {"typical_p": 0.9},
    {"epsilon_cutoff": 1e-4, "eta_cutoff": 1e-3},
    {"xtc_threshold": 0.02, "xtc_probability": 1.0},
    {"typical_p": 0.7, "epsilon_cutoff": 1e-5, "xtc_threshold": 0.01, "xtc_probability": 1.0},
)
FILTERS = ({}, {"top_k": 50}, {"top_p": 0.9}, {"top_k": 300, "top_p": 0.95, "min_p": 0.01})
MOST_OUTPUTS = ALL & ~bits_of("kept")


def rules_of_rows(rows, start=0):
    return torch.cat([make_rules(**RULES[(i + start) % len(RULES)]) for i in range(rows)])


def params_of_rows(rows, start=0, **more):
    return torch.cat(
        [make_params(0.8, **{**FILTERS[(i + start) % len(FILTERS)], **more}) for i in range(rows)]
    )


def lists_of(x, seed):
    """Lists over rows of any length: the largest tokens among them, and ids of the last blocks."""
    edits = make_edits(*x.shape, seed)
    edits.history = [
        row.topk(min(40, len(row))).indices.tolist() * 2 + [-1, len(row) - 1] for row in x.float()
    ]
    edits.prompt = [list(range(0, x.shape[1], 97))]
    return edits


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [32_769, 40_960])
def test_rows_in_parts(dtype, size):
    """Odd and even lengths, aligned and not, of four rows, with masks and in shuffled schedules."""
    wide = make_rows("normal", 4, size + 3, 1, dtype)
    for i, x in enumerate((wide[:, :size], wide[:, 3:])):
        mask = make_mask(("line-0.9", "words-1")[i], 4, size, 1)
        arguments = (rules_of_rows(4, 2 * i), lists_of(x, i), params_of_rows(4, i), make_keys(4, i), mask)
        with schedule(i * 7):
            both(process, x, *arguments, LAST * i, ALL, 3, ("csr32", "padded")[i])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_many_rows(dtype):
    """Rows that one thread block reads alone. All but six are refused for their parameters."""
    x = make_rows("peaked", 6, 33_001, 2, dtype)
    rules, params, edits = rules_of_rows(6), params_of_rows(6, 1, mix_eps=0.2), lists_of(x, 3)
    keys = make_keys(6, 5)
    expected = both(process, x, rules, edits, params, keys, None, 0, MOST_OUTPUTS, 2)

    def repeated(t):
        return t.repeat(MANY // 6 + 1, 1)[:MANY]

    def rows_of(name):
        return (getattr(edits, name) or [[]]) * (MANY if len(getattr(edits, name)) <= 1 else MANY // 6 + 1)

    many = Edits(*(rows_of(name)[:MANY] for name in ("history", "prompt", "suppress", "bias")))
    refused = repeated(params)
    refused[6:, 0] = -1.0
    with engine(EXECUTOR):
        arguments = (repeated(rules), many, refused, repeated(keys), None, 0, MOST_OUTPUTS, 2)
        got = process(repeated(x), *arguments)
    assert_same({name: value[:6] for name, value in got.items()}, expected)
    assert (got["status"][6:] == 1).all()


@pytest.mark.parametrize("rows", [1, MANY])
def test_rows_of_more_blocks_than_shared_memory_holds(rows):
    x = make_rows("normal", 1, FAR, 4, BF16)
    edits = lists_of(x, 6)
    rules, params, keys = rules_of_rows(1, 5), params_of_rows(1, 3), make_keys(rows)
    asked = (None, 0, bits_of("status", "logp", "n_kept", "rank"), 2)
    expected = both(process, x, rules, edits, params, keys[:1], *asked)
    if rows > 1:
        many = Edits(*(list(getattr(edits, name)[:1]) for name in ("history", "prompt", "suppress", "bias")))
        for name in ("history", "prompt", "suppress", "bias"):
            setattr(many, name, getattr(many, name) and getattr(many, name) + [[]] * (rows - 1))
        refused = params.repeat(rows, 1)
        refused[1:, 0] = -1.0
        many.suppress = edits.suppress
        many.prompt = edits.prompt
        with engine(EXECUTOR):
            got = process(x.expand(rows, -1), rules, many, refused, keys, *asked)
        assert_same({name: value[:1] for name, value in got.items()}, expected)


@pytest.mark.parametrize("kind, size", [("real", 49152), ("peaked", 128256)], ids=str)
def test_rows_of_language_models(kind, size):
    for dtype in (F32, BF16):
        x = data.make(kind, size, len(RULES), dtype)
        edits = lists_of(x, size)
        for i in range(2):
            params = params_of_rows(len(RULES), i)
            arguments = (rules_of_rows(len(RULES), i), edits, params, make_keys(len(RULES), i))
            both(process, x, *arguments, None, LAST * i, MOST_OUTPUTS, 5)


def test_lists_of_every_form_at_once():
    """Padded beside CSR, one list for all rows beside one for each, int32 beside int64."""
    x = make_rows("normal", 3, 900, 8, BF16)
    history = torch.tensor([[5, 5, -1, 7]], dtype=torch.int32)  # for all rows
    prompt = torch.tensor([[1, -5], [2, 3], [-1, -1]])
    suppress, offsets = torch.tensor([9, 10, 11, 9]), torch.tensor([0, 0, 3, 4])
    bias, bias_offsets, values = torch.tensor([7, 8]), torch.tensor([0, 2]), torch.tensor([2.5, -math.inf])
    lists = (history, None, prompt, None, suppress, offsets, bias, bias_offsets, values)
    rules = make_rules(repetition_penalty=1.5, frequency_penalty=0.5)

    def call():
        results = iter(op.sample_processed(x, make_params(), rules, make_keys(3), None, *lists, 0, ALL, 2))
        return named_outputs(results, ALL, 2)

    same = Edits([[5, 5, 7]], [[1], [2, 3], []], [[], [9, 10, 11], [9]], [[(7, 2.5), (8, -math.inf)]])
    assert_same(both(call), both(process, x, rules, same, make_params(), make_keys(3), top_n=2))


def test_tokens_edited_many_times():
    """Counts from many threads at one token; a bias twice is seen whoever comes second."""
    x = make_rows("normal", 2, 600, 3)
    rules = make_rules(frequency_penalty=0.01, repetition_penalty=1.1)
    for seed in (0, 1, 5):
        with schedule(seed):
            edits = Edits([[17] * 3000 + [18] * 500, [599] * 1001], [[17] * 700])
            both(process, x, rules, edits)
            edits = Edits(bias=[[(i % 400, 1.0) for i in range(401)], [(i, 1.0) for i in range(400)]])
            assert both(process, x, rules, edits)["status"].tolist() == [1, 0]
