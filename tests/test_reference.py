# SPDX-License-Identifier: Apache-2.0
"""R1 against facts that do not come from R1: published vectors, libm, decimals, examples worked by hand."""

import ctypes
import ctypes.util
import itertools
import math
import random
import struct
from decimal import Decimal, localcontext
from fractions import Fraction

import pytest
from fusedraw import reference as r1
from scipy.stats import chisquare

INF, NAN = math.inf, math.nan
ALPHA = 1e-6  # of every chi-square below; seeds are fixed, so a test passes always or never
HALVING = 1.4426950216293335  # the float32 T for which c = 1: x in {0, -1, -2} weighs 1, 1/2, 1/4 exactly


@pytest.fixture(scope="module")
def libm():
    lib = ctypes.CDLL(ctypes.util.find_library("m") or "libm.so.6")
    lib.fmaf.argtypes, lib.fmaf.restype = [ctypes.c_float] * 3, ctypes.c_float
    lib.fma.argtypes, lib.fma.restype = [ctypes.c_double] * 3, ctypes.c_double
    return lib


def float32_from_bits(bits):
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def next_float32(v, up=True):
    """Neighbour of a float32 in the direction of +inf or -inf."""
    bits = struct.unpack("<I", struct.pack("<f", v))[0]
    if v == 0:
        return float32_from_bits(1 if up else 0x80000001)
    return float32_from_bits(bits + (1 if (v > 0) == up else -1))


def ulps(value, exact):
    return abs(Decimal(value) - exact) / Decimal(math.ulp(value))


def same(a, b):
    return (math.isnan(a) and math.isnan(b)) or (a == b and math.copysign(1, a) == math.copysign(1, b))


# Arithmetic


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


# Noise


