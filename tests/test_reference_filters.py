# SPDX-License-Identifier: Apache-2.0
"""R1's order, filters, ties and temperature limits, by hand. At T = HALVING the weights are exact powers
of two.
"""

import math

import pytest
from fusedraw import reference as r1
from reference_cases import HALVING, INF, LADDER, next_float32


def kept(x, **params):
    return r1.sample_row(x, **{"temperature": HALVING, **params}).kept


def test_halving_ladder():
    law = r1.weigh(LADDER, [0, 1, 2, 3], HALVING)
    assert law.t == LADDER and law.w == [2**43, 2**42, 2**41, 2**41]


@pytest.mark.parametrize(
    "top_p, expected",
    [
        (0.0, [0]),
        (1e-45, [0]),
        (0.5, [0]),
        (next_float32(0.5), [0, 1]),
        (0.75, [0, 1]),
        (next_float32(0.75), [0, 1, 2]),
        (0.875, [0, 1, 2]),
        (next_float32(0.875), [0, 1, 2, 3]),
        (next_float32(1.0, False), [0, 1, 2, 3]),
        (1.0, [0, 1, 2, 3]),
        (1 + 1e-9, [0, 1, 2, 3]),
    ],
)
def test_top_p_stops_at_equality(top_p, expected):
    assert kept(LADDER, top_p=top_p) == expected
    assert kept([8.0, 4.0, 2.0, 2.0], top_p=top_p, probs=True, temperature=1.0) == expected


def test_ties_by_index_or_all():
    assert kept(LADDER, top_k=3) == kept(LADDER, top_p=0.8) == [0, 1, 2]
    assert kept(LADDER, top_k=3, ties="all") == kept(LADDER, top_p=0.8, ties="all") == [0, 1, 2, 3]
    assert kept([1.0] * 5, top_p=0.0, ties="all") == [0, 1, 2, 3, 4]
    assert kept([-0.0, 0.0, 0.0], top_k=1) == [0] and kept([0.0, -0.0, 0.0], top_k=2) == [0, 1]
    # equal weights from different x are no tie: both are far below the others' rounding
    near = [0.0, -43.4, next_float32(-43.4, False)]
    assert r1.weight(near[1]) == r1.weight(near[2]) == 1
    assert kept(near, top_k=2, ties="all") == [0, 1]


def test_top_k_bounds_and_order_of_equal_logits():
    x = [3.0, 5.0, 5.0, 1.0, 5.0]
    assert [kept(x, top_k=k) for k in (1, 2, 3, 4)] == [[1], [1, 2], [1, 2, 4], [0, 1, 2, 4]]
    for k in (0, -1, 5, 6, 2**31, 2**62):
        assert kept(x, top_k=k) == [0, 1, 2, 3, 4]


def test_sequential_against_joint():
    # top_k 2 leaves 8 + 4 = 12. top_p 0.6 of 12 is 7.2: one token. Of 16 it is 9.6: two tokens.
    assert kept(LADDER, top_k=2, top_p=0.6) == [0]
    assert kept(LADDER, top_k=2, top_p=0.6, filter_order="joint") == [0, 1]
    assert kept(LADDER, top_k=1, top_p=0.6, filter_order="joint") == [0]
    # ties: top_k 3 keeps the fourth too, so that S is 16; top_p 0.8 of 14 would end at the second token
    assert kept(LADDER, top_k=3, top_p=0.8) == [0, 1]
    assert kept(LADDER, top_k=3, top_p=0.8, ties="all") == [0, 1, 2, 3]


def test_min_p_after_or_first():
    # min_p 0.3 of 8 is 2.4 and drops the twos. top_p 0.6 of 16 is 9.6 (two tokens), of 12 it is 7.2 (one).
    assert kept(LADDER, min_p=0.3) == [0, 1]
    assert kept(LADDER, min_p=0.3, top_p=0.6) == [0, 1]
    assert kept(LADDER, min_p=0.3, top_p=0.6, filter_order="min_p_first") == [0]
    assert kept(LADDER, min_p=0.25) == [0, 1, 2, 3] and kept(LADDER, min_p=next_float32(0.25)) == [0, 1]
    assert kept(LADDER, min_p=1.0) == [0] and kept([2.0, 1.0, 2.0], min_p=1.0) == [0, 2]
    assert kept(LADDER, min_p=0.3, top_k=3, filter_order="min_p_first") == [0, 1]


def test_weightless_tokens_are_valid_but_never_kept():
    x = [0.0, -50.0, -1.0, -r1.FLT_MAX, -INF]
    out = r1.sample_row(x, temperature=HALVING, top_k=4)
    assert out.kept == [0, 2] and out.n_kept == 2 and out.kept_mass == 1.0
    assert r1.mask_row(x, top_k=4, keep_weightless=True)[1] == [0.0, -50.0, -1.0, -r1.FLT_MAX, -INF]
    assert r1.mask_row(x, top_k=3, keep_weightless=True)[1] == [0.0, -50.0, -1.0, -INF, -INF]
    assert r1.mask_row(x, top_p=0.99, temperature=HALVING)[1] == [0.0, -INF, -1.0, -INF, -INF]


def test_temperature_limits():
    x = [1.0, 2.0, 2.0, -INF, -3.0]
    greedy = r1.sample_row(x, temperature=0.0, top_p=0.5, ties="all", top_n=2)
    assert (greedy.id, greedy.kept, greedy.logp, greedy.rank) == (1, [1], 0.0, 0)
    assert (greedy.entropy, greedy.varentropy, greedy.logp_full, greedy.kept_mass) == (0.0, 0.0, 0.0, 1.0)
    assert greedy.top_ids == [1, 2] and greedy.top_logps[0] == greedy.top_logps[1] == greedy.logp_raw < -0.6
    assert r1.softmax_row(x, 0.0) == (r1.OK, [0.0, 1.0, 0.0, 0.0, 0.0])
    assert r1.softmax_row(x, 0.0, log=True) == (r1.OK, [-INF, 0.0, -INF, -INF, -INF])
    for tiny in (1e-45, 1e-30):  # ties of the maximum share, everything else weighs nothing
        assert r1.sample_row(x, temperature=tiny).kept == [1, 2]
    assert r1.sample_row(x, temperature=1e-60).kept == [1]  # rounds to 0
    for huge in (INF, 1e300, next_float32(2.0**64)):
        assert r1.softmax_row(x, huge)[1] == [0.25, 0.25, 0.25, 0.0, 0.25]
        assert r1.sample_row(x, temperature=huge, top_k=2).kept == [1, 2]
    assert r1.weigh(x, [1, 2, 0, 4], 2.0**64).w == [2**43, 2**43, 2**43, 0, 2**43]
    far = [0.0, -(2.0**70)]  # 2^64 still scales, the next float32 is flat
    assert r1.weigh(far, [0, 1], 2.0**64).w == [2**43, 0]
    assert r1.weigh(far, [0, 1], next_float32(2.0**64)).w == [2**43, 2**43]
    close = [0.0, -(2.0**-149)]  # log2(e) / T overflows to c = FLT_MAX
    assert r1.weigh(close, [0, 1], 2.0**-149).t == [0.0, -r1.FLT_MAX * 2.0**-149]
    spread = r1.sample_row([r1.FLT_MAX, -r1.FLT_MAX], temperature=3.0, mix_eps=1.0, mix_support="valid")
    assert spread.margin == INF and spread.kept == [0] and spread.logp == r1.fl32(-math.log(2))
    assert r1.softmax_row([r1.FLT_MAX, -r1.FLT_MAX], log=True)[1] == [0.0, -INF]
