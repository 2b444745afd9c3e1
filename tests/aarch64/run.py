# SPDX-License-Identifier: Apache-2.0
"""The core, the engines and R2 as an aarch64 program under qemu-user: weights and golden rows, bit by bit.

    python tests/aarch64/run.py [--all-weights] [--engine NAME] [--native]

Needs aarch64-linux-gnu-g++ and qemu-aarch64 (Debian: g++-aarch64-linux-gnu, qemu-user); installs nothing.
--all-weights hashes all floats in [-64, -0] instead of 2^13 of each 2^23 (minutes an engine); --native builds
for this machine and runs without qemu, which checks the program itself.
"""

import argparse
import hashlib
import shutil
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import engines
import golden
import golden_file
import simt_build
import torch
from golden_rows import all_calls
from test_weights import CHUNK, CHUNKS, WEIGHTS_SHA256

HERE = Path(__file__).resolve().parent
CSRC = simt_build.CSRC
SOURCES = (
    *sorted((CSRC / "reference").glob("*.cpp")),
    *sorted((CSRC / "cpu").glob("*.cpp")),
    HERE / "golden.cpp",
)
# setup.py's, as far as they are about the code.
FLAGS = ["-std=c++17", "-O3", "-g0", "-ffp-contract=off", "-fno-math-errno", "-Wall", "-Wextra", "-Wno-psabi"]
GCC_X86 = ("-Wno-uninitialized", "-Wno-maybe-uninitialized")  # in GCC's AVX-512 intrinsics
COMPILER, EMULATOR = "aarch64-linux-gnu-g++", "qemu-aarch64"
STRETCH = 1 << 13


def missing(native):
    """One line about what has to be there, or None."""
    if not CSRC.is_dir():
        return f"no sources beside the tests: {CSRC}"
    tools = ("g++",) if native else (COMPILER, EMULATOR)
    absent = [tool for tool in tools if shutil.which(tool) is None]
    if absent:
        return f"{', '.join(absent)} not found: apt-get install g++-aarch64-linux-gnu qemu-user"
    return None


def build(native):
    compiler = shutil.which("g++" if native else COMPILER)
    command = [compiler, *FLAGS, *(GCC_X86 if native else ())]
    simt_build.KEPT.mkdir(parents=True, exist_ok=True)
    objects = [simt_build.make_object(source, command) for source in SOURCES]
    name = f"golden-{'native' if native else 'aarch64'}-{simt_build.digest([], list(map(str, objects)))}"
    return simt_build.make(simt_build.KEPT / name, [compiler, "-static", *objects])


class Program:
    def __init__(self, path, native):
        self.command = [str(path)] if native else [EMULATOR, str(path)]

    def run(self, *arguments, text=""):
        done = subprocess.run(
            [*self.command, *map(str, arguments)], input=text, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise SystemExit(f"{self.command} {arguments}: {done.returncode}\n{done.stderr}")
        return done.stdout.split()

    def engines(self):
        return self.run("engines")

    def weight_hashes(self, engine, ranges):
        return list(map(int, self.run(engine, "weights", text="\n".join(f"{b} {e}" for b, e in ranges))))

    def results(self, engine, calls, folder):
        """[(call, outputs)] of the golden calls."""
        asked, given = Path(folder) / "calls", Path(folder) / "results"
        golden_file.write(asked, calls)
        self.run(engine, asked, given)
        outputs = golden_file.read(given, len(calls))
        for call, tensors in zip(calls, outputs, strict=True):
            for place in flags_of(call):
                tensors[place] = tensors[place].to(torch.bool)
        return list(zip(calls, outputs, strict=True))


def flags_of(call):
    """Places of boolean outputs, which the file knows as bytes."""
    if call.op == "route":
        return (4,)
    asked = {"sample": -2, "sample_processed": -2, "mixture": -1}.get(call.op)
    if asked is None:
        return ()
    bits = call.arguments[asked]
    explored = engines.OUTPUTS.index("explored")
    return (1 + (bits & (1 << explored) - 1).bit_count(),) if bits >> explored & 1 else ()


def stretches():
    """2^13 of each 2^23 floats, elsewhere in each."""
    starts = (begin + i * 40503 % (CHUNK // STRETCH) * STRETCH for i, (begin, _) in enumerate(CHUNKS[:-1]))
    return [(start, start + STRETCH) for start in starts]


def check_weights(program, engine, everything):
    if everything:
        hashes = program.weight_hashes(engine, CHUNKS)
        got = hashlib.sha256(b"".join(struct.pack("<Q", h) for h in hashes)).hexdigest()
        assert got == WEIGHTS_SHA256, f"{engine}: {got}, not {WEIGHTS_SHA256}"
        return sum(end - begin for begin, end in CHUNKS)
    expected = [engines.C.weight_hash(*stretch) for stretch in stretches()]
    got = program.weight_hashes(engine, stretches())
    wrong = [hex(s[0]) for s, a, b in zip(stretches(), got, expected, strict=True) if a != b]
    assert not wrong, f"{engine}: weights differ from {wrong}"
    return len(expected) * STRETCH


def check_rows(program, engine, folder, calls=None):
    """How many rows gave what is frozen."""
    results = program.results(engine, calls or all_calls(), folder)
    moved = golden.differences(golden.collect(results))
    assert not moved, f"{engine}:\n" + "\n".join(moved)
    return sum(call.rows for call, _ in results)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--all-weights", action="store_true", help="of 1,115,684,865 floats")
    parser.add_argument("--engine", help="this one alone: neon, scalar, reference")
    parser.add_argument("--native", action="store_true", help="for this machine, without qemu")
    options = parser.parse_args()
    if (line := missing(options.native)) is not None:
        sys.exit(line)
    program = Program(build(options.native), options.native)
    with tempfile.TemporaryDirectory() as folder:
        for engine in [options.engine] if options.engine else program.engines():
            start = time.time()
            weights = check_weights(program, engine, options.all_weights)
            middle = time.time()
            rows = check_rows(program, engine, folder)
            print(
                f"{engine}: {weights:,} weights ({middle - start:.0f} s) and {rows:,} golden rows "
                f"({time.time() - middle:.0f} s) equal",
                flush=True,
            )


if __name__ == "__main__":
    main()
