# SPDX-License-Identifier: Apache-2.0
"""Working memory: under 1 MB a thread for any V up to 262144, kept or not; and none of it leaks."""

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path

import fusedraw
import pytest
from scipy import stats

V = 262144
LIMIT = 1 << 20
SLACK = 1 << 18  # the kernel counts resident pages a few dozen at a time
TESTS = str(Path(__file__).parent)

pytestmark = pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="no /proc/self/clear_refs: not Linux, or no right"
)

# Run in a new process. For every case a fork of it, in which nothing but the case has run: the peak of the
# resident memory during one call, and what stays after it, both above what there was before.
MEASURE = """
import ctypes, gc, json, os, sys
sys.path.insert(0, {tests!r})
import torch
from engines import *
from row_kinds import *

def resident(name):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name)) * 1024

def warm_up():
    # Loads code, and what a first call of any size allocates once. A fork has anonymous memory at once, but
    # pages of files only when it touches them: these must not count as the call's.
    with open("/proc/self/maps") as maps:
        for line in maps:
            if C.__file__ in line and line.split()[1].startswith("r"):
                begin, end = (int(a, 16) for a in line.split()[0].split("-"))
                for at in range(begin, end, 1 << 16):  # in pieces: malloc keeps to itself what it once freed
                    ctypes.string_at(at, min(1 << 16, end - at))
    for i in range(2):
        x, one = torch.randn(1, 64), torch.ones(1, dtype=torch.float64)
        sample(x, make_params(0.8, 0.9, 0.1, 0.5, 5), None, make_mask("rows-0.95", 1, 64, 1), 0, ALL, 2)
        softmax(x, one)
        keep(x, make_params(top_p=0.9), None, 0, i == 0)
        multinomial(x.exp(), make_keys(1), 3, i == 0)
        torch.ones(64, dtype=torch.float32).sum()

def measure(call):
    warm_up()
    with open("/proc/self/clear_refs", "w") as f:
        f.write("5")  # the peak starts anew
    before = resident("VmHWM")
    call()
    return resident("VmHWM") - before, resident("VmRSS") - before

def forked(call):
    reader, writer = os.pipe()
    if os.fork() == 0:
        os.write(writer, json.dumps(measure(call)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as f:
        result = json.loads(f.read())
    os.wait()
    return result

torch.set_num_threads({threads})
V, MIB = {size}, 1 << 20
{body}
print(json.dumps(results))
"""


def in_new_process(body, threads=1, size=V, **environment):
    code = MEASURE.format(tests=TESTS, threads=threads, size=size, body=body)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


CASES = """
configurations = {
    "greedy": dict(temperature=0.0), "T": dict(temperature=0.8), "T inf": dict(temperature=INF),
    "top_k 1": dict(top_k=1), "top_k 50": dict(top_k=50), "top_k 1000": dict(top_k=1000),
    "top_k 10000": dict(top_k=10_000), "top_k 32768": dict(top_k=32_768), "top_k 40000": dict(top_k=40_000),
    "top_k 100000": dict(top_k=100_000), "top_p 0.1": dict(top_p=0.1), "top_p 0.9": dict(top_p=0.9),
    "top_p 0.999": dict(top_p=0.999), "top_k 50, top_p 0.9": dict(top_k=50, top_p=0.9),
    "top_k 40000, top_p 0.9": dict(top_k=40_000, top_p=0.9), "min_p 0.05": dict(min_p=0.05),
    "mixture": dict(top_p=0.9, mix_eps=0.5), "all": dict(top_k=5000, top_p=0.9, min_p=0.01, mix_eps=0.5),
}
numbers = ALL & ~bits_of("kept")
warm_up()
results = {}
mask, words = make_mask("rows-0.5", 1, V, 1), make_mask("words-1", 1, V, 1)
for kind in ("normal", "peaked", "tied", "equal"):
    for dtype in (F32, BF16):
        x, keys = make_rows(kind, 1, V, 3).to(dtype), make_keys(1)
        for name, parameters in configurations.items():
            params = make_params(**parameters)
            for label, outputs, top_n, allowed in (
                ("ids", 0, 0, None), ("all numbers", numbers, 5, None),
                ("bool mask", 2, 0, mask), ("words", 2, 0, words)):
                results[f"{kind} {dtype} {name}: {label}"] = forked(
                    lambda: sample(x, params, keys, allowed, 0, outputs, top_n))
p = torch.softmax(make_rows("normal", 1, V, 3), -1)
for n in (1, 100):
    for replacement in (False, True):
        results[f"multinomial {n} {replacement}"] = forked(lambda: multinomial(p, keys, n, replacement))
"""


