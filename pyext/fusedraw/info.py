# SPDX-License-Identifier: Apache-2.0
"""What this build is and what it runs on."""

import torch

from ._C import build_info, isa, isa_list
from ._device import CUDA_ARCHS


def info() -> dict:
    """Facts for a bug report: versions, instruction sets (available, chosen), CUDA architectures, threads.

    `cuda_archs` is empty in a build without CUDA code; "9.0+PTX" is also there as PTX, for later GPUs.
    """
    from . import STREAM_VERSION, __version__

    return {
        "fusedraw": __version__,
        "stream_version": STREAM_VERSION,
        "torch": torch.__version__,
        "isa_available": isa_list(),
        "isa": isa(),
        "cuda_archs": list(CUDA_ARCHS),
        "threads": torch.get_num_threads(),
        "build": build_info(),
    }


def info_text() -> str:
    """`info()` as the lines that `python -m fusedraw info` prints."""
    facts = info()
    rows = [
        ("fusedraw", f"{facts['fusedraw']} (stream version {facts['stream_version']})"),
        ("torch", facts["torch"]),
        ("instruction sets", f"{', '.join(facts['isa_available'])} (using {facts['isa']})"),
        ("cuda", _cuda_text(facts) or "fallback (CUDA tensors are drawn on the CPU)"),
        ("threads", str(facts["threads"])),
    ]
    said = ("cuda_archs", "nvcc", "stream_version")
    rows += [(f"build {name}", str(value)) for name, value in facts["build"].items() if name not in said]
    return "\n".join(f"{name}: {value}" for name, value in rows)


def _cuda_text(facts: dict) -> str:
    archs = facts["cuda_archs"]
    return f"{', '.join(archs)} (nvcc {facts['build']['nvcc']})" if archs else ""
