# SPDX-License-Identifier: Apache-2.0
"""A4: the noise as a stream of bytes, in the orders in which it is used, for dieharder and ent.

    python tests/statistics/dieharder.py ORDER SEED > file        endless
    apt-get install dieharder ent

ORDER: rows (every token of a row, row after row), steps (one token, step after step), seeds (seed after
seed). Each word is r64 of the law, low byte first; test_statistics_rows.py compares them with R1.
"""

import math
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

if __name__ == "__main__":
    sys.path.append(str(Path(__file__).resolve().parent.parent))

import fusedraw
import torch
from fusedraw import reference as r1
from stream_rows import r64

ORDERS = ("rows", "steps", "seeds")
ROW = 4096  # tokens of a row
CHUNK = 1 << 16  # Philox blocks at a time
# Tests of dieharder that take seconds at 10^7 words or so; -g 200 reads the stream.
TESTS = ("0", "2", "8", "15", "100", "200 -n 4", "202", "203", "204", "209")
ENT_BYTES = 1 << 26


def keys_and_tokens(order, seed, number):
    """Keys [n, 2] of chunk `number` and the tokens whose noise each of them gives, in the order of use."""
    at = torch.arange(number * CHUNK, (number + 1) * CHUNK)
    if order == "rows":
        half = ROW // 2  # Philox blocks
        return fusedraw.derive_keys(seed, at[::half] // half), torch.arange(ROW)
    if order == "steps":
        return fusedraw.derive_keys(seed, 5, step=at), torch.arange(2)
    if order == "seeds":
        return torch.stack([at + (seed << 32), torch.zeros_like(at)], 1), torch.arange(2)
    raise ValueError(f"order must be one of {ORDERS}, got {order!r}")


def chunk(order, seed, number):
    """Words of chunk `number` of the stream, as uint64 [2 CHUNK]."""
    keys, tokens = keys_and_tokens(order, seed, number)
    words = r64(keys.view(torch.int64), r1.TOKEN, 0, tokens.expand(len(keys), -1))
    return words.flatten().numpy().view("<u8")


def dump(order, seed, file):
    number = 0
    while True:
        try:
            file.write(chunk(order, seed, number).tobytes())
        except BrokenPipeError:
            return
        number += 1


def assess(order, seed, test):
    """[(name, ntuple, p-value, assessment)] of one test of dieharder."""
    source = subprocess.Popen([sys.executable, __file__, order, str(seed)], stdout=subprocess.PIPE)
    command = ["dieharder", "-g", "200", "-d", *test.split()]
    try:
        done = subprocess.run(command, stdin=source.stdout, capture_output=True, text=True)
    finally:
        source.stdout.close()
        source.kill()
        source.wait()
    pattern = r"^\s*(\S+)\|\s*(\d+)\|\s*\d+\|\s*\d+\|\s*([\d.]+)\|\s*(\w+)"
    found = re.findall(pattern, done.stdout, flags=re.M)
    if not found:
        raise RuntimeError(f"{' '.join(command)}: no result\n{done.stdout}{done.stderr}")
    return [(name, int(n), float(p), said) for name, n, p, said in found]


def of_ent(order, seed):
    """(p-value of the bytes' chi-square, z of their serial correlation)"""
    from scipy import stats

    data = b"".join(chunk(order, seed, number).tobytes() for number in range(ENT_BYTES // (16 * CHUNK)))
    done = subprocess.run(["ent", "-t"], input=data, capture_output=True, check=True)
    values = done.stdout.decode().strip().split("\n")[1].split(",")
    chi_square, correlation = float(values[3]), float(values[6])
    p = min(1.0, 2 * min(stats.chi2.sf(chi_square, 255), stats.chi2.cdf(chi_square, 255)))
    return float(p), correlation * math.sqrt(len(data))


def missing():
    absent = [name for name in ("dieharder", "ent") if shutil.which(name) is None]
    return f"{', '.join(absent)} not found: apt-get install dieharder ent" if absent else None


def run(pieces, seed, stop):
    """Adds what is not there yet to the work file; says so where the programs are missing."""
    if missing():
        print(f"A4: not run, {missing()}")
        return
    have = {piece["case"] for piece in pieces.pieces}
    for order in ORDERS:
        for test in (*TESTS, "ent"):
            name = f"A4 {order}, {test}"
            if name in have or stop.asked:
                continue
            began = time.monotonic()
            found = ent_case(order, seed) if test == "ent" else dieharder_case(order, seed, test)
            seconds = round(time.monotonic() - began, 1)
            pieces.add(
                {"case": name, "piece": 0, "seconds": seconds, "draws": 0, "forbidden": 0, "counts": {}}
                | {"external": {"row": "A4", **found}}
            )
            print(f"A4 {found['case']}: {'; '.join(found['notes'])}", flush=True)


def case_of(name, notes, p, tests, fails):
    return {
        **{"case": name, "size": ROW, "pieces": 1, "draws": 0, "forbidden": 0, "tests": tests, "df": 0},
        **{"p": p, "least": "of all", "sees": "", "power_at_1_percent": None, "notes": notes, "fails": fails},
    }


def dieharder_case(order, seed, test):
    """A test that fails is run once more, on other noise: it fails if that fails too."""
    found = assess(order, seed, test)
    again = assess(order, seed + 1000, test) if any(said == "FAILED" for *_, said in found) else []
    notes = [f"{name} {n}: p = {p:.3g}, {said}" for name, n, p, said in found + again]
    fails = bool(again) and any(said == "FAILED" for *_, said in again)
    p = min(p for _, _, p, _ in again or found)
    return case_of(f"{order}: dieharder {test}, {found[0][0]}", notes, p, len(found), fails)


def ent_case(order, seed):
    p, z = of_ent(order, seed)
    notes = [f"chi-square p = {p:.3g}, serial correlation {z:.2f} standard deviations"]
    return case_of(f"{order}: ent, {ENT_BYTES:,} bytes", notes, p, 2, p < 1e-6 or abs(z) > 4.9)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in ORDERS:
        sys.exit(f"give an order of {ORDERS} and a seed")
    dump(sys.argv[1], int(sys.argv[2]), sys.stdout.buffer)
