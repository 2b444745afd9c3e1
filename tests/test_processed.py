# SPDX-License-Identifier: Apache-2.0
"""sample_processed: R1 = R2 = every instruction set, every by-product bit for bit, and each rule alone."""

import math

import pytest
import torch
from engines import (
    ALL,
    BF16,
    ENGINES,
    F16,
    F32,
    assert_same,
    bits_of,
    engine,
    make_keys,
    make_mode,
    make_params,
    on_every_engine,
    sample,
)
from fusedraw._threads import threads
from hypothesis import given
from hypothesis import strategies as st
from processed_cases import LAST, Edits, make_edits, make_rules, process, process_r1, rule_rows
from row_kinds import KINDS, make_mask, make_rows
from strategies import examples, modes, param_rows, row_batches, seeds

SMALL = st.one_of(st.sampled_from((1, 2, 7, 255, 256, 257, 600)), st.integers(1, 400))


@examples(150)
@given(st.data())
def test_generated_rows(data):
    batch = data.draw(row_batches(size=SMALL))
    rows, size = batch.x.shape
    params = data.draw(param_rows(rows, size))
    rules = data.draw(rule_rows(data.draw(st.sampled_from((1, rows)))))
    edits = make_edits(rows, size, data.draw(seeds), dense=data.draw(st.booleans()))
    mode = data.draw(modes) | LAST * data.draw(st.booleans())
    top_n = data.draw(st.sampled_from((0, 0, 3)))
    outputs = data.draw(
        st.sampled_from((ALL, ALL, 0, bits_of("logp"), bits_of("kept", "n_kept"), bits_of("margin")))
    )
    arguments = (rules, edits, params, batch.keys, batch.mask, mode, outputs, top_n)
    expected = process_r1(batch.x, *arguments)
    for form in ("csr", "csr32", "padded"):
        on_every_engine(process, batch.x, *arguments, form, expected=expected)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [F32, BF16, F16], ids=str)
