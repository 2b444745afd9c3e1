# SPDX-License-Identifier: Apache-2.0
"""The reader and the interpreter of machine code behind `make cuda-report`: listings, then instruction by
instruction, then a small kernel."""

import math
import random
import struct
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
if not (ROOT / "benchmarks" / "cuda_report.py").is_file():
    pytest.skip(f"no benchmarks beside the tests: {ROOT}", allow_module_level=True)
sys.path.append(str(ROOT / "benchmarks"))
from sass import code, run  # noqa: E402
from sass.memory import Global  # noqa: E402
from sass.operands import FULL, Unknown, lanes_of  # noqa: E402

# Reading machine code

LISTING = """\
\t.section\t.text._ZN1a1kIfEEvv,"ax",@progbits
_ZN1a1kIfEEvv:
.text._ZN1a1kIfEEvv:
\t//## File "/x/scan.cuh", line 3 inlined at "/x/main.cuh", line 9
\t//## File "/x/main.cuh", line 9
        /*0000*/                   MOV R1, c[0x0][0x28] ;
        /*0010*/                   MOV R2, RZ ;
.L_x_1:
\t//## File "/x/scan.cuh", line 5 inlined at "/x/main.cuh", line 9
\t//## File "/x/main.cuh", line 9
        /*0020*/                   LDG.E.128 R4, desc[UR4][R8.64+0x10] ;
        /*0030*/              @!P0 BRA `(.L_x_2) ;
        /*0040*/                   FADD R5, R4.reuse, -R6 ;
        /*0050*/                   FADD R5, R4, |R6| ;
        /*0060*/                   FADD R5, R4, 1.5 ;
.L_x_2:
        /*0070*/                   LDG.E.128.CONSTANT R4, desc[UR4][R8.64] ;
\t//## File "/x/main.cuh", line 12
        /*0080*/                   VIADD R2, R2, 0x1 ;
        /*0090*/                   ISETP.NE.AND P1, PT, R2, 0x8, PT ;
        /*00a0*/               @P1 BRA `(.L_x_1) ;
        /*00b0*/                   LDL R3, [R1]                 (*"SpillRefill"*);
        /*00c0*/                   CALL.REL.NOINC `($_ZN1a1kIfEEvv$_ZN1b5innerIiEEvv) ;
        /*00d0*/                   EXIT ;
        .type           $_ZN1a1kIfEEvv$_ZN1b5innerIiEEvv,@function
$_ZN1a1kIfEEvv$_ZN1b5innerIiEEvv:
\t//## File "/x/inner.cuh", line 4
\t//## File "/x/main.cuh", line 1 inlined at "/x/inner.cuh", line 2
\t//## File "/x/inner.cuh", line 2
        /*00e0*/                   NOP ;
.L_x_3:
"""
SCAN = """\
// a comment
FD_DEVICE float scan_part(float x) {
  float y = x;
  if (y > 0) {
    y = helper(x, [&](int i) { return i; });
  }
  return y;
}
template <typename T>
__global__ void __launch_bounds__(kThreads, kResident)
    whole_kernel(int n) { other(n); }
FD_DEVICE int declared(int);
"""


@pytest.fixture
def kernel():
    return code.parse(LISTING)["_ZN1a1kIfEEvv"]


def test_listing(kernel):
    assert [i.address for i in kernel.code] == list(range(0, 0xF0, 16))
    load, branch, add = kernel.code[2:5]
    assert load.is_load16 and load.opcode == "LDG.E.128" and load.operands == ["R4", "desc[UR4][R8.64+0x10]"]
    assert load.frames == (("/x/scan.cuh", 5), ("/x/main.cuh", 9))
    assert (branch.predicate, branch.target, kernel.index_of(branch.target)) == ("!P0", ".L_x_2", 7)
    assert add.operands == ["R5", "R4", "-R6"] and kernel.code[8].frames == (("/x/main.cuh", 12),)
    assert kernel.code[11].operands == ["R3", "[R1]"] and kernel.code[11].function is None
    assert kernel.code[14].function == "inner" and len(kernel.code[14].frames) == 2


def test_loops(kernel):
    (loop,) = code.loops(kernel)
    assert (loop.first, loop.last) == (2, 10)
    # by the branch: 9 instructions less the three additions, both loads
    assert code.shortest_round(kernel, loop) == code.Round(loads16=2, instructions=6)
    assert code.Round(2, 6).per_element(2) == 6 / 16


