# SPDX-License-Identifier: Apache-2.0
"""R1's arithmetic: float32 and FMAs, logarithms and the exponential variate, powers of two.

A Python float is an IEEE binary64 rounded to nearest even, `float(n)` of an integer is D(n), `n / d` of two
integers is correctly rounded: these facts, `fl32` and the two FMAs below are all the arithmetic used.
"""

import math
import struct
from functools import lru_cache

ONE = 1 << 43  # weight of the best token
LOG2E = float.fromhex("0x1.71547652b82fep+0")
LN2 = float.fromhex("0x1.62e42fefa39efp-1")
FLT_MAX = float.fromhex("0x1.fffffep+127")
EXP2_POLY = [
    float.fromhex(h)
    for h in (
        "0x1.c5417ap-13",
        "0x1.46d64ap-10",
        "0x1.3d0b92p-7",
        "0x1.c68912p-5",
        "0x1.ebfd58p-3",
        "0x1.62e42cp-1",
        "0x1p+0",
    )
]
ATANH_POLY = [1 / n for n in range(23, 1, -2)]  # 1/23, 1/21, ..., 1/3
INF, NOT_A_NUMBER = math.inf, math.nan
_FLOAT32 = struct.Struct("<f")


# Arithmetic. A sum, difference, product or quotient of two float32 may be computed in float64 and then
# rounded: 53 >= 2 * 24 + 2 bits, so the first rounding is innocuous. An FMA may not, hence `fma32`.


def fl32(v):
    """The float32 nearest to v, ties to even, subnormals kept, overflow to infinity."""
    try:
        return _FLOAT32.unpack(_FLOAT32.pack(v))[0]
    except OverflowError:
        return math.copysign(INF, v)


def out32(v):
    """A float result: one rounding to float32, and zero is +0."""
    return fl32(v) + 0.0


def _exact_fma(a, b, c):
    """a * b + c for finite a, b, c, as an integer over a power of two."""
    (an, ad), (bn, bd), (cn, cd) = a.as_integer_ratio(), b.as_integer_ratio(), c.as_integer_ratio()
    return an * bn * cd + cn * ad * bd, ad * bd * cd


def fma32(a, b, c):
    """float32 FMA of finite float32 values, rounded once."""
    n, d = _exact_fma(a, b, c)
    if n == 0:
        return a * b + c  # only the sign of zero is left to decide, and the product is exact
    drop = max(n.bit_length() - 50, 0)
    n = n >> drop | (n & (1 << drop) - 1 != 0)  # a sticky last bit: 50 bits decide any rounding to 24
    return fl32(math.ldexp(n, drop - d.bit_length() + 1))


def fma64(a, b, c):
    """float64 FMA of finite values without overflow, rounded once."""
    n, d = _exact_fma(a, b, c)
    return n / d if n else a * b + c


def ceil_mul(p, n):
    """ceil(p * n) for a float p >= 0 and an integer n, exactly."""
    num, den = p.as_integer_ratio()
    return -(-num * n // den)


# Logarithms and the exponential variate, float64


def atanh2(s):
    """A(s) = 2 * atanh(s) = ln((1 + s) / (1 - s)), |s| <= 1/5."""
    q, poly = s * s, ATANH_POLY[0]
    for coefficient in ATANH_POLY[1:]:
        poly = fma64(poly, q, coefficient)
    return fma64(2 * s * q, poly, 2 * s)


def split_log(y):
    """(z, k) with y = z * 2^k and z in [3/4, 3/2), y > 0."""
    z, k = math.frexp(y)
    return (z, k) if z >= 0.75 else (2 * z, k - 1)


def neg_log(y):
    """NL(y) = -ln y, y in (0, 1]."""
    z, k = split_log(y)
    return fma64(float(-k), LN2, -atanh2((z - 1) / (z + 1)))


def log_sum(total):
    """LS(S) = ln(S / 2^43): the log normaliser relative to the best token. Product and sum rounded apart."""
    z, k = split_log(float(total) / ONE)
    return k * LN2 + atanh2((z - 1) / (z + 1))


def exponential(r64):
    """E = -log1p(-v), v the uniform in [2^-65, 1 - 2^-53] that r64 stands for."""
    v = min((float(r64) + 0.5) * 2.0**-64, 1 - 2.0**-53)
    return atanh2(v / (2 - v)) if v < 0.25 else neg_log(1 - v)


# Weights


def significand(t):
    """2^(t - floor(t)) in float32 for t <= 0 by six FMAs, in [1, 2]."""
    f = fl32(t - math.floor(t))
    poly = EXP2_POLY[0]
    for coefficient in EXP2_POLY[1:]:
        poly = fma32(poly, f, coefficient)
    return poly


@lru_cache(maxsize=1 << 16)
def exp2p(t):
    """2^t in float32 for -126 <= t <= 0; 0 below (where only a softmax looks)."""
    return math.ldexp(significand(t), math.floor(t)) if t >= -126 else 0.0


def fixed(e):
    """RNE(2^43 * e) of a float32 e: exact product, and Python's `round` is to nearest even."""
    return round(e * ONE)


def weight(t):
    return fixed(exp2p(t)) if t > -44 else 0
