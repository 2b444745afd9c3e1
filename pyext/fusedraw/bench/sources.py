# SPDX-License-Identifier: Apache-2.0
"""Where a case's rows, calls and checks come from: providers.py and validate.py, features.py, cold.py."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

from torch import Tensor

from . import cold, data, features, providers, timing, validate
from .cases import DTYPES, Case


def rows(case: Case) -> Tensor:
    if case.part == "features":
        return features.rows(case)
    return data.make(case.data, case.vocab, case.batch, DTYPES[case.dtype])


def label(case: Case) -> str:
    return data.label(case.data, case.vocab)


def skipped(name: str, case: Case) -> str | None:
    """Why a provider is left out of a case, or None."""
    if case.part == "features":
        known = name in features.NAMES
        return None if known else f"{name} has no features: they are held against one PyTorch form"
    why = cold.skipped(name) if case.cache == "cold" else None
    return why or providers.skipped(name, case)


def chunk(name: str, case: Case, logits: Tensor) -> timing.Chunk:
    source = features if case.part == "features" else providers
    hot = source.chunk(name, case, logits)
    return cold.chunk(hot, logits) if case.cache == "cold" else hot


_sound: set[tuple[str, Case]] = set()


def check(name: str, case: Case, logits: Tensor) -> None:
    """Raises AssertionError where a provider does not draw from the case's law.

    fusedraw is checked for every case, at its number of threads; a peer once for the same rows and settings.
    """
    same = name, replace(case, threads=1, part="features" if case.part == "features" else "", cache="")
    if same not in _sound:
        (features if case.part == "features" else validate).check(name, case, logits)
        if not name.startswith("fusedraw"):
            _sound.add(same)


def about(names: list[str]) -> dict[str, Any]:
    """Title, kind, version and deviations of each provider."""
    return {name: asdict(providers.about(name)) for name in names}
