# SPDX-License-Identifier: Apache-2.0
"""The formulas of docs/scaling.md: lines through counted bytes, times of a draw on paper, exchanges between
ranks, and the bound of a decode step. Everything that is assumed stands in this file by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cuda_devices as devices
import cuda_measure as measure

H100 = devices.DEVICES[0]
ARCH = str(H100.arch)
ELEMENT = {"bfloat16": 2, "float32": 4}
SECTOR = 32

# Rates of an H100 SXM beside those of cuda_devices.py.
NVLINK_BYTES_PER_US = 370e3  # into one device, of 450 GB/s on the wire
EXCHANGE_US = 10.0  # a small all-gather between up to eight devices of a node, captured in a graph
EXCHANGE_SPREAD_US = (5.0, 10.0, 20.0)
FLOP_PER_US = 989e6  # bfloat16 without sparsity
RANKS = (1, 2, 4, 8)

# Lines


@dataclass(frozen=True)
class Line:
    start: float
    slope: float
    residual: float  # the largest distance, as a share of what was counted
    points: int


def line(points: list[tuple[float, float]]) -> Line:
    """Least squares of the relative distances, so that small V count as much as large ones."""
    w = [1 / (y * y) for _, y in points]
    sw = sum(w)
    mx = sum(a * x for a, (x, _) in zip(w, points, strict=True)) / sw
    my = sum(a * y for a, (_, y) in zip(w, points, strict=True)) / sw
    xx = sum(a * (x - mx) ** 2 for a, (x, _) in zip(w, points, strict=True))
    xy = sum(a * (x - mx) * (y - my) for a, (x, y) in zip(w, points, strict=True))
    slope = xy / xx
    start = my - slope * mx
    return Line(start, slope, max(abs(start + slope * x - y) / y for x, y in points), len(points))


def row_bytes(entry: dict, row: int) -> int:
    """Of the sectors that a row's draw touched, read and written."""
    return SECTOR * sum(launch["sectors"][row] for launch in entry["launches"])


def reads(entry: dict, row: int) -> float:
    """How many times its own length a row moved."""
    return row_bytes(entry, row) / (entry["vocab"] * ELEMENT[entry["dtype"]])


FITTED_FROM = 16384  # below, what does not depend on V weighs too much for a statement on V
USUAL = {"top-p": 2, "mix+top-p": 2, "T+logp+entropy": 2}  # whole reads of a row; 1 for the others
MORE = 0.25  # beyond these, a row has needed another way: a nucleus longer than a list


def usual(entry: dict, row: int) -> bool:
    return reads(entry, row) < USUAL.get(entry["config"], 1) + MORE


class Counts:
    """The stored counts, by what was counted."""

    def __init__(self, stored: dict):
        self.row_count = stored["row_count"]
        self.by = {(e["data"], e["dtype"], e["mode"], e["config"], e["vocab"]): e for e in stored["draws"]}
        self.vocabs = sorted({e["vocab"] for e in stored["draws"]})

    def entry(self, kind: str, dtype: str, mode: str, config: str, vocab: int) -> dict:
        return self.by[kind, dtype, mode, config, vocab]

    def entries(self, kind: str, dtype: str, mode: str, config: str) -> list[dict]:
        return [self.entry(kind, dtype, mode, config, v) for v in self.vocabs]

    def line(self, kind: str, dtype: str, mode: str, config: str) -> Line:
        """Bytes of a row by V, over all rows that took the usual way."""
        chosen = [e for e in self.entries(kind, dtype, mode, config) if e["vocab"] >= FITTED_FROM]
        rows = range(self.row_count)
        points = [(float(e["vocab"]), float(row_bytes(e, r))) for e in chosen for r in rows if usual(e, r)]
        return line(points)


# Times of a draw on one device


