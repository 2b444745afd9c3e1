# SPDX-License-Identifier: Apache-2.0
"""Time per call over the cases of cases.py, beside the floors and the peers; printed, and stored as JSON.

python -m fusedraw bench                     everything, about an hour on two cores; again: what is missing
python -m fusedraw bench --quick             about two minutes
python -m fusedraw bench --case top-p-flat V128256-B1 --provider fusedraw exp    parts of names pick
python -m fusedraw bench --compare OLD.json --from NEW.json      two stored runs side by side
"""

from __future__ import annotations

import argparse
import gc
import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import cases, compare, floors, providers, stored, timing
from .recorder import MINUTES, RESULTS, ROUNDS, VARIABLE, Recorder, Selection, instruction_sets
from .stored import BenchError

HERE = Path(__file__).resolve().parent
STORAGE = RESULTS / "pytest-benchmark"
AUTOSAVE = ""
BAD_INPUT, INTERRUPTED, CLOSED_PIPE = 2, 130, 141


class OwnLines:
    """A pytest plugin that leaves the progress to the recorder's lines."""

    def pytest_report_teststatus(self, report):
        if report.failed:
            return None
        return (report.outcome if report.when == "call" or report.skipped else ""), "", ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    add = parser.add_argument
    add("--quick", action="store_true", help="a small part of everything")
    add("--case", nargs="+", default=[], help="parts of case names, wildcards allowed")
    add("--part", nargs="+", default=[], help=f"parts: {', '.join(cases.PARTS)}")
    add(
        "--provider",
        nargs="+",
        default=list(providers.NAMES),
        help=f"providers: {', '.join(providers.NAMES)}",
    )
    add("--rounds", type=int, default=ROUNDS)
    add("--minutes", type=float, default=MINUTES, help="cases beyond this are left to the next run")
    add("--output", metavar="FILE", help=f"where the JSON goes (default: in {RESULTS}/, complete runs only)")
    add("--fresh", action="store_true", help="measure anew what is stored already")
    add("--list", action="store_true", help="print the parts and the names of the cases, measure nothing")
    add("--compare", metavar="OLD.json", help="print old, new and ratio of every case after the run")
    add("--from", metavar="NEW.json", dest="stored", help="with --compare: this stored run, measure nothing")
    add(
        "--save",
        nargs="?",
        const=AUTOSAVE,
        metavar="NAME",
        help=f"for pytest-benchmark too, in {STORAGE}/",
    )


def main(args: argparse.Namespace) -> int:
    timing.keep_memory()
    try:
        return done(args)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return BAD_INPUT
    except BrokenPipeError:  # `| head` has seen enough; nothing more can be flushed at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return CLOSED_PIPE


def done(args: argparse.Namespace) -> int:
    """The exit code; BenchError for bad input, before any work."""
    selection = selection_of(args)
    old = stored.load(Path(args.compare)) if args.compare else None
    if args.stored:
        if old is None:
            raise BenchError("--from needs --compare OLD.json")
        print(compare.text(old, narrowed(stored.load(Path(args.stored)), selection)), flush=True)
        return 0
    if args.list:
        print(listing(selection.cases), flush=True)
        return 0
    check_possible(selection, args.save)
    code = run(selection, args.save)
    if old is not None and Recorder.latest is not None:
        new = {**Recorder.latest.head, "results": list(Recorder.latest.results.values())}
        print("", compare.text(old, narrowed(new, selection)), sep="\n", flush=True)
    return code


def selection_of(args: argparse.Namespace) -> Selection:
    """What the arguments ask for, or BenchError with what is allowed."""
    check_known("provider", args.provider, providers.NAMES)
    check_known("part", args.part, tuple(cases.PARTS))
    if args.rounds < 1:
        raise BenchError(f"--rounds must be at least 1, got {args.rounds}")
    if not args.minutes > 0:
        raise BenchError(f"--minutes must be above 0, got {args.minutes:g}")
    output = str(Path(args.output).resolve()) if args.output else None
    wanted = [name for name in providers.NAMES if name in args.provider]
    grid = "quick" if args.quick else "full"
    selection = Selection(grid, args.case, args.part, wanted, args.rounds, args.minutes, output, args.fresh)
    offered = cases.select(selection.every, [], args.part)
    for pattern in args.case:
        if not any(cases.matches(case, pattern) for case in offered):
            raise BenchError(f"no case has a name like {pattern!r} (--list prints the names)")
    if not offered:
        raise BenchError(f"--quick has no case of {', '.join(args.part)}")
    return selection


def check_known(what: str, given: Sequence[str], known: Sequence[str]) -> None:
    for name in given:
        if name not in known:
            raise BenchError(f"no {what} is named {name!r}: expected some of {', '.join(known)}")


def check_possible(selection: Selection, save: str | None) -> None:
    for module in ("pytest", "pytest_benchmark"):
        if importlib.util.find_spec(module) is None:
            raise BenchError(f"needs {module.replace('_', '-')}: pip install pytest pytest-benchmark")
    try:
        floors.library()
    except (RuntimeError, subprocess.CalledProcessError) as error:
        raise BenchError(f"the floors cannot be built: {error}") from None
    if save is not None and (os.sep in save or save.startswith(("-", "."))):
        raise BenchError(f"--save takes a name, got {save!r}")
    target = Path(selection.output) if selection.output else None
    if target is None and selection.complete:
        target = RESULTS / "bench.json"
    for path in (target, STORAGE / "x" if save is not None else None):
        if path is not None:
            stored.check_writable(path)


def listing(chosen: Sequence[cases.Case]) -> str:
    counts = Counter(case.part for case in chosen)
    seconds = {part: count * cases.PARTS[part] for part, count in counts.items()}
    head = [f"# {part}: {counts[part]} cases, about {seconds[part] / 60:.1f} minutes" for part in counts]
    head.append(f"# together: {len(chosen)} cases, about {sum(seconds.values()) / 60:.0f} minutes")
    return "\n".join([*head, *(case.name for case in chosen)])


def narrowed(run: dict[str, Any], selection: Selection) -> dict[str, Any]:
    """The stored run without the cases and providers that the arguments do not pick."""
    results = []
    for result in run["results"]:
        if cases.select([stored.case_of(result)], selection.patterns, selection.parts):
            us = {name: t for name, t in result["us"].items() if name in selection.providers}
            results.append({**result, "us": us})
    return {**run, "results": results}


def run(selection: Selection, save: str | None) -> int:
    machine, count = timing.machine(), len(selection.cases)
    print(f"bench: {count} cases, medians of {selection.rounds} interleaved rounds, us per call")
    print(f"{machine['cpu']}, {machine['cores']} cores; {instruction_sets()}")
    print(timing.load_said(), flush=True)
    os.environ[VARIABLE] = json.dumps(asdict(selection))
    import pytest

    gc.disable()
    options = f"-c {os.devnull} -q -s --no-header -p no:cacheprovider --tb=short -W ignore"
    own = ["-o", "console_output_style=classic", "--rootdir", str(HERE)]
    own += ["--benchmark-quiet", "--benchmark-disable-gc", f"--benchmark-storage=file://{STORAGE.resolve()}"]
    if save is not None:
        own.append(f"--benchmark-save={save}" if save else "--benchmark-autosave")
    code = pytest.main([*options.split(), *own, str(HERE / "timed_cases.py")], plugins=[OwnLines()])
    return INTERRUPTED if code == pytest.ExitCode.INTERRUPTED else int(code)
