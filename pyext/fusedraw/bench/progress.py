# SPDX-License-Identifier: Apache-2.0
"""How far a run is: a bar on a terminal where `rich` is installed, else a count at the head of each line."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence

from .._bar import bar
from .cases import PARTS, Case


class Progress:
    def __init__(self, cases: Sequence[Case]):
        self.total, self.done = len(cases), 0
        self.left = sum(PARTS[case.part] for case in cases)  # seconds, as estimated
        self.passed = 0.0
        self.started = time.monotonic()
        self.task = None
        self.bar = bar(sys.stdout, auto_refresh=False) if cases else None
        if self.bar is not None:
            self.task = self.bar.add_task("", total=self.total)
            self.bar.start()

    def step(self, case: Case) -> None:
        self.done += 1
        self.left -= PARTS[case.part]
        self.passed += PARTS[case.part]
        if self.bar is not None:
            self.bar.update(self.task, completed=self.done, description=self.said(), refresh=True)

    def minutes_left(self) -> float:
        """The estimates of what is to come, corrected by how those of the past have turned out."""
        elapsed = time.monotonic() - self.started
        return max(0.0, self.left) * (elapsed / self.passed if self.passed else 1.0) / 60

    def said(self) -> str:
        elapsed = (time.monotonic() - self.started) / 60
        return f"{self.done}/{self.total}, {elapsed:.1f} min, {self.minutes_left():.0f} left"

    def line(self, text: str) -> None:
        if self.bar is not None:
            self.bar.console.print(text, markup=False, highlight=False, soft_wrap=True)
            self.bar.refresh()
        else:
            print(f"[{self.said()}] {text}", flush=True)

    def close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
