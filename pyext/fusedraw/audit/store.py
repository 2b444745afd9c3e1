# SPDX-License-Identifier: Apache-2.0
"""Results on the disk: one SQLite file per process in the output folder. What is finished is never lost.

Each unit of work (a group of prompts under one condition, or the comparisons of a group) is one transaction,
so a killed run goes on behind the last whole one. Times are not stored: a continued run and one that was
never interrupted hold the same. With `redact`, no text and no token id is kept; ids are replaced by keyed
pseudonyms, equal where ids are equal, and the key is forgotten when the run is complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy

from .plan import AuditError, StorageError

# Per token, in this order, float32.
STATS = (
    *("logp", "logp_raw", "entropy", "varentropy", "margin", "rank", "kept_mass", "explored"),
    *("confidence", "best_logp"),
)
SCHEMA = """
CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS prompts (prompt INTEGER PRIMARY KEY, text TEXT, digest TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS outputs (
    prompt INTEGER, condition TEXT, sample INTEGER, ids BLOB NOT NULL, stats BLOB NOT NULL, text TEXT,
    pieces TEXT, finished INTEGER NOT NULL, redrawn INTEGER NOT NULL, anomalies TEXT NOT NULL,
    PRIMARY KEY (prompt, condition, sample));
CREATE TABLE IF NOT EXISTS comparisons (
    a TEXT, b TEXT, prompt INTEGER, sample INTEGER, value TEXT NOT NULL, PRIMARY KEY (a, b, prompt, sample));
CREATE TABLE IF NOT EXISTS units (unit TEXT PRIMARY KEY);
"""
FILE = "audit.sqlite"


@dataclass
class Output:
    """One output; arrays are [n] and [n, len(STATS)]."""

    prompt: int
    condition: str
    sample: int
    ids: numpy.ndarray
    stats: numpy.ndarray
    text: str | None
    pieces: list[str] | None
    finished: bool
    redrawn: int  # tokens that were drawn again from their recorded logits, all together, and came out equal
    anomalies: list[dict[str, Any]]

    def columns(self) -> dict[str, numpy.ndarray]:
        """{name of STATS: float32 [n]}."""
        return {name: self.stats[:, place] for place, name in enumerate(STATS)}


class Store:
    """One file. Raises AuditError for a foreign file, another plan, or a full disk."""

    def __init__(self, path: Path, *, read_only: bool = False):
        self.path = path
        with said(path):
            if not read_only:
                path.parent.mkdir(parents=True, exist_ok=True)
            elif not path.is_file():
                raise AuditError(f"{path} does not exist: nothing was audited there")
            self._file = sqlite3.connect(path, timeout=60)
            if not read_only:
                self._file.execute("PRAGMA journal_mode=WAL")
                self._file.executescript(SCHEMA)
            self._file.execute("SELECT count(*) FROM outputs")

    def close(self) -> None:
        self._file.close()

    # What it belongs to

    def begin(self, identity: dict[str, Any]) -> None:
        """Take an empty file for this identity, or continue one that has it."""
        stored = self.get("identity")
        if stored is None:
            self.put("identity", identity)
        elif stored != identity:
            wrong = ", ".join(k for k in {**stored, **identity} if stored.get(k) != identity.get(k))
            raise AuditError(
                f"{self.path} holds another audit (other: {wrong}): choose another --output, or --fresh"
            )

    def get(self, key: str) -> Any:
        row = self._file.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
        return None if row is None else json.loads(row[0])

    def put(self, key: str, value: Any) -> None:
        with self.transaction() as file:
            file.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (key, json.dumps(value)))

    # Work

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        with said(self.path), self._file:
            yield self._file

    def is_done(self, unit: str) -> bool:
        return self._file.execute("SELECT 1 FROM units WHERE unit = ?", (unit,)).fetchone() is not None

    def add_prompts(self, prompts: Sequence[tuple[int, str | None, str]]) -> None:
        with self.transaction() as file:
            file.executemany("INSERT OR REPLACE INTO prompts VALUES (?, ?, ?)", prompts)

    def add_outputs(self, unit: str, outputs: Sequence[Output]) -> None:
        rows = [
            (
                *(o.prompt, o.condition, o.sample),
                numpy.asarray(o.ids, dtype="<i4").tobytes(),
                numpy.asarray(o.stats, dtype="<f4").tobytes(),
                o.text,
                None if o.pieces is None else json.dumps(o.pieces),
                *(int(o.finished), o.redrawn, json.dumps(o.anomalies)),
            )
            for o in outputs
        ]
        with self.transaction() as file:
            file.executemany(f"INSERT OR REPLACE INTO outputs VALUES ({', '.join('?' * 10)})", rows)
            file.execute("INSERT OR REPLACE INTO units VALUES (?)", (unit,))

    def add_comparisons(self, unit: str, found: Sequence[dict[str, Any]]) -> None:
        rows = [(c["a"], c["b"], c["prompt"], c["sample"], json.dumps(c)) for c in found]
        with self.transaction() as file:
            file.executemany("INSERT OR REPLACE INTO comparisons VALUES (?, ?, ?, ?, ?)", rows)
            file.execute("INSERT OR REPLACE INTO units VALUES (?)", (unit,))

    # Reading

    def prompts(self) -> list[tuple[int, str | None, str]]:
        return self._file.execute("SELECT prompt, text, digest FROM prompts ORDER BY prompt").fetchall()

    def outputs(self) -> Iterator[Output]:
        """In the order of prompts, conditions by name, samples."""
        rows = self._file.execute("SELECT * FROM outputs ORDER BY prompt, condition, sample")
        for prompt, condition, sample, ids, stats, text, pieces, finished, redrawn, anomalies in rows:
            yield Output(
                prompt,
                condition,
                sample,
                numpy.frombuffer(ids, dtype="<i4"),
                numpy.frombuffer(stats, dtype="<f4").reshape(-1, len(STATS)),
                text,
                None if pieces is None else json.loads(pieces),
                bool(finished),
                redrawn,
                json.loads(anomalies),
            )

    def comparisons(self) -> Iterator[dict[str, Any]]:
        rows = self._file.execute("SELECT value FROM comparisons ORDER BY a, b, prompt, sample")
        return (json.loads(value) for (value,) in rows)

    # Redaction

    def pseudonyms(self) -> Pseudonyms:
        key = self.get("pseudonym_key")
        if key is None:
            key = secrets.token_hex(16)
            self.put("pseudonym_key", key)
        return Pseudonyms(bytes.fromhex(key))

    def forget_pseudonyms(self) -> None:
        with self.transaction() as file:
            file.execute("DELETE FROM meta WHERE key = 'pseudonym_key'")
        with said(self.path):  # a deleted row stays readable in the file until it is written anew
            self._file.execute("VACUUM")
            self._file.execute("PRAGMA wal_checkpoint(TRUNCATE)")


class Pseudonyms:
    """Token ids to numbers below 2^31, equal for equal ids; without the key nothing leads back."""

    def __init__(self, key: bytes):
        self._key = key
        self._known: dict[int, int] = {}

    def of(self, ids: Sequence[int]) -> list[int]:
        return [self._one(int(i)) for i in ids]

    def _one(self, token: int) -> int:
        if token not in self._known:
            made = hashlib.blake2b(str(token).encode(), key=self._key, digest_size=4).digest()
            self._known[token] = int.from_bytes(made, "little") >> 1
        return self._known[token]


@contextlib.contextmanager
def said(path: Path) -> Iterator[None]:
    """Errors of the disk and of SQLite as one line; what was finished before them is kept."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        text = str(error)
        if "full" in text or "I/O" in text:
            raise StorageError(f"{path}: the disk is full ({text}); finished results are kept") from error
        raise AuditError(f"{path} cannot be used: {text}") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be written: {error.strerror or error}") from error
