# SPDX-License-Identifier: Apache-2.0
"""R1's float32 rounding and fused multiply-add against libm, fractions and hard cases."""

import itertools
import math
import random
import struct
from fractions import Fraction

import pytest
import reference_cases
from fusedraw import reference as r1
from reference_cases import next_float32, same

libm = reference_cases.libm  # the fixture


@pytest.mark.parametrize(
    "value, expected",
    [
        ("0x1p-150", "0x0p+0"),  # half the least subnormal: to even
        ("0x1.0000000000001p-150", "0x1p-149"),
        ("0x1.8p-149", "0x1p-148"),  # half-way between 1 and 2 units: to even
        ("0x1.fffffefffffffp+127", "0x1.fffffep+127"),
        ("0x1.ffffffp+127", "inf"),  # FLT_MAX and half a unit
        ("-0x1.ffffffp+127", "-inf"),
        ("0x1.000001p+0", "0x1p+0"),
        ("0x1.0000010000001p+0", "0x1.000002p+0"),
        ("0x1.000003p+0", "0x1.000004p+0"),
        ("0x1.fffffffp-127", "0x1p-126"),  # a subnormal that rounds up to the least normal
        ("-0x1p-151", "-0x0p+0"),
        ("inf", "inf"),
    ],
)
def test_fl32_hard_cases(value, expected):
    assert same(r1.fl32(float.fromhex(value)), float.fromhex(expected))


def test_fl32_is_the_nearest_even_neighbour():
    rng = random.Random(1)
    for _ in range(3000):
        v = math.ldexp(rng.uniform(-1, 1), rng.randrange(-155, 127))
        r = r1.fl32(v)
        error = abs(Fraction(r) - Fraction(v))
        for other in (next_float32(r, True), next_float32(r, False)):
            distance = abs(Fraction(other) - Fraction(v))
            assert error < distance or (error == distance and struct.pack("<f", r)[0] % 2 == 0)


def fma_cases(rng, draw, tiny):
    """Random triples, near cancellation, and sums a hair off a rounding boundary."""
    for _ in range(4000):
        a, b, c = draw(), draw(), draw()
        yield a, b, c
        yield a, b, -r1.fl32(a * b) if tiny == 2.0**-60 else -(a * b)
        yield 1.0, rng.choice((1.0, 1.5, 2.0)), rng.choice((-1, 1)) * tiny * rng.random()
    yield from itertools.product((0.0, -0.0, 1.0, -1.0), repeat=3)


def test_fma32_equals_libm(libm):
    rng = random.Random(2)

    def draw():
        return r1.fl32(math.ldexp(rng.uniform(-1, 1), rng.choice((0, 0, 0, 3, -20, -60, -75, 60))))

    cases = [tuple(map(r1.fl32, case)) for case in fma_cases(rng, draw, 2.0**-60)]
    up, tiny, top = 1 + 2.0**-23, 2.0**-75, r1.FLT_MAX
    cases += [(2.0**-12, 2.0**-12, 1.0), (up, 2.0**-24, 1.0), (-up, 2.0**-24, -1.0), (up, 2.0**-24, up)]
    cases += [(-(1 - 2.0**-24), 2.0**-24, up), (top, up, 0.0), (top, -2.0, top), (-top, top, top)]
    cases += [(tiny, tiny, 0.0), (-tiny, tiny / 32, 0.0), (tiny, -tiny, 2.0**-149), (tiny, tiny, 2.0**-149)]
    for case in cases:
        assert same(r1.fma32(*case), libm.fmaf(*case)), case


def test_fma32_is_not_a_rounded_float64_sum(libm):
    """a * b = 2^-24 - 2^-70 puts the sum just below a half-way point that float64 rounds it to."""
    a, b, c = 1 + 2.0**-23, 2.0**-24 * (1 - 2.0**-23), 1 + 2.0**-23
    assert r1.fl32(a * b + c) == 1 + 2.0**-22
    assert r1.fma32(a, b, c) == libm.fmaf(a, b, c) == 1 + 2.0**-23
    assert r1.fma32(-a, b, -c) == libm.fmaf(-a, b, -c) == -(1 + 2.0**-23)


def test_fma64_equals_libm(libm):
    rng = random.Random(3)

    def draw():
        return math.ldexp(rng.uniform(-1, 1), rng.choice((0, 0, 0, 5, -50, -300, -540, 300)))

    for case in fma_cases(rng, draw, 2.0**-120):
        assert same(r1.fma64(*case), libm.fma(*case)), case


def test_ceil_mul_is_exact():
    assert r1.ceil_mul(0.5, 7) == 4 and r1.ceil_mul(0.5, 8) == 4 and r1.ceil_mul(0.0, 10**40) == 0
    assert r1.ceil_mul(1.0, 1 << 64) == 1 << 64
    p = r1.fl32(0.1)
    assert r1.ceil_mul(p, 10**30) == math.ceil(Fraction(p) * 10**30) != round(0.1 * 10**30)
