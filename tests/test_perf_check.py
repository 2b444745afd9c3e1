# SPDX-License-Identifier: Apache-2.0
"""The counted performance check (benchmarks/perf_check.py) fails where it should, and only there."""

import json
import shutil
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
if not (ROOT / "benchmarks").is_dir():
    pytest.skip("no benchmarks beside the tests", allow_module_level=True)
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests" / "aarch64")]

import perf_check  # noqa: E402

NEEDS_VALGRIND = pytest.mark.skipif(
    shutil.which("valgrind") is None or shutil.which("g++") is None, reason="needs valgrind and g++"
)
VERSIONS = {"compiler": "g++ 1"}


def compared(counts, old, versions=VERSIONS):
    baseline = {"engine": {"versions": VERSIONS, "counts": old}}
    return perf_check.compare("engine", counts, versions, baseline)


def test_what_grew_by_more_than_two_percent_is_named():
    lines, grew = compared({"a": 1021, "b": 1020, "c": 500}, {"a": 1000, "b": 1000, "c": 1000})
    assert len(lines) == 3
    assert grew == ["engine: a: 1,021 instructions, 2.1 % more than 1,000"]


def test_cases_that_only_one_side_has_fail():
    assert compared({"a": 1}, {"a": 1, "b": 1})[1] == [
        "engine: cases differ from the baseline's, --move it: b"
    ]
    assert compared({"a": 1, "b": 1}, {"a": 1})[1]


def test_counts_of_another_compiler_are_not_compared():
    lines, grew = compared({"a": 2000}, {"a": 1000}, {"compiler": "g++ 2"})
    assert grew == [] and "not compared" in lines[0] and "g++ 2" in lines[0]


def test_the_baseline_has_every_part():
    baseline = json.loads(perf_check.BASELINE.read_text())
    assert set(baseline) == set(perf_check.PARTS)
    assert all(part["counts"] and min(part["counts"].values()) >= 0 for part in baseline.values())


@NEEDS_VALGRIND
def test_a_kernel_five_percent_slower_fails(tmp_path, monkeypatch):
    """One more instruction for each float32 vector that is read."""
    import run as native

    shutil.copytree(ROOT / "csrc", tmp_path / "csrc")
    header = tmp_path / "csrc" / "cpu" / "simd_avx2.h"
    old = "static F load(const float* p) { return _mm256_loadu_ps(p); }"
    text = header.read_text()
    assert text.count(old) == 1
    header.write_text(text.replace(old, old.replace("{ ", '{ asm volatile("nop"); ')))
    before = perf_check.count_engine(Path(native.build(native=True)))
    slower = [
        tmp_path / path.relative_to(ROOT) if path.name == "avx2.cpp" else path for path in native.SOURCES
    ]
    monkeypatch.setattr(native, "SOURCES", tuple(slower))
    after = perf_check.count_engine(Path(native.build(native=True)))

    assert perf_check.count_engine(Path(native.build(native=True))) == after, "counts are repeatable"
    ratios = {name: after[name] / before[name] for name in before}
    by_five = [name for name, ratio in ratios.items() if 1.04 < ratio < 1.06]
    _, grew = compared(after, before)
    assert by_five and all(any(f"engine: {name}: " in line for line in grew) for name in by_five)
    assert compared(before, before)[1] == []
