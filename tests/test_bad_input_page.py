# SPDX-License-Identifier: Apache-2.0
"""docs/bad-input.md is what the table says today."""

import sys

import bad_input_page
import pytest


def test_the_page_is_that_of_the_table(monkeypatch, capsys):
    if sys.version_info[:2] != (3, 11):
        pytest.skip("the page has Python 3.11's words for unexpected arguments")
    monkeypatch.setattr(sys, "argv", ["bad_input_page.py", "--check"])
    assert bad_input_page.main() == 0, capsys.readouterr().out + "run: python tests/bad_input_page.py"


def test_a_changed_page_is_told(monkeypatch, capsys, tmp_path):
    changed = tmp_path / "page.md"
    changed.write_text(bad_input_page.PAGE.read_text(encoding="utf-8").replace("refuse, ", "refuse,, "))
    monkeypatch.setattr(bad_input_page, "PAGE", changed)
    monkeypatch.setattr(sys, "argv", ["bad_input_page.py", "--check"])
    assert bad_input_page.main() == 1 and "refuse,," in capsys.readouterr().out
