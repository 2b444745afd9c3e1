# SPDX-License-Identifier: Apache-2.0
"""What one run measures, and the keeping of its results: says what is left out, stores after every case."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from . import cases, floors, memory, providers, sources, stored, timing
from .cases import Case
from .progress import Progress

RESULTS = Path("fusedraw-bench")  # of the current directory
VARIABLE = "FUSEDRAW_BENCH"  # carries the selection to timed_cases.py

ROUNDS = 15
MINUTES = 90.0


@dataclass
class Selection:
    """What one run measures."""

    grid: str = "quick"
    patterns: list[str] = field(default_factory=list)
    parts: list[str] = field(default_factory=list)
    providers: list[str] = field(default_factory=lambda: list(providers.NAMES))
    rounds: int = ROUNDS
    minutes: float = MINUTES
    output: str | None = None
    fresh: bool = False

    @property
    def every(self) -> list[Case]:
        return list(cases.full() if self.grid == "full" else cases.quick())

    @property
    def cases(self) -> list[Case]:
        return cases.select(self.every, self.patterns, self.parts)

    @property
    def complete(self) -> bool:
        return not self.patterns and not self.parts and set(self.providers) == set(providers.NAMES)

    @property
    def target(self) -> Path | None:
        """The file of results; parts of a run have one only where the caller names it."""
        if self.output:
            return Path(self.output)
        if not self.complete or VARIABLE not in os.environ:  # pytest alone may have picked cases
            return None
        return RESULTS / ("bench.json" if self.grid == "full" else "bench-quick.json")

    @staticmethod
    def from_environment() -> Selection:
        return Selection(**json.loads(os.environ.get(VARIABLE, "{}")))


class Recorder:
    """Collects the results of a run, one line per case, beside those that an earlier run has left."""

    latest: Recorder | None = None  # of this process: what `--compare` looks at after the run

    def __init__(self, selection: Selection):
        Recorder.latest = self
        self.selection, self.target = selection, selection.target
        self.started, self.load = time.monotonic(), timing.load()
        self.absent = {name: why for name in selection.providers if (why := providers.missing(name))}
        self.head = self.facts()
        self.results: dict[Case, stored.Result] = {}
        self.lines: dict[Case, str] = {}
        self.seconds_before = 0.0
        self.out_of_time_cases: list[str] = []
        self.failed: list[str] = []
        self.take_up()
        self.to_do = [case for case in selection.cases if case not in self.results]
        self.counts: dict[Case, memory.Counts] | None = None
        self.reasons = Counter(
            why
            for case in selection.cases
            for name in selection.providers
            if name not in self.absent and (why := sources.skipped(name, case))
        )
        for why in self.absent.values():
            print(f"left out: {why}")
        for why, number in self.reasons.items():
            print(f"left out of {number} cases: {why}")
        self.progress = Progress(self.to_do)

    def facts(self) -> dict[str, Any]:
        """What a figure depends on, as it is stored."""
        names = [name for name in self.selection.providers if name not in self.absent]
        return {
            "command": "python -m fusedraw bench" + (" --quick" if self.selection.grid == "quick" else ""),
            "unit": "us per call of the whole batch: lower quartile, median, upper quartile; calls timed",
            "machine": timing.machine(),
            "versions": timing.versions(),
            "isa": instruction_sets(),
            "code": stored.code(),
            "rounds": self.selection.rounds,
            "selected": sorted(self.selection.providers),
            "malloc_keeps_memory": timing.memory_is_kept(),
            "providers": sources.about(names),
        }

    def take_up(self) -> None:
        """The results in the target, where they are of the same machine, versions, code and selection."""
        if self.target is None or not self.target.exists():
            return
        try:
            old = stored.load(self.target)
        except stored.BenchError:
            old = {"results": []}
        same = stored.identity(old) == stored.identity(self.head)
        if self.selection.fresh or not same:
            why = "--fresh" if same else "of another machine, version or selection"
            print(f"results so far ({why}) are now {stored.put_aside(self.target)}")
            return
        self.results = {stored.case_of(result): result for result in old["results"]}
        self.lines = {case: json.dumps(result) for case, result in self.results.items()}
        self.seconds_before = old.get("seconds", 0)
        self.load = max(self.load, old.get("load_before", 0))
        known = sum(case in self.results for case in self.selection.cases)
        print(f"{known} of {len(self.selection.cases)} cases are in {self.target} already (--fresh: anew)")

    def has(self, case: Case) -> bool:
        return case in self.results

    def out_of_time(self) -> bool:
        return time.monotonic() - self.started > self.selection.minutes * 60

    def leave_out(self, case: Case) -> None:
        self.out_of_time_cases.append(case.name)

    def fail(self, case: Case, name: str, why: str) -> None:
        self.failed.append(f"{name} failed on {case.name}: {why}")
        self.progress.line(self.failed[-1])

    def takes_part(self, name: str, case: Case) -> bool:
        return name not in self.absent and sources.skipped(name, case) is None

    def store(self, case: Case, samples: dict[str, timing.Samples]) -> None:
        summaries = {name: [*s.quartiles(), s.calls] for name, s in samples.items()}
        result = {**asdict(case), "rows": sources.label(case), "us": summaries}
        counted = self.memory_of(case)
        if counted:
            result["memory"] = {name: counted[name] for name in summaries if name in counted}
        self.results[case], self.lines[case] = result, json.dumps(result)
        self.write()
        self.progress.step(case)
        times = "  ".join(f"{name} {samples[name].median * 1e6:.1f}" for name in samples)
        self.progress.line(f"{case.name}: {times}")

    def memory_of(self, case: Case) -> memory.Counts | None:
        """Counted for all cases that are still to come when the first is due: a process starts slowly."""
        if not memory.possible() or not memory.wanted(case):
            return None
        if self.counts is None:
            todo = [c for c in self.to_do if memory.wanted(c)]
            names = [[n for n in self.selection.providers if self.counted(n, c)] for c in todo]
            try:
                counts = memory.measure(list(zip(todo, names, strict=True)))
            except RuntimeError as error:
                self.failed.append(str(error))
                counts = [{} for _ in todo]
            self.counts = dict(zip(todo, counts, strict=True))
        return self.counts.get(case)

    def counted(self, name: str, case: Case) -> bool:
        return name not in floors.KINDS and self.takes_part(name, case)

    def write(self) -> None:
        if self.target is None or not self.results:
            return
        head = {
            **self.head,
            "load_before": self.load,
            "seconds": round(self.seconds_before + time.monotonic() - self.started),
            "left_out": [*self.absent.values(), *self.reasons, *self.failed, *self.out_of_time_cases],
        }
        stored.write(self.target, stored.text(head, self.lines.values()))

    def finish(self) -> None:
        self.progress.close()
        if self.out_of_time_cases:
            minutes = self.selection.minutes
            print(f"not measured, out of time ({minutes:g} minutes): {len(self.out_of_time_cases)} cases")
            print("the same command again measures them" if self.target else "")
        for line in self.failed:
            print(line)
        self.write()
        said = (
            f"stored: {self.target}" if self.target else "not stored: a part only (--output FILE stores it)"
        )
        print(said)


def instruction_sets() -> dict[str, str]:
    import fusedraw

    return {"floors": floors.isa(), "fusedraw": fusedraw.isa()}
