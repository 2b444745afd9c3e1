# SPDX-License-Identifier: Apache-2.0
"""Time per call over the grid of cases.py, beside the floors and the peers; printed, and stored as JSON.

python -m fusedraw bench                     the full grid, at most an hour on two cores
python -m fusedraw bench --quick             about two minutes
python -m fusedraw bench --case top-p-flat V128256-B1 --provider fusedraw exp    parts of names pick
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

from . import cases, data, providers, timing
from .cases import Case

HERE = Path(__file__).resolve().parent
RESULTS = Path("fusedraw-bench")  # of the current directory
VARIABLE = "FUSEDRAW_BENCH"  # carries the selection to timed_cases.py

ROUNDS = 15
CHUNK_SECONDS = 1e-3  # of calls per provider and round
MOST_SECONDS = 0.2  # per provider and case, unless three calls take longer
STORE_EVERY = 50  # cases: an interrupted run leaves what it has


@dataclass
class Selection:
    """What one run measures."""

    grid: str = "quick"
    patterns: list[str] = field(default_factory=list)
    providers: list[str] = field(default_factory=lambda: list(providers.NAMES))
    rounds: int = ROUNDS
    minutes: float = 60.0
    output: str | None = None

    @property
    def cases(self) -> list[Case]:
        return cases.select(cases.full() if self.grid == "full" else cases.quick(), self.patterns)

    @property
    def complete(self) -> bool:
        return not self.patterns and set(self.providers) == set(providers.NAMES)

    @staticmethod
    def from_environment() -> Selection:
        return Selection(**json.loads(os.environ.get(VARIABLE, "{}")))


class Recorder:
    """Collects the results of a run, prints one line per case, says what is left out."""

    def __init__(self, selection: Selection):
        self.selection, self.total = selection, len(selection.cases)
        self.results: list[dict[str, object]] = []
        self.left_out: list[str] = []
        self.reasons: dict[str, int] = {}
        self.absent = {name: why for name in selection.providers if (why := providers.missing(name))}
        self.started, self.load = time.monotonic(), timing.load()
        for why in self.absent.values():
            print(f"left out: {why}")

    def out_of_time(self) -> bool:
        return time.monotonic() - self.started > self.selection.minutes * 60

    def leave_out(self, case: Case) -> None:
        self.left_out.append(case.name)

    def takes_part(self, name: str, case: Case) -> bool:
        if name in self.absent:
            return False
        why = providers.skipped(name, case)
        if why is not None:
            if why not in self.reasons:
                print(f"left out: {why}")
            self.reasons[why] = self.reasons.get(why, 0) + 1
        return why is None

    def store(self, case: Case, samples: dict[str, timing.Samples]) -> None:
        summaries = {name: [*s.quartiles(), s.calls] for name, s in samples.items()}
        self.results.append({**asdict(case), "rows": data.label(case.data, case.vocab), "us": summaries})
        done, elapsed = len(self.results), time.monotonic() - self.started
        left = elapsed / done * (self.total - done) / 60
        times = "  ".join(f"{name} {samples[name].median * 1e6:.1f}" for name in samples)
        place = f"[{done}/{self.total}, {elapsed / 60:.1f} min, {left:.0f} left]"
        print(f"{place} {case.name}: {times}", flush=True)
        if done % STORE_EVERY == 0:
            self.write()

    def target(self) -> Path | None:
        if self.selection.output:
            return Path(self.selection.output)
        if not self.selection.complete or VARIABLE not in os.environ:  # pytest alone may have picked cases
            return None
        return RESULTS / ("bench.json" if self.selection.grid == "full" else "bench-quick.json")

    def write(self) -> None:
        target = self.target()
        if target is None or not self.results:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        stored = {
            "command": "python -m fusedraw bench" + (" --quick" if self.selection.grid == "quick" else ""),
            "unit": "us per call of the whole batch: lower quartile, median, upper quartile; calls timed",
            "machine": timing.machine(),
            "versions": timing.versions(),
            "isa": instruction_sets(),
            "load_before": self.load,
            "malloc_keeps_memory": timing.memory_is_kept(),
            "seconds": round(time.monotonic() - self.started),
            "left_out": [*self.absent.values(), *self.reasons, *self.left_out],
        }
        # one line per case: readable, and a diff shows the cases that changed
        lines = [json.dumps(result) for result in self.results]
        head = json.dumps(stored, indent=1)[:-2]
        target.write_text(head + ',\n "results": [\n  ' + ",\n  ".join(lines) + "\n ]\n}\n")

    def finish(self) -> None:
        for why, count in self.reasons.items():
            print(f"left out of {count} cases: {why}")
        if self.left_out:
            minutes = self.selection.minutes
            print(f"not measured, out of time ({minutes:g} minutes): {len(self.left_out)} cases")
            print("  " + "\n  ".join(self.left_out))
        self.write()
        target = self.target()
        print(f"stored: {target}" if target else "not stored: a part of a grid only (--output stores it)")


def instruction_sets() -> dict[str, str]:
    from . import floors

    out = {"floors": floors.isa()}
    try:
        import fusedraw

        out["fusedraw"] = fusedraw.isa()
    except ImportError:
        out["fusedraw"] = "absent"
    return out


class OwnLines:
    """A pytest plugin that leaves the progress to the recorder's lines."""

    def pytest_report_teststatus(self, report):
        if report.failed:
            return None
        return (report.outcome if report.when == "call" or report.skipped else ""), "", ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description, parser.formatter_class = __doc__, argparse.RawDescriptionHelpFormatter
    parser.add_argument("--quick", action="store_true", help="the small grid")
    parser.add_argument("--case", nargs="+", default=[], help="parts of case names, wildcards allowed")
    parser.add_argument("--provider", nargs="+", default=list(providers.NAMES), choices=providers.NAMES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument(
        "--minutes", type=float, default=60.0, help="cases beyond this are left out and printed"
    )
    parser.add_argument(
        "--output", default=None, help="where the JSON goes (default: fusedraw-bench/, whole grids only)"
    )
    parser.add_argument("--list", action="store_true", help="print the names of the cases, measure nothing")


def main(args: argparse.Namespace) -> int:
    timing.keep_memory()
    grid = "quick" if args.quick else "full"
    output = str(Path(args.output).resolve()) if args.output else None
    selection = Selection(grid, args.case, args.provider, args.rounds, args.minutes, output)
    chosen = selection.cases
    if args.list or not chosen:
        names = [case.name for case in chosen]
        print("\n".join(names) or "bench: no case has such a name (--list prints them)")
        return 0 if chosen else 2
    machine = timing.machine()
    print(f"bench: {len(chosen)} cases, medians of {args.rounds} interleaved rounds, us per call")
    print(f"{machine['cpu']}, {machine['cores']} cores; {instruction_sets()}")
    print(timing.load_said(), flush=True)
    os.environ[VARIABLE] = json.dumps(asdict(selection))
    import pytest

    gc.disable()
    options = f"-c {os.devnull} -q -s --no-header -p no:cacheprovider --tb=short -W ignore"
    own = [
        "--rootdir",
        str(HERE),
        "--benchmark-quiet",
        "--benchmark-disable-gc",
        str(HERE / "timed_cases.py"),
    ]
    return int(pytest.main([*options.split(), *own, str(HERE / "timed_cases.py")], plugins=[OwnLines()]))
