# SPDX-License-Identifier: Apache-2.0
"""The bare loops of benchmarks/limits.py take the sums that they are said to take."""

import json
import math
import shutil
import sys
from pathlib import Path

import fusedraw
import pytest
import torch
from fusedraw import reference as r1

ROOT = Path(__file__).resolve().parent.parent
if not (ROOT / "benchmarks" / "limits.py").is_file() or not (ROOT / "csrc").is_dir():
    pytest.skip("no benchmarks beside the tests", allow_module_level=True)
if shutil.which("g++") is None:
    pytest.skip("g++ not found: limits.cpp is compiled on use", allow_module_level=True)
sys.path.insert(0, str(ROOT / "benchmarks"))

import limits  # noqa: E402

ISAS = [isa for isa in ("avx2", "avx512") if isa in fusedraw.isa_list()]
if not ISAS:
    pytest.skip("limits.cpp is written for AVX2 and AVX-512", allow_module_level=True)
ZONE = (-1.5, 0.25)


@pytest.fixture(scope="module")
def row():
    """Nine blocks: more than are summed at a time, -inf and weightless tokens among them."""
    x = torch.randn(9 * limits.BLOCK, generator=torch.Generator().manual_seed(4))
    x[::37] = -math.inf
    x[5::61] = -40.0
    x[700] = 6.5
    return x


def exact(row):
    """(t, relative weight) of every token, by R1."""
    m, c = float(row.max()), r1.fl32(r1.LOG2E / r1.fl32(limits.TEMPERATURE))
    for x in row.tolist():
        t = max(r1.fl32(r1.fl32(x - m) * c), -45.0) if x > -math.inf else -45.0
        yield t, r1.exp2p(t)


def fixed(y):
    """RNE(2^43 y)."""
    return round(y * 2.0**43)


@pytest.mark.parametrize("isa", ISAS)
def test_sums(row, isa):
    got = {}
    for name in limits.PASSES:
        loop = limits.Loop(name, row, isa, ZONE)
        assert loop(2) > 0
        got[name] = loop.result
    tokens = list(exact(row))
    s = sum(fixed(e) for _, e in tokens)
    g = sum(fixed(r1.fl32(-t * e)) for t, e in tokens if e > 2.0**-44)
    assert (got["scan"].max, got["scan"].nan) == (float(row.max()), 0)
    assert got["weights"].s == s
    assert (got["moments"].s, got["moments"].g) == (s, g)
    assert got["rough"].above == pytest.approx(s / 2.0**43, rel=1e-4)
    sides = [(x, e) for x, (_, e) in zip(row.tolist(), tokens, strict=True)]
    assert got["sides"].above == pytest.approx(sum(e for x, e in sides if x >= ZONE[1]), rel=1e-6)
    assert got["sides"].below == pytest.approx(sum(e for x, e in sides if x < ZONE[1]), rel=1e-6)
    assert got["look"].inside == sum(ZONE[0] <= x <= ZONE[1] for x, _ in sides)


@pytest.mark.parametrize("isa", ISAS)
def test_nan_is_seen(row, isa):
    row = row.clone()
    row[1234] = math.nan
    loop = limits.Loop("scan", row, isa, ZONE)
    loop()
    assert loop.result.nan == 1


def test_a_short_run_is_stored_by_instruction_set(tmp_path, monkeypatch, capsys):
    target = tmp_path / "limits.json"
    monkeypatch.setattr(limits.timing, "keep_memory", lambda: None)
    monkeypatch.setattr(sys, "argv", ["limits.py", "--rounds", "2", "--output", str(target)])
    limits.main()
    stored = json.loads(target.read_text())["limits"][limits.floors.isa()]
    expected = limits.limits_of(limits.floors.isa())
    assert set(stored["us"]) == {limit.name for limit in expected}
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")]
    assert len(rows) == 1 + len(expected) and len({row.count("|") for row in rows}) == 1


def test_odd_rows_are_refused(row):
    with pytest.raises(ValueError, match=r"whole blocks of 256, got torch.float32 \[255\]"):
        limits.Loop("scan", row[:255], ISAS[0], ZONE)
