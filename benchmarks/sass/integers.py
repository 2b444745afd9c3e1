# SPDX-License-Identifier: Apache-2.0
"""Integers, bits and predicates: one function per opcode, which reads the operands once and returns
run(warp, mask)."""

from __future__ import annotations

import numpy as np

from .operands import (
    F64,
    FULL,
    I32,
    I64,
    INTEGER_COMPARE,
    INTEGERS,
    JOIN,
    LANES,
    PT,
    U32,
    U64,
    Unknown,
    addend,
    head,
    integer,
    lanes_of,
    mask_of,
    plain_sources,
    predicate,
    predicate_number,
    refuse,
    setp,
    to_pair,
    to_predicate,
    to_register,
    wide,
    wide_addend,
)


def unary(put, source, fn):
    return lambda w, e: put(w, e, fn(source(w)))


def by_width(i) -> tuple:
    """(source, destination) of what takes pairs with the modifier 64."""
    return (wide, to_pair) if refuse(i, {"64"}) else (integer, to_register)


def mov(i):
    source, to = by_width(i)
    return unary(to(i.operands[0]), source(i.operands[1]), lambda v: v)


def iadd(i):
    """IADD.64, of pairs, with a carry out or in."""
    mods = refuse(i, {"64", "X"})
    if "64" not in mods:
        return viadd(i)
    (d, *carries), (a, b, *rest) = head(i)
    put, sa, sb = to_pair(d), wide_addend(a), wide_addend(b)
    puts, ins = [to_predicate(c) for c in carries], [predicate(p) for p in rest] if "X" in mods else []
    borrows = a[0] == "-" or b[0] == "-"  # -x is ~x + 1, whose carry counts

    def run(w, e):
        x, y = sa(w), sb(w)
        total = x + y
        carry = total < x
        if borrows:
            carry = carry | ((x if a[0] == "-" else y) == 0)
        for p in ins:
            one = lanes_of(p(w)).astype(U64)
            total = total + one
            carry = carry | (total < one)
        put(w, e, total)
        for p in puts:
            p(w, e, mask_of(carry))

    return run


def iadd3_wide(i):
    d, sources = plain_sources(i)
    put, (sa, sb, sc) = to_pair(d), map(wide_addend, sources)
    return lambda w, e: put(w, e, sa(w) + sb(w) + sc(w))


def iadd3(i):
    mods = refuse(i, {"X", "64"})
    if "64" in mods:
        return iadd3_wide(i)
    (d, *carries), (a, b, c, *rest) = head(i)
    put, sources = to_register(d), [addend(x) for x in (a, b, c)]
    puts, ins = [to_predicate(c) for c in carries], [predicate(p) for p in rest] if "X" in mods else []

    def run(w, e):
        total = sources[0](w) + sources[1](w) + sources[2](w)
        for p in ins:
            total = total + lanes_of(p(w))
        # Read before writing: a destination may be a source.
        put(w, e, total.astype(U32))
        for n, p in enumerate(puts):
            p(w, e, mask_of((total >> U64(32)) > n))

    return run


def imad(i):
    mods = refuse(i, {"MOV", "U32", "IADD", "SHL", "X", "WIDE", "HI"})
    (d, *carries), (a, b, c, *rest) = head(i)
    signed = "U32" not in mods and ("WIDE" in mods or "HI" in mods)
    sa, sb = integer(a), integer(b)
    carry_in = predicate(rest[0]) if "X" in mods else None
    puts = [to_predicate(p) for p in carries]
    if "WIDE" in mods or "HI" in mods:
        sc = wide_addend(c)
        put = to_pair(d) if "WIDE" in mods else to_register(d)

        def run_wide(w, e):
            x, y = sa(w), sb(w)
            if signed:
                product = (x.view(I32).astype(I64) * y.view(I32).astype(I64)).view(U64)
            else:
                product = x.astype(U64) * y.astype(U64)
            z = sc(w)
            total = product + z
            carry = total < product
            if carry_in is not None:
                one = lanes_of(carry_in(w)).astype(U64)
                total = total + one
                carry = carry | (total < one)
            put(w, e, total if "WIDE" in mods else (total >> U64(32)).astype(U32))
            for p in puts:
                p(w, e, mask_of(carry))

        return run_wide
    sc, put = addend(c), to_register(d)

    def run(w, e):
        x, y, z = sa(w), sb(w), sc(w)
        if carry_in is None and not puts:
            put(w, e, (x * y) + z.astype(U32))
            return
        total = x.astype(U64) * y.astype(U64) + z
        if carry_in is not None:
            total = total + lanes_of(carry_in(w))
        put(w, e, total.astype(U32))
        for p in puts:
            p(w, e, mask_of((total >> U64(32)) > 0))

    return run


