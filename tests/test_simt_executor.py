# SPDX-License-Identifier: Apache-2.0
"""The SIMT executor itself: kernels with a planted mistake are caught with the right words, kernels without
one run under every schedule, and what they do to memory is counted exactly."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from simt_build import build, run

HERE = Path(__file__).resolve().parent / "simt"
SOURCES = (HERE / "cases.cpp", HERE / "arithmetic.cpp")
SCHEDULES = range(20)
FEW_SCHEDULES = range(4)

# Words of a race, and of the same mistake where the schedule lets a thread read first.
UNWRITTEN = r"which no thread has written so far"
RAW, WAR = r"reads \(RAW\) what thread \d+ wrote", r"writes \(WAR\) what thread \d+ read"
BLOCK, WARP = r"with no __syncthreads between", r"with no __syncthreads or __syncwarp between"
# Case -> what the message says, under every schedule.
PLANTED = {
    "barrier_removed": rf"words\[\d+\](, {UNWRITTEN}|: {RAW} {BLOCK})",
    "barrier_removed_after_reads": rf"race on words\[\d+\]: ({RAW}|{WAR}) {BLOCK}",
    "two_writers": rf"race on word\[0\]: writes \(WAW\) what thread \d+ wrote {BLOCK}",
    "plain_beside_atomic": rf"count\[0\](, {UNWRITTEN}|: (changes by an atomic what thread 0|writes what))",
    "warp_barrier_missing": rf"words\[\d+\](, {UNWRITTEN}|: {RAW} {WARP})",
    "shuffle_for_a_barrier": rf"race on words\[\d+\]: {RAW} {WARP}",
    "half_warp_barrier": rf"words\[\d+\](, {UNWRITTEN}|: {RAW} {WARP})",
    "shared_index_too_far": r"4 bytes of shared memory at 256 bytes into words, .*64 elements.*out of bounds",
    "shared_index_negative": r"writes shared memory at 0x\w+, which is not in its block's",
    "shared_word_unwritten": rf"reads words\[63\], {UNWRITTEN}",
    "shared_too_large": r"too much shared memory: 49160 bytes in arrays",
    "global_index_too_far": r"thread 63: reads 4 bytes .* ends 4 bytes past the end of x row 0",
    "reads_the_gap": r"reads 4 bytes .* ends (4|8|12) bytes past the end of x row 0 \(2560 bytes\)",
    "ends_of_a_call": r"reads 4 bytes .* ends 160 bytes past the end of x row \d \(2400 bytes\)",
    "row_of_an_argument": r"ends 4 bytes past the end of the argument's row \(2560 bytes\)",
    "writes_its_input": r"writes 0x\w+ in x row 0, which may not be written",
    "workspace_unwritten": r"reads 4 bytes at \d+ into out, which nothing has written",
    "misaligned16": r"reads 16 bytes at 0x\w+: misaligned, not a multiple of 16",
    "barrier_in_a_branch": r"divergent barrier: .*__syncthreads \(planted.cuh:\d+\)",
    "barrier_of_another_branch": r"divergent barrier: waits at __syncthreads .* while thread \d+ waits at __",
    "barrier_of_another_kind": r"divergent barrier: waits at __syncthreads_(or|count) .* waits at __sync",
    "mask_names_a_lane_that_left": r"(the mask 0xffffffff names lanes that have finished: 0x80000000"
    r"|finished while the lanes .* with the mask 0xffffffff, which names it)",
    "mask_without_the_caller": r"__ballot_sync .*: the mask 0xfffffffe does not name the lane that calls",
    "masks_differ": r"__ballot_sync .*0xffffffff",
    "shuffle_from_an_inactive_lane": r"lane \d+ reads lane \d+, which is not in the mask 0x0000ffff",
    "deadlock": r"deadlock: .*thread 5 at __syncthreads .*thread 6-\d+ at __syncwarp with mask 0xffffffff",
    "holds_something": r"thread 63: writes 4 bytes of shared memory at 256 bytes into words",
    "grid_barrier": r"threads spin without end: .*thread 1-63 at __syncthreads .*3 blocks have not begun",
}
CLEAN = ["histogram", "collectives", "dynamic", "bytes", "split", "grid_barrier/together"]


def outcomes(case, schedules, flavour="plain"):
    done = run(build("cases", SOURCES, flavour), case, *schedules)
    assert done.returncode == 0, done.stderr[-4000:]
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["schedule"] for line in lines] == list(schedules)
    return lines


def counts(case, *names):
    """What the case's one launch counted, the same under all schedules."""
    seen = set()
    for line in outcomes(case, FEW_SCHEDULES):
        assert line["error"] == "" and len(line["records"]) == 1, line
        seen.add(tuple(line["records"][0][name] for name in names))
    assert len(seen) == 1, seen
    return seen.pop()


@pytest.mark.parametrize("case", PLANTED)
def test_planted_mistake_is_caught(case):
    schedules = [0] if case == "grid_barrier" else SCHEDULES
    for line in outcomes(case, schedules):
        assert line["error"].startswith(f"planted::{case}"), line
        assert re.search(PLANTED[case], line["error"]), line


