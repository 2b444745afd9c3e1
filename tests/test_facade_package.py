# SPDX-License-Identifier: Apache-2.0
"""The Python face: public names and what `info` says."""

import subprocess
import sys

import fusedraw
import fusedraw.numpy
import pytest
import torch
from fusedraw import Status


def test_public_names():
    for name in fusedraw.__all__:
        assert getattr(fusedraw, name) is not None
    assert fusedraw.STREAM_VERSION == 1 and fusedraw.info()["build"]["stream_version"] == 1
    assert [s.name for s in Status] == ["OK", "BAD_PARAM", "NAN", "POS_INF", "EMPTY"]
    assert fusedraw.isa() in fusedraw.isa_list()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fusedraw.nothing  # noqa: B018
    code = "import fusedraw; print(fusedraw.numpy.sample.__module__, fusedraw.reference.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["fusedraw.numpy", "fusedraw.reference"], done.stderr


def test_info():
    facts = fusedraw.info()
    assert facts["fusedraw"] == fusedraw.__version__ == "0.1.0"
    assert facts["torch"] == torch.__version__ and facts["threads"] == torch.get_num_threads()
    assert facts["isa"] == fusedraw.isa() and facts["isa_available"] == fusedraw.isa_list()
