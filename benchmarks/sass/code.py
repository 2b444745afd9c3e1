# SPDX-License-Identifier: Apache-2.0
"""The machine code of CUDA kernels as nvdisasm prints it: instructions, where in the source they come from,
basic blocks, loops, and the shortest way round a loop."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

# A line of `nvdisasm -gi -c`, of `-lineinfo` code.
_SECTION = re.compile(r"^\s*\.section\s+\.text\.(\S+?),")
_LABEL = re.compile(r"^([.$\w]+):\s*$")
_FRAME = re.compile(r'//## File "([^"]*)", line (\d+)(?: inlined at "([^"]*)", line (\d+))?')
_INSTRUCTION = re.compile(r"^\s*/\*([0-9a-f]{4,})\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;\s*$")
_SPILL = re.compile(r"\(\*.*?\*\)")
_BRANCHES = ("BRA", "BRX", "JMP", "EXIT", "RET", "BREAK")


@dataclass
class Instruction:
    address: int
    predicate: str | None
    opcode: str  # with its modifiers: "LDG.E.128"
    operands: list[str]
    # (file, line), innermost first: where it stands, where that was inlined, and so on
    frames: tuple[tuple[str, int], ...] = ()
    function: str | None = None  # that was not inlined; None: the kernel itself

    @property
    def base(self) -> str:
        return self.opcode.split(".")[0]

    @property
    def is_load16(self) -> bool:
        """Loads 16 bytes a lane from global memory (LD: by a pointer whose space nvcc does not know)."""
        return self.base in ("LDG", "LD") and "128" in self.opcode.split(".")

    @property
    def target(self) -> str | None:
        """The label that a branch names."""
        return next((op[2:-1] for op in reversed(self.operands) if op.startswith("`(")), None)


@dataclass
class Kernel:
    name: str  # mangled
    code: list[Instruction] = field(default_factory=list)
    labels: dict[str, int] = field(default_factory=dict)  # -> index into code

    def index_of(self, target: str) -> int:
        """Of a branch target's instruction."""
        return self.labels[target]


def split_operands(text: str) -> list[str]:
    """ "R2, desc[UR8][R4.64+0x10]" -> its operands, without `.reuse`."""
    parts, depth, start = [], 0, 0
    for i, c in enumerate(text):
        depth += (c in "[(") - (c in "])")
        if c == "," and depth == 0:
            parts.append(text[start:i])
            start = i + 1
    parts.append(text[start:])
    return [p.strip().replace(".reuse", "") for p in parts if p.strip()]


def last_name(mangled: str) -> str:
    """ "_ZN4outer5innerIiEEvv" -> "inner"."""
    rest, name = mangled.removeprefix("_ZN").removeprefix("_Z"), mangled
    while found := re.match(r"L?(\d+)", rest):
        name, rest = rest[found.end() :][: int(found[1])], rest[found.end() + int(found[1]) :]
    return name


def parse(text: str) -> dict[str, Kernel]:
    """The kernels of a cubin by mangled name, from what `nvdisasm -gi -c` prints."""
    kernels: dict[str, Kernel] = {}
    kernel: Kernel | None = None
    frames: list[tuple[str, int]] = []
    function, whole = None, True  # whole: the next line about the source begins a new list
    for line in text.splitlines():
        if section := _SECTION.match(line):
            kernel = kernels.setdefault(section[1], Kernel(section[1]))
            frames, function, whole = [], None, True
        elif kernel is None:
            continue
        elif found := _FRAME.search(line):
            if whole:
                frames = []
            frames.append((found[1], int(found[2])))
            whole = found[3] is None
        elif found := _INSTRUCTION.match(_SPILL.sub("", line)):
            address, predicate, opcode, operands = found.groups()
            operands = split_operands(operands)
            kernel.code.append(
                Instruction(int(address, 16), predicate, opcode, operands, tuple(frames), function)
            )
        elif label := _LABEL.match(line):
            kernel.labels[label[1]] = len(kernel.code)
            if label[1].startswith("$"):
                function = last_name(label[1].rsplit("$", 1)[-1])
    for kernel in kernels.values():
        kernel.labels.setdefault(kernel.name, 0)
    return kernels


def constant_banks(cubin: bytes) -> dict[str, dict[int, bytes]]:
    """Of each kernel, the constants that stand in the file: {mangled name: {bank: bytes}}."""
    (table,) = struct.unpack_from("<Q", cubin, 0x28)  # ELF64: where the section headers lie,
    each, count, names = struct.unpack_from("<3H", cubin, 0x3A)  # their size, number, and which has the names
    headers = [struct.unpack_from("<IIQQQQ", cubin, table + each * n) for n in range(count)]
    text = headers[names][4]
    found: dict[str, dict[int, bytes]] = {}
    for name, kind, _, _, offset, size in headers:
        name = cubin[text + name : cubin.index(b"\0", text + name)].decode()
        if (bank := re.match(r"\.nv\.constant(\d+)\.(.+)", name)) and kind != 8:  # 8: without contents
            found.setdefault(bank[2], {})[int(bank[1])] = cubin[offset : offset + size]
    return found


# Source

_DEFINITION = re.compile(
    r"^[ \t]*(?:static\s+)?(?:FD_DEVICE(?:_CALL)?|FD_FN|__device__|__global__|constexpr)\b"
    r"[^;{}()#]*?\b(\w+)\s*\(",
    re.M,
)


@dataclass(frozen=True)
class SourceFunction:
    name: str
    lines: range  # counted from 1


