# SPDX-License-Identifier: Apache-2.0
"""Counts for docs/scaling.md: what `sample` reads and writes on the CUDA engine, by V, row by row, each draw
checked for the CPU engine's token. Nothing here is a time."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import cuda_launches
import cuda_measure as measure
from cuda_measure import Draw
from fusedraw.bench import cases, data

VOCABS = (4096, 8192, 16384, 32000, 65536, 128256, 262144, 524288, 1_000_000)
ROWS = 4  # of each kind
# (kind of rows, dtype, modes): real-like rows in full, peaked ones as a second opinion.
GRID = (
    ("real", "bfloat16", measure.MODES),
    ("real", "float32", measure.MODES),
    ("peaked", "bfloat16", ("one launch",)),
)


def draws() -> Iterator[Draw]:
    """Those of one (kind, V) come together, since making rows takes time."""
    for vocab in VOCABS:
        for kind, dtype, modes in GRID:
            for config in cases.CONFIGS:
                for mode in modes:
                    yield Draw(kind, vocab, dtype, config, mode)


def count(draw: Draw, rows: int = ROWS) -> dict:
    """A call for each row alone, so that a row that needs more reads is seen as such."""
    x, keys = draw.rows(rows)
    as_rows = measure.ONE_LAUNCH if draw.mode == "one launch" else None
    calls = [
        cuda_launches.sample(x[r : r + 1], keys[r : r + 1], draw.settings, as_rows=as_rows)
        for r in range(rows)
    ]
    measure.check(draw, x, keys, calls, "the executor")
    launches = []
    for same in zip(*(call.launches for call in calls), strict=True):
        launches.append(
            {
                "kernel": same[0]["kernel"],
                "threads": same[0]["threads"],
                "blocks": same[0]["ran"],
                "read": [launch["read"] for launch in same],
                "written": [launch["written"] for launch in same],
                "sectors": [launch["sectors"] for launch in same],
                "loads16": sum(launch["loads16"] for launch in same) / rows,
            }
        )
    head = {**dataclasses.asdict(draw), "rows": data.label(draw.data, draw.vocab)}
    return {**head, "launches": launches}