def test_source(kernel, tmp_path):
    (tmp_path / "scan.cuh").write_text(SCAN)
    (tmp_path / "main.cuh").write_text("\n" * 7 + "FD_DEVICE void caller() {\n\n\n\n}\n")
    source = code.Source(tmp_path.iterdir())
    assert [(f.name, f.lines) for f in source.functions["scan.cuh"]] == [
        ("scan_part", range(2, 9)),
        ("whole_kernel", range(10, 12)),
    ]
    assert source.stack(kernel.code[2]) == ["scan_part", "caller"]
    assert source.owner(kernel.code[2]) == "scan_part" and source.owner(kernel.code[14]) == "inner"
    assert code.hot_loops(kernel, source) == {"scan_part": code.Round(2, 6)}


# Executing machine code: single instructions, on registers R0 to R5 of 32 lanes with all kinds of bits

LANES = range(32)
ODD = [0, 1, 2, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0x3F800000, 0xBF800000, 0x7F800000, 0x00000001]


def random_words(seed):
    g = random.Random(seed)
    return [g.choice(ODD) if g.random() < 0.3 else g.getrandbits(32) for _ in LANES]


class Lanes:
    """A warp with nothing around it."""

    def __init__(self, *, seed=0, floats=False):
        block = type("Block", (), {"index": 0, "constants": {0: struct.pack("<4I", 7, 8, 9, 10)}})()
        self.warp = run.Warp(block, 0)
        for n in range(6):
            words = random_words(10 * seed + n)
            if floats:
                g = random.Random(10 * seed + n)
                values = [g.choice((1, -1)) * g.random() * 2.0 ** g.randint(-20, 20) for _ in LANES]
                words = np.array(values, np.float32).view(np.uint32).tolist()
            self.warp.R[n] = words
        g = random.Random(seed)
        for n in range(4):
            self.warp.P[n] = g.getrandbits(32)
        self.before = self.warp.R.copy()

    def do(self, text, mask=FULL):
        listing = f'\t.section\t.text.k,"ax"\n        /*0000*/                   {text} ;\n'
        kernel = code.parse(listing)["k"]
        program = run.Program(kernel, 90, {})
        _, execute, _ = program.compile(0)
        with np.errstate(over="ignore"):
            execute(self.warp, mask)
        return self

    def r(self, n):
        return self.warp.R[n].tolist()

    def old(self, n):
        return self.before[n].tolist()

    def p(self, n):
        return lanes_of(self.warp.P[n]).tolist()


def signed(v):
    return v - (v >> 31 << 32)


def pair(low, high):
    return high << 32 | low