class Times:
    """Estimates as in cuda_report.py, for every V: bytes from the counts, instructions on the line through
    the two V of the report, real-like rows of bfloat16."""

    KIND, DTYPE = "real", "bfloat16"

    def __init__(self, counts: Counts, report: dict, bench: dict):
        self.counts = counts
        self.known: dict[tuple[str, int, int], devices.Estimate] = {}
        self.resident = {k["name"]: k["resident"] for k in report["kernels"] if k["arch"] == H100.arch}
        self.tile: dict[str, int] = {}
        for loop in report["loops"]:
            if loop["arch"] == H100.arch:
                self.tile[loop["kernel"]] = max(self.tile.get(loop["kernel"], 1), loop["loads16"])
        self.issued: dict[tuple[str, str], list[tuple[int, list[float]]]] = {}
        for e in report["draws"]:
            if (e["data"], e["dtype"]) == (self.KIND, self.DTYPE):
                found = self.issued.setdefault((e["config"], e["mode"]), [])
                found.append((e["vocab"], e["issued"][ARCH]))
        self.measured = {
            (r["config"], r["batch"]): r["us"]
            for r in bench["results"]
            if (r["data"], r["dtype"], r["vocab"]) == (self.KIND, self.DTYPE, MEASURED_VOCAB)
        }

    def instructions(self, config: str, launches: int, vocab: int) -> list[float]:
        """Warp instructions of each launch for one row."""
        mode = measure.MODES[0] if launches == 2 else measure.MODES[1]
        (v0, low), (v1, high) = sorted(self.issued[config, mode])[:2]
        out = []
        for a, b in zip(low, high, strict=True):
            slope = max((b - a) / (v1 - v0), 0.0)
            out.append(max(a + slope * (vocab - v0), 1.0))
        return out

    def counted(self, config: str, batch: int, vocab: int) -> devices.Estimate:
        key = (config, batch, vocab)
        if key not in self.known:
            self.known[key] = self.estimate(*key)
        return self.known[key]

    def estimate(self, config: str, batch: int, vocab: int) -> devices.Estimate:
        mode = measure.MODES[batch >= measure.ONE_LAUNCH]
        entry = self.counts.entry(self.KIND, self.DTYPE, mode, config, vocab)
        rows = range(self.counts.row_count)
        # Rows of another way also compute more: in proportion to what they read.
        mean_reads = sum(reads(entry, r) for r in rows) / len(rows)
        more = max(1.0, mean_reads / (USUAL.get(config, 1) + MORE))
        works = []
        issued = self.instructions(config, len(entry["launches"]), vocab)
        for launch, instructions in zip(entry["launches"], issued, strict=True):
            lanes = launch["blocks"] * launch["threads"]
            works.append(
                devices.Work(
                    launch["blocks"],
                    launch["threads"],
                    self.resident[launch["kernel"]],
                    SECTOR * sum(launch["sectors"]) / len(rows),
                    instructions * more,
                    launch["loads16"] / lanes / self.tile.get(launch["kernel"], 1),
                )
            )
        return devices.estimate(works, batch, H100)

    def paper_us(self, config: str, batch: int, vocab: float) -> float:
        """Between counted V, on a straight line; below the least of them, as for it."""
        known = self.counts.vocabs
        if vocab <= known[0]:
            return self.counted(config, batch, known[0]).us
        above = next((v for v in known if v >= vocab), known[-1])
        below = max(v for v in known if v < above)
        low, high = self.counted(config, batch, below).us, self.counted(config, batch, above).us
        return low + (high - low) * (vocab - below) / (above - below)

    def measured_us(self, config: str, batch: int) -> float | None:
        """Replayed from a graph; None where what was measured is no longer the kernel."""
        if config in SINCE_CHANGED and batch > 1:
            return None
        return self.measured[config, batch]["fusedraw"]["graph"][1]

    def ratio(self, config: str) -> float:
        """The most by which the device took longer than the paper says, over the batches measured."""
        found = [(b, self.measured_us(config, b)) for b in MEASURED_BATCHES]
        return max(us / self.paper_us(config, b, MEASURED_VOCAB) for b, us in found if us is not None)

    def scaled_us(self, config: str, batch: int, vocab: float) -> float:
        return self.paper_us(config, batch, vocab) * self.ratio(config)


MEASURED_VOCAB, MEASURED_BATCHES = 128256, (1, 32, 256)
# Their batches have rows that took milliseconds, by a kernel that was changed since (evidence-device.md).
SINCE_CHANGED = ("top-p", "mix+top-p")

# Exchanges of vocabulary-parallel ranks. Bytes that each rank gives for a row.

TOP_K = 50  # of the configurations
CANDIDATES = 2048  # that all ranks together offer for top-p
RECORD = 16  # of a race: quotient 8, id 4, x 4
HEAD = 8  # maximum 4, status 1, room
SUM = 16  # a 128-bit integer
BINS = 256  # of 8 bits of the order key


@dataclass(frozen=True)
class Step:
    what: str
    size: int
    times: int = 1  # exchanges of this kind, one after the other


