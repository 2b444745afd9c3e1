# SPDX-License-Identifier: Apache-2.0
"""For the tests of R1 against facts that do not come from R1: neighbours of floats, libm, rows by hand."""

import ctypes
import ctypes.util
import math
import struct
from decimal import Decimal

import pytest
from fusedraw import reference as r1

INF, NAN = math.inf, math.nan
ALPHA = 1e-6  # of every chi-square; seeds are fixed, so a test passes always or never
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


LADDER = [0.0, -1.0, -2.0, -2.0]  # weights 8 4 2 2, sum 16


def seeded_row(rng, size, scale=2.0):
    return [r1.fl32(rng.gauss(0, scale)) if rng.random() < 0.9 else -INF for _ in range(size)] + [0.0]


SPARSE = {3: 0.0, 10: -1.0, 200: -2.0, 255: -3.5, 256: 0.25, 270: -1.25, 298: -2.5, 299: -0.5}


def sparse_row():
    return [SPARSE.get(i, -INF) for i in range(300)]
