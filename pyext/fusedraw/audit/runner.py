# SPDX-License-Identifier: Apache-2.0
"""Runs a plan: every group of prompts under every condition, the comparisons, then the extra measurements.

A unit that is stored is not run again. Several processes (torchrun, accelerate) take groups in turn and store
into files of their own in one folder; the first also makes the extra measurements and the report.
"""

from __future__ import annotations

import itertools
import math
import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy

from .._C import isa
from . import anomalies, blame, extras
from .decode import Decoded, decode, seed_of
from .models import Loaded
from .plan import AuditError, Condition, Plan, cores, digest
from .progress import Progress
from .scratch import Scratch
from .store import FILE, STATS, Output, Store

WAITED_SECONDS = 6 * 3600  # for the other processes
COMPLETE = "complete"


@dataclass
class Options:
    """What to measure beside the outputs."""

    reference: list[str] | None = None  # texts for the calibration; None: the prompts
    pairs: Any = None  # of bias.read_pairs; None: bias.DEFAULT_PAIRS; (): none
    ensemble: list[Loaded] = field(default_factory=list)  # models beside the one under audit
    mc_dropout: float = 0.0

    def identity(self) -> dict[str, Any]:
        return {
            "reference": None if self.reference is None else digest("\0".join(self.reference)),
            "pairs": None if self.pairs is None else digest(repr(self.pairs)),
            "ensemble": [one.digest for one in self.ensemble],
            "mc_dropout": self.mc_dropout,
        }


