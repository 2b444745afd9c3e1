# SPDX-License-Identifier: Apache-2.0
"""Floating point and conversions. The approximations of the device (MUFU) are exact here: code that is right
for every approximation within their documented error gives the same with these."""

from __future__ import annotations

import ctypes
import ctypes.util
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np

from .operands import (
    COMPARE,
    F32,
    F64,
    FULL,
    I64,
    INTEGERS,
    JOIN,
    LANES,
    U32,
    U64,
    Unknown,
    float32,
    float64,
    integer,
    lanes_of,
    mask_of,
    modifiers,
    number_of,
    predicate,
    refuse,
    setp,
    to_pair,
    to_predicate,
    to_register,
    wide,
)

ROUNDINGS = {"RZ": 0, "RP": 1, "RM": -1}
QUIET_NAN = U32(0x7FFFFFFF)

_libm = ctypes.CDLL(ctypes.util.find_library("m") or "libm.so.6")
_libm.fma.restype = ctypes.c_double
_libm.fma.argtypes = [ctypes.c_double] * 3

# Arithmetic that numpy does not have


def fma32(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    """a * b + c with one rounding: the product is exact in float64, the sum is rounded to odd there."""
    with np.errstate(all="ignore"):
        p, d = a.astype(F64) * b.astype(F64), c.astype(F64)
        s = p + d
        t = s - p
        lost = (p - (s - t)) + (d - t)
        bits = s.view(I64)
        inexact = (lost != 0) & np.isfinite(s) & (bits & 1 == 0)
        step = np.where((lost > 0) == (s > 0), 1, -1)
        return np.where(inexact, bits + step, bits).view(F64).astype(F32)


def add_directed(a: np.ndarray, b: np.ndarray, towards: float) -> np.ndarray:
    """a + b rounded towards -inf or +inf."""
    with np.errstate(all="ignore"):
        x, y = a.astype(F64), b.astype(F64)
        s = x + y
        t = s - x
        lost = (x - (s - t)) + (y - t)
        near = s.astype(F32)
        off = np.where(near.astype(F64) != s, near.astype(F64) - s, -lost)  # what `near` has too much
        wrong = off > 0 if towards < 0 else off < 0
        moved = np.nextafter(near, F32(towards))
        out = np.where(wrong & np.isfinite(s), moved, near)
        # x + -x is -0 towards -inf, unless both are +0
        minus = (s == 0) & ~((a.view(U32) == 0) & (b.view(U32) == 0)) & (towards < 0)
        return np.where(minus, F32(-0.0), out).astype(F32)


def fma64(a: np.ndarray, b: np.ndarray, c: np.ndarray) -> np.ndarray:
    return np.array([_libm.fma(*x) for x in zip(a, b, c, strict=True)], F64)


def directed(exact: Callable, kind, towards: int, *values: np.ndarray) -> np.ndarray:
    """exact(Fractions) rounded to `kind` towards -inf (-1), +inf (1) or 0; nan and inf as they come."""
    out = np.empty(len(values[0]), kind)
    for i, lane in enumerate(zip(*values, strict=True)):
        if not all(math.isfinite(v) for v in lane):
            with np.errstate(all="ignore"):
                out[i] = exact(*lane)
            continue
        true = exact(*(Fraction(float(v)) for v in lane))
        near = kind(float(true)) if true else kind(0)
        to = towards or (-1 if true > 0 else 1)
        if math.isfinite(near) and (Fraction(float(near)) - true) * to < 0:
            near = np.nextafter(near, kind(math.inf * to))
        elif math.isfinite(near):
            before = np.nextafter(near, kind(-math.inf * to))
            if math.isfinite(before) and (Fraction(float(before)) - true) * to >= 0:
                near = before
        out[i] = near
    return out


# Opcodes


def fsel(i):
    d, a, b, p = i.operands
    sa, sb, sp, put = float32(a), float32(b), predicate(p), to_register(d)
    return lambda w, e: put(w, e, np.where(lanes_of(sp(w)), sa(w).view(U32), sb(w).view(U32)))


def _flush(v, mods):
    return np.where(np.abs(v) < F32(2.0**-126), np.copysign(F32(0), v), v) if "FTZ" in mods else v


def fadd(i):
    mods = refuse(i, {"FTZ", "RM", "RP"})
    d, a, b = i.operands
    put, sa, sb = to_register(d), float32(a), float32(b)
    towards = -math.inf if "RM" in mods else math.inf if "RP" in mods else None

    def run(w, e):
        x, y = _flush(sa(w), mods), _flush(sb(w), mods)
        with np.errstate(all="ignore"):
            v = x + y if towards is None else add_directed(x, y, towards)
        put(w, e, _flush(v, mods).astype(F32).view(U32))

    return run


def fmul(i):
    mods = refuse(i, {"FTZ"})
    d, a, b = i.operands
    put, sa, sb = to_register(d), float32(a), float32(b)

    def run(w, e):
        with np.errstate(all="ignore"):
            v = _flush(_flush(sa(w), mods) * _flush(sb(w), mods), mods)
        put(w, e, v.astype(F32).view(U32))

    return run


def ffma(i):
    mods = refuse(i, {"FTZ", *ROUNDINGS})
    d, *sources = i.operands
    put, sources = to_register(d), [float32(s) for s in sources]
    way = next((ROUNDINGS[m] for m in mods if m in ROUNDINGS), None)

    def run(w, e):
        a, b, c = (_flush(s(w), mods) for s in sources)
        v = fma32(a, b, c) if way is None else directed(lambda x, y, z: x * y + z, F32, way, a, b, c)
        put(w, e, _flush(v, mods).astype(F32).view(U32))

    return run


def float_minmax(x, y, least):
    """The number where the other is a NaN; -0 is less than +0."""
    p, q = x.view(U32), y.view(U32)
    first = np.where(least, x < y, x > y) | np.isnan(y)
    v = np.where(x == y, np.where(least, p | q, p & q), np.where(first, p, q))
    return np.where(np.isnan(x) & np.isnan(y), QUIET_NAN, v).view(F32)


def fmnmx(i):
    """FMNMX, and FMNMX3 of three. NAN: a NaN where there is one."""
    mods = refuse(i, {"FTZ", "NAN"})
    d, *sources, p = i.operands
    put, sp, sources = to_register(d), predicate(p), [float32(s) for s in sources]

    def run(w, e):
        least, out = lanes_of(sp(w)), sources[0](w)
        for s in sources[1:]:
            x = s(w)
            either = np.isnan(out) | np.isnan(x)
            out = float_minmax(out, x, least)
            if "NAN" in mods:
                out = np.where(either, QUIET_NAN.view(F32), out)
        put(w, e, out.view(U32))

    return run


def hmnmx2(i):
    """HMNMX2.NAN, and VHMNMX.NAN of three: of both halves, the largest or least, or a NaN if there is one."""
    mods = refuse(i, {"BF16_V2", "NAN"})
    if "NAN" not in mods:
        raise Unknown(i.opcode)
    d, *sources, p = i.operands
    put, sp, sources = to_register(d), predicate(p), [integer(s) for s in sources]

    def halves(v):
        """Both in float32, the low one first."""
        if "BF16_V2" in mods:
            return (v << U32(16)).view(F32), (v & U32(0xFFFF0000)).view(F32)
        return tuple((v >> U32(n)).astype(np.uint16).view(np.float16).astype(F32) for n in (0, 16))

    def run(w, e):
        least, out = lanes_of(sp(w)), np.zeros(LANES, U32)
        for n, (m, *others) in zip((0, 16), zip(*(halves(s(w)) for s in sources), strict=True), strict=True):
            nan = np.isnan(m)
            for x in others:
                nan = nan | np.isnan(x)
                m = float_minmax(m, x, least)
            bits = m.view(U32) >> U32(16) if "BF16_V2" in mods else m.astype(np.float16).view(np.uint16)
            out |= np.where(nan, U32(0x7FFF), bits.astype(U32)) << U32(n)
        put(w, e, out)

    return run


def compare_floats(i, source, puts_of):
    mods = refuse(i, {*COMPARE, *JOIN, "FTZ", "MAX", "MIN", "BF"})
    name = next((m for m in mods if m in COMPARE), None)
    if name is None:
        raise Unknown(i.opcode)
    return COMPARE[name], JOIN[next((m for m in mods if m in JOIN), "AND")]


def fsetp(i):
    compare, join = compare_floats(i, float32, 2)
    u, v, a, b, pin = i.operands
    sa, sb, pin, puts = float32(a), float32(b), predicate(pin), (to_predicate(u), to_predicate(v))
    mods = modifiers(i)

    def run(w, e):
        with np.errstate(all="ignore"):
            setp(puts, mask_of(compare(_flush(sa(w), mods), _flush(sb(w), mods))), join, pin, w, e)

    return run


def fset(i):
    compare, join = compare_floats(i, float32, 1)
    d, a, b, pin = i.operands
    sa, sb, pin, put = float32(a), float32(b), predicate(pin), to_register(d)
    one = U32(0x3F800000) if "BF" in modifiers(i) else U32(FULL)

    def run(w, e):
        truth = join(mask_of(compare(sa(w), sb(w))), pin(w))
        put(w, e, np.where(lanes_of(truth), one, U32(0)))

    return run


def fchk(i):
    """Whether a division must take the long way. More often than on the device: both ways are exact."""
    p, a, b = i.operands
    put, sa, sb = to_predicate(p), float32(a), float32(b)

    def run(w, e):
        x, y = (s(w).view(U32).astype(I64) >> 23 & 255 for s in (sa, sb))
        far = (x < 2) | (x > 252) | (y < 2) | (y > 252) | (x - y > 120) | (x - y < -120)
        put(w, e, mask_of(far))

    return run


def mufu(i):
    mods = refuse(i, {"RCP", "EX2", "RSQ", "LG2", "SQRT", "RCP64H", "RSQ64H"})
    d, a = i.operands
    put, name = to_register(d), mods[0]
    if name.endswith("64H"):
        s = integer(a)

        def run_wide(w, e):
            x = (s(w).astype(U64) << U64(32)).view(F64)
            with np.errstate(all="ignore"):
                y = 1 / (x if name == "RCP64H" else np.sqrt(x))
            put(w, e, (y.view(U64) >> U64(32)).astype(U32))

        return run_wide
    s = float32(a)
    fn = {"RCP": lambda x: 1 / x, "EX2": np.exp2, "LG2": np.log2, "SQRT": np.sqrt}
    fn["RSQ"] = lambda x: 1 / np.sqrt(x)

    def run(w, e):
        with np.errstate(all="ignore"):
            y = _flush(fn[name](_flush(s(w), ["FTZ"]).astype(F64)).astype(F32), ["FTZ"])
        put(w, e, y.view(U32))

    return run


def dadd(i):
    refuse(i, set())
    d, a, b = i.operands
    put, sa, sb = to_pair(d), float64(a), float64(b)

    def run(w, e):
        with np.errstate(all="ignore"):
            put(w, e, (sa(w) + sb(w)).view(U64))

    return run


def dmul(i):
    mods = refuse(i, set(ROUNDINGS))
    d, a, b = i.operands
    put, sa, sb = to_pair(d), float64(a), float64(b)

    def run(w, e):
        x, y = sa(w), sb(w)
        with np.errstate(all="ignore"):
            v = directed(lambda p, q: p * q, F64, ROUNDINGS[mods[0]], x, y) if mods else x * y
        put(w, e, v.view(U64))

    return run


def dfma(i):
    mods = refuse(i, set(ROUNDINGS))
    d, *sources = i.operands
    put, sources = to_pair(d), [float64(s) for s in sources]

    def run(w, e):
        a, b, c = (s(w) for s in sources)
        way = ROUNDINGS[mods[0]] if mods else None
        v = fma64(a, b, c) if way is None else directed(lambda x, y, z: x * y + z, F64, way, a, b, c)
        put(w, e, v.view(U64))

    return run


def dsetp(i):
    mods = modifiers(i)
    u, v, a, b, pin = i.operands
    sa, sb, pin, puts = float64(a), float64(b), predicate(pin), (to_predicate(u), to_predicate(v))
    if "MIN" in mods or "MAX" in mods:  # the first: which is chosen; the second: whether one is a NaN
        chosen = np.less if "MIN" in mods else np.greater

        def run_choice(w, e):
            x, y = sa(w), sb(w)
            puts[0](w, e, mask_of(chosen(x, y) | np.isnan(y)))
            puts[1](w, e, mask_of(np.isnan(x) | np.isnan(y)))

        return run_choice
    compare, join = compare_floats(i, float64, 2)

    def run(w, e):
        with np.errstate(all="ignore"):
            setp(puts, mask_of(compare(sa(w), sb(w))), join, pin, w, e)

    return run


# Conversions


def to_integer(v: np.ndarray, kind, mods) -> np.ndarray:
    """Floats to integers, rounded to nearest or as the modifiers say, clamped; NaN gives 0."""
    whole = np.trunc(v) if "TRUNC" in mods else np.floor(v) if "FLOOR" in mods else np.rint(v)
    if "CEIL" in mods:
        whole = np.ceil(v)
    limits = np.iinfo(kind)
    out = np.empty(LANES, kind)
    for n, x in enumerate(whole.tolist()):
        out[n] = 0 if math.isnan(x) else max(limits.min, min(limits.max, x))
        if not math.isnan(x) and limits.min <= x <= limits.max:
            out[n] = int(x)
    return out


def f2i(i):
    mods = refuse(i, {*INTEGERS, "F64", "FTZ", "NTZ", "TRUNC", "FLOOR", "CEIL"})
    kind = INTEGERS[next((m for m in mods if m in INTEGERS), "S32")]
    d, a = i.operands
    s = float64(a) if "F64" in mods else float32(a)
    is_wide = kind in (U64, I64)
    put = to_pair(d) if is_wide else to_register(d)

    def run(w, e):
        v = to_integer(_flush(s(w), mods), kind, mods)
        put(w, e, v.view(U64) if is_wide else v.astype(I64).astype(U32))

    return run


def i2f(i):
    mods = refuse(i, {*INTEGERS, "F64", "F32", "RP", "RM", "RZ"})
    kind = INTEGERS[next((m for m in mods if m in INTEGERS), "S32")]
    d, a = i.operands
    s = wide(a) if kind in (U64, I64) else integer(a)
    double = "F64" in mods
    put = to_pair(d) if double else to_register(d)
    way = next((ROUNDINGS[m] for m in mods if m in ROUNDINGS), None)

    def run(w, e):
        v = s(w)
        v = v.view(kind) if v.itemsize == np.dtype(kind).itemsize else v.astype(kind)
        if double:
            put(w, e, v.astype(F64).view(U64))
        elif way is None:
            put(w, e, v.astype(F32).view(U32))
        else:
            put(w, e, directed(lambda x: x, F32, way, v.astype(F64)).view(U32))

    return run


def f2f(i):
    mods = refuse(i, {"F32", "F64", "F16", "FTZ"})
    d, a = i.operands
    if mods[:2] == ["F32", "F64"]:
        put, s = to_register(d), float64(a)

        def narrow(w, e):
            with np.errstate(all="ignore"):
                put(w, e, s(w).astype(F32).view(U32))

        return narrow
    if mods[:2] == ["F64", "F32"]:
        put, s = to_pair(d), float32(a)
        return lambda w, e: put(w, e, s(w).astype(F64).view(U64))
    raise Unknown(i.opcode)


def hadd2(i):
    """HADD2.F32 R, -RZ, R.H0_H0: a float16 widened."""
    mods = refuse(i, {"F32"})
    d, zero, a = i.operands
    if mods != ["F32"] or zero not in ("-RZ", "RZ"):
        raise Unknown(i.opcode)
    put, s = to_register(d), integer(a)
    return lambda w, e: put(w, e, s(w).astype(np.uint16).view(np.float16).astype(F32).view(U32))


def hfma2(i):
    """HFMA2 R, -RZ, RZ, 1, 2: the two float16 numbers, the first one on top: a way to write a constant."""
    d, a, b, *numbers = i.operands
    if modifiers(i) not in ([], ["MMA"]) or a not in ("-RZ", "RZ") or b != "RZ" or len(numbers) != 2:
        raise Unknown(i.opcode)
    high, low = (number_of(n, "h") for n in numbers)
    put, fixed = to_register(d), np.full(LANES, high << 16 | low, U32)
    return lambda w, e: put(w, e, fixed)
