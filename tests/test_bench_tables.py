# SPDX-License-Identifier: Apache-2.0
"""The README's tables are those of the stored results, and a drift is told."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
if not (ROOT / "benchmarks" / "table.py").is_file() or not (ROOT / "README.md").is_file():
    pytest.skip("no benchmarks beside the tests", allow_module_level=True)
sys.path.insert(0, str(ROOT / "benchmarks"))

import table  # noqa: E402
from fusedraw.bench import reading  # noqa: E402


def case(config="T", **us):
    times = {name.replace("_", "-"): [value, value, value, 9] for name, value in us.items()}
    return {"config": config, "us": times}


def test_the_readme_is_current(capsys):
    assert table.main(["--check"]) == 0, capsys.readouterr().out


def test_a_drift_is_told(tmp_path, capsys):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    begin = text.index("<!-- bench:begin -->")
    changed = tmp_path / "README.md"
    planted = text[begin:].replace("| greedy | ", "| greedy | 9", 1)
    changed.write_text(text[:begin] + planted, encoding="utf-8")
    assert table.main(["--check", "--readme", str(changed)]) == 1
    assert "-| greedy | 9" in capsys.readouterr().out
    assert changed.read_text(encoding="utf-8") == text[:begin] + planted
    assert table.main(["--readme", str(changed)]) == 0 and changed.read_text(encoding="utf-8") == text


def test_what_is_below_a_goal_is_named():
    assert reading.below({}, case(read=9, fusedraw=10, torch=40, bucketed=20, hugging_face=400)) == []
    missed = reading.below({}, case(read=8, fusedraw=10, torch=39, bucketed=19, hugging_face=390))
    assert [m.split(" ")[0] for m in missed] == ["pure", "Hugging", "bucketed"]
    assert reading.below({}, case("greedy", fusedraw=10, numpy=5, torch=20)) == []
    assert reading.below({}, case("top-p", read=1, exp=9, fusedraw=10, bucketed=11)) == []
