# SPDX-License-Identifier: Apache-2.0
"""verify: R1 = R2 = every instruction set, to the bit; where acceptance tips over, exactly; what a row
depends on. Its law: test_verify_law.py; its interface: test_verify_calls.py; the CUDA kernels:
test_cuda_verify.py."""

from dataclasses import replace

import fusedraw
import pytest
import torch
from engines import (
    BF16,
    F16,
    F32,
    INF,
    NAN,
    assert_same,
    forced,
    make_keys,
    make_params,
    on_every_engine,
    sample,
)
from fusedraw import Status
from fusedraw import reference as r1
from fusedraw import reference_speculative as rs
from fusedraw._threads import threads
from hypothesis import given
from strategies import examples
from verify_cases import (
    Case,
    cases,
    draw_drafts,
    make_case,
    make_mode,
    masks_at,
    position_keys,
    rows_at,
    spread_case,
    tied_case,
    verify,
    verify_r1,
)

# The engines


@examples(250)
@given(case=cases())
def test_engines_equal_the_law(case):
    on_every_engine(verify, case, expected=verify_r1(case))


@pytest.mark.parametrize("noise", [0.02, 0.5, 4.0])
@pytest.mark.parametrize(
    "params",
    [{}, {"temperature": 0.7, "top_p": 0.9}, {"top_k": 40}, {"min_p": 0.02}, {"temperature": 0.0}],
    ids=str,
)
def test_long_rows(params, noise):
    """Drafts like the target, and so unlike that residuals lie everywhere."""
    for dtype, size in ((F32, 20_000), (BF16, 8_193), (F16, 5_119)):
        on_every_engine(verify, spread_case(size=size, dtype=dtype, noise=noise, seed=size, **params))


@pytest.mark.parametrize(
    "kind", ["peaked", "tied", "equal", "two_values", "holes", "cliff", "ramp", "integers"]
)
def test_every_pair_of_kinds(kind):
    for other in ("normal", "peaked", "tied", "equal", "cliff", "sunken"):
        target = rows_at(kind, 2, 3000, range(3))
        draft = rows_at(other, 2, 3000, range(9, 11))
        for params in (make_params(), make_params(1e-3), make_params(INF), make_params(1.3, 0.8, top_k=500)):
            on_every_engine(verify, make_case(draft, target, make_params(0.9), params))


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 511, 513])
def test_partial_blocks_and_strides(size):
    g = torch.Generator().manual_seed(size)
    wide = torch.randn(4, 5, size + 5, generator=g).mul(2)
    target, draft = wide[::2, ::2, 2 : size + 2], wide[1::2, 1:3, 1 : size + 1]
    case = make_case(draft, target)
    expected = on_every_engine(verify, case, expected=verify_r1(case))
    for other in (
        replace(case, target=target.contiguous(), draft=draft.contiguous()),
        replace(case, target=target.mT.contiguous().mT, draft=draft.mT.contiguous().mT),
    ):
        assert_same(verify(other), expected)


@pytest.mark.parametrize("word", [0, 1, 2**63, 2**64 - 2**11, 2**64 - 1])
def test_noise_at_its_ends(word):
    case = spread_case(size=700, noise=3.0)
    for purpose in (r1.COIN, r1.BLOCK, r1.TOKEN):
        values = {(purpose, i): word for i in (range(700) if purpose == r1.TOKEN else range(3))}
        with forced(values):
            on_every_engine(verify, case, expected=verify_r1(case, values))


def test_equal_quotients_go_to_the_lowest_index():
    case, noise = tied_case()
    with forced(noise):
        out = on_every_engine(verify, case, expected=verify_r1(case, noise))
    assert out["ids"].tolist() == [[1, -1]]


def weights(x, temperature=1.0, **params):
    _, w = rs.Side([x.tolist()], {"temperature": temperature, **params}).at(0)
    return w


