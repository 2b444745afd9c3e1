# SPDX-License-Identifier: Apache-2.0
"""A plugin of pytest that writes how each test ended, for run.py: $FUSEDRAW_VERDICT names the file."""

import json
import os

import pytest

ASSERTIONS = (AssertionError, pytest.fail.Exception)
entries = []


def asserts(error) -> bool:
    """Whether an error is an assertion, or a group of nothing else."""
    parts = getattr(error, "exceptions", None)  # of several failures that hypothesis found
    return all(map(asserts, parts)) if parts else isinstance(error, ASSERTIONS)


def first_line(error) -> str:
    parts = getattr(error, "exceptions", None)
    return first_line(parts[0]) if parts else next(iter(str(error).strip().splitlines()), "")


def pytest_runtest_makereport(item, call):
    entry = {"test": item.nodeid, "phase": call.when, "ended": "passed"}
    if call.excinfo is not None:
        error = call.excinfo.value
        if isinstance(error, pytest.skip.Exception):
            entry["ended"] = "skipped"
        else:
            entry["ended"] = "failed"
            entry |= {"type": type(error).__name__, "asserts": asserts(error), "line": first_line(error)}
    entries.append(entry)


def pytest_sessionfinish():
    with open(os.environ["FUSEDRAW_VERDICT"], "w", encoding="utf-8") as file:
        json.dump(entries, file)