def too_much(results, index, limit=LIMIT):
    over = {name: values[index] for name, values in results.items() if values[index] >= limit}
    return {name: f"{size / 2**20:.2f} MiB" for name, size in sorted(over.items(), key=lambda i: -i[1])}


@pytest.mark.parametrize("isa", fusedraw.isa_list()[-2:])
def test_extra_memory_of_a_call(isa):
    results = in_new_process(CASES, FUSEDRAW_ISA=isa)
    assert len(results) > 500
    assert not too_much(results, 0), "peak"
    assert not too_much(results, 1), "kept after the call"


def test_the_measure_sees_memory():
    """Memory that is used for a moment, and memory that stays."""
    body = """
kept = []
results = {
    "moment": forked(lambda: torch.ones(2 * MIB, dtype=torch.float32).sum()),
    "stays": forked(lambda: kept.append(torch.ones(4 * MIB, dtype=torch.float32))),
    "nothing": forked(lambda: None),
}
"""
    results = in_new_process(body)
    slack = 1 << 20  # of 8 MiB and of 16: with others at work, more pages wait to be counted
    assert 8 << 20 <= results["moment"][0] + slack < 10 << 20 and results["moment"][1] < 1 << 20
    assert min(results["stays"]) + slack >= 16 << 20 and max(results["nothing"]) < 1 << 19


def test_whole_row_operations_allocate_their_output():
    """softmax, masks and renormalisation: [B, V] of output and under 1 MB besides."""
    body = """
warm_up()
x, one = make_rows("normal", 1, V, 3), torch.ones(1, dtype=torch.float64)
results = {
    "softmax": forked(lambda: softmax(x, one)),
    "log_softmax": forked(lambda: softmax(x, one, None, True)),
    "mask": forked(lambda: keep(x, make_params(top_p=0.9))),
    "renorm": forked(lambda: keep(x, make_params(top_k=5000), None, 0, True)),
}
"""
    assert not too_much(in_new_process(body), 0, LIMIT + 4 * V)


def test_long_rows_give_back():
    """What a row beyond 262144 needs, a thread does not keep."""
    body = """
results = {}
warm_up()
x, keys = make_rows("normal", 1, V, 3), make_keys(1)
for name, params in (("plain", make_params()), ("top_p", make_params(top_p=0.99)),
                     ("top_k", make_params(top_k=60_000))):
    results[name] = forked(lambda: sample(x, params, keys, None, 0, bits_of("logp", "n_kept"), 3))
"""
    results = in_new_process(body, size=8 * V)
    assert not too_much(results, 1)


def test_threads_share_a_row_within_the_limit():
    """Two threads on one row: under 1 MB for each."""
    body = """
results = {}
x, keys = make_rows("normal", 1, V, 3), make_keys(1)
for i in range(3):
    softmax(torch.randn(2, 70_000), torch.ones(1, dtype=torch.float64))  # starts the threads
for name, params in (("plain", make_params(0.8)), ("top_p", make_params(top_p=0.9)),
                     ("top_k", make_params(top_k=50))):
    results[name] = measure(lambda: sample(x, params, keys, None, 0, bits_of("logp", "entropy"), 3))
"""
    assert not too_much(in_new_process(body, threads=2), 0, 2 * LIMIT)


