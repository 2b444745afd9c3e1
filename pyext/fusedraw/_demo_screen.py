# SPDX-License-Identifier: Apache-2.0
"""What the demo prints: coloured tokens, the legend, tables, progress while loading.

With colour (rich, a terminal) the letters show the probability with which a token was drawn, the
background the entropy of the distribution that it was drawn from. Without: plain text, figures in tables,
no need of rich.
"""

from __future__ import annotations

import contextlib
import os
import sys
import textwrap
import time

# (lower bound, letters): blue to red, which readers who do not tell red from green still tell apart.
PROBABILITY_COLORS = (
    (0.9, "#6cb6ff"),
    (0.5, "#b4e1ff"),
    (0.2, "#ffe08a"),
    (0.05, "#ffa657"),
    (0.0, "#ff7b7b"),
)
# (upper bound in nats, background): near black to purple, dark enough for every letter colour above.
ENTROPY_COLORS = ((0.5, "#101218"), (1.5, "#232a3d"), (3.0, "#372c5c"), (float("inf"), "#4f2a78"))
TEXT_WIDTH = 84
OVERHANG = 14  # a word of several tokens is not broken before it sticks out this far
INDENT = "  "
QUOTED_WIDTH = 12


def make_screen(no_color: bool) -> Screen:
    """A screen on stdout; coloured on a terminal or under FORCE_COLOR, given rich and no NO_COLOR."""
    wanted = not no_color and "NO_COLOR" not in os.environ
    if wanted and (sys.stdout.isatty() or os.environ.get("FORCE_COLOR")):
        try:
            from rich.console import Console
        except ImportError:
            return Screen(None)
        console = Console(highlight=False, force_terminal=True)
        # With 16 colours the scales cannot be told apart: figures are better.
        return Screen(console if console.color_system in ("256", "truecolor") else None)
    return Screen(None)


class Screen:
    def __init__(self, console):
        self._console = console
        self._column = 0

    @property
    def has_color(self) -> bool:
        return self._console is not None

    def heading(self, text: str) -> None:
        self.line()
        self._write(text, "bold")
        self.line()

    def line(self, text: str = "", style: str = "") -> None:
        """A whole line, or the end of one begun by `token`."""
        self._write(text, style)
        self._write("\n")
        self._column = 0

    def note(self, text: str) -> None:
        for line in textwrap.wrap(text, TEXT_WIDTH):
            self.line(INDENT + line, "dim")

    def legend(self) -> None:
        """What the colours mean; nothing when there are none."""
        if not self.has_color:
            return
        quiet = ENTROPY_COLORS[0][1]
        self._write(INDENT + "letters: probability when drawn  ")
        names: tuple[str, ...] = ("0.9 to 1", "0.5 to 0.9", "0.2 to 0.5", "0.05 to 0.2", "below 0.05")
        for name, (_, color) in zip(names, PROBABILITY_COLORS, strict=True):
            self._write(f" {name} ", f"{color} on {quiet}")
        self.line()
        self._write(INDENT + "background: entropy, in nats     ")
        letters = PROBABILITY_COLORS[1][1]
        names = ("below 0.5: sure", "0.5 to 1.5", "1.5 to 3", "above 3: wide open")
        for name, (_, color) in zip(names, ENTROPY_COLORS, strict=True):
            self._write(f" {name} ", f"{letters} on {color}")
        self.line()
        self.line()

    def token(self, text: str, probability: float, entropy: float) -> None:
        """One token of running text, wrapped between words."""
        style = token_style(probability, entropy)
        for part_number, part in enumerate(printable(text).split("\n")):
            if part_number:
                self.line()
            if not part:
                continue
            too_wide = self._column + len(part) > TEXT_WIDTH
            if self._column and too_wide and (part.startswith(" ") or self._column > TEXT_WIDTH + OVERHANG):
                self.line()
                part = part.lstrip(" ")
            if not self._column:
                self._write(INDENT)
                self._column = len(INDENT)
            self._write(part, style)
            self._column += len(part)

    def cell(self, text: str, probability: float, entropy: float) -> None:
        """One token as a table cell, quoted, with its probability; coloured where there is colour."""
        quoted = quote(text)
        self._write(quoted, token_style(probability, entropy))
        self._write(" " * (QUOTED_WIDTH - len(quoted)) + f"{probability:6.3f}  ")

    def write(self, text: str, style: str = "") -> None:
        self._write(text, style)

    def table_of_tokens(self, tokens, columns: int = 3, rows: int = 8) -> None:
        """The figures of the first tokens, read down the columns. tokens: (text, probability, entropy)."""
        shown = tokens[: columns * rows]
        rows = -(-len(shown) // columns)
        used = -(-len(shown) // max(rows, 1))
        self.line(INDENT + "   ".join([f"{'token':<{QUOTED_WIDTH}}{'prob.':>7}{'entropy':>9}"] * used))
        for row in range(rows):
            cells = [
                f"{quote(text):<{QUOTED_WIDTH}}{p:7.3f}{entropy:9.2f}"
                for text, p, entropy in shown[row::rows]
            ]
            self.line(INDENT + "   ".join(cells))

    @contextlib.contextmanager
    def progress(self, title: str, stages):
        """Yields on_stage(text): a spinner, a bar and a clock on a terminal, a line per stage elsewhere."""
        started = time.perf_counter()
        if not (self.has_color and sys.stdout.isatty()):
            yield lambda stage: print(f"{title}: {stage} ...", flush=True)
            print(f"{title}: done in {time.perf_counter() - started:.1f} s", flush=True)
            return
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(24),
            TextColumn("{task.completed:.0f} of {task.total:.0f}"),
            TimeElapsedColumn(),
        )
        with Progress(*columns, console=self._console, transient=True) as bars:
            bar = bars.add_task(title, total=len(stages))

            def on_stage(stage: str) -> None:
                bars.update(bar, description=f"{title}: {stage}", completed=list(stages).index(stage))

            yield on_stage
        self.line(f"{title}: done in {time.perf_counter() - started:.1f} s")

    def _write(self, text: str, style: str = "") -> None:
        if self._console is None:
            print(text, end="", flush=True)
            return
        from rich.text import Text

        self._console.print(Text(text, style=style), end="", soft_wrap=True)


def token_style(probability: float, entropy: float) -> str:
    letters = next(color for bound, color in PROBABILITY_COLORS if probability >= bound)
    background = next(color for bound, color in ENTROPY_COLORS if entropy <= bound)
    return f"{letters} on {background}"


def quote(text: str) -> str:
    """A token in quotes, which show its spaces, cut to QUOTED_WIDTH."""
    quoted = repr(printable(text))
    return quoted if len(quoted) <= QUOTED_WIDTH else quoted[: QUOTED_WIDTH - 3] + ".." + quoted[-1]


def printable(text: str) -> str:
    """Text of a model without what would steer the terminal."""
    return "".join(c if c.isprintable() or c == "\n" else " " if c == "\t" else "\ufffd" for c in text)
