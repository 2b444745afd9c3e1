# SPDX-License-Identifier: Apache-2.0
"""Scripts as modules: several folders have a run.py."""

import importlib.util
import sys


def load(path, name=None):
    """The module of a file, which finds its neighbours as it would when run."""
    folder = str(path.parent)
    sys.path.insert(0, folder)
    try:
        spec = importlib.util.spec_from_file_location(name or f"{path.parent.name}_{path.stem}", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module
    finally:
        sys.path.remove(folder)
