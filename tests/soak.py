# SPDX-License-Identifier: Apache-2.0
"""Ten million calls in one process: operators, Sampler, bad rows and refusals in turn. Memory before and
after, and one call in a thousand made again by R2: every bit of it must be the same.

    python tests/soak.py [CALLS] [RESULT.json]      the last line is the result, as JSON
"""

import json
import platform
import sys
import time
from pathlib import Path

import engines
import fusedraw
import torch
from engines import BF16, F16, INF, NAN, bits_of, make_keys, make_mode, make_params, op

CALLS = 10_000_000
COMPARED = 997  # one call in this many is made again by R2: a prime, so that it meets every kind
REPORTS = 20


def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) * 1024


def kinds():
    """[(name, a call of the keys)]. Every call gives a tensor or several."""
    g = torch.Generator().manual_seed(20)
    x = torch.randn(1, 64, generator=g) * 3
    wide, pair = torch.randn(1, 1000, generator=g) * 3, torch.randn(2, 257, generator=g)
    nan, holes, empty = pair.clone(), x.clone(), torch.full((1, 64), -INF)
    nan[1, 256], holes[0, ::3] = NAN, -INF
    p, one = torch.softmax(pair, -1), torch.tensor([0.8], dtype=torch.float64)
    filters, greedy = make_params(0.8, 0.9, 0.01, 0.1, 20), make_params(0.0)
    bad = make_params(-1.0)
    mask = torch.rand(64, generator=g) < 0.5
    words = torch.tensor([0x55555555, -1], dtype=torch.int32)
    some = bits_of("status", "logp", "n_kept")
    prepared = fusedraw.Sampler(temperature=0.8, top_p=0.9)
    careful = fusedraw.Sampler(top_k=5, check="status", returns=("status",))
    draft = torch.randn(1, 2, 64, generator=g)
    target, ids = torch.randn(1, 3, 64, generator=g), torch.tensor([[3, 9]])

    def refused(call):
        try:
            call()
        except ValueError as error:
            return torch.tensor([len(str(error))])
        raise AssertionError("nothing was refused")

    return [
        ("sample", lambda k: op.sample(x, make_params_once, k, None, 0, 0, 0)),
        ("sample, filters", lambda k: op.sample(wide, filters, k, None, 0, some, 0)),
        ("sample, bfloat16", lambda k: op.sample(x.to(BF16), filters, k, None, make_mode("joint"), some, 3)),
        ("sample, bool mask", lambda k: op.sample(x, filters, k, mask, 0, some, 0)),
        ("sample, words", lambda k: op.sample(x.to(F16), greedy, k, words, 0, some, 0)),
        ("sample, NaN in a row", lambda k: op.sample(nan, filters, k.expand(2, 2), None, 0, some, 0)),
        ("sample, empty row", lambda k: op.sample(empty, filters, k, None, 0, some, 0)),
        ("sample, bad parameter", lambda k: op.sample(x, bad, k, None, 0, some, 0)),
        ("Sampler", lambda k: prepared(x, keys=k)),
        ("Sampler, holes", lambda k: careful(holes, keys=k)),
        ("softmax", lambda k: op.softmax(pair, one, None, 0)),
        ("filter", lambda k: op.filter(pair, filters, None, 0, 1)),
        ("multinomial", lambda k: op.multinomial(p, k.expand(2, 2), 3, False, 0)),
        ("route", lambda k: op.route(x, route_params, k, None, None, 2, 1)),
        ("verify", lambda k: op.verify(ids, draft, target, plain, plain, k, None, None, None, 0, True)),
        ("refused: bad row", lambda k: refused(lambda: fusedraw.sample(nan, keys=k.expand(2, 2)))),
        ("refused: parameter", lambda k: refused(lambda: fusedraw.sample(x, keys=k, top_p=2.0))),
    ]


make_params_once = plain = make_params()
route_params = torch.tensor([[1.0, 0.01, 0.1]], dtype=torch.float64)
# Of 64 calls: what is quick often, what is refused seldom.
TURN = [0] * 30 + [8] * 16 + [1, 2, 3, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 3, 5, 15, 9, 16]


def results(out):
    if isinstance(out, torch.Tensor):
        return [out]
    return [part for part in out if part is not None]


def same(call, keys):
    with engines.engine("reference"):
        expected = results(call(keys))
    return all(map(engines.same_bits, results(call(keys)), expected))


def soak(calls, say=print):
    assert len(TURN) == 64
    torch.set_num_threads(1)
    of, keys = kinds(), make_keys(1, 5)
    turn = [of[i][1] for i in TURN]
    for call in turn:
        same(call, keys)
    compared = mismatches = 0
    start, sizes = time.monotonic(), [resident()]
    for i in range(calls):
        keys[0, 1] = i
        call = turn[i & 63]
        call(keys)
        if i % COMPARED == 0:
            compared += 1
            mismatches += not same(call, keys)
        if (i + 1) % max(calls // REPORTS, 1) == 0:
            sizes.append(resident())
            say(f"{i + 1:,} calls, {time.monotonic() - start:.0f} s, {sizes[-1] / 2**20:.1f} MiB", flush=True)
    return {
        "calls": calls,
        "seconds": round(time.monotonic() - start, 1),
        "kinds": [name for name, _ in of],
        "compared": compared,
        "mismatches": mismatches,
        "resident_bytes": sizes,
        "growth_bytes_per_call": round((sizes[-1] - sizes[1]) / max(calls * (REPORTS - 1) / REPORTS, 1), 4),
        "engine": fusedraw.isa(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def main():
    result = soak(int(float(sys.argv[1])) if len(sys.argv) > 1 else CALLS)
    print(json.dumps(result))
    if len(sys.argv) > 2:
        Path(sys.argv[2]).write_text(json.dumps(result, indent=1) + "\n")
    sys.exit(result["mismatches"] > 0)


if __name__ == "__main__":
    main()
