# SPDX-License-Identifier: Apache-2.0
"""A progress bar on a terminal, by `rich`, where it is installed."""

from typing import Any


def bar(stream: Any, *, time_left: bool = False, auto_refresh: bool = True) -> Any:
    """rich's Progress with a description and a bar, or None where `stream` is no terminal or rich is missing.

    auto_refresh: False for timing, beside which no thread may redraw.
    """
    if not stream.isatty():
        return None
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
    except ImportError:
        return None
    columns = [TextColumn("{task.description}"), BarColumn(), *([TimeRemainingColumn()] if time_left else [])]
    return Progress(*columns, console=Console(file=stream), auto_refresh=auto_refresh, transient=True)
