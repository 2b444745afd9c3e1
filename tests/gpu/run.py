# SPDX-License-Identifier: Apache-2.0
"""Runs the tests of this folder on a device: parity, golden rows, bad input, statistics, graphs, streams.
Where there is none, says so in one line. Arguments are pytest's.

FUSEDRAW_TEST_DEVICE: cuda (default), cuda:1, ...; cpu runs what can be run without a device.
"""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import on_device  # noqa: E402

# In a process of their own: the tests written for the executor shall find the device instead.
sys.modules["simt_engine"] = on_device

# Not called test_*.py, so that `make test` does not collect them.
FILES = (
    *("parity.py", "rows.py", "processed.py", "speculative.py", "mixing.py", "scores.py", "routing_rows.py"),
    "golden_on_device.py",
    *("statistics_on_device.py", "graphs.py"),
    "streams.py",
)


def main():
    reason = on_device.missing()
    if reason:
        print(f"test-gpu: skipped, {reason}")
        return 0
    import pytest

    on_device.library()
    arguments = sys.argv[1:]
    if not any(a.split("::")[0].endswith(".py") for a in arguments):
        arguments += [str(HERE / name) for name in FILES]
    return pytest.main(["-p", "no:cacheprovider", *arguments])


if __name__ == "__main__":
    sys.exit(main())
