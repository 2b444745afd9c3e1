# SPDX-License-Identifier: Apache-2.0
"""The pieces of the law, value by value: Philox, weights of all floats in [-64, -0], the exponential variate.

WEIGHTS_SHA256 stands for all 1,115,684,865 weights. It was committed after R2 and every instruction set had
given it; a change of it is a change of the stream version.
"""

import hashlib
import math
import random
import shutil
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from engines import (
    BEST,
    ENGINES,
    FAST,
    HALVING,
    C,
    bits_of,
    engine,
    make_keys,
    make_params,
    same_bits,
    sample,
    softmax,
)
from fusedraw import reference as r1
from operations_r1 import sample_r1
from philox_vectors import VECTORS

FIRST, LAST = 0x80000000, 0xC2800000  # the bits of -0 and -64; the floats between them, in that order
CHUNK = 1 << 23
CHUNKS = [(begin, min(begin + CHUNK, LAST + 1)) for begin in range(FIRST, LAST + 1, CHUNK)]
WEIGHTS_SHA256 = "28428ae91075da4bbbd95510d10b587329fcc8516726c111360d8e6a3f7f90dc"
NEGATIVE_INFINITY = 0xFF800000


def float32(bits):
    return struct.unpack("<f", struct.pack("<I", bits))[0]


def weight_sha256(name):
    """One hash over the hashes of all chunks, two threads at a time."""
    with engine(name), ThreadPoolExecutor(2) as pool:
        hashes = pool.map(lambda chunk: C.weight_hash(*chunk), CHUNKS)
        return hashlib.sha256(b"".join(struct.pack("<Q", h) for h in hashes)).hexdigest()


def hash_of(weights):
    """The hash of weight_hash, from the integers themselves."""
    h = 0xCBF29CE484222325
    for w in weights:
        h = (h ^ w) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    return h


# Philox


@pytest.mark.parametrize("key, counter, expected", VECTORS)
def test_philox_known_answers(key, counter, expected):
    assert C.philox(*key, *counter) == expected


