# SPDX-License-Identifier: Apache-2.0
"""The CUDA kernels on the executor under AddressSanitizer, in the tests of Python, and under ThreadSanitizer,
for which every CUDA thread is a thread that nothing orders but its barriers, in a program of their own."""

import subprocess
from pathlib import Path

import pytest
from simt_build import COMPILER, CSRC, build, run
from simt_engine import FLAGS, run_tests
from test_cuda_planted import MISTAKES, plant

DRAWS = Path(__file__).resolve().parent / "simt" / "draws.cpp"
SOURCES = (*sorted((CSRC / "cuda").glob("*.cu")), *sorted((CSRC / "reference").glob("*.cpp")), DRAWS)


@pytest.mark.slow  # builds everything again
@pytest.mark.skipif(COMPILER is None, reason="no g++")
def test_a_small_corpus_under_address_sanitizer():
    runtime = subprocess.run([COMPILER, "-print-file-name=libasan.so"], capture_output=True, text=True)
    environment = {
        "FUSEDRAW_SIMT_FLAVOUR": "asan",
        "LD_PRELOAD": runtime.stdout.strip(),
        "ASAN_OPTIONS": "detect_leaks=0 exitcode=67",  # Python's and torch's own
    }
    chosen = "(schedules and 1) or (lane_and_block and 257) or (few_and_many and 3)"
    done = run_tests("test_cuda_executor.py", chosen, **environment)
    assert done.returncode == 0, done.stdout[-4000:]


@pytest.mark.parametrize(
    "flavour, which, schedules",
    [
        ("plain", "all", range(4)),
        ("asan", "all", [2]),
        ("tsan", "sample", [2]),
        pytest.param("tsan", "all", [0, 1, 2, 3], marks=pytest.mark.slow),
    ],
)
def test_draws_without_torch(flavour, which, schedules):
    done = run(build("draws", SOURCES, flavour, FLAGS), which, *schedules)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.mark.slow
def test_thread_sanitizer_finds_a_missing_barrier(tmp_path):
    """What it says of the kernels as they are means something: the executor's own check is off meanwhile."""
    kernels = plant(MISTAKES["a barrier between writing and reading"], tmp_path)
    sources = tuple(kernels / path.name if path.suffix == ".cu" else path for path in SOURCES)
    done = run(build("draws", sources, "tsan", FLAGS), "sample", 2)
    assert done.returncode == 66 and "data race" in done.stderr, done.stderr[-4000:]
