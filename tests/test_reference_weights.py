# SPDX-License-Identifier: Apache-2.0
"""R1's exponential and integer weights against decimals, libm and known points."""

import math
import random
from decimal import Decimal, localcontext

import reference_cases
from fusedraw import reference as r1
from reference_cases import INF, next_float32

libm = reference_cases.libm  # the fixture
WORST = float.fromhex("-0x1.36f488p-4")  # where exp2p is farthest from 2^t


def sample_of_t(n=6000):
    """Floats over all scales of [-64, 0], and the neighbourhood of every integer."""
    rng = random.Random(6)
    yield from (-r1.fl32(rng.uniform(0, 64)) for _ in range(n))
    yield from (-r1.fl32(math.ldexp(rng.random(), -rng.randrange(30))) for _ in range(n // 4))
    yield WORST
    for k in range(65):
        yield from (float(-k), next_float32(float(-k), False))
        if k:
            yield next_float32(float(-k), True)


def test_exp2p_accuracy():
    worst = 0
    with localcontext() as context:
        context.prec = 30
        for t in sample_of_t():
            worst = max(worst, abs(Decimal(r1.exp2p(t)) / Decimal(2) ** Decimal(t) - 1))
    # WORST is that of all floats: test_weights.py's test_accuracy_over_all_floats looks at each.
    assert Decimal("8.664e-8") < worst < Decimal("8.665e-8")


def test_exp2p_is_six_float32_fmas(libm):
    coefficients = [
        float.fromhex(c)
        for c in (
            "0x1.46d64ap-10",
            "0x1.3d0b92p-7",
            "0x1.c68912p-5",
            "0x1.ebfd58p-3",
            "0x1.62e42cp-1",
            "0x1p0",
        )
    ]
    for t in sample_of_t():
        n, p = math.floor(t), float.fromhex("0x1.c5417ap-13")
        for c in coefficients:
            p = libm.fmaf(p, r1.fl32(t - n), c)
        assert r1.exp2p(t) == p * 2.0**n == r1.fl32(p * 2.0**n)


def test_exp2p_is_monotone_on_neighbours():
    for t in sample_of_t():
        assert r1.exp2p(next_float32(t, False)) <= r1.exp2p(t)
        assert r1.weight(next_float32(t, False)) <= r1.weight(t)


def test_weights_at_known_points():
    assert r1.weight(0.0) == r1.weight(-0.0) == 2**43 and r1.weight(-1.0) == 2**42
    assert [r1.weight(float(-k)) for k in range(44)] == [2 ** (43 - k) for k in range(44)]
    assert r1.weight(-44.0) == 0 and r1.weight(next_float32(-44.0)) == 1 and r1.weight(-INF) == 0
    assert r1.weight(next_float32(0.0, False)) == 2**43  # f rounds to 1, the polynomial to 2
    assert r1.exp2p(-126.0) == 2.0**-126 and r1.exp2p(next_float32(-126.0, False)) == 0
    # limbs of 21 and 22 bits give the same integer
    for t in sample_of_t(500):
        e = r1.exp2p(t)
        high = math.floor(e * 2**21)
        assert r1.fixed(e) == high * 2**22 + round((e * 2**21 - high) * 2**22)
