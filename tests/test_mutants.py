# SPDX-License-Identifier: Apache-2.0
"""The mutants (mutants/mutants.py) still fit the sources and the tests, the stored result says that all were
killed, and docs/mutants.md says what it says. mutants/run.py makes them: minutes, not here."""

import copy
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import scripts
from engines import ENGINES
from simt_build import COMPILER, ROOT

FOLDER = Path(__file__).resolve().parent / "mutants"


@pytest.fixture(scope="module")
def run():
    """mutants/run.py as a module."""
    return scripts.load(FOLDER / "run.py")


def test_forty_different_ones(run):
    mutants = list(run.MUTANTS.values())
    assert len(mutants) == 40 and len(run.FROM_THE_PLAN) == 20
    assert len({mutant.edits for mutant in mutants}) == 40
    folders = {Path(mutant.file).parts[:2] for mutant in mutants}
    assert {
        ("csrc", "core"),
        ("csrc", "cpu"),
        ("csrc", "cuda"),
        ("csrc", "ops"),
        ("pyext", "fusedraw"),
    } == folders
    assert {mutant.kernels for mutant in mutants if mutant.file.startswith("csrc/cuda/")} == {True}


def test_each_fits_its_file(run):
    """Every text stands there as often as the list says, and what takes its place is another."""
    for mutant in run.MUTANTS.values():
        text = (ROOT / mutant.file).read_text()
        assert run.mutated(mutant, text) != text, mutant.name
        comments = re.sub(r"//[^\n]*|#[^\n]*", "", text)
        for old, _ in mutant.edits:
            assert old in text and old.strip() in comments, f"{mutant.name}: in a comment"


def test_a_text_that_is_not_there_is_named(run):
    mutant = run.MUTANTS["noise by rank"]
    with pytest.raises(ValueError, match=r"noise by rank: .*list.inl has 0 times, not 1"):
        run.mutated(mutant, "")


def test_named_tests_can_be_collected(run):
    """Those of instruction sets that this processor lacks apart."""
    tests = {mutant.test for mutant in run.MUTANTS.values() if COMPILER or not mutant.kernels}
    lacking = {name for name in ("avx2", "avx512") if name not in ENGINES}
    tests = sorted(test for test in tests if not any(f"[{name}]" in test for name in lacking))
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    collected = done.stdout.splitlines()
    for test in tests:
        assert any(line == test or line.startswith(test + "[") for line in collected), test


def test_stored_result_is_of_this_list_and_all_are_killed(run):
    results = json.loads(run.RESULTS.read_text())
    assert list(results) == list(run.MUTANTS)
    for name, mutant in run.MUTANTS.items():
        result = results[name]
        assert result["definition"] == run.definition(mutant), f"{name} has changed since it was made"
        assert result["verdict"] == run.KILLED, name
        assert result["by"] == mutant.test or result["by"].startswith(mutant.test + "["), name
        assert result["says"], name


def test_the_page_says_what_is_stored(run):
    results = json.loads(run.RESULTS.read_text())
    assert run.PAGE.read_text(encoding="utf-8") == run.page(results)
    assert "**40 of 40 are killed**" in run.page(results)
    worse = copy.deepcopy(results)
    worse["noise by rank"] |= {"verdict": "survived", "by": "", "says": "3 tests passed"}
    assert "**39 of 40 are killed**" in run.page(worse) and "| `survived` |" in run.page(worse)


FAILED, PASSED = {"ended": "failed", "test": "t"}, {"ended": "passed", "test": "t", "phase": "call"}
ASSERTED = {**FAILED, "phase": "call", "asserts": True, "type": "AssertionError", "line": "assert 1 == 2"}


@pytest.mark.parametrize(
    ("code", "entries", "verdict"),
    [
        (1, [PASSED, ASSERTED], "killed"),
        (1, [{**ASSERTED, "asserts": False, "type": "RuntimeError"}], "other exception"),
        (1, [{**ASSERTED, "phase": "setup"}], "other exception"),
        (0, [PASSED], "survived"),
        (0, [{**PASSED, "ended": "skipped"}], "no test ran"),
        (5, [], "no test ran"),
        (2, [ASSERTED], "no test ran"),
        (-11, [], "crash"),
        (None, [], "timeout"),
    ],
    ids=str,
)
def test_only_an_assertion_in_the_body_of_a_test_kills(run, code, entries, verdict):
    assert run.judge(code, entries)[0] == verdict


def test_how_tests_end_is_told_apart(tmp_path, run):
    """The plugin on a file of tests that end in every way."""
    (tmp_path / "test_ends.py").write_text(
        "import os, pytest\n"
        "@pytest.fixture\ndef bad():\n    assert 0, 'fixture'\n"
        "def test_passes(): pass\n"
        "def test_asserts():\n    assert [1] == [2]\n"
        "def test_says(): pytest.fail('said')\n"
        "def test_raises_nothing():\n    with pytest.raises(ValueError): pass\n"
        "def test_breaks(): raise RuntimeError('broken')\n"
        "def test_skips(): pytest.skip('left out')\n"
        "def test_fixture(bad): pass\n"
    )
    verdict = tmp_path / "verdict.json"
    env = run.environment() | {"PYTHONPATH": str(FOLDER), "FUSEDRAW_VERDICT": str(verdict)}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-p",
        "verdict",
        "test_ends.py",
    ]
    subprocess.run(command, cwd=tmp_path, env=env, capture_output=True)
    ends = {}
    for entry in json.loads(verdict.read_text()):
        if entry["ended"] != "passed" or entry["phase"] == "call":
            ends[entry["test"].split("::test_")[1]] = (entry["ended"], entry["phase"], entry.get("asserts"))
    assert ends == {
        "passes": ("passed", "call", None),
        "asserts": ("failed", "call", True),
        "says": ("failed", "call", True),
        "raises_nothing": ("failed", "call", True),
        "breaks": ("failed", "call", False),
        "skips": ("skipped", "call", None),
        "fixture": ("failed", "setup", True),
    }
