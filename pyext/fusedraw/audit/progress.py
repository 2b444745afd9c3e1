# SPDX-License-Identifier: Apache-2.0
"""How far an audit is: a bar with the time left on a terminal, where `rich` is installed; else lines."""

from __future__ import annotations

import sys
import time
from typing import Any


class Progress:
    """`total` and `step` count work in any unit, here forward passes; what was done before is not timed."""

    def __init__(self, total: float, done: float = 0.0):
        self.total, self.done, self._before = total, done, done
        self._started = time.monotonic()
        self._bar: Any = _bar() if sys.stderr.isatty() else None
        if self._bar is not None:
            self._task = self._bar.add_task("", total=total, completed=done)
            self._bar.start()

    def step(self, work: float, text: str) -> None:
        self.done += work
        if self._bar is not None:
            self._bar.update(self._task, completed=self.done, description=text)
        else:
            share = f"{100 * self.done / max(self.total, 1e-9):3.0f} %"
            print(f"[{share}, {self.left()}] {text}", file=sys.stderr, flush=True)

    def left(self) -> str:
        passed = self.done - self._before
        seconds = (time.monotonic() - self._started) * (self.total - self.done) / passed if passed else 0.0
        return f"{seconds / 60:.1f} min left" if seconds >= 60 else f"{seconds:.0f} s left"

    def close(self) -> None:
        if self._bar is not None:
            self._bar.stop()


def _bar() -> Any:
    try:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
        from rich.progress import Progress as Rich
    except ImportError:
        return None
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    return Rich(*columns, console=Console(file=sys.stderr), transient=True)
