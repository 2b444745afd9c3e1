# SPDX-License-Identifier: Apache-2.0
"""aarch64/run.py: what it says where tools are missing, its file, and, where they are there, its run."""

import os
import subprocess
import sys
from pathlib import Path

import golden
import pytest
import scripts
import torch
from engines import BEST, engine
from golden_rows import all_calls

FOLDER = Path(__file__).resolve().parent / "aarch64"
RUN = FOLDER / "run.py"


def load():
    return scripts.load(RUN)


def test_it_says_what_is_missing(tmp_path):
    done = subprocess.run(
        [sys.executable, RUN], env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True
    )
    if not load().CSRC.is_dir():
        pytest.skip("no sources beside the tests")
    said = "aarch64-linux-gnu-g++, qemu-aarch64 not found: apt-get install g++-aarch64-linux-gnu qemu-user\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_places_of_booleans():
    """The file knows them as bytes; run.py says which outputs they are."""
    run = load()
    with engine(BEST):
        for call in all_calls()[::7]:
            outputs = golden.run(call)
            assert [i for i, t in enumerate(outputs) if t.dtype == torch.bool] == [*run.flags_of(call)]


def test_a_file_holds_every_operator(tmp_path):
    """Its fields by number, and their data to the last byte."""
    file = load().golden_file
    assert {call.op for call in all_calls()} == set(file.OPERATORS)
    tensors = [torch.tensor([[1.5, -2.0]], dtype=t) for t in (torch.float32, torch.bfloat16, torch.float64)]
    tensors += [torch.tensor([7, 8, 9], dtype=t) for t in (torch.int32, torch.int64, torch.uint8)]
    tensors += [torch.empty(0, 3), torch.tensor(5)]
    path = tmp_path / "results"
    path.write_bytes(file._words(len(tensors)) + b"".join(map(file._field, tensors)))
    (read,) = file.read(path, 1)
    assert golden.same(read, tensors)


@pytest.mark.slow
def test_golden_rows_and_weights_under_qemu():
    run = load()
    if (line := run.missing(native=False)) is not None:
        pytest.skip(line)
    done = subprocess.run([sys.executable, RUN], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == ["reference", "scalar", "neon"]
    assert done.stdout.count("10,000 golden rows") == 3