@pytest.mark.parametrize("case", [case for case in PLANTED if case != "grid_barrier"])
def test_without_the_mistake_nothing_is_said(case):
    assert {line["error"] for line in outcomes(f"{case}/fixed", SCHEDULES)} == {""}


@pytest.mark.parametrize("case", CLEAN)
def test_clean_kernels_under_every_schedule(case):
    assert {line["error"] for line in outcomes(case, SCHEDULES)} == {""}


def test_shuffles_order_memory_if_one_says_so():
    assert outcomes("shuffle_for_a_barrier/granted", [0])[0]["error"] == ""


def test_executor_is_usable_after_errors():
    """Every planted mistake in one process, then a clean kernel; what threads held has been given up."""
    for line in outcomes("errors_one_after_the_other", FEW_SCHEDULES):
        assert line["error"] == ""


def test_bad_launch():
    assert "bad launch: grid (1,1,1), 1025 threads" in outcomes("launch_too_large", [0])[0]["error"]


def test_arithmetic():
    assert {line["error"] for line in outcomes("arithmetic", FEW_SCHEDULES)} == {""}


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_nvcc_reads_the_same_kernels(tmp_path):
    command = ["nvcc", "-std=c++17", "-arch=sm_90", "-x", "cu", "-cubin", "-o", tmp_path / "clean.cubin"]
    subprocess.run([*command, HERE / "clean.cuh"], check=True)


# Counts


def test_record_says_what_was_launched():
    record = outcomes("histogram", [0])[0]["records"][0]
    assert record["kernel"] == "clean::histogram_scan"
    assert (record["threads"], record["blocks"]) == (128, 3)


def test_bytes_are_exact():
    rows, cols, bins = 3, 640, 128
    read, written, loads = counts("histogram", "read", "written", "loads16")
    assert (read, written, loads) == (4 * rows * cols, 4 * rows * (bins + 2), rows * cols // 4)


@pytest.mark.parametrize(
    "case, read, sectors",
    [
        ("unit", 128, 4),
        ("shifted", 128, 5),
        ("strided", 128, 32),
        ("same", 128, 1),
        ("halves", 64, 2),
        ("doubles", 256, 8),
        ("backwards", 128, 4),
        ("vectors", 512, 16),
    ],
)
def test_sectors_of_a_request(case, read, sectors):
    assert counts(f"read/{case}", "read", "requests", "sectors") == (read, 1, sectors)


def test_requests_of_lanes_that_loop_differently():
    """Lane l reads l + 1 times: 32 requests, of 32, 31, ... lanes, 8 of them to a sector."""
    sectors = sum((32 - i + 7) // 8 for i in range(32))
    assert counts("read/triangle", "read", "requests", "sectors") == (4 * 32 * 33 // 2, 32, sectors)


@pytest.mark.parametrize(
    "case, conflicts",
    [
        ("unit", 0),
        ("two", 1),
        ("odd", 0),
        ("all", 31),
        ("broadcast", 0),
        ("pairs", 1),
        ("bytes", 0),
        ("wide", 0),
        ("wide_two", 2),  # one in each half warp
    ],
)
def test_bank_conflicts(case, conflicts):
    fill = 1024 // 32  # requests that have none
    assert counts(f"banks/{case}", "shared_requests", "conflicts") == (fill + 1, conflicts)


def test_atomics():
    """2 blocks of 64 threads, each one shared and one global atomic: the global one is read and written."""
    names = ("read", "written", "sectors", "collisions")
    assert counts("counters", *names) == (4 * 128, 4 * 128, 4, 2 * 2 * 31)


# Under the sanitizers


@pytest.mark.parametrize("flavour", ["asan", "tsan"])
@pytest.mark.parametrize("case", [*CLEAN, "errors_one_after_the_other"])
def test_clean_kernels_under_sanitizers(case, flavour):
    schedules = [2] if case == "errors_one_after_the_other" else FEW_SCHEDULES
    assert {line["error"] for line in outcomes(case, schedules, flavour)} == {""}


def test_address_sanitizer_sees_what_was_not_declared():
    done = run(build("cases", SOURCES, "asan"), "heap_overrun", 0)
    assert done.returncode == 67 and "heap-buffer-overflow" in done.stderr
    assert "global_index_too_far" in done.stderr


@pytest.mark.parametrize("schedule", FEW_SCHEDULES)
@pytest.mark.parametrize(
    "case, where",
    [
        ("split/no_fence_before", "split_sum"),
        ("split/no_fence_behind", "split_sum"),
        ("barrier_removed/unchecked", "barrier_removed"),
    ],
)
def test_thread_sanitizer_sees_what_is_not_ordered(case, where, schedule):
    done = run(build("cases", SOURCES, "tsan"), case, schedule)
    assert done.returncode == 66 and "ThreadSanitizer: data race" in done.stderr
    assert where in done.stderr