M32, M64 = 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF
# instruction, what R8 must hold: f(a, b, c) of R0, R1, R2
INTEGER = {
    "MOV R8, R0": lambda a, b, c: a,
    "IADD3 R8, R0, R1, R2": lambda a, b, c: a + b + c,
    "IADD3 R8, R0, -R1, RZ": lambda a, b, c: a - b,
    "IADD3 R8, R0, ~R1, 0x5": lambda a, b, c: a + (b ^ M32) + 5,
    "VIADD R8, R0, 0xffffffff": lambda a, b, c: a - 1,
    "IMAD R8, R0, R1, R2": lambda a, b, c: a * b + c,
    "IMAD.IADD R8, R0, 0x1, -R2": lambda a, b, c: a - c,
    "IMAD.MOV.U32 R8, RZ, RZ, R2": lambda a, b, c: c,
    "IMAD.SHL.U32 R8, R0, 0x100, RZ": lambda a, b, c: a << 8,
    "LEA R8, R0, R1, 0x3": lambda a, b, c: (a << 3) + b,
    "LEA.HI R8, R0, R1, R2, 0x5": lambda a, b, c: b + (pair(a, c) << 5 >> 32),
    "LEA.HI.SX32 R8, R0, R1, 0x1e": lambda a, b, c: b + (signed(a) << 30 >> 32),
    "LOP3.LUT R8, R0, R1, R2, 0xc0, !PT": lambda a, b, c: a & b,
    "LOP3.LUT R8, R0, R1, R2, 0x78, !PT": lambda a, b, c: a ^ (b & c),
    "LOP3.LUT R8, R0, R1, R2, 0xca, !PT": lambda a, b, c: (a & b) | (~a & c),
    "SHF.R.U32.HI R8, RZ, 0x7, R0": lambda a, b, c: a >> 7,
    "SHF.R.S32.HI R8, RZ, 0x1f, R0": lambda a, b, c: signed(a) >> 31,
    "SHF.L.U32 R8, R0, R1, RZ": lambda a, b, c: a << min(b, 32),
    "SHF.R.U64 R8, R0, 0x9, R1": lambda a, b, c: pair(a, b) >> 9,
    "SHF.L.U64.HI R8, R0, 0x9, R1": lambda a, b, c: pair(a, b) << 9 >> 32,
    "SHF.L.W.U32.HI R8, R0, 0xd, R0": lambda a, b, c: a << 13 | a >> 19,
    "SHF.R.W.U32 R8, R0, R1, R0": lambda a, b, c: pair(a, a) >> (b & 31),
    "PRMT R8, R0, 0x7610, R1": lambda a, b, c: (a & 0xFFFF) | (b & 0xFFFF0000),
    "PRMT R8, R0, 0x5410, R1": lambda a, b, c: (a & 0xFFFF) | (b & 0xFFFF) << 16,
    "PRMT R8, R0, 0x9910, RZ": lambda a, b, c: signed((a & 0xFFFF) << 16) >> 16,
    "SGXT R8, R0, 0x8": lambda a, b, c: signed((a & 0xFF) << 24) >> 24,
    "POPC R8, R0": lambda a, b, c: a.bit_count(),
    "FLO.U32 R8, R0": lambda a, b, c: a.bit_length() - 1,
    "FLO.U32.SH R8, R0": lambda a, b, c: 32 - a.bit_length() if a else -1,
    "BREV R8, R0": lambda a, b, c: int(f"{a:032b}"[::-1], 2),
    "VIMNMX R8, R0, R1, PT": lambda a, b, c: min(signed(a), signed(b)),
    "VIMNMX.U32 R8, R0, R1, !PT": lambda a, b, c: max(a, b),
    "VIADDMNMX.U32 R8, R0, R1, R2, PT": lambda a, b, c: min((a + b) & M32, c),
}


@pytest.mark.parametrize("text", list(INTEGER))
@pytest.mark.parametrize("seed", range(3))
def test_integer_instruction(text, seed):
    lanes = Lanes(seed=seed).do(text)
    expected = [INTEGER[text](*abc) & M32 for abc in zip(*map(lanes.old, (0, 1, 2)), strict=True)]
    assert lanes.r(8) == expected


@pytest.mark.parametrize("seed", range(3))
def test_wide_sums_and_products(seed):
    lanes = Lanes(seed=seed)
    lanes.do("IADD3 R8, P3, R0, R2, RZ").do("IADD3.X R9, R1, R3, RZ, P3, !PT")
    lanes.do("IADD3 R10, P3, R0, -R2, RZ").do("IADD3.X R11, R1, ~R3, RZ, P3, !PT")
    lanes.do("IMAD.WIDE R12, R0, R1, R2").do("IMAD.WIDE.U32 R14, P4, R0, R1, R2")
    lanes.do("IMAD.HI.U32 R16, R0, R1, R2").do("IMAD.X R17, R0, 0x1, R1, P4")
    lanes.do("LEA R18, P5, R0, R2, 0x4").do("LEA.HI.X R19, R0, R3, R1, 0x4, P5")
    for a, b, c, d, *got in zip(*map(lanes.r, range(4)), *map(lanes.r, range(8, 20)), strict=True):
        x, y, product = pair(a, b), pair(c, d), a * b + pair(c, d)
        assert pair(*got[0:2]) == (x + y) & M64
        assert pair(*got[2:4]) == (x - y) & M64
        assert pair(*got[4:6]) == (signed(a) * signed(b) + y) & M64
        assert pair(*got[6:8]) == product & M64 and got[8] == product >> 32 & M32
        assert got[9] == (a + b + (product >> 64)) & M32
        assert pair(*got[10:12]) == ((x << 4) + y) & M64


