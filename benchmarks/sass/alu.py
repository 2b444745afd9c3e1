# SPDX-License-Identifier: Apache-2.0
"""All opcodes that move or compute: those between lanes, and a table of the rest. Those of the uniform
datapath (U...) are the same with one value for all lanes."""

from __future__ import annotations

import numpy as np

from .code import Instruction
from .floats import (
    dadd,
    dfma,
    dmul,
    dsetp,
    f2f,
    f2i,
    fadd,
    fchk,
    ffma,
    fmnmx,
    fmul,
    fsel,
    fset,
    fsetp,
    hadd2,
    hfma2,
    hmnmx2,
    i2f,
    mufu,
)
from .integers import (
    brev,
    flo,
    iabs,
    iadd,
    iadd3,
    imad,
    imnmx,
    isetp,
    lea,
    lop3,
    mov,
    p2r,
    plop3,
    popc,
    prmt,
    r2p,
    sel,
    sgxt,
    shf,
    viadd,
    viaddmnmx,
)
from .operands import (
    FULL,
    I64,
    LANE,
    LANES,
    U32,
    U64,
    Unknown,
    integer,
    lanes_of,
    mask_of,
    predicate,
    refuse,
    register_of,
    to_pair,
    to_predicate,
    to_register,
)

# Between lanes


def shfl(i):
    mods = refuse(i, {"BFLY", "DOWN", "UP", "IDX"})
    p, d, a, b, c = i.operands
    truth, put, sa, sb, sc, way = to_predicate(p), to_register(d), *map(integer, (a, b, c)), mods[0]

    def run(w, e):
        v, n, c = sa(w), sb(w).astype(I64) & 31, sc(w).astype(I64)
        clamp, segment = c & 31, c >> 8 & 31
        last, first = (LANE & segment) | (clamp & ~segment), LANE & segment
        if way == "IDX":
            lane = first | (n & ~segment)
        else:
            lane = {"BFLY": LANE ^ n, "DOWN": LANE + n, "UP": LANE - n}[way]
        good = lane >= last if way == "UP" else lane <= last
        lane = np.where(good, lane, LANE)
        truth(w, e, mask_of(good))
        put(w, e, v[lane])

    return run


def vote(i):
    mods = refuse(i, {"ANY", "ALL", "EQ"})
    *out, pin = i.operands
    pin, put = predicate(pin), to_register(out.pop(0)) if register_of(out[0]) else None
    truth = to_predicate(out[0]) if out else None

    def run(w, e):
        votes = pin(w) & w.active
        if put is not None:
            put(w, e, np.full(LANES, votes, U32))
        if truth is not None:
            all_ = votes == w.active
            result = votes != 0 if "ANY" in mods else all_ if "ALL" in mods else all_ or votes == 0
            truth(w, e, FULL if result else 0)

    return run


def redux(i):
    """Over the active lanes, to a uniform register."""
    mods = refuse(i, {"MAX", "MIN"})
    d, a = i.operands
    put, s, of = to_register(d), integer(a), max if "MAX" in mods else min
    return lambda w, e: put(w, e, np.full(LANES, of(s(w)[lanes_of(e)]), U32))


def r2ur(i):
    d, a = i.operands[-2:]
    put, s = to_register(d), integer(a)
    # Of the first active lane, as for all values that are not uniform.
    return lambda w, e: put(w, e, np.full(LANES, s(w)[(e & -e).bit_length() - 1], U32))


def s2r(i):
    put, name = to_register(i.operands[0]), i.operands[1]
    return lambda w, e: put(w, e, w.special(name))


def cs2r(i):
    mods = refuse(i, {"32"})
    d, name = i.operands
    if name != "SRZ":
        raise Unknown(f"{i.opcode} {name}")
    put = to_register(d) if mods else to_pair(d)
    zero = np.zeros(LANES, U32 if mods else U64)
    return lambda w, e: put(w, e, zero)


OPCODES = {
    "MOV": mov,
    "IADD": iadd,
    "IADD3": iadd3,
    "IMAD": imad,
    "LEA": lea,
    "LOP3": lop3,
    "PLOP3": plop3,
    "SEL": sel,
    "FSEL": fsel,
    "SHF": shf,
    "SGXT": sgxt,
    "PRMT": prmt,
    "POPC": popc,
    "FLO": flo,
    "BREV": brev,
    "ISETP": isetp,
    "IMNMX": imnmx,
    "VIMNMX": imnmx,
    "VIADDMNMX": viaddmnmx,
    "VIADD": viadd,
    "IABS": iabs,
    "R2P": r2p,
    "P2R": p2r,
    "FADD": fadd,
    "FMUL": fmul,
    "FFMA": ffma,
    "FMNMX": fmnmx,
    "FMNMX3": fmnmx,
    "FSETP": fsetp,
    "FSET": fset,
    "FCHK": fchk,
    "MUFU": mufu,
    "DADD": dadd,
    "DMUL": dmul,
    "DFMA": dfma,
    "DSETP": dsetp,
    "F2I": f2i,
    "I2F": i2f,
    "I2FP": i2f,
    "F2F": f2f,
    "HADD2": hadd2,
    "HFMA2": hfma2,
    "HMNMX2": hmnmx2,
    "VHMNMX": hmnmx2,
    "SHFL": shfl,
    "VOTE": vote,
    "REDUX": redux,
    "R2UR": r2ur,
    "S2R": s2r,
    "CS2R": cs2r,
}
# Of the uniform datapath, one value for the warp.
UNIFORM = {
    **{"U" + name: fn for name, fn in OPCODES.items()},
    "S2UR": s2r,
    "VOTEU": vote,
    "R2UR": r2ur,
}


def compile_alu(i: Instruction):
    """run(warp, mask) of an instruction that only moves or computes, or None."""
    fn = UNIFORM.get(i.base) or OPCODES.get(i.base)
    return fn(i) if fn else None