def test_philox_is_the_engine_of_cpp26():
    """The 10000th output of a default std::philox4x32 (seed 20111115) is 1955073260 (P2075R6)."""
    assert C.philox(20111115, 0, 9999 // 4, 0, 0, 0)[9999 % 4] == 1955073260


def test_philox_equals_plain_python():
    rng = random.Random(1)
    edges = [0, 1, 2, 2**16, 2**31 - 1, 2**31, 2**32 - 1]
    for j in range(5000):
        words = [rng.choice(edges) if rng.random() < j % 3 / 2 else rng.getrandbits(32) for _ in range(6)]
        assert C.philox(*words) == r1.philox4x32_10(tuple(words[:2]), tuple(words[2:]))


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize(
    "seed, offset", [(0, 0), (-1, -1), (2**32, 2**32 - 1), (-(2**63), 2**63 - 1), (7, -2)]
)
def test_noise_in_lanes(name, seed, offset):
    """Every engine's noise is Philox at every id: a row of equal logits is won by the least E, in every
    block. Ids up to 2^20, so that the counter runs; domains by turns."""
    keys = torch.tensor([[seed, offset]])
    for domain, size in enumerate((600, 5000, 1 << 16, 3000)):
        x = torch.zeros(1, size)
        noise = r1.Noise((seed, offset), domain)
        sums = {b: min(256, size - 256 * b) << 43 for b in range((size + 255) // 256)}
        block = min(sums, key=lambda b: noise.exponential(r1.BLOCK, b) / sums[b])
        inside = range(256 * block, min(256 * block + 256, size))
        winner = min(inside, key=lambda i: noise.exponential(r1.TOKEN, i))
        with engine(name):
            assert sample(x, keys=keys, mode=domain << 4, outputs=0)["ids"].item() == winner


def test_exponential_equals_plain_python():
    rng = random.Random(2)
    ends = [0, 1, 2, 2**62 - 1, 2**62, 2**62 + 2**9, 2**63, 2**64 - 2**11, 2**64 - 2, 2**64 - 1]
    values = ends + [rng.getrandbits(64) >> rng.randrange(64) * (j % 2) for j in range(20_000)]
    values += [2**64 - 1 - (rng.getrandbits(64) >> rng.randrange(64)) for _ in range(5000)]
    for r64 in values:
        assert C.exponential(r64) == r1.exponential(r64)


# Weights


def test_weights_equal_plain_python():
    """A sample on all scales, and both neighbours of every integer."""
    rng = random.Random(3)
    bits = [rng.randrange(FIRST, LAST + 1) for _ in range(4000)]
    bits += [0x80000000 | rng.getrandbits(31) % 0x42800000 for _ in range(2000)]
    for k in range(65):
        at = struct.unpack("<I", struct.pack("<f", -float(k)))[0]
        bits += [b for b in (at - 1, at, at + 1) if FIRST <= b <= LAST]
    for b in bits:
        t = float32(b)
        assert C.weight(t) == r1.weight(t) and C.exp2p(t) == r1.exp2p(t)
    assert C.weight(-math.inf) == C.weight(-1e30) == 0
    assert all(C.exp2p(t) == r1.exp2p(t) for t in (-126.0, -125.9921875, -100.5, -64.5))


@pytest.mark.parametrize("name", ENGINES)
def test_weight_hash_is_over_the_weights(name):
    """Ties the hash to R1's weights, chunk lengths off the lanes included; below -64 all is 0."""
    places = [(FIRST, 40), (0xBF7FFFF0, 33), (0xC22FFF80, 300), (0xC0500001, 77), (LAST - 3, 4), (0, 1)]
    places += [(0xC2800001, 19), (0xC2FC0000 - 9, 30), (NEGATIVE_INFINITY - 5, 6)]
    for begin, n in places:
        expected = hash_of(r1.weight(float32(b)) for b in range(begin, begin + n))
        with engine(name):
            assert C.weight_hash(begin, begin + n) == expected, hex(begin)


@pytest.mark.parametrize("name", [name for name in FAST if name != "scalar"])
def test_all_weights(name):
    """All floats in [-64, -0]."""
    assert weight_sha256(name) == WEIGHTS_SHA256


@pytest.mark.slow
@pytest.mark.parametrize("name", ["reference", "scalar"])
def test_all_weights_in_plain_code(name):
    """The same for the engines that take half a minute."""
    assert weight_sha256(name) == WEIGHTS_SHA256


@pytest.mark.slow
def test_accuracy_over_all_floats(tmp_path):
    """exp2p never falls as t rises, and is as close to 2^t as docs/law.md says, a long double at hand."""
    program = tmp_path / "accuracy"
    source = Path(__file__).resolve().parent / "native" / "accuracy.cpp"
    if shutil.which("g++") is None or not (source.parent.parent.parent / "csrc").is_dir():
        pytest.skip("needs g++ and the sources")
    flags = ("-std=c++17", "-O3", "-ffp-contract=off", "-fno-math-errno")
    subprocess.run(["g++", *flags, source, "-o", program], check=True)
    done = subprocess.run([program], check=True, capture_output=True, text=True)
    floats, falls, worst = done.stdout.split()
    assert (int(floats), int(falls)) == (LAST - FIRST + 1, 0)
    assert 8.664e-8 < float(worst) < 8.665e-8


@pytest.mark.parametrize("name", ["reference", "scalar"])
def test_a_share_of_all_weights(name):
    """2^16 floats out of every 2^23, another stretch in each."""
    stretch = 1 << 16
    for i, (begin, _) in enumerate(CHUNKS[:-1]):
        start = begin + i * 40503 % (CHUNK // stretch) * stretch
        with engine(BEST):
            expected = C.weight_hash(start, start + stretch)
        with engine(name):
            assert C.weight_hash(start, start + stretch) == expected, hex(start)


# The same floats on the way through an operation, where lanes differ from block to block


@pytest.mark.parametrize("name", FAST)
def test_gaps_of_all_sizes_in_whole_rows(name):
    """softmax of every 200th float in [-64, -0] as the gap t in bits, from -0 down: each is fl32(e / S)."""
    x = torch.arange(LAST, FIRST - 1, -211, dtype=torch.int64).flip(0)
    x = (x - (1 << 32)).to(torch.int32).view(torch.float32)[None]
    x = torch.cat([torch.zeros(1, 1), x], 1)
    temperature = torch.tensor([HALVING], dtype=torch.float64)
    for log in (False, True):
        with engine("reference"):
            expected = softmax(x, temperature, None, log)["out"]
        with engine(name):
            assert same_bits(softmax(x, temperature, None, log)["out"], expected)


@pytest.mark.parametrize("name", ENGINES)
def test_a_weight_decides_a_race(name):
    """w shows in a probability: two tokens, the second at gap t, logp of whichever was drawn."""
    rng = random.Random(5)
    gaps = [-math.ldexp(rng.random(), rng.randrange(-20, 7)) for _ in range(400)] + [-43.99, -44.0, -44.01]
    x = torch.tensor([[0.0, t] for t in gaps])
    arguments = (
        x,
        make_params(HALVING),
        make_keys(len(gaps), 4),
        None,
        0,
        bits_of("logp", "n_kept", "entropy"),
    )
    expected = sample_r1(*arguments)
    with engine(name):
        got = sample(*arguments)
    assert all(same_bits(got[k], expected[k]) for k in expected)