SLOPE = """
import fusedraw
x, keys = make_rows("normal", 2, 600, 3), make_keys(2)
bad, p, t = x.clone(), torch.softmax(x, -1), torch.ones(1, dtype=torch.float64)
bad[1, 5] = NAN
ids, drafts = torch.tensor([[3], [9]]), x.unsqueeze(1)
targets = drafts.expand(2, 2, 600)

def refused(call, *error):
    try:
        call()
    except error:
        return
    raise AssertionError("nothing was raised")

def turn(i):
    sample(x, make_params(0.8, 0.9, 0.01, 0.5, 50), keys, None, i % 3, ALL, 5)
    sample(bad, None, keys, None, 0, ALL)
    softmax(x, t, None, i % 2)
    keep(x, make_params(top_k=9), None, 0, i % 2)
    multinomial(p, keys, 3, bool(i % 2))
    op.row_keys(x, i, 0)
    fusedraw.sample(x, keys=keys, top_p=0.9, repetition_penalty=1.1, history=ids)
    fusedraw.route(x, 3, noise="gumbel", keys=keys)
    fusedraw.verify(ids, drafts, targets, keys=keys)
    fusedraw.token_logprob(x, ids[:, 0], top_k=5)
    refused(lambda: fusedraw.sample(bad, keys=keys), ValueError)
    refused(lambda: op.sample(bad, make_params(), keys, None, 128, 0, 0), RuntimeError)
    refused(lambda: op.sample(x, make_params()[:, :4], keys, None, 0, 0, 0), RuntimeError)
    refused(lambda: fusedraw.sample(x, keys=keys, top_p=2.0 + i), ValueError)
    {more}

class Mallinfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
        "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

mallinfo = ctypes.CDLL(None).mallinfo2
mallinfo.restype = Mallinfo

def sizes(turns, parts=20):
    "Bytes of malloc in use and resident ones after each part. All is in place after thousands of turns."
    for i in range({warm_up}):
        turn(i)
    used, held = [0.0] * parts, [0.0] * parts
    for part in range(parts):
        for i in range(turns // parts):
            turn(i)
        gc.collect()
        info = mallinfo()
        used[part], held[part] = float(info.uordblks + info.hblkhd), float(resident("VmRSS"))
    return used, held

results = sizes({turns})
"""
CALLS_OF_A_TURN = 14
needs_mallinfo = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="no mallinfo2: not glibc, or older than 2.33"
)


def in_use(turns, warm_up, more=""):
    """Every object of Python is malloc's too, so that none hides in a pool, nor in a thread's cache."""
    body = "leaked = []\n" + SLOPE.replace("{more}", more)
    body = body.replace("{turns}", str(turns)).replace("{warm_up}", str(warm_up))
    return in_new_process(body, PYTHONMALLOC="malloc", GLIBC_TUNABLES="glibc.malloc.tcache_count=0")


def slope(sizes, calls):
    """Bytes a call over the later three quarters, and a range for them (95 %): the median of all pairs'
    slopes (Theil and Sen), which one table that grows once does not move."""
    y = sizes[len(sizes) // 4 :]
    step = calls / len(sizes)
    found = stats.theilslopes(y, [i * step for i in range(len(y))], 0.95)
    return found.slope, found.low_slope, found.high_slope


@needs_mallinfo
@pytest.mark.parametrize("calls", [20_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_nothing_grows(calls):
    """Calls of all kinds, refused ones and bad rows included: less than a byte a call stays in use."""
    turns = calls // CALLS_OF_A_TURN // 20 * 20
    used, held = in_use(turns, 3000)
    bytes_a_call, least, most = slope(used, turns * CALLS_OF_A_TURN)
    grown = held[-1] - held[5]
    said = f"{bytes_a_call:.3f} ({least:.3f} to {most:.3f}) bytes a call, resident {grown:+.0f} bytes"
    print(f"{calls} calls: {said}")
    assert most < 1, (said, used)
    assert grown < max(calls, SLACK), held


@needs_mallinfo
def test_the_slope_sees_a_leak():
    """48 bytes a turn that nobody gives back: about 4 bytes a call."""
    used, _ = in_use(400, 100, "leaked.append(bytes(15))")
    _, least, most = slope(used, 400 * CALLS_OF_A_TURN)
    assert least > 1, (least, most, used)
