# SPDX-License-Identifier: Apache-2.0
"""Mistakes planted in the CUDA kernels fail the tests of the executor, each with the words that name it. And
the kernels as they are pass some of them under AddressSanitizer, and draw under ThreadSanitizer."""

import re
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from simt_build import CSRC
from simt_engine import run_tests

HERE = Path(__file__).resolve().parent / "simt"


@dataclass(frozen=True)
class Mistake:
    file: str
    function: str
    text: str
    instead: str
    tests: tuple  # file and -k of the tests that find it
    says: str  # what they say


BARRIER = "__syncthreads();"
EXECUTOR, ROWS = "test_cuda_executor.py", "test_cuda_rows.py"
MISTAKES = {
    "a barrier between writing and reading": Mistake(
        *("reduce.cuh", "block_max", f"(warp_id(), v);\n  {BARRIER}", "(warp_id(), v);"),
        (EXECUTOR, "few_and_many_rows and 1-70"),
        r"board_slots\[\d+\](, which no thread has written|: reads \(RAW\) what thread \d+ wrote)",
    ),
    "a barrier between reading and writing": Mistake(
        *("groups.cuh", "key_threshold", f"{BARRIER}\n    threshold_bins().store", "threshold_bins().store"),
        (ROWS, "top_k_and_top_n and index"),
        r"race on board_slots\[\d+\]: .* what thread \d+ (wrote|read)",
    ),
    "reads one token past a row": Mistake(
        *("row.cuh", "fetch", "kLanes < end", "kLanes <= end"),
        (EXECUTOR, "few_and_many_rows and 1-70"),
        r"reads 4 bytes .* ends 4 bytes past the end of x row 0 \(280 bytes\)",
    ),
    "writes one entry past a list": Mistake(
        *("list.cuh", "gather_block", "at < kListCapacity", "at <= kListCapacity"),
        (ROWS, "generated_rows and equal"),
        r"writes 8 bytes of shared memory at \d+ bytes into entries, .* out of bounds",
    ),
    "ties to the higher index": Mistake(
        *("reduce.cuh", "before", "id < o.id", "id > o.id"),
        (EXECUTOR, "equal_quotients_of_unequal_blocks or ties_of_distant_blocks"),
        r"AssertionError: executor: ids differs",
    ),
    "top-p one unit of weight too far": Mistake(
        *("select.cuh", "select_key", "from >= wanted", "from > wanted"),
        (EXECUTOR, "sums_are_exact and 1.5"),
        r"AssertionError: executor: (ids|n_kept) differs",
    ),
}


def plant(mistake, folder):
    """csrc with the mistake in it; its folder of kernels."""
    shutil.copytree(CSRC, folder / "csrc", ignore=shutil.ignore_patterns("cpu", "ops", "bindings"))
    path = folder / "csrc" / "cuda" / mistake.file
    text = path.read_text()
    # From the line that names the function to the brace below that line's first word.
    body = re.search(rf"^( *)\S[^\n;]*\b{mistake.function}\([^;]*?\{{\n.*?^\1\}}\n", text, flags=re.S | re.M)
    assert body and mistake.text in body[0], f"{mistake.file}: {mistake.function} reads otherwise by now"
    wrong = body[0].replace(mistake.text, mistake.instead, 1)
    path.write_text(text[: body.start()] + wrong + text[body.end() :])
    return path.parent


@pytest.mark.parametrize("name", MISTAKES)
def test_a_planted_mistake_fails_the_tests(name, tmp_path):
    mistake = MISTAKES[name]
    done = run_tests(*mistake.tests, FUSEDRAW_SIMT_KERNELS=str(plant(mistake, tmp_path)))
    assert done.returncode == 1, done.stdout[-4000:]
    assert re.search(mistake.says, done.stdout), done.stdout[-4000:]
