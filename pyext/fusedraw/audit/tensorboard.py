# SPDX-License-Identifier: Apache-2.0
"""The analysis for TensorBoard: the headline as scalars, entropy as histograms, the summary as text.

    from fusedraw.audit import tensorboard
    tensorboard.write(analysis, Path("runs/audit"))    # then: tensorboard --logdir runs

Needs the package tensorboard.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from typing import Any

from . import _summary
from ._format import finite, visible


def missing() -> str | None:
    """What to install before write() can run, or None."""
    found = importlib.util.find_spec("tensorboard") is not None
    return None if found else "needs tensorboard: pip install tensorboard"


def write(analysis: dict[str, Any], folder: Path, step: int = 0) -> Path:
    """Adds one events file to `folder`, and returns the folder. `step`: the number of a run among many.

    ModuleNotFoundError without tensorboard, OSError (with the path) where the folder cannot be written.
    """
    why = missing()
    if why:
        raise ModuleNotFoundError(why)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder))
    try:
        for name, value in (analysis.get("headline") or {}).items():
            if finite(value) is not None:
                # A colon in a headline's name groups it; TensorBoard groups by a slash.
                writer.add_scalar(f"audit/{tag(name)}", float(value), step)
        for name, values in entropies(analysis).items():
            writer.add_histogram(name, values, step)
        writer.add_text("audit/summary", summary(analysis), step)
        writer.flush()
    finally:
        writer.close()
    return folder


def tag(name: str) -> str:
    return re.sub(r"[^\w./-]+", "_", visible(name).replace(":", "/")).strip("_")


def entropies(analysis: dict[str, Any]) -> dict[str, Any]:
    """float32 arrays by tag: of the tokens that were traced, and the means of all outputs, by condition."""
    import numpy as np

    found: dict[str, list[float]] = {}
    for trace in analysis.get("traces") or []:
        known = [x for x in map(finite, trace.get("entropy") or []) if x is not None]
        found.setdefault(f"entropy_of_tokens/{tag(trace['condition'])}", []).extend(known)
    for row in analysis.get("outputs") or []:
        mean = finite(row.get("mean_entropy"))
        if mean is not None:
            found.setdefault(f"mean_entropy_of_outputs/{tag(row['condition'])}", []).append(mean)
    return {name: np.array(values, np.float32) for name, values in found.items() if values}


def summary(analysis: dict[str, Any]) -> str:
    """Markdown: the verdict and the sentences of the report."""
    verdict = _summary.verdict(analysis)
    lines = [f"**{escaped(verdict.title)}** {escaped(verdict.text)}"]
    lines += [f"- **{escaped(s.title)}**: {escaped(s.text)}" for s in _summary.sentences(analysis)]
    return "\n".join([lines[0], "", *lines[1:]])


def escaped(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>#|])", r"\\\1", visible(text))