def lea(i):
    mods = refuse(i, {"HI", "X", "SX32"})
    (d, *carries), (a, b, *rest) = head(i)
    high = "HI" in mods
    carry_in = predicate(rest.pop()) if "X" in mods else None
    shift = U64(int(rest.pop(), 0))
    sa, sb, put = integer(a), addend(b), to_register(d)
    sc = integer(rest[0]) if high and "SX32" not in mods else None
    puts = [to_predicate(p) for p in carries]

    def run(w, e):
        x = sa(w)
        if not high:
            x = (x.astype(U64) << shift) & U64(FULL)
        elif sc is None:
            x = (x.view(I32).astype(I64).view(U64) << shift) >> U64(32)
        else:
            x = ((sc(w).astype(U64) << U64(32) | x.astype(U64)) << shift) >> U64(32)
        total = x + sb(w)
        if carry_in is not None:
            total = total + lanes_of(carry_in(w))
        put(w, e, total.astype(U32))
        for p in puts:
            p(w, e, mask_of((total >> U64(32)) > 0))

    return run


def look_up(table: int, a, b, c, ones):
    """The bitwise function of three whose truth table is `table`: bit 4 a + 2 b + c."""
    out = ones ^ ones
    for n in range(8):
        if table >> n & 1:
            x = a if n & 4 else a ^ ones
            y = b if n & 2 else b ^ ones
            out = out | (x & y & (c if n & 1 else c ^ ones))
    return out


SIMPLE = {
    0xC0: lambda a, b, c: a & b,
    0xFC: lambda a, b, c: a | b,
    0x3C: lambda a, b, c: a ^ b,
    0x30: lambda a, b, c: a & ~b,
    0x33: lambda a, b, c: ~b,
    0xF8: lambda a, b, c: a | (b & c),
    0x96: lambda a, b, c: a ^ b ^ c,
}


def lop3(i):
    mods = refuse(i, {"LUT", "PAND"})
    ops = list(i.operands)
    truth = to_predicate(ops.pop(0)) if predicate_number(ops[0]) is not None else None
    d, a, b, c, table, pin = ops
    sa, sb, sc, put, table, join = *map(integer, (a, b, c)), to_register(d), int(table, 16), predicate(pin)
    fn = SIMPLE.get(table, lambda x, y, z: look_up(table, x, y, z, U32(FULL)))

    def run(w, e):
        v = fn(sa(w), sb(w), sc(w))
        put(w, e, v)
        if truth is not None:
            some, other = mask_of(v != 0), join(w)
            truth(w, e, some & other if "PAND" in mods else some | other)

    return run


def plop3(i):
    refuse(i, {"LUT"})
    u, v, a, b, c, first, second = i.operands
    puts = [(to_predicate(u), int(first, 16)), (to_predicate(v), int(second, 16))]
    sources = [predicate(p) for p in (a, b, c)]

    def run(w, e):
        values = [s(w) for s in sources]
        for put, table in puts:
            put(w, e, look_up(table, *values, FULL))

    return run


def sel(i):
    source, to = by_width(i)
    d, a, b, p = i.operands
    sa, sb, sp, put = source(a), source(b), predicate(p), to(d)
    return lambda w, e: put(w, e, np.where(lanes_of(sp(w)), sa(w), sb(w)))


def shf(i):
    mods = refuse(i, {"L", "R", "U32", "S32", "U64", "S64", "W", "HI"})
    d, a, s, c = i.operands
    sa, ss, sc, put = integer(a), integer(s), integer(c), to_register(d)
    most = 63 if "U64" in mods or "S64" in mods else 31
    arithmetic = "S32" in mods or "S64" in mods

    def run(w, e):
        n = ss(w)
        # Beyond the width a shift clamps to it, or wraps round (W).
        n = (n & U32(most) if "W" in mods else np.minimum(n, U32(most + 1))).astype(U64)
        v = sc(w).astype(U64) << U64(32) | sa(w).astype(U64)
        near = np.minimum(n, U64(63))
        if "L" in mods:
            v = np.where(n > 63, U64(0), v << near)
        elif arithmetic:
            v = (v.view(I64) >> near.view(I64)).view(U64)
        else:
            v = np.where(n > 63, U64(0), v >> near)
        put(w, e, ((v >> U64(32)) if "HI" in mods else v).astype(U32))

    return run


def sgxt(i):
    mods = refuse(i, {"U32", "W"})
    d, a, b = i.operands
    sa, sb, put = integer(a), integer(b), to_register(d)

    def run(w, e):
        n = np.clip(sb(w), 1, 32)
        up = (U32(32) - n).astype(U32)
        v = sa(w) << up
        put(w, e, v >> up if "U32" in mods else (v.view(I32) >> up.view(I32)).view(U32))

    return run


def prmt(i):
    refuse(i, set())
    d, a, s, c = i.operands
    sa, ss, sc, put = integer(a), integer(s), integer(c), to_register(d)

    def run(w, e):
        v = sc(w).astype(U64) << U64(32) | sa(w).astype(U64)
        selector, out = ss(w), np.zeros(LANES, U32)
        for n in range(4):
            k = selector >> U32(4 * n) & U32(15)
            byte = (v >> ((k & U32(7)) * U32(8)).astype(U64)).astype(U32) & U32(255)
            sign = (byte >> U32(7)) * U32(255)
            out |= np.where(k & U32(8), sign, byte).astype(U32) << U32(8 * n)
        put(w, e, out)

    return run


