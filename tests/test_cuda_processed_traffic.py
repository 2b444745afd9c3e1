# SPDX-License-Identifier: Apache-2.0
"""What sample_processed of the CUDA engine launches, reads and writes, counted by the SIMT executor."""

import functools
import sys

import pytest
import torch
from engines import ALL, BF16, EXECUTOR, F32, bits_of, engine, make_keys, make_params
from processed_cases import Edits, make_rules, process
from row_kinds import make_rows
from simt_build import ROOT
from simt_engine import library, recorded

sys.path.append(str(ROOT))
from fusedraw.bench import data

MANY = 130  # rows that are not split


@pytest.fixture(autouse=True, scope="module")
def executor():
    library()


def launches_of(call):
    with engine(EXECUTOR), recorded(requests=True) as launches:
        call()
    return launches


@pytest.mark.parametrize("rows, parts", [(1, 1), (MANY, 0)])
def test_launches(rows, parts):
    x = make_rows("normal", 1, 33_000, 1, BF16).expand(rows, -1)
    params = make_params().repeat(rows, 1)
    params[1:, 0] = -1.0
    edits, keys = Edits([[1, 2]]), make_keys(rows)

    def names(*arguments):
        outputs = ALL & ~bits_of("kept")
        return [a.name for a in launches_of(lambda: process(x, *arguments, params, keys, outputs=outputs))]

    scan = ["scan_part_kernel"] * parts
    assert names(make_rules(), None) == [*scan, "sample_kernel"]  # neutral rules by value
    assert names(make_rules(typical_p=0.5), None) == [*scan, "processed_kernel"]
    assert names(make_rules().repeat(rows + (rows == 1), 1)[:rows], edits) == [
        "mark_rows_kernel",
        *scan,
        "processed_kernel",
    ]
    kept = launches_of(lambda: process(x, make_rules(typical_p=0.5), None, params, keys))
    assert [a.name for a in kept] == [*scan, "processed_kernel", "kept_offsets_kernel", "kept_ids_kernel"]


# In sectors of 32 bytes, which is what a device moves, without the lists themselves: for few and for many
# edits. A token read or written alone takes a whole sector.
MOST_READ = {200: {F32: 1.25, BF16: 1.40}, 4000: {F32: 2.35, BF16: 3.60}}


def traffic_of_edits(x, configuration, n):
    """(bytes read and written, bytes written) of a draw with n random ids in the history, in rows."""
    rules, params = (
        make_rules(repetition_penalty=1.2, frequency_penalty=0.1),
        make_params(0.8, **configuration),
    )
    totals = []
    for i, row in enumerate(x.split(1)):
        g = torch.Generator().manual_seed(i)
        edits = Edits([torch.randint(0, x.shape[1], (n,), generator=g).tolist()])
        call = functools.partial(process, row, rules, edits, params, make_keys(1, i), outputs=0)
        launches = launches_of(call)
        totals.append((32 * sum(a.sectors for a in launches), sum(a.written for a in launches)))
    moved, written = torch.tensor(totals, dtype=torch.float64).mean(0) / (x.shape[1] * x.element_size())
    return moved - 2 * 8 * n / (x.shape[1] * x.element_size()), written


@pytest.mark.parametrize("n", [200, 4000])
@pytest.mark.parametrize("dtype", [F32, BF16], ids=str)
def test_bytes_of_an_edited_row(record_property, dtype, n):
    """A row with lists is read once, like one without; beyond that what its edits need."""
    for kind in ("real", "peaked"):
        x = data.make(kind, 128256, 8, dtype)
        for configuration in ({}, {"top_k": 50}, {"top_k": 50, "top_p": 0.95}):
            moved, written = traffic_of_edits(x, configuration, n)
            text = f"{kind} {configuration}: moved {moved:.4f}, of these written {written:.4f}"
            record_property("traffic", text)
            print(text)  # pytest -rP shows it
            assert moved <= MOST_READ[n][dtype]
