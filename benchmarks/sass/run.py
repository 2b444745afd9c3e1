# SPDX-License-Identifier: Apache-2.0
"""Executes the machine code of a kernel, slowly, to count what it issues: warp instructions by place.

Thread blocks run one after another, their warps by turns from barrier to barrier, the lanes of a warp
together as far as branches let them, meeting again where the compiler says (BSSY and BSYNC, WARPSYNC). Global
memory is this process's own: the tensors that the caller names.
"""

from __future__ import annotations

import struct

import numpy as np

from .alu import compile_alu
from .code import Instruction, Kernel
from .memory import Global, compile_memory
from .operands import (
    FULL,
    LANES,
    U32,
    Unknown,
    integer,
    lanes_of,
    mask_of,
    modifiers,
    predicate,
    predicate_number,
    register_of,
    to_predicate,
    to_register,
)

BYTES = 16  # of an instruction
LOCAL_BYTES = 8192  # of a thread's stack
SHARED_BYTES = 256 * 1024
STALE = 0xDB  # in shared memory before anything is written
MOST_ISSUES = 20_000_000  # of one branch in a launch: what takes more hangs
# Where the parameters lie in constant bank 0, by architecture; the runtime's own words stand before them.
PARAMETERS_AT = {75: 0x160, 80: 0x160, 86: 0x160, 89: 0x160, 90: 0x210, 100: 0x380, 120: 0x380}
STACK_AT = {75: 0x28, 80: 0x28, 86: 0x28, 89: 0x28, 90: 0x28, 100: 0x37C, 120: 0x37C}
NOTHING = {"NOP", "YIELD", "NANOSLEEP", "DEPBAR", "LDGDEPBAR", "ERRBAR", "MEMBAR", "CCTL", "FENCE"}
MEETING, BARRIER = "meeting", "barrier"


class Warp:
    def __init__(self, block: Block, index: int):
        self.block, self.index = block, index
        self.R = np.zeros((256, LANES), U32)
        self.U = np.zeros((256, LANES), U32)
        self.P = [0] * 16
        self.P[7] = self.P[15] = FULL
        self.local = np.full((LANES, LOCAL_BYTES), STALE, np.uint8)
        self.alive = self.active = FULL
        self.ready: list[tuple[int, int]] = [(0, FULL)]  # (place, lanes) that can run
        self.waiting: dict[str, list[tuple[int, int]]] = {}  # by what they wait for
        self.B: dict[str, int] = {}  # lanes that a convergence barrier waits for

    def constant(self, bank: int, at: int, size: int) -> int:
        data = self.block.constants.get(bank)
        if data is None:
            raise Unknown(f"constant bank {bank}")
        return int.from_bytes(data[at : at + size], "little")

    def special(self, name: str) -> np.ndarray:
        lane = np.arange(LANES, dtype=U32)
        if name == "SR_TID.X":
            return lane + U32(LANES * self.index)
        if name == "SR_LANEID":
            return lane
        if name in ("SR_EQMASK", "SR_LTMASK", "SR_GEMASK"):
            below = (U32(1) << lane) - U32(1)
            return {"SR_EQMASK": U32(1) << lane, "SR_LTMASK": below, "SR_GEMASK": ~below}[name]
        fixed = {"SR_CTAID.X": self.block.index, "SR_CgaCtaId": 0, "SR_TID.Y": 0, "SR_TID.Z": 0, "SRZ": 0}
        if name not in fixed:
            raise Unknown(f"special register {name}")
        return np.full(LANES, fixed[name], U32)

    def run(self) -> None:
        """Until all lanes wait for the thread block's barrier, or are through."""
        while self.ready:
            self.run_group(*self.ready.pop())
            if not self.ready:
                self.meet()
        if self.alive and self.lanes_at(BARRIER) != self.alive:
            raise RuntimeError(f"deadlock of warp {self.index}: {self.waiting}, {self.B}")

    def lanes_at(self, what: str) -> int:
        mask = 0
        for _, lanes in self.waiting.get(what, ()):
            mask |= lanes
        return mask

    def release(self, what: str, lanes: int) -> None:
        """Lets lanes run on, those at one place together."""
        together: dict[int, int] = {}
        rest = []
        for pc, mask in self.waiting.pop(what, ()):
            if mask & lanes:
                together[pc] = together.get(pc, 0) | (mask & lanes)
            if mask & ~lanes:
                rest.append((pc, mask & ~lanes))
        if rest:
            self.waiting[what] = rest
        self.ready += together.items()

    def wait(self, what: str, pc: int, mask: int) -> None:
        self.waiting.setdefault(what, []).append((pc, mask))

    def check_barrier(self, name: str) -> None:
        need = self.B.get(name, 0) & self.alive
        if need and need & ~self.lanes_at(name) == 0:
            self.release(name, need)

    def meet(self) -> None:
        """Where the whole warp must come together."""
        if self.lanes_at(MEETING) == self.alive and self.alive:
            self.release(MEETING, self.alive)

    def run_group(self, pc: int, mask: int) -> None:
        """Goes on with some lanes until they wait or end; at a branch that splits them, others wait."""
        program, counts = self.block.program, self.block.counts
        code = program.code
        self.active = mask
        while True:
            step = code[pc] or program.compile(pc)
            counts[pc] += 1
            condition, run, control = step
            e = mask if condition is None else mask & condition(self)
            if control is None:
                if e:
                    run(self, e)
                pc += 1
                continue
            if counts[pc] > MOST_ISSUES:
                raise RuntimeError(f"the instruction at {pc * BYTES:#x} was issued {counts[pc]} times")
            here = control(self, pc, mask, e)
            if here is None:
                return
            pc, mask = here
            self.active = mask


