# SPDX-License-Identifier: Apache-2.0
"""How far an audit is: a bar with the time left on a terminal, where `rich` is installed; else lines."""

from __future__ import annotations

import sys
import time
from typing import Any

from .._bar import bar


class Progress:
    """`total`, `skip` and `step` count work, here forward passes; what is skipped takes no time."""

    def __init__(self, total: float):
        self.total, self.done = total, 0.0
        self._started = time.monotonic()
        self._bar: Any = bar(sys.stderr, time_left=True)
        if self._bar is not None:
            self._task = self._bar.add_task("", total=total)
            self._bar.start()

    def skip(self, work: float) -> None:
        self.total -= work
        if self._bar is not None:
            self._bar.update(self._task, total=self.total)

    def step(self, work: float, text: str) -> None:
        self.done += work
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, description=text)
        else:
            share = f"{100 * self.done / max(self.total, 1e-9):3.0f} %"
            print(f"[{share}, {self.left()}] {text}", file=sys.stderr, flush=True)

    def left(self) -> str:
        seconds = (time.monotonic() - self._started) * (self.total - self.done) / max(self.done, 1e-9)
        return f"{seconds / 60:.1f} min left" if seconds >= 60 else f"{seconds:.0f} s left"

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
