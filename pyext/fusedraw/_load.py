# SPDX-License-Identifier: Apache-2.0
"""Loads torch, then the extension; where one is missing, the error says what to type."""

import importlib
import sys


def _fail(message: str, cause: ImportError):
    # While `python -m fusedraw` looks for its main module, argv[0] is "-m": one line says it all there.
    if sys.argv[:1] == ["-m"]:
        sys.exit(message)
    raise ImportError(message) from cause


try:
    import torch
except ModuleNotFoundError as error:
    if error.name != "torch":
        raise
    _fail("fusedraw needs PyTorch: pip install torch==2.13.0", error)

try:
    importlib.import_module("fusedraw._C")  # after torch, whose libraries it links against
except ModuleNotFoundError as error:
    _fail("fusedraw._C is not built: run `pip install --no-build-isolation -e .`", error)
except ImportError as error:
    _fail(f"fusedraw._C does not load with torch {torch.__version__}: {error}", error)