class Block:
    def __init__(
        self, program: Program, index: int, warps: int, constants: dict[int, bytes], memory: Global, counts
    ):
        self.program, self.index, self.constants, self.memory = program, index, constants, memory
        self.counts = counts
        self.shared = np.full(SHARED_BYTES, STALE, np.uint8)
        self.votes: list[tuple[str, int]] = []  # of the barrier that gathers
        self.result = 0  # of the last one
        self.warps = [Warp(self, n) for n in range(warps)]

    def run(self) -> None:
        while any(w.alive for w in self.warps):
            for w in self.warps:
                w.run()
            if any(w.alive and w.lanes_at(BARRIER) != w.alive for w in self.warps):
                raise RuntimeError("deadlock at a barrier")
            kinds = {kind for kind, _ in self.votes}
            counts = [bin(lanes).count("1") for _, lanes in self.votes]
            if kinds == {"OR"}:
                self.result = int(any(counts))
            elif kinds == {"POPC"}:
                self.result = sum(counts)
            elif kinds == {"AND"}:
                self.result = int(sum(counts) == sum(bin(w.alive).count("1") for w in self.warps))
            elif kinds:
                raise Unknown(f"barriers {kinds}")
            self.votes = []
            for w in self.warps:
                w.release(BARRIER, w.alive)


# Control: control(warp, place, lanes, lanes whose predicate holds) -> where to go on with which, or None


def branch(i: Instruction, to: int):
    conditions = [predicate(op) for op in i.operands if predicate_number(op.lstrip("!")) is not None]

    def control(w, pc, mask, e):
        for c in conditions:
            e &= c(w)
        if e == mask:
            return to, mask
        if e:
            w.ready.append((pc + 1, mask & ~e))
            return to, e
        return pc + 1, mask

    return control


def meeting(i: Instruction):
    """BRA.DIV is passed once all lanes are there, as WARPSYNC: then its way round is not needed."""
    if "COLLECTIVE" in modifiers(i):
        raise Unknown(i.opcode)

    def control(w, pc, mask, e):
        if mask == w.alive:
            return pc + 1, mask
        w.wait(MEETING, pc + 1, mask)
        return None

    return control


def leave(w, lanes: int) -> None:
    for name in list(w.B):
        w.B[name] &= ~lanes
        w.check_barrier(name)


def exit_(i: Instruction):
    def control(w, pc, mask, e):
        w.alive &= ~e
        leave(w, e)
        return (pc + 1, mask & ~e) if mask & ~e else None

    return control


def bssy(i: Instruction):
    name = i.operands[0]

    def control(w, pc, mask, e):
        w.B[name] = mask
        return pc + 1, mask

    return control


def bsync(i: Instruction):
    name = i.operands[0]

    def control(w, pc, mask, e):
        if e == mask == w.B.get(name, 0) & w.alive and not w.waiting.get(name):
            return pc + 1, mask
        if e:
            w.wait(name, pc + 1, e)
            w.check_barrier(name)
        return (pc + 1, mask & ~e) if mask & ~e else None

    return control


def break_(i: Instruction):
    name = i.operands[-1]

    def control(w, pc, mask, e):
        w.B[name] = w.B.get(name, 0) & ~e
        w.check_barrier(name)
        return pc + 1, mask

    return control


