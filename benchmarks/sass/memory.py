# SPDX-License-Identifier: Apache-2.0
"""Loads, stores and atomics of SASS: global memory is this process's own, shared and local memory are
arrays."""

from __future__ import annotations

import ctypes
import re

import numpy as np

from .code import Instruction
from .operands import (
    FULL,
    I64,
    LANES,
    RZ,
    U32,
    U64,
    Unknown,
    file_of,
    integer,
    lanes_of,
    mask_of,
    modifiers,
    predicate_number,
    register_of,
    to_pair,
    to_predicate,
    to_register,
    wide,
)

LANE = np.arange(LANES)
SIZES = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16}
DTYPES = {"U8": np.uint8, "S8": np.int8, "U16": np.uint16, "S16": np.int16}
WINDOW = U32(0xFFFFFF)  # of an address of shared memory: what lies above names the thread block


class Global:
    """Ranges of bytes at the addresses where they lie in this process; the rest is out of bounds."""

    def __init__(self, tensors):
        self.ranges = []
        for tensor in tensors:
            start, size = tensor.data_ptr(), tensor.numel() * tensor.element_size()
            if start % 16:
                raise ValueError("sass_memory: buffers must begin at multiples of 16")
            data = np.frombuffer((ctypes.c_uint8 * size).from_address(start), np.uint8)
            self.ranges.append((start, start + size, data))
        self.tensors = list(tensors)  # kept alive

    def find(self, addresses: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        """The bytes of the range that all of the addresses lie in, and the places in it."""
        low, high = int(addresses.min()), int(addresses.max()) + size
        for start, end, data in self.ranges:
            if start <= low and high <= end:
                return data, (addresses - U64(start)).astype(I64)
        raise IndexError(f"access of {size} bytes at {low:#x} and up to {high - low} bytes beyond: not ours")


def global_address(text: str):
    """uint64 [32] of `desc[UR8][R2.64+0x10]`."""

    def register(term):
        plain = term.removesuffix(".64")
        return wide(plain) if register_of(plain) else None

    return _sum(text, U64, register)


def near_address(text: str):
    """uint32 [32] of an address in shared or local memory."""
    return _sum(text, U32, lambda term: integer(term) if register_of(term) else None)


def _sum(text, dtype, register):
    inner = text[text.rindex("[") + 1 : -1]
    terms, fixed = [], 0
    for term in re.findall(r"[+-]?[^+-]+", inner):
        plain = term.lstrip("+")
        if re.fullmatch(r"-?0x[0-9a-f]+", plain):
            fixed += int(plain, 16)
            continue
        scaled = re.fullmatch(r"(.*)\.X(\d+)", plain)
        source = register(scaled[1] if scaled else plain)
        if source is None and plain in ("RZ", "URZ"):
            continue
        if source is None:
            raise Unknown(f"address {text}")
        terms.append((source, dtype(int(scaled[2]) if scaled else 1)))
    offset = dtype(fixed % (1 << 8 * np.dtype(dtype).itemsize))

    def address(w):
        out = np.full(LANES, offset, dtype)
        for source, scale in terms:
            out = out + source(w) * scale
        return out

    return address


def access_of(i: Instruction) -> tuple[str | None, int]:
    """(narrow type or None, bytes)."""
    mods = modifiers(i)
    name = next((m for m in mods if m in SIZES), None)
    return (name if name in DTYPES else None), SIZES.get(name, 4)


def read(data: np.ndarray, at: np.ndarray, narrow: str | None, size: int) -> list[np.ndarray]:
    """The registers that a load fills, for these lanes. `data`: bytes, [n] or [lanes, n]."""
    if (at % size).any():
        raise IndexError(f"misaligned access of {size} bytes")
    if narrow:
        values = pick(data.view(DTYPES[narrow]), at // size)
        return [values.astype(np.int32).view(U32) if narrow[0] == "S" else values.astype(U32)]
    words, at = data.view(U32), at >> 2
    return [pick(words, at + k) for k in range(size // 4)]


def pick(data, at):
    return data[at] if data.ndim == 1 else data[LANE[: len(at)], at]


def load(i: Instruction, locate):
    """locate(w, mask) -> (bytes, places of the active lanes)."""
    narrow, size = access_of(i)
    d = next(op for op in i.operands if predicate_number(op) is None)
    kind, number = register_of(d)
    if kind != "R":
        raise Unknown(i.opcode)

    def run(w, e):
        values = read(*locate(w, e), narrow, size)
        if number == RZ:
            return
        for k, v in enumerate(values):
            if e == FULL:
                w.R[number + k] = v
            else:
                w.R[number + k][lanes_of(e)] = v

    return run


def store(i: Instruction, locate):
    narrow, size = access_of(i)
    kind, number = register_of(i.operands[1])

    def run(w, e):
        data, at = locate(w, e)
        if (at % size).any():
            raise IndexError(f"misaligned access of {size} bytes")
        on = lanes_of(e)
        cells = data.view(DTYPES[narrow] if narrow else U32)
        at = at // size if narrow else at >> 2
        for k in range(max(1, size // 4)):
            v = file_of(w, kind)[number if number == RZ else number + k][on]
            v = v.astype(cells.dtype)
            if cells.ndim == 1:
                cells[at + k] = v
            else:
                cells[LANE[on], at + k] = v

    return run


# The three spaces


def in_global(i: Instruction, operand: str):
    size, address = access_of(i)[1], global_address(operand)
    return lambda w, e: w.block.memory.find(address(w)[lanes_of(e)], size)


def in_shared(i: Instruction, operand: str):
    size, address = access_of(i)[1], near_address(operand)

    def locate(w, e):
        at = (address(w)[lanes_of(e)] & WINDOW).astype(I64)
        if int(at.max()) + size > w.block.shared.size:
            raise IndexError(f"shared memory is left: {int(at.max()):#x}")
        return w.block.shared, at

    return locate


def in_local(i: Instruction, operand: str):
    address = near_address(operand)

    def locate(w, e):
        return w.local[lanes_of(e)], address(w)[lanes_of(e)].astype(I64)

    return locate


def store_local(i: Instruction):
    """Apart from `store`: lanes_of(e) copies the rows of the local memory."""
    narrow, size = access_of(i)
    address, (kind, number) = near_address(i.operands[0]), register_of(i.operands[1])

    def run(w, e):
        on, at = lanes_of(e), address(w).astype(I64)
        cells = w.local.view(DTYPES[narrow] if narrow else U32)
        at = at // size if narrow else at >> 2
        for k in range(max(1, size // 4)):
            v = file_of(w, kind)[number if number == RZ else number + k].astype(cells.dtype)
            cells[LANE[on], at[on] + k] = v[on]

    return run


# Atomics, lane after lane

OPERATIONS = {
    "ADD": lambda old, v: old + v,
    "MIN": min,
    "MAX": max,
    "OR": lambda old, v: old | v,
    "AND": lambda old, v: old & v,
    "XOR": lambda old, v: old ^ v,
    "EXCH": lambda old, v: v,
}


def atomic(i: Instruction, where, operands):
    """operands: destination (or None), address, values."""
    mods = modifiers(i)
    is_wide = "64" in mods
    d, place, *sources = operands
    locate = where(i, place)
    dtype = U64 if is_wide else U32
    top = (1 << (64 if is_wide else 32)) - 1
    put = (to_pair if is_wide else to_register)(d) if d and register_of(d) else lambda w, e, v: None
    # Of compare-and-store: whether it was done, in a register or in a predicate.
    done = to_predicate(d) if d and predicate_number(d) is not None else None
    sources = [(wide if is_wide else integer)(s) for s in sources]
    counting = "POPC" in mods  # and INC: one more for each lane
    if counting and d not in (None, "RZ"):
        raise Unknown(i.opcode)
    cas = "CAS" in mods or "CAST" in mods
    name = next((m for m in mods if m in OPERATIONS), None)
    if "S32" in mods or not (cas or counting or name):
        raise Unknown(i.opcode)

    def run(w, e):
        data, at = locate(w, e)
        cells, at = data.view(dtype), at // dtype().itemsize
        on = np.flatnonzero(lanes_of(e))
        values = [s(w)[on].tolist() for s in sources]
        out = np.zeros(LANES, dtype)
        for n, place in enumerate(at.tolist()):
            old = int(cells[place])
            if cas:
                expected, new = values[0][n], values[1][n]
                if old == expected:
                    cells[place] = new
                out[on[n]] = int(old == expected) if "CAST" in mods else old
                continue
            new = old + 1 if counting else OPERATIONS[name](old, values[0][n])
            cells[place] = new & top
            out[on[n]] = old
        put(w, e, out)
        if done is not None:
            done(w, e, mask_of(out != 0))

    return run


def constant(i: Instruction):
    """LDC R2, c[0x0][R5+0x210] and its kin."""
    narrow, size = access_of(i)
    d, source = i.operands[-2:]
    found = re.fullmatch(r"c\[(0x[0-9a-f]+)\](\[.*\])", source)
    if found is None:
        raise Unknown(f"{i.opcode} {source}")
    bank, address = int(found[1], 16), near_address(found[2])
    if size == 16:
        kind, number = register_of(d)
        puts = [to_pair(f"{'U' if kind == 'U' else ''}R{number + k}") for k in (0, 2)]

        def run_four(w, e):
            at = int(address(w)[0])
            for k, put in enumerate(puts):
                put(w, e, np.full(LANES, w.constant(bank, at + 8 * k, 8), U64))

        return run_four
    put = to_pair(d) if size == 8 else to_register(d)

    def run(w, e):
        at = address(w)
        if (at == at[0]).all():
            values = [w.constant(bank, int(at[0]), size)] * LANES
        else:
            values = [w.constant(bank, int(a), size) if e >> n & 1 else 0 for n, a in enumerate(at)]
        v = np.array(values, U64)
        if narrow and narrow[0] == "S":
            v = v.astype(DTYPES[narrow]).astype(np.int32).view(U32)
        put(w, e, v.astype(U64 if size == 8 else U32))

    return run


def compile_memory(i: Instruction):
    """run(warp, mask) of an instruction that touches memory, or None."""
    ops = i.operands
    if i.base in ("LDC", "ULDC", "LDCU"):
        return constant(i)
    if i.base in ("LDG", "LD"):
        return load(i, in_global(i, ops[-1]))
    if i.base in ("STG", "ST"):
        return store(i, in_global(i, ops[0]))
    if i.base == "LDS":
        return load(i, in_shared(i, ops[-1]))
    if i.base == "STS":
        return store(i, in_shared(i, ops[0]))
    if i.base == "LDL":
        return load(i, in_local(i, ops[-1]))
    if i.base == "STL":
        return store_local(i)
    if i.base == "ATOMS":
        return atomic(i, in_shared, ops)
    if i.base in ("ATOMG", "ATOM"):
        return atomic(i, in_global, ops[1:] if predicate_number(ops[0]) is not None else ops)
    if i.base in ("RED", "REDG"):
        return atomic(i, in_global, [None, *ops])
    return None
