# SPDX-License-Identifier: Apache-2.0
"""Core, engines and R2 without torch, in programs of their own (native/): under AddressSanitizer and
UndefinedBehaviorSanitizer, under ThreadSanitizer, between guard pages, and fuzzed. Whatever is compared is
compared with R2, to the bit."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import scripts
from simt_build import run

FOLDER = Path(__file__).resolve().parent / "native"


def load(name):
    return scripts.load(FOLDER / f"{name}.py")


native = load("build")

FUZZ_S = 60
MISSING = native.missing()
pytestmark = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))


@pytest.fixture(scope="module")
def fuzzing(tmp_path_factory):
    """The fuzz target for FUZZ_S seconds, beside the tests of this module: (process, where bytes that failed
    are left). By g++ and a plain generator of mutants: libFuzzer is `make fuzz`."""
    failed = tmp_path_factory.mktemp("fuzz") / "failed"
    command = [native.build("drive", "asan"), str(FUZZ_S), str(os.getpid()), native.CORPUS, failed]
    process = subprocess.Popen(
        [str(word) for word in command], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    yield process, failed
    process.kill()
    process.wait()


def counted(done):
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)


def test_corpus_is_small():
    files = list(native.CORPUS.iterdir())
    assert 10 <= len(files) <= 100 and sum(path.stat().st_size for path in files) < 200_000


def test_guard_pages_and_sanitizers(fuzzing):
    """V = 1 to 257 x operator x type x side of the page x two cases, working memory of exact sizes."""
    counts = counted(run(native.build("guard", "asan"), 1, 257, 2))
    assert counts["cases"] == 257 * 9 * 3 * 2 * 2 and counts["engines"] >= 2


@pytest.mark.slow
def test_guard_pages_as_released():
    """The same code with the flags of a release: other loads, and more cases."""
    counts = counted(run(native.build("guard", "plain"), 1, 257, 20))
    assert counts["cases"] == 257 * 9 * 3 * 2 * 20


@pytest.mark.parametrize("how", ["read", "write"])
@pytest.mark.parametrize("side", ["end", "start"])
def test_a_touch_of_a_guard_page_ends_the_program(fuzzing, how, side):
    done = run(native.build("guard", "asan"), "planted", how, side)
    assert done.returncode == 67 and "SEGV" in done.stderr and "planted" in done.stderr
    assert "not caught" not in done.stdout


def test_callers_on_threads(fuzzing):
    """Four of them on the same inputs, every operator, type and engine, rows and blocks on more threads."""
    counts = counted(run(native.build("threads", "tsan"), 4, 4))
    assert counts["calls"] == 4 * 4 * 9 * 3 * counts["engines"]


def test_thread_sanitizer_sees_a_race(fuzzing):
    done = run(native.build("threads", "tsan"), "planted")
    assert done.returncode == 66 and "ThreadSanitizer: data race" in done.stderr


def test_fuzz_target(fuzzing):
    """The stored corpus, then mutants of it for a minute: no report, no mismatch."""
    process, failed = fuzzing
    said, complaints = process.communicate(timeout=FUZZ_S + 600)
    left = failed.read_bytes().hex() if failed.exists() else ""
    assert process.returncode == 0, f"{complaints[-4000:]}\nbytes: {left}"
    counts = json.loads(said)
    assert counts["corpus"] == len(list(native.CORPUS.iterdir())) and counts["runs"] > 100
    print(f"{counts} by the plain driver; libFuzzer: {native.clang() or 'no clang++ with it here'}")


# Mistakes in a copy of an engine: (engine, file, what stands there, what is put there)
TAIL = "memcpy(tail, data + r.cols - rest, size_t(rest) * sizeof(T));"
MASK = "for (; i + 32 <= cols; i += 32) out[i / 32] = V::nonzero(from + i);"
BYTES = "bytes = (((bytes & kLow) + kLow) | bytes) >> 7 & 0x01"
ROW = "passes/row.inl"
MISTAKES = {
    "reads beyond a row": ("avx2", ROW, TAIL, TAIL.replace("size_t(rest)", "size_t(rest + 1)")),
    "reads before a row": ("avx512", ROW, TAIL, TAIL.replace("+ r.cols", "- (r.cols < 9) + r.cols")),
    "reads beyond a mask": ("avx2", ROW, MASK, MASK.replace("i + 32 <= cols", "i + 24 <= cols")),
    "bools are 0 or 1": ("scalar", "simd_scalar.h", BYTES, "bytes &= 0x01"),
}


@pytest.mark.slow  # builds an engine again
@pytest.mark.parametrize("mistake", MISTAKES)
def test_planted_mistake_is_caught(mistake, tmp_path):
    engine, name, was, becomes = MISTAKES[mistake]
    csrc = tmp_path / "csrc"
    shutil.copytree(native.CSRC, csrc)
    path = csrc / "cpu" / name
    text = path.read_text()
    assert text.count(was) == 1
    path.write_text(text.replace(was, becomes))
    done = run(native.build("guard", "asan", csrc / "cpu" / f"{engine}.cpp"), 1, 80, 2)
    caught = ("SEGV", "AddressSanitizer", f"MISMATCH.*{engine}")
    assert done.returncode != 0 and any(re.search(word, done.stderr) for word in caught), done.stderr[-2000:]


def test_a_merge_keeps_what_covers_most(monkeypatch, tmp_path):
    """fuzz.py reads libFuzzer's control file: a greedy cover of so many files."""
    monkeypatch.setitem(sys.modules, "build", native)
    fuzz = load("fuzz")
    control = tmp_path / "control"
    control.write_text(
        "3\n0\nf/a\nf/b\nf/c\nSTARTED 0 1\nFT 0 1 2\nCOV 0 1 2\n"
        "STARTED 1 1\nFT 1 1 2 3 4\nSTARTED 2 1\nFT 2 9\n"
    )
    monkeypatch.setattr(fuzz, "MOST_FILES", 2)
    assert [path.name for path in fuzz.chosen(control)] == ["b", "c"]
