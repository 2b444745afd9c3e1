# SPDX-License-Identifier: Apache-2.0
"""The report of an audit: report.html, which needs no other file, report.json and the CSV files beside it.

    from fusedraw.audit import report
    report.write(analysis, Path("audit"))    # -> audit/report.html

Needs matplotlib and jinja2, which the package does not. The same analysis gives the same bytes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from . import tables
from ._format import clean, redact

TEMPLATE = Path(__file__).resolve().parent / "report.html.jinja"
NEEDED = ("matplotlib", "jinja2")


def missing() -> str | None:
    """What to install before write() can run, or None."""
    absent = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    return f"needs {' and '.join(absent)}: pip install {' '.join(absent)}" if absent else None


def write(analysis: dict[str, Any], output: Path) -> Path:
    """Writes the analysis of results.analyse into the folder `output`; returns the path of report.html.

    All files are complete in a folder beside them before the first replaces an older one, report.html last.
    Numbers that are not finite become null; where run.redacted is true no text of a prompt or an output is
    written, also if the analysis holds some. OSError (with the path) where the folder cannot be written.
    """
    made = clean(analysis)
    if (made.get("run") or {}).get("redacted"):
        made = redact(made)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    unready = Path(tempfile.mkdtemp(prefix=".report-", dir=output))
    try:
        names = []
        for name, text in texts(made):
            save(unready / name, text, output / name)
            names.append(name)
        for name in names:
            os.replace(unready / name, output / name)
    finally:
        shutil.rmtree(unready, ignore_errors=True)
    return output / "report.html"


def texts(analysis: dict[str, Any]) -> Iterator[tuple[str, str]]:
    yield from tables.files(analysis)
    # ASCII: half of a surrogate pair, which a model can emit, is no UTF-8.
    yield "report.json", json.dumps(analysis, indent=1, allow_nan=False) + "\n"
    yield "report.html", render(analysis)


def save(path: Path, text: str, meant: Path) -> None:
    try:
        path.write_text(text, encoding="utf-8", newline="\n")
    except OSError as error:  # of a full disk it knows no path
        raise OSError(error.errno, error.strerror, str(meant)) from None


def render(analysis: dict[str, Any]) -> str:
    """The page, of an analysis without what is not finite."""
    import jinja2
    import markupsafe

    from . import _plots_outputs, _views, plots

    def drawn(picture: plots.Picture) -> dict[str, Any]:
        return {"name": picture.name, "caption": picture.caption, "svg": markupsafe.Markup(picture.inline())}

    view = _views.view(analysis)
    with warnings.catch_warnings():
        # A browser has the letters that the font of the layout lacks.
        warnings.filterwarnings("ignore", "(?s)Glyph .* missing from")
        pictures = {name: drawn(picture) for name, picture in plots.all_pictures(analysis).items()}
        for number, strip in enumerate(view["strips"]):
            trace = _plots_outputs.trace(strip.pop("trace"), f"trace-{number}", _views.MOST_TOKENS)
            strip["picture"] = drawn(trace)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    return template.render(**view, pictures=pictures)
