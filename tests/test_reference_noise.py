# SPDX-License-Identifier: Apache-2.0
"""R1's Philox, exponentials, logarithms and derived keys against published vectors, libm and decimals."""

import itertools
import math
import random
from decimal import Decimal, localcontext

import pytest
import reference_cases
from fusedraw import reference as r1
from philox_vectors import VECTORS
from reference_cases import same, ulps

libm = reference_cases.libm  # the fixture


@pytest.mark.parametrize("key, counter, expected", VECTORS)
def test_philox_known_answers(key, counter, expected):
    assert r1.philox4x32_10(key, counter) == expected


def test_philox_is_the_engine_of_cpp26():
    """The 10000th output of a default std::philox4x32 (seed 20111115) is 1955073260 (P2075R6)."""
    assert r1.philox4x32_10((20111115, 0), (9999 // 4, 0, 0, 0))[9999 % 4] == 1955073260


def test_r64_places_key_purpose_and_id():
    seed, offset = 0x0123456789ABCDEF, 0xFEDCBA9876543210
    o = r1.philox4x32_10((0x89ABCDEF, 0x01234567), (21, 2 | 3 << 8, 0x76543210, 0xFEDCBA98))
    noise = r1.Noise((seed, offset), r1.RECOVERY)
    assert noise.r64(r1.TOKEN, 42) == o[1] << 32 | o[0]
    assert noise.r64(r1.TOKEN, 43) == o[3] << 32 | o[2]
    signed = r1.Noise((seed - 2**64, offset - 2**64), r1.RECOVERY)
    assert signed.r64(r1.TOKEN, 42) == noise.r64(r1.TOKEN, 42)
    assert noise.r128(21) >> 64 == noise.r64(r1.MANY, 43)
    assert (r1.BLOCK, r1.TOKEN, r1.COIN, r1.MANY, r1.ORDER) == (1, 2, 3, 4, 5)
    assert (r1.XTC, r1.ROUTE, r1.CONTROL) == (6, 7, 8)
    assert (r1.TARGET, r1.DRAFT, r1.ACCEPT, r1.RECOVERY) == (0, 1, 2, 3)


def test_exponential_against_decimal_logarithms():
    rng, worst_small, worst = random.Random(4), 0, 0
    with localcontext() as context:
        context.prec = 60
        for j in range(3000):
            bits = rng.getrandbits(64) >> (rng.randrange(64) if j % 2 else 0)
            r64 = bits if j % 4 else 2**64 - 1 - (bits >> rng.randrange(60))
            v = min((float(r64) + 0.5) * 2.0**-64, 1 - 2.0**-53)
            error = ulps(r1.exponential(r64), -(1 - Decimal(v)).ln())
            worst, worst_small = max(worst, error), max(worst_small, error if v < 0.25 else 0)
    assert worst_small <= 2 and worst <= 4


def test_exponential_is_the_written_series(libm):
    def series(s):
        q, p = s * s, 1 / 23
        for n in (21, 19, 17, 15, 13, 11, 9, 7, 5, 3):
            p = libm.fma(p, q, 1 / n)
        return libm.fma(2 * s * q, p, 2 * s)

    rng = random.Random(14)
    for j in range(2000):
        r64 = rng.getrandbits(64) >> rng.randrange(1, 64) * (j % 2)
        v = (float(r64) + 0.5) / 2**64
        if v < 0.25:
            assert r1.exponential(r64) == series(v / (2 - v))
        else:
            k = next(k for k in range(-60, 1) if 0.75 <= (1 - v) / 2.0**k < 1.5)
            z = (1 - v) / 2.0**k
            assert r1.exponential(r64) == libm.fma(-k, r1.LN2, -series((z - 1) / (z + 1)))


def test_exponential_ends():
    assert r1.exponential(0) == 2.0**-65
    assert r1.exponential(2**64 - 1) == 53 * r1.LN2
    ladder = [r1.exponential(r) for r in (0, 1, 2, 2**62 - 2**11, 2**62, 2**63, 2**64 - 2**12, 2**64 - 1)]
    assert all(0 < a < b < 37 for a, b in itertools.pairwise(ladder))


def test_log_sum_against_decimal_logarithms():
    rng = random.Random(5)
    assert same(r1.log_sum(r1.ONE), 0.0) and same(r1.neg_log(1.0), 0.0)
    with localcontext() as context:
        context.prec = 50
        for _ in range(1000):
            total = r1.ONE + rng.getrandbits(rng.randrange(1, 77))
            exact = (Decimal(float(total)) / r1.ONE).ln()
            assert exact == 0 or ulps(r1.log_sum(total), exact) <= 2
            y = math.ldexp(1 - rng.random(), -rng.randrange(200))
            assert ulps(r1.neg_log(y), -Decimal(y).ln()) <= 2


def test_derive_key():
    h = r1.philox4x32_10((7, 1), (5, 2, 9, 0x4B455953))
    assert r1.derive_key((1 << 32) + 7, (2 << 32) + 5, 9, 11) == (h[1] << 32 | h[0], 11)
    assert r1.derive_key(-1, -1, 0, -1) == r1.derive_key(2**64 - 1, 2**64 - 1, 0, 2**64 - 1)
    for sample_id in (-1, 2**32):
        with pytest.raises(ValueError, match="sample_id"):
            r1.derive_key(0, 0, sample_id)
    edges = [0, 1, 2, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**63 - 1, 2**63, 2**64 - 1]
    samples, steps = [0, 1, 2**31, 2**32 - 1], [0, 1, 2**32, 2**63]
    keys = {r1.derive_key(*c) for c in itertools.product(edges, edges, samples, steps)}
    assert len(keys) == len(edges) ** 2 * len(samples) * len(steps)
    assert len({r1.derive_key(3, request)[0] for request in range(5000)}) == 5000