@pytest.mark.parametrize(
    "key, counter, expected",
    [
        ((0, 0), (0, 0, 0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 2, (0xFFFFFFFF,) * 4, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0xA4093822, 0x299F31D0),
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
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


# Weights


def sample_of_t(n=6000):
    """Floats over all scales of [-64, 0], and the neighbourhood of every integer."""
    rng = random.Random(6)
    yield from (-r1.fl32(rng.uniform(0, 64)) for _ in range(n))
    yield from (-r1.fl32(math.ldexp(rng.random(), -rng.randrange(30))) for _ in range(n // 4))
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
    assert 7e-8 < worst <= Decimal("8.4e-8")


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


# Order and filters, by hand. At T = HALVING the weights are exact powers of two.


def kept(x, **params):
    return r1.sample_row(x, **{"temperature": HALVING, **params}).kept


LADDER = [0.0, -1.0, -2.0, -2.0]  # weights 8 4 2 2, sum 16


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


# Statuses


@pytest.mark.parametrize(
    "x, params, status",
    [
        ([0.0, NAN], {"temperature": -1.0}, r1.BAD_PARAM),
        ([0.0], {"temperature": NAN}, r1.BAD_PARAM),
        ([0.0], {"top_p": 1.0001}, r1.BAD_PARAM),
        ([0.0], {"top_p": -1e-9}, r1.BAD_PARAM),
        ([0.0], {"min_p": NAN}, r1.BAD_PARAM),
        ([0.0], {"mix_eps": 2.0}, r1.BAD_PARAM),
        ([0.0], {"top_k": -2}, r1.BAD_PARAM),
        ([INF, NAN], {}, r1.NAN),
        ([INF, -INF], {}, r1.POS_INF),
        ([-INF, -INF], {}, r1.EMPTY),
        ([1.0, NAN, INF], {"mask": [False, False, False]}, r1.EMPTY),
        ([1.0, NAN, INF], {"mask": [True, False, False]}, r1.OK),
        ([0.0], {"top_p": -0.0, "min_p": -1e-60, "temperature": -0.0}, r1.OK),
        ([-1.0, NAN], {"probs": True}, r1.BAD_PARAM),
        ([1.0, NAN], {"probs": True}, r1.NAN),
        ([1.0, 1e300], {"probs": True}, r1.POS_INF),
        ([0.0, -1e-60, -0.0], {"probs": True}, r1.EMPTY),
        ([1.0, -1.0], {"probs": True, "mask": [True, False]}, r1.OK),
    ],
)
def test_statuses(x, params, status):
    out = r1.sample_row(x, **params)
    assert out.status == status
    if status != r1.OK:
        assert out.id == -1 and out.n_kept == out.rank == 0 and not out.explored and out.kept == []
        assert all(math.isnan(v) for v in (out.logp, out.margin, out.kept_mass))


def test_bad_rows_of_the_other_operations():
    rows = [
        r1.softmax_row([NAN, 0.0]),
        r1.softmax_row([0.0, 1.0], -1.0),
        r1.mask_row([-INF, -INF]),
        r1.renorm_row([0.0, 0.0]),
        r1.renorm_row([INF, 0.0], from_logits=True),
    ]
    for status, row in rows:
        assert status != r1.OK and all(map(math.isnan, row)) and len(row) == 2
    assert r1.multinomial_row([0.0, 0.0], 3) == (r1.EMPTY, [-1, -1, -1])
    bad = r1.sample_row([NAN], top_n=2)
    assert bad.top_ids == [-1, -1] and all(map(math.isnan, bad.top_logps)) and math.isnan(bad.entropy)
    with pytest.raises(ValueError, match="ties must be one of"):
        r1.sample_row([0.0], ties="none")


# The race


def seeded_row(rng, size, scale=2.0):
    return [r1.fl32(rng.gauss(0, scale)) if rng.random() < 0.9 else -INF for _ in range(size)] + [0.0]


def test_race_agrees_with_libm_logarithms():
    """The draw, recomputed with math.log1p: it differs only if two values nearly coincide."""
    rng = random.Random(7)
    for step in range(150):
        x = seeded_row(rng, rng.choice((5, 255, 256, 257, 700)))
        out = r1.sample_row(x, temperature=0.7, top_k=rng.choice((0, 40)), key=(99, step), domain=r1.DRAFT)
        order = sorted((i for i in range(len(x)) if x[i] > -INF), key=lambda i: (-x[i], i))
        law, noise = r1.weigh(x, order, 0.7), r1.Noise((99, step), r1.DRAFT)

        def score(purpose, i, weight, noise=noise):
            return -math.log1p(-(noise.r64(purpose, i) + 0.5) / 2**64) / weight

        sums = {}
        for i in out.kept:
            sums[i >> 8] = sums.get(i >> 8, 0) + law.w[i]
        block = min(sums, key=lambda b: score(1, b, sums[b]))
        inside = [i for i in out.kept if i >> 8 == block]
        assert out.id == min(inside, key=lambda i: score(2, i, law.w[i]))
        assert out.rank == order.index(out.id)


def test_race_under_forced_noise():
    x, most = [0.0] * 600, 2**64 - 1
    first = {(r1.BLOCK, b): 5 for b in range(3)} | {(r1.TOKEN, i): 5 for i in range(600)}
    assert r1.sample_row(x, forced=first).id == 0  # equal noise and weights: the lower block and id
    assert r1.sample_row(x, forced=first | {(r1.BLOCK, 1): 4}).id == 256
    assert r1.sample_row(x, forced=first | {(r1.BLOCK, 2): 4}).id == 0  # 88 tokens: 4.5 / 88 > 5.5 / 256
    assert r1.sample_row(x, forced=first | {(r1.BLOCK, 2): 0, (r1.TOKEN, 599): 0}).id == 599
    assert r1.sample_row(x, forced=first | {(r1.TOKEN, i): most for i in range(255)}).id == 255
    # the smallest noise cannot lift what is masked or filtered; the largest cannot lose to nothing
    for i, params in ((1, {"mask": [j != 1 for j in range(600)]}), (2, {"top_k": 2})):
        low = {(r1.TOKEN, i): 0} | {(r1.BLOCK, 0): 0}
        assert r1.sample_row(x, forced=low, **params).id != i
    only = {(r1.BLOCK, 1): most, (r1.TOKEN, 300): most, (r1.BLOCK, 0): 0, (r1.TOKEN, 0): 0}
    assert r1.sample_row([-INF] * 300 + [-7.0], forced=only).id == 300


def test_draw_ignores_padding_and_shift_by_value():
    rng = random.Random(8)
    for step in range(20):
        x = seeded_row(rng, 300)
        plain = r1.sample_row(x, key=(5, step), top_p=0.9)
        assert r1.sample_row(x + [-INF] * 213, key=(5, step), top_p=0.9) == plain
        mask = [True] * len(x) + [False] * 3
        assert r1.sample_row([*x, NAN, INF, 9.0], key=(5, step), top_p=0.9, mask=mask) == plain


SPARSE = {3: 0.0, 10: -1.0, 200: -2.0, 255: -3.5, 256: 0.25, 270: -1.25, 298: -2.5, 299: -0.5}


def sparse_row():
    return [SPARSE.get(i, -INF) for i in range(300)]


def expected_law(law, ids):
    total = sum(law.w[i] for i in ids)
    return [law.w[i] / total for i in ids]


def test_chi_square_of_the_race():
    ids, n = sorted(SPARSE), 20000
    x = sparse_row()
    law = r1.weigh(x, sorted(ids, key=lambda i: -x[i]), 1.0)
    exact = [math.exp(x[i]) for i in ids]
    for ours, true in zip(expected_law(law, ids), exact, strict=True):
        assert ours == pytest.approx(true / sum(exact), rel=3e-7)
    counts = dict.fromkeys(ids, 0)
    for offset in range(n):
        counts[r1.race(r1.Noise((2024, offset)), law.w, ids)] += 1
    assert chisquare(list(counts.values()), [n * p / sum(exact) for p in exact]).pvalue > ALPHA


def test_chi_square_of_the_mixture():
    x, n = sparse_row(), 4000
    exact = {i: math.exp(x[i] / 0.5) for i in (256, 3, 299, 10)}
    mu = {i: 0.3 / 8 + (0.7 * exact[i] / sum(exact.values()) if i in exact else 0) for i in SPARSE}
    counts, explored = dict.fromkeys(SPARSE, 0), 0
    for seed in range(n):
        out = r1.sample_row(x, temperature=0.5, top_k=4, mix_eps=0.3, mix_support="valid", key=(seed, 17))
        counts[out.id] += 1
        explored += out.explored
        assert out.logp == pytest.approx(math.log(mu[out.id]), abs=1e-6)
    assert chisquare([counts[i] for i in SPARSE], [n * mu[i] for i in SPARSE]).pvalue > ALPHA
    assert chisquare([explored, n - explored], [0.3 * n, 0.7 * n]).pvalue > ALPHA


# Mixing


@pytest.mark.parametrize("support", ["kept", "valid"])
@pytest.mark.parametrize("mix_eps", [0.0, 1e-6, 0.01, 0.5, 1.0])
def test_mu_sums_to_one(support, mix_eps):
    rng = random.Random(9)
    x = seeded_row(rng, 400, scale=8.0)
    eps, order = r1.fl32(mix_eps), sorted((i for i in range(401) if x[i] > -INF), key=lambda i: -x[i])
    law, params = r1.weigh(x, order, 1.0), r1.Params(top_p=0.97, top_k=100)
    kept_ids = r1.kept_set(x, law, params)
    ids = kept_ids if support == "kept" else order
    mu = [r1.mixture_prob(law, kept_ids, ids, eps, i) for i in order]
    assert abs(math.fsum(mu) - 1) < 1e-12 and min(mu) >= 0
    assert all(v >= eps / len(ids) for v, i in zip(mu, order, strict=True) if i in ids)


def test_coin_sets_are_nested_and_share_the_rest():
    x, fired_before = sparse_row(), set()
    base = [r1.sample_row(x, key=(1, k)) for k in range(300)]
    uniform = [r1.sample_row(x, key=(1, k), temperature=INF).id for k in range(300)]
    for eps in (0.0, 1e-3, 0.2, 0.7, 1.0):
        rows = [r1.sample_row(x, key=(1, k), mix_eps=eps) for k in range(300)]
        fired = {k for k, row in enumerate(rows) if row.explored}
        assert fired_before <= fired
        assert all(row.id == (uniform[k] if k in fired else base[k].id) for k, row in enumerate(rows))
        fired_before = fired
    assert len(fired) == 300 and r1.sample_row(x, mix_eps=0.0, forced={(r1.COIN, 0): 0}) == r1.sample_row(x)
    edges = ((2**63 - 1, 0.5, True), (2**63, 0.5, False), (2**64 - 1, 1.0, True), (0, 1e-45, True))
    for r64, eps, fires in edges:
        assert r1.sample_row(x, mix_eps=eps, forced={(r1.COIN, 0): r64}).explored is fires


def test_epsilon_greedy():
    params = {"temperature": 0, "mix_eps": 0.5, "mix_support": "valid"}
    rows = [r1.sample_row(sparse_row(), key=(4, k), **params) for k in range(60)]
    assert {row.id for row in rows if not row.explored} == {256} and len({row.id for row in rows}) > 4
    for row in rows:
        assert row.logp == r1.fl32(math.log(0.5 + 0.5 / 8 if row.id == 256 else 0.5 / 8))
        assert row.logp_full == (0.0 if row.id == 256 else -INF) and row.logp_raw > -5


# By-products


def test_by_products_against_float64_formulas():
    rng = random.Random(10)
    for step in range(20):
        x, temperature = seeded_row(rng, 300, scale=3.0), r1.fl32(rng.uniform(0.3, 2))
        out = r1.sample_row(x, temperature=temperature, top_p=0.8, key=(0, step), top_n=5)
        valid = [i for i in range(len(x)) if x[i] > -INF]
        exact = {i: math.exp((x[i] - max(x)) / temperature) for i in valid}
        total = math.fsum(exact.values())
        p = {i: v / total for i, v in exact.items()}
        raw_total = math.fsum(math.exp(x[i]) for i in valid)
        surprise = {i: -math.log(p[i]) for i in valid}
        entropy = math.fsum(p[i] * surprise[i] for i in valid)
        assert out.entropy == pytest.approx(entropy, rel=2e-6)
        spread = math.fsum(p[i] * (surprise[i] - entropy) ** 2 for i in valid)
        assert out.varentropy == pytest.approx(spread, rel=1e-5)
        assert out.logp_full == pytest.approx(math.log(p[out.id]), abs=2e-6)
        assert out.logp_raw == pytest.approx(x[out.id] - math.log(raw_total), abs=2e-6)
        mass = math.fsum(p[i] for i in out.kept)
        assert out.kept_mass == pytest.approx(mass, rel=1e-6) and mass > 0.8 - 1e-6
        assert out.logp == pytest.approx(math.log(p[out.id] / mass), abs=2e-6)
        ranked = sorted(valid, key=lambda i: (-x[i], i))
        assert out.top_ids == ranked[:5] and out.margin == r1.fl32(x[ranked[0]] - x[ranked[1]])
        assert out.top_logps == pytest.approx([x[i] - math.log(raw_total) for i in ranked[:5]], abs=2e-6)
        assert out.kept == sorted(ranked[: out.n_kept]) and ranked.index(out.id) == out.rank


def test_by_products_of_tiny_rows():
    one = r1.sample_row([-INF, -4.0], top_n=3)
    assert one == r1.RowResult(
        r1.OK, 1, 0.0, 0.0, 0.0, 0.0, 0.0, INF, 1, 1.0, 0, False, [1], [1, -1, -1], [0.0, -INF, -INF]
    )
    assert all(math.copysign(1, v) == 1 for v in (one.logp, one.logp_full, one.logp_raw, one.entropy))
    two = r1.sample_row([7.0, 7.0])
    assert two.logp == two.logp_full == r1.fl32(-math.log(2)) and two.entropy == r1.fl32(math.log(2))
    assert (two.margin, two.varentropy) == (0.0, 0.0)
    halving = r1.sample_row(LADDER, temperature=HALVING)  # p = 1/2, 1/4, 1/8, 1/8: 1.75 bits, variance 0.6875
    assert halving.entropy == r1.fl32(1.75 * math.log(2))
    assert halving.varentropy == r1.fl32(0.6875 * math.log(2) ** 2)


def test_probabilities_offer_no_logit_by_products():
    out = r1.sample_row([0.5, 0.0, 0.25, 0.25], probs=True, key=(1, 1))
    assert out.logp_full is out.logp_raw is out.entropy is out.varentropy is None and out.top_ids == []
    assert out.kept == [0, 2, 3] and out.margin == 0.25
    assert out.logp == r1.fl32(math.log(0.5 if out.id == 0 else 0.25))


# Whole rows


def test_softmax_rows():
    rng = random.Random(11)
    x = seeded_row(rng, 500, scale=4.0)
    p, logs = r1.softmax_row(x, 0.9)[1], r1.softmax_row(x, 0.9, log=True)[1]
    assert abs(math.fsum(p) - 1) < 1e-6
    for value, log, logit in zip(p, logs, x, strict=True):
        if logit == -INF:
            assert value == 0 and log == -INF
        else:
            assert log == pytest.approx(math.log(value), abs=3e-6)
    assert r1.softmax_row(LADDER, HALVING)[1] == [0.5, 0.25, 0.125, 0.125]
    deep = r1.softmax_row([0.0, -100.0, -126.0, -127.0], HALVING)
    assert deep == (r1.OK, [1.0, 2.0**-100, 2.0**-126, 0.0])  # no integer weight, but a probability
    assert r1.softmax_row([0.0, -127.0], HALVING, log=True)[1][1] == r1.fl32(-127 * math.log(2))
    assert r1.softmax_row([0.0, 5.0, 0.0], mask=[True, False, True])[1] == [0.5, 0.0, 0.5]


def test_mask_and_renorm_rows():
    assert r1.mask_row([1.0, -0.0, 3.0], top_k=2, keep_weightless=True) == (r1.OK, [1.0, -INF, 3.0])
    assert same(r1.mask_row([-1.0, -0.0], top_k=1)[1][1], -0.0)
    assert r1.mask_row(LADDER, top_p=0.75, temperature=HALVING)[1] == [0.0, -1.0, -INF, -INF]
    p = [0.125, 0.5, 0.125, 0.25]
    assert r1.renorm_row(p, top_k=3)[1] == [r1.fl32(1 / 7), r1.fl32(4 / 7), 0.0, r1.fl32(2 / 7)]
    assert r1.renorm_row(p, top_k=3, ties="all")[1] == p
    assert r1.renorm_row(p, top_p=0.5)[1] == [0.0, 1.0, 0.0, 0.0]
    assert r1.renorm_row(LADDER, top_k=2, from_logits=True, temperature=HALVING)[1] == [
        r1.fl32(2 / 3),
        r1.fl32(1 / 3),
        0.0,
        0.0,
    ]
    assert r1.renorm_row(LADDER, top_k=2, from_logits=True, temperature=0)[1] == [1.0, 0.0, 0.0, 0.0]


def test_multinomial_with_replacement():
    p = [0.0, 3.0, 0.0, 1.0, 2.0, 0.0]
    draws = r1.multinomial_row(p, 12000, replacement=True, key=(6, 6))[1]
    assert set(draws) == {1, 3, 4}
    assert chisquare([draws.count(i) for i in (1, 3, 4)], [6000, 2000, 4000]).pvalue > ALPHA
    most = 2**64 - 1
    ends = {(r1.MANY, 0): 0, (r1.MANY, 1): 0, (r1.MANY, 2): most, (r1.MANY, 3): most}
    assert r1.multinomial_row(p, 2, replacement=True, forced=ends) == (r1.OK, [1, 4])
    # R = 2^127 is half of the mass exactly: the running sum 3 of 6 does not exceed it
    half = {(r1.MANY, 0): 0, (r1.MANY, 1): 2**63, (r1.MANY, 2): most, (r1.MANY, 3): 2**63 - 1}
    assert r1.multinomial_row([1.0, 1.0], 2, replacement=True, forced=half) == (r1.OK, [1, 0])


def test_multinomial_without_replacement():
    p = [0.0, 3.0, 0.0, 1.0, 2.0]
    assert r1.multinomial_row(p, 5, key=(1, 2))[0] == r1.EMPTY
    assert sorted(r1.multinomial_row(p, 5, key=(1, 2))[1]) == [-1, -1, 1, 3, 4]
    pairs = [tuple(r1.multinomial_row(p, 2, key=(12, k))[1]) for k in range(6000)]
    # P(a, b) = p_a p_b / (1 - p_a), with p = 1/2, 1/6, 1/3
    share = {1: 3 / 6, 3: 1 / 6, 4: 2 / 6}
    law = {(a, b): share[a] * share[b] / (1 - share[a]) for a, b in itertools.permutations(share, 2)}
    assert chisquare([pairs.count(pair) for pair in law], [6000 * v for v in law.values()]).pvalue > ALPHA
    equal = {(r1.ORDER, i): 9 for i in range(4)}
    assert r1.multinomial_row([1.0] * 4, 3, forced=equal) == (r1.OK, [0, 1, 2])


def test_multinomial_of_one_is_the_race():
    p = [r1.fl32(random.Random(13).random()) for _ in range(400)]
    for k in range(20):
        assert r1.multinomial_row(p, 1, key=(3, k)) == (r1.OK, [r1.sample_row(p, probs=True, key=(3, k)).id])