def bmov(i: Instruction):
    d, s = i.operands
    if register_of(d):
        put = to_register(d)

        def save(w, pc, mask, e):
            put(w, e, np.full(LANES, w.B.get(s, 0), U32))
            if "CLEAR" in modifiers(i):
                w.B[s] = w.B.get(s, 0) & ~e
            return pc + 1, mask

        return save
    source = integer(s)

    def restore(w, pc, mask, e):
        w.B[d] = int(source(w)[(mask & -mask).bit_length() - 1])
        return pc + 1, mask

    return restore


def bar(i: Instruction):
    mods = modifiers(i)
    if mods[0] not in ("SYNC", "RED") or i.operands[0] != "0x0":
        raise Unknown(i.opcode)
    vote = predicate(i.operands[1]) if mods[0] == "RED" else None

    def control(w, pc, mask, e):
        if e != mask:
            raise Unknown("a barrier with a predicate")
        if vote is not None:
            w.block.votes.append((mods[1], vote(w) & mask))
        w.wait(BARRIER, pc + 1, mask)
        return None

    return control


def return_(i: Instruction):
    low = integer(i.operands[0].split()[0])

    def control(w, pc, mask, e):
        where = low(w)
        if mask & ~e:
            w.ready.append((pc + 1, mask & ~e))
        for to in {int(v) for v in where[lanes_of(e)]}:
            w.ready.append((to // BYTES, e & mask_of(where == to)))
        return None

    return control


def b2r(i: Instruction):
    d, *more = i.operands
    put, truth = to_register(d), [to_predicate(p) for p in more]

    def run(w, e):
        put(w, e, np.full(LANES, w.block.result, U32))
        for p in truth:
            p(w, e, FULL if w.block.result else 0)

    return run


CONTROL = {
    "EXIT": exit_,
    "BSSY": bssy,
    "BSYNC": bsync,
    "BREAK": break_,
    "BMOV": bmov,
    "BAR": bar,
    "RET": return_,
    "WARPSYNC": meeting,
}


class Program:
    """A kernel, compiled to closures as far as it is executed."""

    def __init__(self, kernel: Kernel, arch: int, banks: dict[int, bytes]):
        if arch not in PARAMETERS_AT:
            raise Unknown(f"sm_{arch}")
        self.kernel, self.arch, self.banks = kernel, arch, banks
        if any(i.address != n * BYTES for n, i in enumerate(kernel.code)):
            raise Unknown("instructions that are not 16 bytes each")
        self.code: list = [None] * len(kernel.code)

    def compile(self, pc: int):
        i = self.kernel.code[pc]
        try:
            condition = predicate(i.predicate) if i.predicate else None
            control = run = None
            if i.opcode == "BRA.DIV":
                control = meeting(i)
            elif i.base in ("BRA", "CALL", "JMP") and i.target:
                control = branch(i, self.kernel.index_of(i.target))
            elif i.base in CONTROL:
                control = CONTROL[i.base](i)
            elif i.base in NOTHING:
                run = lambda w, e: None  # noqa: E731
            elif i.base == "B2R":
                run = b2r(i)
            else:
                run = compile_memory(i) or compile_alu(i)
                if run is None:
                    raise Unknown(i.opcode)
        except (Unknown, KeyError, ValueError, TypeError) as error:
            text = f"{i.opcode} {', '.join(i.operands)}"
            raise Unknown(f"at {i.address:#x}: {text}: {error!r}") from error
        self.code[pc] = (condition, run, control)
        return self.code[pc]

    def constants(self, parameters: bytes, blocks: int, threads: int) -> dict[int, bytes]:
        bank = bytearray(PARAMETERS_AT[self.arch] + len(parameters) + 64)
        struct.pack_into("<6I", bank, 0, threads, 1, 1, blocks, 1, 1)
        struct.pack_into("<I", bank, STACK_AT[self.arch], LOCAL_BYTES)
        bank[PARAMETERS_AT[self.arch] : PARAMETERS_AT[self.arch] + len(parameters)] = parameters
        return {**self.banks, 0: bytes(bank)}

    def run(self, parameters: bytes, blocks: int, threads: int, memory: Global, some: int = 0) -> list[int]:
        """How often each instruction was issued, over the thread blocks [0, some or blocks)."""
        if threads % LANES:
            raise Unknown("warps that are not full")
        counts = [0] * len(self.code)
        banks = self.constants(parameters, blocks, threads)
        with np.errstate(over="ignore"):
            for index in range(some or blocks):
                Block(self, index, threads // LANES, banks, memory, counts).run()
        return counts