@pytest.mark.parametrize("seed", range(3))
def test_predicates(seed):
    lanes = Lanes(seed=seed)
    held = {n: lanes.p(n) for n in range(4)}
    lanes.do("ISETP.LT.U32.AND P4, P5, R0, R2, P0").do("ISETP.GE.OR P6, PT, R0, R2, !P1")
    for i in LANES:
        a, c = lanes.old(0)[i], lanes.old(2)[i]
        assert lanes.p(4)[i] == (a < c and held[0][i]) and lanes.p(5)[i] == (a >= c and held[0][i])
        assert lanes.p(6)[i] == (signed(a) >= signed(c) or not held[1][i])
    # 64 bits: the lower words first
    for name, compare in (("LT", int.__lt__), ("GE", int.__ge__), ("NE", int.__ne__), ("GT", int.__gt__)):
        lanes.do(f"ISETP.{name}.U32.AND P4, PT, R0, R2, PT")
        lanes.do(f"ISETP.{name}.AND.EX P4, PT, R1, R3, PT, P4")
        for i in LANES:
            x, y = (pair(lanes.old(n)[i], signed(lanes.old(n + 1)[i])) for n in (0, 2))
            assert lanes.p(4)[i] == compare(x, y), name
    lanes.do("PLOP3.LUT P4, PT, P0, P1, P2, 0x2a, 0x0").do("SEL R8, R0, 0x5, P0")
    lanes.do("LOP3.LUT P5, RZ, R0, 0x1, RZ, 0xc0, P3").do("R2P PR, R1, 0x7")
    for i in LANES:
        index = 4 * held[0][i] + 2 * held[1][i] + held[2][i]
        assert lanes.p(4)[i] == bool(0x2A >> index & 1)
        assert lanes.r(8)[i] == (lanes.old(0)[i] if held[0][i] else 5)
        assert lanes.p(5)[i] == (lanes.old(0)[i] & 1 == 1 or held[3][i])
        assert [lanes.p(n)[i] for n in range(3)] == [bool(lanes.old(1)[i] >> n & 1) for n in range(3)]


def f32(bits):
    return float(np.array([bits], np.uint32).view(np.float32)[0])


def rounded(exact, towards=0):
    """A fraction as float32: to nearest, or towards -inf (-1) or +inf (1)."""
    near = np.float32(float(exact)) if exact else np.float32(0)
    # float() rounds once to double: go over the neighbours to be exact
    around = [np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf))]
    if towards:
        good = [v for v in around if (Fraction(float(v)) - exact) * towards >= 0]
        return float(max(good) if towards < 0 else min(good))
    even = lambda v: int(np.array([v], np.float32).view(np.uint32)[0]) & 1  # noqa: E731
    return float(min(around, key=lambda v: (abs(Fraction(float(v)) - exact), even(v))))


@pytest.mark.parametrize("seed", range(6))
def test_float_instructions(seed):
    lanes = Lanes(seed=seed, floats=True)
    # sums that cancel and that lose bits
    lanes.warp.R[2] = (-lanes.warp.R[0].view(np.float32) * np.float32(1 + 2.0**-23)).view(np.uint32)
    lanes.before = lanes.warp.R.copy()
    lanes.do("FADD R8, R0, -R2").do("FADD.RM R9, R0, R2").do("FMUL R10, R0, |R1|").do("FFMA R11, R0, R1, R2")
    lanes.do("FFMA.RM R12, R0, R1, R2").do("FMNMX R13, R0, R1, !PT").do("FSETP.GT.AND P4, PT, R0, R1, PT")
    lanes.do("FADD.RM R14, R0, 12582912")
    for i in LANES:
        a, b, c = (Fraction(f32(lanes.old(n)[i])) for n in range(3))
        got = [f32(lanes.r(n)[i]) for n in range(8, 15)]
        assert got[0] == rounded(a - c) and got[1] == rounded(a + c, -1) and got[2] == rounded(a * abs(b))
        assert got[3] == rounded(a * b + c) and got[4] == rounded(a * b + c, -1)
        assert got[5] == max(a, b) and lanes.p(4)[i] == (a > b) and got[6] == rounded(a + 12582912, -1)


def test_float_ends():
    lanes = Lanes()
    lanes.warp.R[0] = np.array([0.0, -0.0, math.nan, math.inf] * 8, np.float32).view(np.uint32)
    lanes.warp.R[1] = np.array([-0.0, 0.0, 3.0, -math.inf] * 8, np.float32).view(np.uint32)
    lanes.do("FMNMX R8, R0, R1, !PT").do("FMNMX R9, R0, R1, PT").do("FSETP.NEU.AND P0, P1, R0, R1, PT")
    lanes.do("FSET.BF.GT.AND R10, R0, -INF , PT")
    assert [hex(v) for v in lanes.r(8)[:4]] == ["0x0", "0x0", "0x40400000", "0x7f800000"]
    assert [hex(v) for v in lanes.r(9)[:4]] == ["0x80000000", "0x80000000", "0x40400000", "0xff800000"]
    assert lanes.p(0)[:4] == [False, False, True, True] and lanes.p(1)[:4] == [True, True, False, False]
    assert [f32(v) for v in lanes.r(10)[:4]] == [1, 1, 0, 1]


