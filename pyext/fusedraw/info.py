# SPDX-License-Identifier: Apache-2.0
"""What this build is and what it runs on."""

import torch

from ._C import build_info, isa, isa_list
from ._device import CUDA_ARCHS


def info() -> dict:
    """Facts for a bug report: versions, instruction sets (available, chosen), CUDA architectures, threads."""
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
        ("cuda", ", ".join(facts["cuda_archs"]) or "fallback (CUDA tensors are drawn on the CPU)"),
        ("threads", str(facts["threads"])),
    ]
    said = ("cuda_archs", "stream_version")
    rows += [(f"build {name}", str(value)) for name, value in facts["build"].items() if name not in said]
    return "\n".join(f"{name}: {value}" for name, value in rows)
