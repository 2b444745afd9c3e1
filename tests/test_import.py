# SPDX-License-Identifier: Apache-2.0
"""Importing the package: light, without CUDA, and clear about what is missing; `python -m fusedraw info`."""

import os
import pathlib
import shutil
import subprocess
import sys

import fusedraw
import torch
from fusedraw import _device


def run(code, **environment):
    return subprocess.run(
        [sys.executable, *code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )


def test_import_needs_no_cuda_and_is_light():
    code = "import sys, fusedraw, torch; print(torch.cuda.is_initialized(), 'fusedraw.numpy' in sys.modules)"
    done = run(["-c", code], CUDA_VISIBLE_DEVICES="")
    assert done.stdout.strip() == "False False", done.stderr


def test_import_without_torch_says_what_to_install(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    path = os.pathsep.join([str(tmp_path), os.path.dirname(os.path.dirname(fusedraw.__file__))])
    done = run(["-c", "import fusedraw"], PYTHONPATH=path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ImportError: fusedraw needs PyTorch: pip install torch==2.13.0"
    done = run(["-m", "fusedraw", "info"], PYTHONPATH=path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == ["fusedraw needs PyTorch: pip install torch==2.13.0"]


def test_import_without_extension_says_how_to_build(tmp_path):
    package = tmp_path / "fusedraw"
    package.mkdir()
    for source in pathlib.Path(fusedraw.__file__).parent.glob("*.py"):
        shutil.copy(source, package)
    done = run(["-c", "import fusedraw"], PYTHONPATH=str(tmp_path))
    said = "fusedraw._C is not built: run `pip install --no-build-isolation -e .`"
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == f"ImportError: {said}"
    done = run(["-m", "fusedraw", "info"], PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr.splitlines()) == (1, [said])
    (package / "_C.abi3.so").write_bytes(b"no library")
    done = run(["-c", "import fusedraw"], PYTHONPATH=str(tmp_path))
    assert f"fusedraw._C does not load with torch {torch.__version__}: " in done.stderr.splitlines()[-1]


def test_info_command():
    done = run(["-m", "fusedraw", "info"])
    assert done.returncode == 0, done.stderr
    assert f"using {fusedraw.isa()}" in done.stdout and "stream version 1" in done.stdout
    if not _device.CUDA_ARCHS:
        assert "\ncuda: fallback" in done.stdout
