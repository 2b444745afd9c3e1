# SPDX-License-Identifier: Apache-2.0
"""Operands of instructions: how they are read from, and written to, the registers of a warp."""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np

from .code import Instruction

LANES = 32
FULL = (1 << LANES) - 1
PT, UPT = 7, 15
RZ = 255
U32, I32, U64, I64, F32, F64 = np.uint32, np.int32, np.uint64, np.int64, np.float32, np.float64
INTEGERS = {"U8": np.uint8, "U16": np.uint16, "S16": np.int16, "U32": U32, "S32": I32, "U64": U64, "S64": I64}
LANE = np.arange(LANES)
Values = Callable[["object"], np.ndarray]  # of a warp


class Unknown(Exception):
    """An instruction, or a form of one, that is not understood."""


# Masks: ints, one bit a lane, beside arrays of bool.

_arrays: dict[int, np.ndarray] = {}


def lanes_of(mask: int) -> np.ndarray:
    """bool [32]."""
    found = _arrays.get(mask)
    if found is None:
        words = np.array([mask], dtype="<u4").view(np.uint8)
        found = _arrays[mask] = np.unpackbits(words, bitorder="little").astype(bool)
    return found


def mask_of(lanes: np.ndarray) -> int:
    return int.from_bytes(np.packbits(lanes, bitorder="little").tobytes(), "little")


# Operands

_REGISTER = re.compile(r"(U?)R(Z|\d+)((?:\.\w+)*)$")
_CONSTANT = re.compile(r"c\[(0x[0-9a-f]+)\]\[(0x[0-9a-f]+)\]$")
_FLOATS = {"INF": math.inf, "QNAN": math.nan, "SNAN": math.nan}


def register_of(text: str) -> tuple[str, int] | None:
    """("R" or "U", number) of a plain register; RZ is number 255 of either."""
    found = _REGISTER.match(text)
    if found is None:
        return None
    return ("U" if found[1] else "R"), (RZ if found[2] == "Z" else int(found[2]))


def file_of(warp, kind: str) -> np.ndarray:
    return warp.R if kind == "R" else warp.U


def predicate_number(text: str) -> int | None:
    found = re.fullmatch(r"(U?)P(T|\d)", text)
    if found is None:
        return None
    return (8 if found[1] else 0) + (7 if found[2] == "T" else int(found[2]))


def predicate(text: str) -> Callable[[object], int]:
    """The mask of lanes where P2, !UP0 or !PT holds."""
    number = predicate_number(text.lstrip("!"))
    if number is None:
        raise Unknown(f"predicate {text}")
    if text[0] == "!":
        return lambda w: FULL & ~w.P[number]
    return lambda w: w.P[number]


def number_of(text: str, real: str) -> int:
    """The bits of an immediate: 32 of an integer or float32, of other floats ("d", "h") 64 or 16."""
    if re.fullmatch(r"[+-]?0x[0-9a-f]+", text):
        return int(text, 16) & ((1 << 64) - 1 if real in ("d", "wide") else FULL)
    name = text.lstrip("+-")
    try:
        value = _FLOATS[name] if name in _FLOATS else float(name)
    except ValueError:
        raise Unknown(f"operand {text}") from None
    value = -value if text[0] == "-" else value
    kind = {"d": F64, "h": np.float16}.get(real, F32)
    return int.from_bytes(np.array([value], kind).tobytes(), "little")


def _unsigned(text: str) -> tuple[str, str]:
    """Splits off a sign or complement, and the bars of an absolute value: ("-|", "R5")."""
    sign = text[0] if text[0] in "-~" and not re.match(r"-(\d|0x|INF|QNAN)", text) else ""
    text = text[len(sign) :]
    if text.startswith("|"):
        return sign + "|", text[1:-1]
    return sign, text


def _raw32(text: str, real: str = "") -> Values:
    found = _REGISTER.match(text)
    if found:
        kind, number, suffix = *register_of(text), found[3]
        if suffix in ("", ".64", ".U32", ".F32"):
            return lambda w: file_of(w, kind)[number]
        if part := re.fullmatch(r"\.B([0-3])", suffix):
            shift = 8 * int(part[1])
            return lambda w: file_of(w, kind)[number] >> U32(shift) & U32(0xFF)
        if part := re.fullmatch(r"\.H([01])(_H\1)?", suffix):
            shift = 16 * int(part[1])
            return lambda w: file_of(w, kind)[number] >> U32(shift) & U32(0xFFFF)
        raise Unknown(f"operand {text}")
    if found := _CONSTANT.match(text):
        bank, at = int(found[1], 16), int(found[2], 16)
        return lambda w: np.full(LANES, w.constant(bank, at, 4), U32)
    fixed = np.full(LANES, number_of(text, real), U32)
    return lambda w: fixed


def integer(text: str) -> Values:
    """uint32 [32], negated modulo 2^32."""
    sign, plain = _unsigned(text)
    raw = _raw32(plain)
    if sign == "-":
        return lambda w: U32(0) - raw(w)
    if sign == "~":
        return lambda w: ~raw(w)
    if sign:
        raise Unknown(f"operand {text}")
    return raw


def addend(text: str) -> Values:
    """uint64 [32] for sums with a carry: -x is ~x + 1, whose carry counts."""
    sign, plain = _unsigned(text)
    raw = _raw32(plain)
    if sign == "-":
        return lambda w: (~raw(w)).astype(U64) + U64(1)
    if sign == "~":
        return lambda w: (~raw(w)).astype(U64)
    return lambda w: raw(w).astype(U64)