def popc(i):
    put, s = to_register(i.operands[0]), integer(i.operands[1])
    return lambda w, e: put(w, e, np.bitwise_count(s(w)).astype(U32))


def flo(i):
    mods = refuse(i, {"U32", "SH"})
    if "U32" not in mods:
        raise Unknown(i.opcode)
    d, (a,) = plain_sources(i)
    put, s = to_register(d), integer(a)

    def run(w, e):
        v = s(w)
        top = np.frexp(v.astype(F64))[1] - 1
        place = 31 - top if "SH" in mods else top
        put(w, e, np.where(v == 0, U32(FULL), place.astype(U32)))

    return run


def brev(i):
    put, s = to_register(i.operands[0]), integer(i.operands[1])

    def run(w, e):
        v, out = s(w), np.zeros(LANES, U32)
        for n in range(32):
            out |= (v >> U32(n) & U32(1)) << U32(31 - n)
        put(w, e, out)

    return run


def isetp(i):
    mods = refuse(i, {*INTEGER_COMPARE, *JOIN, "EX", "S32", "U32", "S64", "U64"})
    u, v, a, b, pin, *low = i.operands
    compare = INTEGER_COMPARE[next(m for m in mods if m in INTEGER_COMPARE)]
    name = next(m for m in mods if m in INTEGER_COMPARE)
    join = JOIN[next((m for m in mods if m in JOIN), "AND")]
    kind = INTEGERS[next((m for m in mods if m in INTEGERS), "S32")]
    source = wide if kind in (U64, I64) else integer
    sa, sb, pin, puts = source(a), source(b), predicate(pin), (to_predicate(u), to_predicate(v))
    low = predicate(low[0]) if "EX" in mods else None

    def run(w, e):
        x, y = sa(w).view(kind), sb(w).view(kind)
        truth = mask_of(compare(x, y))
        if low is not None:  # the upper words decide unless they are equal
            equal = mask_of(x == y)
            strict = mask_of(INTEGER_COMPARE[name.replace("E", "T") if name in ("LE", "GE") else name](x, y))
            truth = (strict & ~equal) | (equal & low(w))
        setp(puts, truth, join, pin, w, e)

    return run


def minmax(values, put, p):
    def run(w, e):
        a, b = values(w)
        put(w, e, np.where(lanes_of(p(w)), np.minimum(a, b), np.maximum(a, b)).view(U32))

    return run


def imnmx_wide(i):
    """IMNMX.U64 PT, PT, R6, R12, 0x1, !PT, !PT: of pairs."""
    mods, ops = refuse(i, {"U64", "S64"}), list(i.operands)
    while predicate_number(ops[0]) is not None:
        if ops.pop(0) not in ("PT", "UPT"):
            raise Unknown(i.opcode)
    d, a, b, p = ops[:4]
    kind = U64 if "U64" in mods else I64
    put, sa, sb, sp = to_pair(d), wide(a), wide(b), predicate(p)

    def run(w, e):
        x, y = sa(w).view(kind), sb(w).view(kind)
        put(w, e, np.where(lanes_of(sp(w)), np.minimum(x, y), np.maximum(x, y)).view(U64))

    return run


def imnmx(i):
    mods = refuse(i, {"U32", "S32", "U64", "S64"})
    if "U64" in mods or "S64" in mods:
        return imnmx_wide(i)
    d, (a, b, p) = plain_sources(i)
    sa, sb, kind = integer(a), integer(b), U32 if "U32" in mods else I32
    return minmax(lambda w: (sa(w).view(kind), sb(w).view(kind)), to_register(d), predicate(p))


def viaddmnmx(i):
    mods = refuse(i, {"U32"})
    d, (a, b, c, p) = plain_sources(i)
    sa, sb, sc, kind = integer(a), integer(b), integer(c), U32 if "U32" in mods else I32
    return minmax(lambda w: ((sa(w) + sb(w)).view(kind), sc(w).view(kind)), to_register(d), predicate(p))


def viadd(i):
    refuse(i, set())
    put, sa, sb = to_register(i.operands[0]), integer(i.operands[1]), integer(i.operands[2])
    return lambda w, e: put(w, e, sa(w) + sb(w))


def iabs(i):
    put, s = to_register(i.operands[0]), integer(i.operands[1])
    return unary(put, s, lambda v: np.abs(v.view(I32)).view(U32))


def r2p(i):
    _, a, mask = i.operands
    s, mask = integer(a), int(mask, 16)

    def run(w, e):
        v = s(w)
        for n in range(7):
            if mask >> n & 1:
                w.P[n] = (w.P[n] & ~e) | (mask_of(v >> U32(n) & U32(1) != 0) & e)

    return run


def p2r(i):
    d, _, c, mask = i.operands
    put, s, mask = to_register(d), integer(c), int(mask, 16)

    def run(w, e):
        bits = sum((lanes_of(w.P[n]).astype(U32) << U32(n) for n in range(PT)), np.zeros(LANES, U32))
        put(w, e, (s(w) & ~U32(mask)) | (bits & U32(mask)))

    return run
