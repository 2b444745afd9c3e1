# SPDX-License-Identifier: Apache-2.0
"""docs/coverage.md says what docs/coverage.json holds, and the goal is reached."""

import json
from fnmatch import filter as matching
from pathlib import Path

import pytest
from covered import run

ROOT = Path(__file__).resolve().parent.parent
PAGE, FIGURES = ROOT / "docs" / "coverage.md", ROOT / "docs" / "coverage.json"


@pytest.fixture
def figures():
    return json.loads(FIGURES.read_text(encoding="utf-8"))


def test_the_page_is_made_of_the_figures(figures):
    assert PAGE.read_text(encoding="utf-8") == run.page(figures)


def test_the_goal_is_reached_and_less_is_told(figures):
    assert run.low(figures) == []
    file = figures["cpp"]["csrc/core/noise.h"]
    core = run.parts(figures)["csrc/core"].values()
    file["missing"] = list(range(sum(other["lines"] for other in core) // 20 + 1))
    assert run.low(figures) == ["csrc/core"]
    assert "| `csrc/core/noise.h` |" in run.page(figures)


def test_what_is_left_out_is_there():
    names = [path.name for path in (ROOT / "tests").glob("test_*.py")]
    assert [pattern for pattern in run.LEFT_OUT if not matching(names, pattern)] == []