def test_maxima_that_keep_a_nan():
    lanes = Lanes()
    lanes.warp.R[0] = np.array([1.0, math.nan, 3.0, -2.0] * 8, np.float32).view(np.uint32)
    lanes.warp.R[1] = np.array([2.0, 3.0, math.nan, -5.0] * 8, np.float32).view(np.uint32)
    lanes.do("FMNMX.NAN R8, R0, R1, !PT").do("HMNMX2.BF16_V2.NAN R9, R0, R1, !PT")
    lanes.do("REDUX.MAX R10, R0").do("REDUX.MIN R11, R0")
    assert [hex(v) for v in lanes.r(8)[:4]] == ["0x40000000", "0x7fffffff", "0x7fffffff", "0xc0000000"]
    # The low halves of these floats are 0.
    assert [hex(v) for v in lanes.r(9)[:4]] == ["0x40000000", "0x7fff0000", "0x7fff0000", "0xc0000000"]
    assert hex(lanes.r(10)[7]) == "0xc0000000" and hex(lanes.r(11)[7]) == "0x3f800000"
    lanes.warp.R[0], lanes.warp.R[1] = 0x3C00_C000, 0x7E00_3800  # float16: 1 and -2, NaN and 0.5
    lanes.warp.R[2] = 0x4000_3C00
    lanes.do("HMNMX2.NAN R12, R0, R1, !PT")
    lanes.do("VHMNMX.NAN R13, R0, R2, R0, !PT")
    assert hex(lanes.r(12)[0]) == "0x7fff3800" and hex(lanes.r(13)[0]) == "0x40003c00"


@pytest.mark.parametrize("seed", range(3))
def test_double_and_conversions(seed):
    lanes = Lanes(seed=seed, floats=True)
    for n in range(3):
        lanes.do(f"F2F.F64.F32 R{20 + 2 * n}, R{n}")
    lanes.do("DADD R8, R20, -R22").do("DMUL R10, R20, R22").do("DFMA R12, R20, R22, R24")
    lanes.do("DSETP.LT.AND P4, PT, R20, R22, PT").do("F2F.F32.F64 R14, R10")
    lanes.do("F2I.U32.TRUNC.NTZ R15, R0").do("F2I.U32.NTZ R16, R0").do("I2F.F64.U64 R18, R0")
    lanes.do("I2FP.F32.U32 R26, R1").do("MUFU.RCP R27, R0")

    def f64(n, i):
        return struct.unpack("<d", struct.pack("<2I", lanes.r(n)[i], lanes.r(n + 1)[i]))[0]

    for i in LANES:
        a, b, c = (f32(lanes.old(n)[i]) for n in range(3))
        assert (f64(8, i), f64(10, i)) == (a - b, a * b) and lanes.p(4)[i] == (a < b)
        assert f64(12, i) == float(Fraction(a) * Fraction(b) + Fraction(c))
        assert f32(lanes.r(14)[i]) == float(np.float32(a * b))
        assert lanes.r(15)[i] == max(0, math.trunc(a)) and lanes.r(16)[i] == max(0, round(a))
        assert f64(18, i) == float(pair(lanes.old(0)[i], lanes.old(1)[i]))
        assert f32(lanes.r(26)[i]) == float(np.float32(lanes.old(1)[i]))
        assert f32(lanes.r(27)[i]) == float(np.float32(1 / a))


def test_between_lanes_and_constants():
    lanes = Lanes(seed=4)
    lanes.warp.active = FULL
    lanes.do("SHFL.BFLY PT, R8, R0, 0x10, 0x1f").do("SHFL.DOWN P4, R9, R0, 0x4, 0x1f")
    lanes.do("SHFL.IDX PT, R10, R0, RZ, 0x1f").do("VOTE.ANY R11, PT, P0").do("S2R R12, SR_TID.X")
    lanes.do("LDC.64 R14, c[0x0][0x4]").do("R2UR UR4, R0").do("UIADD3 UR5, UR4, 0x1, URZ").do("MOV R16, UR5")
    old = lanes.old(0)
    assert lanes.r(8) == [old[i ^ 16] for i in LANES] and lanes.r(10) == [old[0]] * 32
    assert lanes.r(9) == [old[min(i + 4, i) if i + 4 > 31 else i + 4] for i in LANES]
    assert lanes.p(4) == [i + 4 < 32 for i in LANES]
    assert lanes.r(11) == [lanes.warp.P[0]] * 32 and lanes.r(12) == list(LANES)
    assert (lanes.r(14)[0], lanes.r(15)[0]) == (8, 9) and lanes.r(16) == [(old[0] + 1) & M32] * 32


