# SPDX-License-Identifier: Apache-2.0
"""What the golden rows (golden_rows.py) must give: frozen in data/golden_v1.json and .npz, and compared.

The .npz holds ids, statuses and the bits of log-probabilities (of `route`: weights) of each group, so that a
failure names the row; the .json holds SHA-256 of all inputs and of all outputs, every NaN as one NaN.

    python tests/golden.py [--overwrite]     writes both files

It refuses to replace what is frozen without --overwrite, for that is a new stream version, and it writes only
what every engine and, on a part of the rows, plain Python (R1) agree on.
"""

import argparse
import hashlib
import json
import sys
from collections import defaultdict
from pathlib import Path

import engines
import numpy as np
import torch
from engines import ENGINES, engine
from fusedraw import _C
from golden_rows import ROWS, all_calls

DATA = Path(__file__).resolve().parent / "data"
HASHES, VALUES = DATA / "golden_v1.json", DATA / "golden_v1.npz"

# Where an operator's outputs hold ids, status and log-probabilities.
PLACES = {
    "sample": (0, 1, 2),
    "sample_processed": (0, 1, 2),
    "mixture": (0, 1, 2),
    "multinomial": (0, 1, None),
    "token_logprob": (None, 2, 0),
    "route": (1, 3, 0),
    "verify": (0, 2, 3),
    "softmax": (None, 1, None),
    "filter": (None, 1, None),
}
COLUMNS = {"ids": np.int32, "status": np.uint8, "logp": np.uint32}
WORD = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
NAN_WORD = {2: 0x7E00, 4: 0x7FC00000, 8: 0x7FF8000000000000}


def run(call):
    """The outputs on the engine in use, in the operator's order."""
    op = engines.op
    if call.op != "token_logprob":
        return list(getattr(op, call.op)(*call.arguments))
    *arguments, grad_logp, grad_entropy = call.arguments
    x, ids, _, mask, kept_ids, kept_offsets, *_ = arguments
    logp, entropy, status, saved = op.token_logprob(*arguments)
    rest = (x, ids, mask, kept_ids, kept_offsets, saved)
    return [logp, entropy, status, op.token_logprob_backward(grad_logp, grad_entropy, *rest)]


def words_of(t):
    """The bits of a tensor as integers; every NaN the same."""
    t = t.contiguous()
    if t.dtype == torch.bool:
        return t.to(torch.uint8).numpy()
    if not t.dtype.is_floating_point:
        return t.numpy()
    word = WORD[t.element_size()]
    return t.view(word).masked_fill(t.isnan(), NAN_WORD[t.element_size()]).numpy()


def sha256(tensors):
    h = hashlib.sha256()
    for t in tensors:
        if isinstance(t, torch.Tensor):
            h.update(f"{t.dtype} {list(t.shape)};".encode() + words_of(t).tobytes())
        elif isinstance(t, list):
            h.update(sha256(t).encode())
        else:
            h.update(f"{t!r};".encode())
    return h.hexdigest()


def collect(results):
    """{group: {"rows", "results" (SHA-256), "ids", "status", "logp"}} of pairs (call, outputs)."""
    groups = defaultdict(lambda: {"rows": 0, "results": [], "ids": [], "status": [], "logp": []})
    for call, outputs in results:
        group = groups[call.group]
        group["rows"] += call.rows
        group["results"].append(sha256(outputs))
        for name, place in zip(COLUMNS, PLACES[call.op], strict=True):
            if place is not None:
                group[name].append(words_of(outputs[place]).ravel())
    for group in groups.values():
        group["results"] = hashlib.sha256("".join(group["results"]).encode()).hexdigest()
        for name, dtype in COLUMNS.items():
            values = np.concatenate(group[name]) if group[name] else np.empty(0, np.int64)
            group[name] = values.view(np.uint32) if name == "logp" and len(values) else values.astype(dtype)
    return dict(groups)


def input_hashes():
    hashes = defaultdict(str)
    for call in all_calls():
        hashes[call.group] += sha256([call.op, *call.arguments])
    return {group: hashlib.sha256(text.encode()).hexdigest() for group, text in hashes.items()}


def frozen():
    """(the .json, {group: {"ids", "status", "logp"}})."""
    with np.load(VALUES) as arrays:
        values = defaultdict(dict)
        for name in arrays.files:
            group, column = name.rsplit("/", 1)
            values[group][column] = arrays[name]
    return json.loads(HASHES.read_text()), dict(values)


def differences(got):
    """What is not as frozen, a line a group; `got` as collect() gives it, of whole groups."""
    about, values = frozen()
    lines = []
    for group, result in got.items():
        moved = []
        for name in COLUMNS:
            expected = values[group][name]
            if expected.shape != result[name].shape:
                moved.append(f"{name}: {result[name].shape} values, not {expected.shape}")
            elif len(places := np.flatnonzero(expected != result[name])):
                first = places[0]
                moved.append(
                    f"{len(places)} of {len(expected)} {name}, first at {first}: "
                    f"{result[name][first]}, not {expected[first]}"
                )
        if not moved and result["results"] != about["groups"][group]["results"]:
            moved.append("SHA-256 of the other outputs")
        if moved:
            lines.append(f"{group}: {'; '.join(moved)}")
    return lines


def same(a, b):
    return len(a) == len(b) and all(map(engines.same_bits, a, b))


def agreed(r1_rows=300, share=1):
    """What every engine gives; R1 too for rows up to `r1_rows`, and for each `share`-th call up to 1000."""
    out, by_r1 = [], 0
    for i, call in enumerate(all_calls()):
        size = next(t for t in call.arguments if isinstance(t, (torch.Tensor, list)))
        size = size[0].shape[-1] if isinstance(size, list) else size.shape[-1]
        results = {}
        for name in ENGINES:
            with engine(name):
                results[name] = run(call)
        if size <= r1_rows or (size <= 1000 and i % share == 0):
            results["R1"] = list(call.plain().values())
            by_r1 += call.rows
        first = results[ENGINES[0]]
        wrong = [name for name, other in results.items() if not same(first, other)]
        if wrong:
            raise SystemExit(f"{call.group}, call {i}: {', '.join(wrong)} differ from {ENGINES[0]}")
        out.append((call, first))
    return out, by_r1


def write():
    results, by_r1 = agreed(share=4)
    groups = collect(results)
    inputs = input_hashes()
    named = {f"{group}/{name}": g[name] for group, g in groups.items() for name in COLUMNS}
    np.savez_compressed(VALUES, **named)
    every = "".join(g["results"] for g in groups.values())
    about = {
        "stream_version": _C.build_info()["stream_version"],
        "rows": sum(g["rows"] for g in groups.values()),
        "agreed": f"{', '.join(ENGINES)}; plain Python on {by_r1} rows",
        "sha256": hashlib.sha256(every.encode()).hexdigest(),
        "groups": {
            group: {"rows": g["rows"], "inputs": inputs[group], "results": g["results"]}
            for group, g in groups.items()
        },
    }
    assert about["rows"] == ROWS
    HASHES.write_text(json.dumps(about, indent=1) + "\n")
    print(f"{about['rows']} rows, {about['agreed']}: {about['sha256']}")
    print(f"{HASHES.stat().st_size + VALUES.stat().st_size} bytes")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--overwrite", action="store_true", help="replace what is frozen")
    overwrite = parser.parse_args().overwrite
    if HASHES.exists() and not overwrite:
        sys.exit(f"{HASHES.name} is frozen: a change of it is a change of the stream version (--overwrite)")
    write()


if __name__ == "__main__":
    main()