def source_functions(text: str) -> list[SourceFunction]:
    """The functions that a file of device code defines."""
    text = re.sub(r"__launch_bounds__\([^)]*\)", lambda m: " " * len(m[0]), text)
    found = []
    for start in _DEFINITION.finditer(text):
        depth = 0
        for i in range(start.end() - 1, len(text)):
            c = text[i]
            depth += (c in "({") - (c in ")}")
            if c == ";" and depth == 0:  # a declaration
                break
            if c == "}" and depth == 0:
                first, last = (text.count("\n", 0, at) + 1 for at in (start.start(), i))
                found.append(SourceFunction(start[1], range(first, last + 1)))
                break
    return found


class Source:
    """Functions by place in the source."""

    # Their functions serve others: what they do counts as their callers'.
    HELPERS = ("platform.cuh", "memory.cuh", "row.cuh", "arith.h", "dtype.h")

    def __init__(self, files: Iterable[Path]):
        self.functions = {path.name: source_functions(path.read_text()) for path in files}

    def name(self, file: str, line: int) -> str | None:
        """Of the innermost function around a line."""
        around = [f for f in self.functions.get(file.rsplit("/", 1)[-1], ()) if line in f.lines]
        return min(around, key=lambda f: len(f.lines)).name if around else None

    def stack(self, i: Instruction) -> list[str]:
        """Whose code an instruction is, innermost first, up to the kernel or a function out of line."""
        names = [self.name(*frame) for frame in self.frames(i)]
        return [name for name in (*names, i.function) if name]

    @staticmethod
    def frames(i: Instruction) -> tuple[tuple[str, int], ...]:
        """In functions that are not inlined nvcc 13.0 strings together what does not belong together."""
        return i.frames if i.function is None else i.frames[:1]

    def owner(self, i: Instruction) -> str:
        """The innermost function that is no helper and does not only call others' code (for_blocks ...)."""
        name = None
        for file, line in self.frames(i):
            name = self.name(file, line) or name
            if name and not file.endswith(self.HELPERS) and not name.startswith(("for_", "each_")):
                return name
        return i.function or name or "?"


# Control flow


def is_branch(i: Instruction) -> bool:
    return i.base in ("BRA", "JMP") and i.opcode != "BRA.DIV"


def successors(kernel: Kernel, index: int) -> list[int]:
    """Of an instruction, calls taken as one step. BRA.DIV, which only diverged warps take, is passed by."""
    i = kernel.code[index]
    following = [index + 1] if index + 1 < len(kernel.code) else []
    conditional = i.predicate is not None or len(i.operands) > 1
    if is_branch(i):
        there = [kernel.index_of(i.target)] if i.target in kernel.labels else []
        return there + (following if conditional else [])
    if i.base in ("EXIT", "RET", "BRX"):
        return following if conditional else []
    return following


@dataclass(frozen=True)
class Loop:
    """The instructions from `first` to `last`, the branch back; code that the compiler moved away is left
    out."""

    first: int
    last: int

    def __contains__(self, index: int) -> bool:
        return self.first <= index <= self.last


def loops(kernel: Kernel) -> list[Loop]:
    """By their branches back, the shortest first; of several to one place, the last."""
    ends: dict[int, int] = {}
    for at, i in enumerate(kernel.code):
        if is_branch(i) and i.target in kernel.labels:
            to = kernel.index_of(i.target)
            if to < at and i.opcode == "BRA":
                ends[to] = max(at, ends.get(to, 0))
    return sorted((Loop(first, last) for first, last in ends.items()), key=lambda x: x.last - x.first)


@dataclass(frozen=True)
class Round:
    """The shortest way once round a loop among those with the most 16-byte loads."""

    loads16: int
    instructions: int

    def per_element(self, element_bytes: int) -> float:
        return self.instructions / (self.loads16 * 16 / element_bytes)


def shortest_round(kernel: Kernel, loop: Loop) -> Round | None:
    """A way visits no instruction twice, so inner loops that were not unrolled count once."""
    order, seen = [], set()
    stack = [(loop.first, iter(successors(kernel, loop.first)))]
    seen.add(loop.first)
    while stack:  # depth first, without recursion; `order` is a topological order but for branches back
        at, rest = stack[-1]
        for to in rest:
            if to in loop and to not in seen:
                seen.add(to)
                stack.append((to, iter(successors(kernel, to))))
                break
        else:
            order.append(at)
            stack.pop()
    place = {at: n for n, at in enumerate(reversed(order))}
    best: dict[int, tuple[int, int]] = {loop.first: (0, 0)}  # loads (negative, most first), instructions
    back: list[tuple[int, int]] = []
    for at in reversed(order):
        loads, count = best[at]
        here = (loads - kernel.code[at].is_load16, count + 1)
        for to in successors(kernel, at):
            if to == loop.first:
                back.append(here)
            elif to in place and place[to] > place[at]:
                best[to] = min(best.get(to, (1, 0)), here)
    if not back or min(back)[0] == 0:
        return None
    return Round(-min(back)[0], min(back)[1])


def hot_loops(kernel: Kernel, source: Source) -> dict[str, Round]:
    """The loops around the 16-byte loads: the shortest round of the innermost one, by the loads' owner."""
    found: dict[str, Round] = {}
    ways = {}
    by_length = loops(kernel)
    for at, i in enumerate(kernel.code):
        owner = source.owner(i) if i.is_load16 else None
        if owner is None or owner in found:
            continue
        for loop in by_length:
            if at not in loop:
                continue
            if loop not in ways:
                ways[loop] = shortest_round(kernel, loop)
            if ways[loop] is not None:
                found[owner] = ways[loop]
                break
    return found