def test_a_mask_keeps_other_lanes():
    lanes = Lanes(seed=1)
    before, mask = lanes.r(3), 0x0F0F0F0F
    lanes.do("IADD3 R3, P0, R0, R1, RZ", mask)
    for i in LANES:
        here = mask >> i & 1
        assert lanes.r(3)[i] == ((lanes.old(0)[i] + lanes.old(1)[i]) & M32 if here else before[i])


UNKNOWN = (
    *("FROB R1, R2", "IADD3.FOO R1, R2, R3, R4", "MUFU.TANH R1, R2"),
    *("FLO.S32 R1, R2", "S2R R1, SR_CLOCK"),
)


@pytest.mark.parametrize("text", UNKNOWN)
def test_what_is_not_known_is_an_error(text):
    with pytest.raises(Unknown):
        Lanes().do(text)


# Executing a kernel: divergence, a loop, shared memory, a barrier, global memory

KERNEL = """\
\t.section\t.text._Z4tinyPKfPji,"ax",@progbits
        /*0000*/                   S2R R0, SR_TID.X ;
        /*0010*/                   ULDC.64 UR4, c[0x0][0x210] ;
        /*0020*/                   MOV R2, UR4 ;
        /*0030*/                   MOV R3, UR5 ;
        /*0040*/                   IMAD.WIDE.U32 R2, R0, 0x4, R2 ;
        /*0050*/                   LDG.E R4, desc[UR8][R2.64] ;
        /*0060*/                   BSSY B0, `(.L_x_2) ;
        /*0070*/                   ISETP.GE.U32.AND P0, PT, R0, 0x28, PT ;
        /*0080*/               @P0 BRA `(.L_x_1) ;
        /*0090*/                   IADD3 R4, R4, 0x64, RZ ;
        /*00a0*/                   BRA `(.L_x_3) ;
.L_x_1:
        /*00b0*/                   IADD3 R4, R4, 0x3e8, RZ ;
.L_x_3:
        /*00c0*/                   BSYNC B0 ;
.L_x_2:
        /*00d0*/                   SHF.L.U32 R5, R0, 0x2, RZ ;
        /*00e0*/                   STS [R5+0x400], R4 ;
        /*00f0*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0100*/                   MOV R6, RZ ;
        /*0110*/                   MOV R7, 0x400 ;
.L_x_4:
        /*0120*/                   LDS R8, [R7] ;
        /*0130*/                   IADD3 R6, R6, R8, RZ ;
        /*0140*/                   VIADD R7, R7, 0x4 ;
        /*0150*/                   ISETP.NE.AND P1, PT, R7, 0x500, PT ;
        /*0160*/               @P1 BRA `(.L_x_4) ;
        /*0170*/                   LDC.64 R10, c[0x0][0x218] ;
        /*0180*/                   IMAD.WIDE.U32 R10, R0, 0x4, R10 ;
        /*0190*/                   STG.E desc[UR8][R10.64], R6 ;
        /*01a0*/                   EXIT ;
"""


def test_a_kernel():
    """64 threads: each adds up what all have stored. Counts are warp instructions."""
    from cuda_launches import aligned

    source, target = aligned(64, torch.int32), aligned(64, torch.int32)
    source.copy_(torch.arange(64))
    program = run.Program(code.parse(KERNEL)["_Z4tinyPKfPji"], 90, {})
    parameters = struct.pack("<QQ", source.data_ptr(), target.data_ptr())
    counts = program.run(parameters, 1, 64, Global([source, target]))
    expected = sum(i + (100 if i < 40 else 1000) for i in range(64))
    assert target.tolist() == [expected] * 64
    # warp 0 goes one way, warp 1 both; the loop runs 64 times in each
    assert counts[8] == 2 and counts[9] == 2 and counts[11] == 1 and counts[12] == 3
    assert counts[18] == 2 * 64 and counts[26] == 2
    too_far = struct.pack("<QQ", source.data_ptr() + 4, target.data_ptr())
    with pytest.raises(IndexError, match="not ours"):
        program.run(too_far, 1, 64, Global([source, target]))
