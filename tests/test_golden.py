# SPDX-License-Identifier: Apache-2.0
"""10,000 golden rows: the outputs of stream version 1 do not move, on any engine (data/golden_v1.*)."""

import hashlib
import itertools
import subprocess
import sys

import engines
import fusedraw
import golden
import numpy as np
import pytest
import torch
from engines import BF16, ENGINES, EXECUTOR, F16, F32, engine
from golden_rows import GROUPS, KINDS, ROWS, Words, all_calls, group_name

BY_R1 = 3  # calls of each group that fits R1
BY_EXECUTOR = 2  # calls of each group of short rows


def results_of(calls, name):
    with engine(name):
        return [(call, golden.run(call)) for call in calls]


def some_calls(most, size):
    """Up to `most` calls of each group of rows up to `size` long."""
    fitting = {group_name(g[0], g[1]) for g in GROUPS if g[1] <= size}
    for group, calls in itertools.groupby(all_calls(), key=lambda call: call.group):
        if group in fitting:
            yield from itertools.islice(calls, most)


def test_words_are_splitmix64():
    """The published outputs of SplitMix64 for seed 1234567."""
    words = Words("")
    words.state = 1234567
    assert words.take(5).tolist() == [
        *(6457827717110365317, 3203168211198807973, 9817491932198370423),
        *(4593380528125082431, 16408922859458223821),
    ]
    assert words.take(0).tolist() == []


def test_inputs_are_the_frozen_ones():
    about, _ = golden.frozen()
    assert {group: g["inputs"] for group, g in about["groups"].items()} == golden.input_hashes()
    assert about["rows"] == sum(call.rows for call in all_calls()) == ROWS
    every = "".join(group["results"] for group in about["groups"].values())
    assert about["sha256"] == hashlib.sha256(every.encode()).hexdigest()
    page = golden.DATA.parent.parent / "docs" / "golden.md"
    assert not page.exists() or about["sha256"] in page.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ENGINES)
def test_no_bit_moves(name):
    about, _ = golden.frozen()
    got = golden.collect(results_of(all_calls(), name))
    assert got.keys() == about["groups"].keys()
    moved = golden.differences(got)
    assert not moved, f"{name}: stream version 1 has moved:\n" + "\n".join(moved)
    assert about["stream_version"] == fusedraw._C.build_info()["stream_version"] == 1


def test_plain_python_gives_the_same():
    for call in some_calls(BY_R1, 257):
        expected = list(call.plain().values())
        with engine("reference"):
            assert golden.same(golden.run(call), expected), call.group


def test_the_executor_gives_the_same():
    """The CUDA kernels on a part of the rows."""
    for call in some_calls(BY_EXECUTOR, 257):
        with engine("scalar"):
            expected = golden.run(call)
        with engine(EXECUTOR):
            assert golden.same(golden.run(call), expected), call.group


@pytest.mark.slow
def test_no_bit_moves_on_the_executor():
    """All rows of the CUDA kernels; on a device: gpu/golden_on_device.py."""
    assert golden.differences(golden.collect(results_of(all_calls(), EXECUTOR))) == []


def test_the_rows_reach_everything():
    """Every status, order, way of ties, support, domain, dtype, kind of mask; greedy rows, ties, explored."""
    _, values = golden.frozen()
    seen = set(np.concatenate([group["status"] for group in values.values()]).tolist())
    assert seen == {int(s) for s in fusedraw.Status}
    calls = [call for call in all_calls() if call.op == "sample"]
    modes = [call.arguments[4] for call in calls]
    orders = {(m & 3, m >> 2 & 1, m >> 3 & 1) for m in modes}
    assert len(orders) == 12 and {m >> 4 & 3 for m in modes} == {0, 1, 2, 3}
    assert {(t.dtype, len(t.shape)) for call in calls if (t := call.arguments[3]) is not None} == {
        *((torch.bool, 1), (torch.bool, 2), (torch.int32, 2)),
    }
    assert {call.arguments[0].dtype for call in calls} == {F32, BF16, F16}
    params = torch.cat([call.arguments[1] for call in calls])
    temperature = params[:, 0]
    assert (temperature == 0).sum() > 300 and temperature.isinf().sum() > 300
    assert (params[:, 1:4] != torch.tensor([1.0, 0.0, 0.0])).any(1).sum() > 3000 and params.isnan().any()
    rows = torch.cat([call.arguments[0].float().flatten() for call in calls])
    assert rows.isnan().any() and (rows == -torch.inf).any() and (rows == torch.inf).any()
    assert ((rows != 0) & (rows.abs() < 2.0**-126)).any() and len(KINDS) > 9
    assert {call.op for call in all_calls()} == golden.PLACES.keys()


def test_a_moved_bit_is_seen_and_named():
    group = "sample V=257"
    results = results_of([call for call in all_calls() if call.group == group], engines.BEST)
    assert golden.differences(golden.collect(results)) == []

    def with_changed(place, row):
        call, outputs = results[3]
        changed = [t.clone() for t in outputs]
        word = changed[place].view(torch.int32 if changed[place].dtype == F32 else changed[place].dtype)
        word[row] ^= 1
        return golden.differences(golden.collect([*results[:3], (call, changed), *results[4:]]))

    at = 3 * results[0][0].rows + 5
    for name, place in (("ids", 0), ("status", 1), ("logp", 2)):
        (line,) = with_changed(place, 5)
        assert line.startswith(f"{group}: 1 of 1200 {name}, first at {at}: ")
    more = next(i for i, (call, _) in enumerate(results) if call.arguments[5] == engines.ALL)
    call, outputs = results[more]
    outputs = [*outputs[:7], outputs[7] + 1, *outputs[8:]]
    changed = [*results[:more], (call, outputs), *results[more + 1 :]]
    assert golden.differences(golden.collect(changed)) == [f"{group}: SHA-256 of the other outputs"]


def test_what_is_frozen_is_not_replaced_by_accident():
    before = golden.HASHES.read_bytes(), golden.VALUES.read_bytes()
    done = subprocess.run([sys.executable, golden.__file__], capture_output=True, text=True)
    assert done.returncode == 1 and "change of the stream version" in done.stderr
    assert (golden.HASHES.read_bytes(), golden.VALUES.read_bytes()) == before
    assert sum(map(len, before)) < 200_000