@pytest.mark.parametrize("size", [1000, 8192])
def test_every_kind_of_row(kind, dtype, size):
    """Longer rows: R2 and the engines, every rule on in turn and all together."""
    if dtype == F16 and kind in ("huge", "denormal", "equal"):
        pytest.skip("not finite or not distinct in float16")
    x = make_rows(kind, 3, size, seed=5, dtype=dtype)
    edits = make_edits(3, size, seed=7, dense=True)
    each = [
        {"top_n_sigma": 1.5},
        {"typical_p": 0.9},
        {"epsilon_cutoff": 1e-3},
        {"eta_cutoff": 1e-2},
        {"xtc_threshold": 0.02, "xtc_probability": 1.0},
        {"repetition_penalty": 1.3, "frequency_penalty": 0.2, "presence_penalty": 0.1},
    ]
    each.append({name: value for rules in each for name, value in rules.items()})
    for number, rules in enumerate(each):
        params = make_params(
            0.8, (1.0, 0.9)[number % 2], 0.0, (0.0, 0.3)[number // 2 % 2], (0, 60)[number // 3 % 2]
        )
        mode = LAST * (number % 2) | make_mode(("sequential", "joint", "min_p_first")[number % 3])
        on_every_engine(process, x, make_rules(**rules), edits, params, mode=mode, top_n=2)


def test_neutral_rules_change_nothing():
    x = make_rows("normal", 4, 3000, seed=1)
    params = make_params(0.9, 0.9, 0.01, 0.1, 50)
    for top_n in (0, 3):
        expected = on_every_engine(sample, x, params, top_n=top_n)
        on_every_engine(process, x, make_rules(), None, params, top_n=top_n, expected=expected)
        edits = Edits(history=[[5, 9, -1]], prompt=[[7]], bias=[[(3, 0.0)]])  # neutral penalties
        on_every_engine(process, x, make_rules(), edits, params, top_n=top_n, expected=expected)


@pytest.mark.parametrize("dtype", [F32, BF16, F16], ids=str)
def test_edits_are_those_of_float32(dtype):
    """What the operator draws from edited rows is what `sample` draws from rows edited by hand."""
    x = make_rows("normal", 3, 2000, seed=3, dtype=dtype)
    history = torch.randint(0, 2000, (3, 700), generator=torch.Generator().manual_seed(1))
    bias = [[(i, 0.37 * i) for i in range(0, 40, 3)]]
    rules = make_rules(repetition_penalty=1.37, frequency_penalty=0.21, presence_penalty=0.4)
    y = x.float().clone()
    for i, b in bias[0]:
        y[:, i] += torch.tensor(b, dtype=F32)
    count = torch.zeros_like(y).scatter_add_(1, history, torch.ones(3, 700))
    p = torch.tensor(1.37, dtype=F32)
    y = torch.where(count > 0, torch.where(y > 0, y / p, y * p), y)
    y = torch.where(count > 0, y - torch.tensor(0.21, dtype=F32) * count - torch.tensor(0.4, dtype=F32), y)
    params = make_params(0.8, 0.95, 0.0, 0.0, 300)
    expected = on_every_engine(sample, y, params, top_n=4)
    edits = Edits(history=history.tolist(), bias=bias)
    on_every_engine(process, x, rules, edits, params, top_n=4, expected=expected)


@pytest.mark.parametrize("place", [0, 255, 256, 700, 999])
def test_a_raised_token_is_seen(place):
    """One token above all others, in a block of which nothing else is edited."""
    x = make_rows("normal", 2, 1000, seed=4)
    y = x.clone()
    y[:, place] += 50.0
    for params in (make_params(), make_params(0.0), make_params(top_k=2), make_params(top_p=0.9)):
        expected = on_every_engine(sample, y, params, top_n=2)
        assert (expected["ids"] == place).all()
        on_every_engine(
            process, x, make_rules(), Edits(bias=[[(place, 50.0)]] * 2), params, top_n=2, expected=expected
        )


def test_a_removed_token_is_not_looked_at():
    x = make_rows("normal", 2, 900, seed=3)
    x[0, 100], x[0, 400], x[1, 100], x[1, 400] = math.nan, math.inf, math.inf, math.nan
    removed = make_mask("none", 2, 900)
    allowed = torch.ones(900, dtype=torch.bool)
    allowed[[100, 400]] = False
    expected = on_every_engine(sample, x, mask=allowed)
    assert (expected["status"] == 0).all()
    by_bias = Edits(bias=[[(100, -math.inf), (400, -math.inf)]])
    for edits in (Edits(suppress=[[100, 400, 100]]), by_bias):
        on_every_engine(process, x, make_rules(), edits, mask=removed, expected=expected)
    # Raised again beside a NaN that stays: the row stays bad.
    bad = on_every_engine(process, x, make_rules(), Edits(suppress=[[400]]))
    assert bad["status"].tolist() == [2, 3]


@pytest.mark.parametrize(
    ("edits", "status"),
    [
        (Edits(history=[[0], [900]]), [0, 1]),
        (Edits(prompt=[[2**40], [1]]), [1, 0]),
        (Edits(suppress=[[900]]), [1, 1]),
        (Edits(bias=[[(3, 1.0), (3, 1.0)], [(3, 1.0)]]), [1, 0]),
        (Edits(bias=[[(3, math.nan)], [(3, 1.0)]]), [1, 0]),
        (Edits(bias=[[(3, 1.0)], [(4, math.inf)]]), [0, 1]),
        (Edits(bias=[[(3, 3e38)], [(4, -3e38)]]), [3, 0]),  # beyond float32: +inf, and -inf
        (Edits(suppress=[list(range(900)), []]), [4, 0]),
    ],
)
def test_lists_that_are_not_allowed(edits, status):
    x = make_rows("huge", 2, 900, seed=1)
    x[:, 3] = 2e38
    x[:, 4] = -2e38
    got = on_every_engine(process, x, make_rules(), edits)
    assert got["status"].tolist() == status
    assert_same(process_r1(x, make_rules(), edits), got)


@pytest.mark.parametrize(
    "rules",
    [
        {"typical_p": -0.1},
        {"typical_p": math.nan},
        {"epsilon_cutoff": 1.5},
        {"eta_cutoff": math.nan},
        {"xtc_threshold": 2.0},
        {"xtc_probability": -1.0},
        {"top_n_sigma": -1.0},
        {"top_n_sigma": math.nan},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": math.inf},
        {"frequency_penalty": math.inf},
        {"presence_penalty": math.nan},
    ],
    ids=str,
)
def test_rules_that_are_not_allowed(rules):
    x = make_rows("normal", 2, 300, seed=1)
    rows = torch.cat([make_rules(**rules), make_rules()])
    got = on_every_engine(process, x, rows, params=make_params(0.0))
    assert got["status"].tolist() == [1, 0]
    assert_same(process_r1(x, rows, params=make_params(0.0)), got)


def test_threads_and_strides_change_nothing():
    x = make_rows("normal", 5, 4096 * 4, seed=2)
    rules = make_rules(typical_p=0.9, repetition_penalty=1.2, top_n_sigma=2.0, xtc_probability=1.0)
    edits, keys = make_edits(5, 4096 * 4, seed=3, dense=True), make_keys(5)
    expected = on_every_engine(process, x, rules, edits, keys=keys)
    wide = torch.full((5, 4096 * 4 + 9), 99.0)
    wide[:, 5:-4] = x
    for name in ENGINES:
        with engine(name), threads(2):
            assert_same(process(wide[:, 5:-4], rules, edits, keys=keys), expected, name)
            alone = process(
                x[3:4],
                rules,
                Edits(
                    *(
                        [getattr(edits, f)[3 % len(getattr(edits, f))]] if getattr(edits, f) else []
                        for f in ("history", "prompt", "suppress", "bias")
                    )
                ),
                keys=keys[3:4],
            )
            for field in ("ids", "logp", "n_kept", "kept_mass"):
                assert torch.equal(alone[field][0], expected[field][3])


def test_nothing_left_at_the_temperature():
    """XTC sees T = 1 and leaves tokens that weigh nothing at a small T: the row is EMPTY, others are not."""
    x = torch.tensor([[10.0, 0.0, -1.0], [10.0, 9.9, -1.0]])
    rules = make_rules(xtc_threshold=0.0, xtc_probability=1.0)
    for eps, support in ((0.0, "kept"), (1.0, "valid")):
        params, mode = make_params(0.05, mix_eps=eps), LAST | make_mode(support=support)
        got = on_every_engine(process, x, rules, params=params, mode=mode, top_n=2)
        assert got["status"].tolist() == [4, 4] and got["ids"].tolist() == [-1, -1]
        assert_same(process_r1(x, rules, params=params, mode=mode, top_n=2), got)
    warm = on_every_engine(process, x, rules, params=make_params(1.0), mode=LAST)
    assert warm["ids"].tolist() == [2, 2]


def test_weightless_tokens_leave_a_narrowed_row():
    """temperature_last with min-p: what weighs nothing at T is not kept, whatever T = 1 says."""
    x = torch.tensor([[5.5075, 2.7036]])
    params = make_params(0.0625, min_p=0.05)
    got = on_every_engine(process, x, make_rules(), params=params, mode=LAST)
    assert got["n_kept"].tolist() == [1] and got["kept_ids"].tolist() == [0]
