# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels of `verify`, run by the SIMT executor, equal the reference engine bit for bit; bounds,
races and unwritten words are checked meanwhile."""

from dataclasses import replace

import pytest
import torch
from engines import (
    BF16,
    EXECUTOR,
    F16,
    F32,
    INF,
    NAN,
    both,
    engine,
    forced,
    make_keys,
    make_params,
    on_every_engine,
)
from fusedraw import Status, speculative
from fusedraw import reference as r1
from hypothesis import given
from simt_engine import library, schedule
from strategies import examples
from verify_cases import cases, make_case, masks_at, rows_at, spread_case, tied_case, verify, verify_r1


@pytest.fixture(autouse=True, scope="module")
def executor():
    library()


@examples(60)
@given(case=cases())
def test_generated(case):
    on_every_engine(verify, case, expected=verify_r1(case), engines=(EXECUTOR,))


@pytest.mark.parametrize("dtype", [F32, BF16, F16])
@pytest.mark.parametrize(
    "params", [{}, {"temperature": 0.7, "top_p": 0.9}, {"top_k": 40}, {"min_p": 0.02}, {"temperature": 0.0}]
)
def test_every_dtype(params, dtype):
    both(verify, spread_case(size=3001, dtype=dtype, noise=1.0, **params))


@pytest.mark.parametrize("dtypes", [(F32, BF16), (BF16, F16), (F16, F32)])
def test_two_dtypes(dtypes):
    case = spread_case(rows=6, size=700)
    both(verify, make_case(case.draft.to(dtypes[0]), case.target.to(dtypes[1])))


@pytest.mark.parametrize("size", [1, 255, 256, 257, 1001])
def test_odd_and_unaligned_rows(size):
    wide = torch.randn(6, 4, size + 3, generator=torch.Generator().manual_seed(size))
    target, draft = wide[::2, :, 1 : size + 1], wide[1::2, :3, 2 : size + 2]
    mask = masks_at("rows-0.95", 3, size, range(4))
    mask[:, :, 0] = True
    both(verify, make_case(draft, target))
    both(verify, make_case(draft, target, mask=mask, draft_mask=mask[:, :3]))


def test_masks_of_words():
    """Packed, one a position, another of the draft; drafts accepted and replaced."""
    case = spread_case(rows=6, drafts=2, size=700, noise=1.5)
    masks = [masks_at("words-1", 6, 700, range(seed, seed + n)) for seed, n in ((0, 2), (9, 3))]
    out = both(verify, make_case(case.draft, case.target, draft_mask=masks[0], mask=masks[1]))
    assert (out["status"] == Status.OK).all() and (out["n_accepted"] < 2).any()


@pytest.mark.parametrize("seed", [0, 1, 7])
def test_a_long_row_in_any_order_of_threads(seed):
    case = spread_case(rows=2, drafts=2, size=40_001, noise=2.0)
    with schedule(seed):
        both(verify, case)


def test_a_row_beyond_shared_memory():
    """Block maxima in the workspace."""
    case = spread_case(rows=1, drafts=1, size=270_000, noise=0.1, temperature=0.6)
    assert both(verify, case)["status"].item() == Status.OK


def test_fewer_drafts_and_none():
    case = spread_case(rows=5, size=300, noise=0.1)
    both(verify, replace(case, n_draft=torch.tensor([0, 1, 2, 3, 4])))
    none = both(verify, make_case(case.target[:, :0], case.target[:, :1]))
    assert none["ids"].shape == (5, 1) and (none["ids"] >= 0).all()
    empty = both(verify, make_case(case.target[:0, :2], case.target[:0, :3]))
    assert empty["ids"].shape == (0, 3)


def test_bad_rows():
    size, rows = 300, 9
    target = rows_at("normal", rows, size, range(3))
    case = make_case(target[:, :2].clone(), target, params=make_params().repeat(rows, 1))
    case.target[0, 1, 4], case.target[1, 2, 299], case.target[2, 0] = NAN, INF, -INF
    case.draft[3, 1, 7], case.draft[4, 0] = NAN, -INF
    case.draft_ids[5, 1], case.draft_ids[6, 0] = -1, size
    case.params[7, 1] = 1.5
    case = replace(case, draft_params=make_params())
    out = both(verify, case)
    bad = Status.BAD_PARAM
    expected = [Status.NAN, Status.POS_INF, Status.EMPTY, Status.NAN, Status.EMPTY, bad, bad, bad, Status.OK]
    assert out["status"].tolist() == expected


@pytest.mark.parametrize("word", [0, 2**63, 2**64 - 1])
def test_noise_at_its_ends(word):
    case = spread_case(rows=2, size=600, noise=2.0)
    for purpose, ids in ((r1.COIN, range(1)), (r1.BLOCK, range(3)), (r1.TOKEN, range(600))):
        with forced({(purpose, i): word for i in ids}):
            both(verify, case)


def test_equal_quotients_go_to_the_lowest_index():
    case, noise = tied_case()
    with forced(noise):
        assert both(verify, case)["ids"].tolist() == [[1, -1]]


@pytest.mark.parametrize("noise", [0.01, 3.0])
def test_launches_and_traffic(noise):
    """Two passes of laws, the verdicts, and the last token, for which its rows are read once more."""
    from simt_engine import recorded

    rows, drafts, size = 4, 3, 4096
    case = spread_case(rows=rows, drafts=drafts, size=size, noise=noise)
    with engine(EXECUTOR), recorded() as launches:
        out = verify(case)
    names = [launch.name for launch in launches]
    assert names == [
        *["position_law_kernel"] * 2,
        *("verdict_kernel", "recover_kernel", "bonus_kernel"),
    ]
    row, few = size * 4, 12_000  # what each of 256 threads takes of keys, verdicts and parameters
    for launch in launches[:2]:  # a first pass, and one for the sum
        assert launch.read <= rows * drafts * (2 * row + few)
    recovered = int((out["n_accepted"] < drafts).sum())
    assert recovered == (0 if noise < 1 else rows - 1)
    records = 256 * 2 * 80  # both laws, by each thread
    assert launches[3].read <= rows * few + recovered * (2 * row + records)
    assert launches[4].read <= rows * few + (rows - recovered) * 3 * row


def test_through_the_package(monkeypatch):
    case = spread_case(rows=8, size=500, noise=1.0)
    arguments = (case.draft_ids, case.draft, case.target)
    expected = speculative.verify(*arguments, keys=make_keys(8), returns="logp")
    monkeypatch.setattr(speculative, "verify_op", torch.ops.fusedraw_simt.verify.default)
    got = speculative.verify(*arguments, keys=make_keys(8), returns="logp")
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a.nan_to_num(7), b.nan_to_num(7))
    case.draft_ids[3, 0] = 500
    with pytest.raises(ValueError, match=r"verify: row 3 has status BAD_PARAM: .* a draft is no token"):
        speculative.verify(*arguments, keys=make_keys(8))