@pytest.mark.parametrize("scale", [0.1, 1.0])
@pytest.mark.parametrize("filters", [{}, {"top_p": 0.9, "temperature": 1.5}])
def test_where_acceptance_tips(scale, filters):
    """The least r64 that rejects is ceil(2^64 p / q), one less accepts."""
    g = torch.Generator().manual_seed(4)
    target, draft = torch.randn(1, 2, 40, generator=g), torch.randn(1, 1, 40, generator=g)
    draft = target[:, :1] + draft * scale
    w, v = (weights(x[0, 0], **filters) for x in (target, draft))
    params = make_params(**filters)
    tipped = 0
    for i in range(40):
        a, b = w[i] * sum(v), v[i] * sum(w)
        if b == 0:
            continue
        tip = -((-a << 64) // b)
        case = Case(torch.tensor([[i]]), draft, target, params, params, make_keys(1))
        for r64 in {0, max(0, tip - 1), tip, 2**64 - 1}:
            if r64 >= 2**64:
                continue
            with forced({(r1.COIN, 0): r64}):
                out = on_every_engine(verify, case)
            assert out["n_accepted"].item() == (r64 < tip), (i, r64, tip)
        tipped += 0 < tip < 2**64
    assert tipped >= 3


def test_residuals_of_near_laws_are_exact():
    """Laws that differ in the last bits of a few weights: what is left is tiny, and a float has none."""
    base = torch.zeros(1, 1, 600)
    near = base.clone()
    near[0, 0, 300:] = 2.0**-22
    target = torch.cat([near, base], dim=1)
    w, v = weights(near[0, 0]), weights(base[0, 0])
    left = rs.residuals(w, v)
    assert 0 < max(left) < 2**-20 * w[0] * sum(v)
    with forced({(r1.COIN, 0): 2**64 - 1}):
        case = Case(torch.tensor([[0]]), base, target, make_params(), make_params(), make_keys(1))
        expected = verify_r1(case, {(r1.COIN, 0): 2**64 - 1})
        out = on_every_engine(verify, case, expected=expected)
    assert out["n_accepted"].item() == 0 and out["ids"][0, 0] >= 300


# What a row depends on


def of_rows(case, rows):
    """These rows of a case whose parameters are the same for all."""
    names = ("draft_ids", "draft", "target", "keys")
    return replace(case, **{name: getattr(case, name)[rows] for name in names})


def test_batch_threads_and_order_change_nothing():
    case = spread_case(rows=40, drafts=3, size=3001)
    with threads(1):
        whole = verify(case)
    assert (whole["n_accepted"] == 3).any() and (whole["n_accepted"] == 0).any()
    with threads(2):
        assert_same(verify(case), whole)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    assert_same(verify(of_rows(case, order)), {name: value[order] for name, value in whole.items()})
    with threads(2):  # one row, over its blocks
        long = spread_case(rows=1, size=150_000)
        parallel = verify(long)
    assert_same(verify(of_rows(case, slice(7, 8))), {name: value[7:8] for name, value in whole.items()})
    with threads(1):
        assert_same(verify(long), parallel)


def test_tokens_at_minus_infinity_change_nothing():
    case = spread_case(size=500)
    pad = torch.full((3, 4, 900), -INF)
    wide = replace(
        case, draft=torch.cat([case.draft, pad[:, :3]], dim=2), target=torch.cat([case.target, pad], dim=2)
    )
    assert_same(verify(wide), verify(case))


def test_one_row_for_all():
    """Expanded tensors: strides of 0."""
    case = spread_case(rows=1, drafts=2, size=300)
    keys = make_keys(50)
    expanded = [x.expand(50, -1, -1) for x in (case.draft, case.target)]
    shared = make_case(*expanded, keys=keys)
    apart = replace(shared, draft=expanded[0].clone(), target=expanded[1].clone())
    assert_same(verify(shared), verify(apart))


def test_what_lies_behind_is_not_looked_at():
    case = spread_case(rows=30, drafts=3, size=400, noise=1.5)
    plain = verify(case)
    ids, draft, target = case.draft_ids.clone(), case.draft.clone(), case.target.clone()
    for row, n in enumerate(plain["n_accepted"].tolist()):
        ids[row, n + 1 :] = -7
        draft[row, n + 1 :] = NAN
        target[row, n + 1 :] = INF
    spoiled = replace(case, draft_ids=ids, draft=draft, target=target)
    assert_same(on_every_engine(verify, spoiled), plain)
    for row, n in enumerate(plain["n_accepted"].tolist()):
        target[row, n, 5] = NAN
    out = on_every_engine(verify, spoiled)
    assert (out["status"] == Status.NAN).all() and (out["ids"] == -1).all() and out["logp"].isnan().all()
    assert (out["n_accepted"] == 0).all()


@pytest.mark.parametrize("n", [0, 1, 2])
def test_fewer_drafts(n):
    """n_draft leaves the rest out, as if there were no more; what follows is an ordinary draw."""
    case = spread_case(rows=60, drafts=3, size=300, noise=0.3)
    cut = replace(case, n_draft=torch.full((60,), n))
    out = on_every_engine(verify, cut)
    short = replace(
        case, draft_ids=case.draft_ids[:, :n], draft=case.draft[:, :n], target=case.target[:, : n + 1]
    )
    expected = verify(short)
    for name in ("n_accepted", "status"):
        assert torch.equal(out[name], expected[name])
    assert torch.equal(out["ids"][:, : n + 1], expected["ids"]) and (out["ids"][:, n + 1 :] == -1).all()
    assert out["logp"][:, n + 1 :].isnan().all()
    whole = (out["n_accepted"] == n).nonzero()[:, 0]
    assert len(whole) > 5
    drawn = sample(case.target[:, n], case.params, position_keys(case.keys, n))
    assert torch.equal(out["ids"][whole, n], drawn["ids"][whole])
    assert torch.equal(out["logp"][whole, n], drawn["logp"][whole])


@pytest.mark.parametrize("params", [{}, {"temperature": 0.6, "top_p": 0.8}, {"top_k": 3}], ids=str)
def test_a_draft_of_the_same_law_is_always_accepted(params):
    target = rows_at("normal", 50, 700, range(4))
    case = make_case(target[:, :3], target, params=make_params(**params))
    out = verify(case)
    assert (out["n_accepted"] == 3).all() and torch.equal(out["ids"][:, :3], case.draft_ids)


def test_logp_is_that_of_the_target():
    case = spread_case(rows=20, size=600, noise=1.0, temperature=0.8, top_p=0.9)
    out = verify(case)
    for j in range(4):
        emitted = (out["ids"][:, j] >= 0).nonzero()[:, 0]
        scores = fusedraw.token_logprob(
            case.target[emitted, j], out["ids"][emitted, j], temperature=0.8, top_p=0.9
        )
        assert torch.equal(out["logp"][emitted, j], scores)


# Greedy


def greedy(target):
    return target.argmax(dim=-1)  # no ties in these rows


def test_greedy_is_plain_greedy_decoding():
    """Whatever the drafts: the emitted tokens are the target's first ones, as far as the drafts are."""
    target = rows_at("normal", 80, 500, range(4))
    right = greedy(target)
    for draft_temperature in (0.0, 1.0):
        draft = target[:, :3] + rows_at("normal", 80, 500, range(50, 53)) * 0.2
        case = make_case(draft, target, make_params(draft_temperature), make_params(0.0))
        out = on_every_engine(verify, case)
        same = (case.draft_ids == right[:, :3]).long().cumprod(dim=1).sum(dim=1)
        assert torch.equal(out["n_accepted"], same)
        for row, n in enumerate(same.tolist()):
            assert out["ids"][row].tolist() == [*right[row, : n + 1].tolist(), *[-1] * (3 - n)]
        emitted = out["ids"] >= 0
        assert (out["logp"][emitted] == 0).all()
        assert 0 < same.float().mean() < 3


def test_greedy_draft_of_a_target_with_chance():
    """q is a point: its token is accepted with probability p, else it cannot come."""
    target = torch.tensor([[0.2, 1.0, 0.0]]).expand(2, 3).clone()
    draft = torch.tensor([[0.0, 9.0, 0.0]])
    rows = 4000
    case = make_case(
        draft.expand(rows, 1, 3), target.expand(rows, 2, 3), make_params(0.0), make_params(), make_keys(rows)
    )
    out = on_every_engine(verify, case, engines=fusedraw.isa_list()[-2:])
    assert (case.draft_ids == 1).all()
    rejected = out["n_accepted"] == 0
    assert (out["ids"][rejected, 0] != 1).all() and (out["ids"][~rejected, 0] == 1).all()
    assert 0 < rejected.sum() < rows


# Bad rows


def test_bad_rows():
    """One kind of trouble a row, each on every engine."""
    size, rows = 300, 13
    target = rows_at("normal", rows, size, range(3))
    draft = rows_at("normal", rows, size, range(2))  # always accepted
    params, draft_params = make_params(0.9, 0.9).repeat(rows, 1), make_params(0.9, 0.9).repeat(rows, 1)
    keys = make_keys(rows)
    ids = draw_drafts(draft, draft_params, keys)
    n_draft = torch.full((rows,), 2)
    target[0, 1, 4], target[1, 2, 299], target[2, 0], draft[3, 1, 7], draft[4, 0] = NAN, INF, -INF, NAN, -INF
    ids[5, 1], ids[6, 0], ids[7, 1] = -1, size, draft[7, 1].argmin()
    params[8, 0], draft_params[9, 1], params[10, 3] = NAN, 1.5, 0.5
    n_draft[11] = 3
    case = Case(ids, draft, target, draft_params, params, keys, n_draft=n_draft)
    out = on_every_engine(verify, case, expected=verify_r1(case))
    bad = Status.BAD_PARAM
    assert out["status"].tolist() == [
        *(Status.NAN, Status.POS_INF, Status.EMPTY, Status.NAN, Status.EMPTY, bad, bad, bad, bad, bad, bad),
        *(bad, Status.OK),
    ]
    assert (out["ids"][:-1] == -1).all() and (out["n_accepted"][:-1] == 0).all()
    assert out["logp"][:-1].isnan().all() and (out["ids"][-1] >= 0).all()


def test_masks_of_positions():
    """One mask a position, packed or not, of both models or of each its own."""
    size, rows = 200, 3
    target = rows_at("normal", rows, size, range(3))
    draft = rows_at("normal", rows, size, range(9, 11))
    mask = masks_at("rows-0.5", rows, size, range(3))
    other = masks_at("rows-0.5", rows, size, range(9, 11))
    filled = target.masked_fill(~mask, -INF)
    for draft_mask in (mask[:, :2], other, mask[:, :1], None):
        of_draft = draft if draft_mask is None else draft.masked_fill(~draft_mask, -INF)
        plain = make_case(of_draft, filled)
        case = replace(plain, draft=draft, target=target, draft_mask=draft_mask, mask=mask)
        expected = on_every_engine(verify, case, expected=verify(plain))
        shifts = torch.arange(32)
        words = [
            None
            if m is None
            else (torch.nn.functional.pad(m, (0, 24)).view(*m.shape[:2], 7, 32).long() << shifts)
            .sum(-1)
            .int()
            for m in (draft_mask, mask)
        ]
        packed = replace(case, draft_mask=words[0], mask=words[1])
        assert_same(on_every_engine(verify, packed), expected)


@pytest.mark.parametrize("order", ["sequential", "joint", "min_p_first"])
@pytest.mark.parametrize("ties", ["index", "all"])
def test_each_side_has_its_own_options(order, ties):
    target = rows_at("tied", 4, 300, range(3))
    params = make_params(0.8, 0.7, 0.05, top_k=9)
    case = make_case(
        target[:, :2] * 0.9, target, params=params, mode=make_mode("sequential", "all", order, ties)
    )
    on_every_engine(verify, case, expected=verify_r1(case))


def test_no_rows():
    for drafts in (0, 2):
        empty = torch.empty(0, drafts + 1, 6)
        out = verify(make_case(empty[:, :drafts], empty))
        assert out["ids"].shape == (0, drafts + 1) and out["n_accepted"].shape == (0,)
