# SPDX-License-Identifier: Apache-2.0
"""Whether to touch vLLM at all, and the reasons why a draw stays vLLM's. Nothing here imports vLLM."""

import logging
import os
import sys
from importlib import metadata

import torch

from .._device import HAS_CUDA

# Patched are methods whose signatures vLLM may change with any release, so each one is tested before it is
# listed here.
TESTED_VERSIONS = ("0.32.0",)
SWITCH = "FUSEDRAW_VLLM"

_said: set[str] = set()
_drawing = False


def switched_on() -> bool:
    """The environment variable FUSEDRAW_VLLM: 1 or unset is on, 0 is off; ValueError for anything else."""
    value = os.environ.get(SWITCH, "1")
    if value not in ("0", "1"):
        raise ValueError(f"{SWITCH} must be 0 or 1, got {value!r}")
    return value == "1"


def refusal(version: str) -> str | None:
    """Why vLLM of this version is left alone, None if it is not. Local parts ("+cpu") do not count."""
    if version.split("+")[0] in TESTED_VERSIONS:
        return None
    return f"version {version} is not among those the plugin was tested with: {', '.join(TESTED_VERSIONS)}"


def device_refusal(device: torch.device) -> str | None:
    """Why rows on this device are not drawn by us, None if they are."""
    if device.type == "cpu" or (device.type == "cuda" and HAS_CUDA):
        return None
    if device.type == "cuda":
        return "this build of fusedraw has no CUDA kernels (python -m fusedraw info)"
    return f"fusedraw has no kernels for {device.type}"


def say_once(logger: logging.Logger, message: str, level: int = logging.WARNING) -> None:
    """Logs a message the first time that a process has it."""
    if message not in _said:
        _said.add(message)
        logger.log(level, "fusedraw: %s", message)


def say_drawing(logger: logging.Logger) -> None:
    """At the first draw of a process: when the plugin is loaded, vLLM's log is often not set up yet."""
    global _drawing
    if not _drawing:
        _drawing = True
        versions = f"{metadata.version('fusedraw')} draws for vLLM {sys.modules['vllm'].__version__}"
        say_once(logger, versions, logging.INFO)