def float32(text: str) -> Values:
    sign, plain = _unsigned(text)
    raw = _raw32(plain, "f")
    bits = {"": (FULL, 0), "-": (FULL, 1 << 31), "|": (FULL >> 1, 0), "-|": (FULL >> 1, 1 << 31)}
    keep, flip = (U32(v) for v in bits[sign])
    if sign:
        return lambda w: ((raw(w) & keep) ^ flip).view(F32)
    return lambda w: raw(w).view(F32)


def wide(text: str, real: str = "wide") -> Values:
    """uint64 [32]: a pair of registers, 8 bytes of a constant bank, or an immediate."""
    if register := register_of(text):
        kind, number = register
        if number == RZ:
            return lambda w: np.zeros(LANES, U64)
        return lambda w: (
            file_of(w, kind)[number + 1].astype(U64) << U64(32) | file_of(w, kind)[number].astype(U64)
        )
    if found := _CONSTANT.match(text):
        bank, at = int(found[1], 16), int(found[2], 16)
        return lambda w: np.full(LANES, w.constant(bank, at, 8), U64)
    bits = number_of(text, real)
    return lambda w: np.full(LANES, bits, U64)


def float64(text: str) -> Values:
    sign, plain = _unsigned(text)
    raw = wide(plain, "d")
    top = U64(1 << 63)
    if sign == "-":
        return lambda w: (raw(w) ^ top).view(F64)
    if sign == "|":
        return lambda w: (raw(w) & ~top).view(F64)
    if sign == "-|":
        return lambda w: (raw(w) | top).view(F64)
    return lambda w: raw(w).view(F64)


# Results


def to_register(text: str):
    """put(warp, mask, uint32 values)."""
    register = register_of(text)
    if register is None:
        raise Unknown(f"destination {text}")
    kind, number = register
    if number == RZ:
        return lambda w, e, v: None
    if kind == "U":
        return lambda w, e, v: w.U.__setitem__(number, v)

    def put(w, e, v):
        if e == FULL:
            w.R[number] = v
        else:
            np.copyto(w.R[number], v, where=lanes_of(e))

    return put


def to_pair(text: str):
    """put(warp, mask, uint64 values)."""
    register = register_of(text)
    if register is None:
        raise Unknown(f"destination {text}")
    kind, number = register
    if number == RZ:
        return lambda w, e, v: None
    prefix = "U" if kind == "U" else ""
    low, high = to_register(f"{prefix}R{number}"), to_register(f"{prefix}R{number + 1}")

    def put(w, e, v):
        low(w, e, v.astype(U32))
        high(w, e, (v >> U64(32)).astype(U32))

    return put


def to_predicate(text: str):
    """put(warp, mask, int of all lanes)."""
    number = predicate_number(text)
    if number is None:
        raise Unknown(f"destination {text}")
    if number in (PT, UPT):
        return lambda w, e, v: None
    if number > PT:  # uniform: one truth for all
        return lambda w, e, v: w.P.__setitem__(number, FULL if v & e else 0)

    def put(w, e, v):
        w.P[number] = (w.P[number] & ~e) | (v & e)

    return put


COMPARE = {
    "LT": np.less,
    "EQ": np.equal,
    "LE": np.less_equal,
    "GT": np.greater,
    "NE": lambda a, b: (a < b) | (a > b),
    "GE": np.greater_equal,
    "NUM": lambda a, b: ~(np.isnan(a) | np.isnan(b)),
    "NAN": lambda a, b: np.isnan(a) | np.isnan(b),
    "LTU": lambda a, b: ~(a >= b),
    "EQU": lambda a, b: ~((a < b) | (a > b)),
    "LEU": lambda a, b: ~(a > b),
    "GTU": lambda a, b: ~(a <= b),
    "NEU": lambda a, b: ~(a == b),
    "GEU": lambda a, b: ~(a < b),
}
INTEGER_COMPARE = {**COMPARE, "NE": np.not_equal}
JOIN = {"AND": lambda a, b: a & b, "OR": lambda a, b: a | b, "XOR": lambda a, b: a ^ b}


def modifiers(i: Instruction) -> list[str]:
    return i.opcode.split(".")[1:]


def refuse(i: Instruction, known: set[str]) -> list[str]:
    """The modifiers; an error if there is one that is not known."""
    mods = modifiers(i)
    if more := set(mods) - known:
        raise Unknown(f"{i.opcode}: {', '.join(sorted(more))}")
    return mods


def head(i: Instruction) -> tuple[list[str], list[str]]:
    """(destinations, sources): predicates that follow the first destination are written too."""
    ops, n = i.operands, 1
    while n < len(ops) and predicate_number(ops[n]) is not None:
        n += 1
    return ops[:n], ops[n:]


def plain_sources(i):
    """(destination, sources) of what could tell more in predicates, and must not here."""
    (d, *more), sources = head(i)
    if any(p not in ("PT", "UPT") for p in more):
        raise Unknown(i.opcode)
    return d, sources


def wide_addend(text):
    if text[0] == "-":
        plain = wide(text[1:])
        return lambda w: U64(0) - plain(w)
    if text[0] == "~":
        plain = wide(text[1:])
        return lambda w: ~plain(w)
    return wide(text)


def setp(puts, truth, join, pin, w, e):
    """p = truth joined with pin, and of a second predicate the same of its opposite."""
    other = pin(w)
    puts[0](w, e, join(truth, other))
    puts[1](w, e, join(FULL & ~truth, other))