@dataclass(frozen=True)
class Plan:
    steps: tuple[Step, ...]

    @property
    def exchanges(self) -> int:
        return sum(step.times for step in self.steps)

    @property
    def bytes_given(self) -> int:
        return sum(step.times * step.size for step in self.steps)


def pairs(count: int, element: int) -> int:
    """So many tokens: x as it came, and an id."""
    return count * (element + 4) + HEAD


def plan(config: str, element: int = 2, ranks: int = 8, long: bool = False) -> Plan:
    """`long`: of top-p, where the candidates do not reach the end of the nucleus."""
    if config == "greedy":
        return Plan((Step("best token", RECORD),))
    if config in ("T", "min-p"):
        return Plan((Step("maximum", HEAD), Step("winner", RECORD)))
    if config == "T+logp+entropy":
        return Plan((Step("maximum", HEAD), Step("winner; S, G, H", RECORD + 3 * SUM)))
    if config in ("top-k", "top-k+top-p"):
        return Plan((Step(f"{TOP_K} tokens", pairs(TOP_K, element)),))
    offered = CANDIDATES // ranks
    short = (Step(f"{offered} tokens", pairs(offered, element)), Step("S", SUM))
    if not long:
        return Plan(short)
    levels = element  # 8 bits of the key each: logits of 16 bits have 256 * 256 keys
    return Plan((*short, Step(f"masses of {BINS} bins", BINS * SUM, levels), Step("winner", RECORD)))


def exchange_us(given: float, ranks: int, latency: float) -> float:
    """All-gather: each rank takes in what the others give."""
    return 0.0 if ranks == 1 else latency + given * (ranks - 1) / NVLINK_BYTES_PER_US


# All-gathers on 8 H100 of one node: bytes in all, microseconds with NCCL's rings and with symmetric memory.
# https://github.com/NVIDIA/Megatron-LM/pull/5596
SEEN_BY_OTHERS = (
    (2 << 20, 20.2, 10.9),
    (8 << 20, 43.4, 27.4),
    (32 << 20, 118.9, 95.3),
    (128 << 20, 385.3, 363.2),
)


def gathered_bytes(vocab: int, element: int, ranks: int) -> float:
    """Of a row's logits that each rank takes in."""
    return vocab * element * (ranks - 1) / ranks


def gathered_us(
    times: Times, config: str, batch: int, vocab: int, ranks: int, latency: float = EXCHANGE_US
) -> float:
    """What is implemented: all logits to all ranks, `sample` on each."""
    given = batch * vocab * ELEMENT["bfloat16"] / ranks
    return exchange_us(given, ranks, latency) + times.scaled_us(config, batch, vocab)


def sharded_us(
    times: Times, config: str, batch: int, vocab: int, ranks: int, latency: float = EXCHANGE_US
) -> float:
    """What is not: a rank does what `sample` does on its share, a launch more for each exchange."""
    between = 0.0
    if ranks > 1:
        for step in plan(config, ELEMENT["bfloat16"], ranks).steps:
            each = exchange_us(batch * step.size, ranks, latency) + devices.LAUNCH_US
            between += step.times * each
    return between + times.scaled_us(config, batch, vocab / ranks)


def least(holds: Callable[[int], bool], batches: tuple[int, ...]) -> int | None:
    """The first batch from which on it holds for all."""
    found = None
    for batch in reversed(batches):
        if not holds(batch):
            break
        found = batch
    return found


# A decode step


@dataclass(frozen=True)
class Model:
    """A transformer of the Llama kind, by its config.json."""

    name: str
    hidden: int
    layers: int
    inner: int
    heads: int
    kv_heads: int
    fits: tuple[int, ...]  # ranks of 80 GB on which its weights leave room

    @property
    def body(self) -> int:
        """Parameters without the two embeddings."""
        kv = self.hidden // self.heads * self.kv_heads
        return self.layers * (2 * self.hidden**2 + 2 * self.hidden * kv + 3 * self.hidden * self.inner)

    def read(self, vocab: int) -> int:
        """Parameters that every step reads: the body, and the head of so many tokens."""
        return self.body + vocab * self.hidden

    def step_us(self, batch: int, vocab: int, ranks: int) -> float:
        weights = self.read(vocab)
        memory = 2 * weights / H100.bytes_per_us
        return max(memory, 2 * weights * batch / FLOP_PER_US) / ranks


MODELS = (
    Model("8B", 4096, 32, 14336, 32, 8, (1, 2, 4, 8)),
    Model("70B", 8192, 80, 28672, 64, 8, (4, 8)),
)
