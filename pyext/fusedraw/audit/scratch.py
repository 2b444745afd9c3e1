# SPDX-License-Identifier: Apache-2.0
"""Logits of the group of prompts that is being worked on, on the disk until its conditions are compared.

They are large (tokens x vocabulary x 4 bytes an output) and only needed for one group, so they are mapped
from files and removed with the group. A file appears under its name when it is whole.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy
import torch

from .decode import Drawn
from .store import said


class Scratch:
    """Files of one process, in a folder of its own."""

    def __init__(self, folder: Path):
        self.folder = folder

    def has(self, group: int, condition: int, samples: int) -> bool:
        return all(self._path(group, condition, s, "ids.npz").is_file() for s in range(samples))

    def save(self, group: int, condition: int, sample: int, outputs: Sequence[Drawn]) -> None:
        """Logits first: with the ids, both are there."""
        with said(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            logits = self._path(group, condition, sample, "logits.npy")
            self._write(logits, lambda f: numpy.save(f, torch.cat([o.logits for o in outputs]).numpy()))
            ids = numpy.concatenate([o.ids for o in outputs])
            lengths = numpy.array([len(o.ids) for o in outputs])
            self._write(
                self._path(group, condition, sample, "ids.npz"),
                lambda f: numpy.savez(f, ids=ids, lengths=lengths),
            )

    def load(self, group: int, condition: int, sample: int) -> list[Drawn]:
        """One for each prompt of the group, logits mapped."""
        with said(self.folder), numpy.load(self._path(group, condition, sample, "ids.npz")) as file:
            ids, lengths = file["ids"], file["lengths"]
            # copy on write: torch takes no array that cannot be written
            mapped = numpy.load(self._path(group, condition, sample, "logits.npy"), mmap_mode="c")
        ends = numpy.cumsum(lengths)[:-1]
        rows = zip(numpy.split(ids, ends), numpy.split(mapped, ends), strict=True)
        return [Drawn(i, torch.from_numpy(x)) for i, x in rows]

    def clear(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def _path(self, group: int, condition: int, sample: int, end: str) -> Path:
        return self.folder / f"{group}-{condition}-{sample}.{end}"

    @staticmethod
    def _write(path: Path, write) -> None:
        temporary = path.with_name(path.name + ".part")
        with temporary.open("wb") as file:
            write(file)
        os.replace(temporary, path)