def rank() -> tuple[int, int]:
    """(this process, number of processes), as torchrun and accelerate say."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def store_path(folder: Path, number: int) -> Path:
    return folder / (FILE if number == 0 else f"{FILE.removesuffix('.sqlite')}-{number}.sqlite")


class Runner:
    def __init__(self, plan: Plan, loaded: Loaded, folder: Path, options: Options):
        self.plan, self.loaded, self.options = plan, loaded, options
        self._check_input()
        self.number, self.processes = rank()
        self.folder = folder
        self.store = Store(store_path(folder, self.number))
        self.store.begin(identity(plan, loaded, options, self.processes))
        if self.store.get("machine") is None:
            self.store.put("machine", machine())
        self.scratch = Scratch(folder / f"scratch-{self.number}")
        self.groups = plan.groups()[self.number :: self.processes]
        self.pseudonyms = self.store.pseudonyms() if plan.redact and not self.is_complete() else None

    def is_complete(self) -> bool:
        return self.store.is_done(COMPLETE)

    def run(self) -> None:
        """Until all is stored. Raises AuditError; what was finished stays."""
        if self.is_complete():
            return
        measures = self._extras() if self.number == 0 else []
        total = sum(map(self._work, self.groups)) + len(measures)
        progress = Progress(total)
        try:
            self._store_prompts()
            for group in self.groups:
                self._run_group(group, progress)
            for name, measure in measures:
                if self.store.get(name) is None:
                    self.store.put(name, measure())
                progress.step(1, name)
        finally:
            progress.close()
        self.scratch.clear()
        if self.plan.redact:
            self.store.forget_pseudonyms()
        with self.store.transaction() as file:
            file.execute("INSERT OR REPLACE INTO units VALUES (?)", (COMPLETE,))

    def wait_for_others(self) -> list[Path]:
        """The files of all processes, when they are complete; the first process calls it."""
        paths = [store_path(self.folder, number) for number in range(self.processes)]
        until = time.monotonic() + WAITED_SECONDS
        for path in paths[1:]:
            while not (path.is_file() and _is_complete(path)):
                if time.monotonic() > until:
                    raise AuditError(
                        f"{path} is not complete after {WAITED_SECONDS // 3600} hours of waiting"
                    )
                time.sleep(1)
        return paths

    # Groups

    def _run_group(self, group: range, progress: Progress) -> None:
        compared = f"{group.start}/compared"
        if self.store.is_done(compared):
            progress.skip(self._work(group))
            return
        for place, condition in enumerate(self.plan.conditions):
            unit = f"{group.start}/{condition.name}"
            stored = self.store.is_done(unit)
            if stored and self.scratch.has(group.start, place, condition.samples):
                progress.skip(self._passes(condition, group))
                continue
            self._run_unit(unit, group, place, condition)
            progress.step(self._passes(condition, group), f"{_span(group)}, {condition.name}")
        self.store.add_comparisons(compared, self._compare(group))
        self.scratch.clear()

    def _run_unit(self, unit: str, group: range, place: int, condition: Condition) -> None:
        ids = {p: self.loaded.ids_of(self.plan.prompt_for(condition, p), self.plan.chat) for p in group}
        outputs = []
        for number in range(condition.samples):
            decoded: list[Decoded] = []
            for start in range(group.start, group.stop, condition.batch):
                batch = list(range(start, min(start + condition.batch, group.stop)))
                rows = [ids[p] for p in batch]
                decoded += decode(self.loaded, condition, batch, rows, number, self.plan.max_new_tokens)
            self.scratch.save(group.start, place, number, decoded)
            outputs += [
                self._output(prompt, condition, number, one)
                for prompt, one in zip(group, decoded, strict=True)
            ]
        self.store.add_outputs(unit, outputs)

    def _output(self, prompt: int, condition: Condition, number: int, one: Decoded) -> Output:
        ids = [int(i) for i in one.ids]
        text = self.loaded.text_of(ids)
        columns: Any = {name: one.stats[:, place] for place, name in enumerate(STATS)}
        # the logits of shorter floats lie far apart: ties there are ordinary
        limits = None if condition.dtype == "float32" else {"near_tie": math.inf}
        found = [a._asdict() for a in anomalies.find(columns, ids, text, limits)]
        if self.pseudonyms is None:
            kept, pieces = text, self.loaded.pieces_of(ids)
        else:  # what a rule says may quote the text
            kept, pieces, ids = None, None, self.pseudonyms.of(ids)
            found = [{**a, "says": anomalies.RULES[a["rule"]].says} for a in found]
        return Output(
            prompt,
            condition.name,
            number,
            numpy.array(ids, dtype=numpy.int32),
            one.stats,
            kept,
            pieces,
            one.finished,
            one.redrawn,
            found,
        )

    def _compare(self, group: range) -> list[dict[str, Any]]:
        conditions = list(enumerate(self.plan.conditions))
        found = []
        for (i, a), (j, b) in itertools.combinations(conditions, 2):
            for number in range(min(a.samples, b.samples)):
                first = self.scratch.load(group.start, i, number)
                second = self.scratch.load(group.start, j, number)
                for prompt, one, other in zip(group, first, second, strict=True):
                    seeds = (seed_of(a, prompt, number), seed_of(b, prompt, number))
                    line = blame.compare(a, b, one, other, *seeds)
                    found.append({"a": a.name, "b": b.name, "prompt": prompt, "sample": number, **line})
        for line in found:
            self._name_tokens(line)
        return found

    def _name_tokens(self, line: dict[str, Any]) -> None:
        """Texts of the tokens at a fork, or pseudonyms."""
        if "token_a" not in line:
            return
        names = ("token_a", "token_b", "token_of_a_on_logits_of_b")
        ids = [line[name] for name in names]
        if self.pseudonyms is None:
            line["text_a"], line["text_b"] = self.loaded.pieces_of(ids[:2])
        else:
            line.update(zip(names, self.pseudonyms.of(ids), strict=True))
            line["text_a"] = line["text_b"] = None

    # What it takes

    def _passes(self, condition: Condition, group: range) -> float:
        """Forward passes, those of one prompt counted half: they take about half as long as those of four."""
        calls = -(-len(group) // condition.batch) * condition.samples
        return calls * self.plan.max_new_tokens * (0.5 if condition.batch == 1 else 1.0)

    def _work(self, group: range) -> float:
        return sum(self._passes(condition, group) for condition in self.plan.conditions)

    def _extras(self) -> list[tuple[str, Callable[[], Any]]]:
        return extras.measures(self.loaded, self.plan, self.options)

    # Prompts

    def _store_prompts(self) -> None:
        """Texts, or nothing of them: the digest of a short prompt could be guessed."""
        rows: list[tuple[int, str | None, str]] = []
        for number, text in enumerate(self.plan.prompts):
            rows.append((number, None, "") if self.plan.redact else (number, text, digest(text)))
        self.store.add_prompts(rows)

    def _check_input(self) -> None:
        for other in self.options.ensemble:
            if other.vocab != self.loaded.vocab:
                raise AuditError(
                    f"--ensemble: {other.name} has {other.vocab} tokens, "
                    f"{self.loaded.name} {self.loaded.vocab}"
                )
        for number, text in enumerate(self.plan.prompts):
            length = len(self.loaded.ids_of(text, self.plan.chat))
            if length == 0:
                raise AuditError(f"prompt {number + 1} has no tokens")
            if length + self.plan.max_new_tokens > self.loaded.context:
                raise AuditError(
                    f"prompt {number + 1} has {length} tokens, with {self.plan.max_new_tokens} new ones "
                    f"more than the {self.loaded.context} that the model takes"
                )


def identity(plan: Plan, loaded: Loaded, options: Options, processes: int) -> dict[str, Any]:
    """What a stored audit must share to be continued."""
    import torch
    import transformers

    from .. import __version__

    model = {"name": loaded.name, "kind": loaded.kind, "digest": loaded.digest}
    versions = {"fusedraw": __version__, "torch": torch.__version__, "transformers": transformers.__version__}
    return {
        "model": {**model, "parameters": loaded.parameters, "vocab": loaded.vocab},
        "versions": versions,
        "processes": processes,
        **plan.identity(),
        **options.identity(),
    }


def machine() -> dict[str, str]:
    """What logits depend on; nothing that names the machine."""
    import torch

    return {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "cores": str(cores()),
        "torch's instruction set": torch.backends.cpu.get_cpu_capability(),
        "fusedraw's instruction set": isa(),
    }


def _is_complete(path: Path) -> bool:
    try:
        store = Store(path, read_only=True)
    except AuditError:  # its process has made the file, and not yet what is in it
        return False
    try:
        return store.is_done(COMPLETE)
    finally:
        store.close()


def _span(group: range) -> str:
    return f"prompts {group.start + 1} to {group.stop}" if len(group) > 1 else f"prompt {group.start + 1}"
