# SPDX-License-Identifier: Apache-2.0
"""Measures every speed goal and prints `goal | measured | reached?`; stores results/goals.json.

    python benchmarks/goals.py                                          all parts, a few minutes
    python benchmarks/goals.py --part engine --data flat --config T top-p    seconds, for tuning

One thread, V = 128256, float32, B = 1 unless a line says otherwise. Engine time is the call less the same
call at V = 64 (what Python and the dispatcher cost is reported apart). Every figure is a median over
interleaved rounds, each on the next row of the data; floors and engine read the same row in the same round.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import cases
import data
import floors
import timing
import torch
import validate
from timing import Samples, chunk_in_c, chunk_of, interleave

VOCAB = 128256
SMALL_VOCAB = 64
MOST_VOCAB = 262144  # up to here the memory goal holds
ROWS = 16  # of each kind of data; the rounds go through them
KEYS = 8

# (floor, how many times the floor) per configuration and kind of data.
ENGINE_GOALS: dict[str, dict[str, tuple[str, float]]] = {
    "greedy": dict.fromkeys(data.KINDS, ("read", 1.5)),
    "T": dict.fromkeys(data.KINDS, ("read", 3.0)),
    "min-p": dict.fromkeys(data.KINDS, ("read", 4.0)),
    "top-k": dict.fromkeys(data.KINDS, ("read", 4.0)),
    "top-k+top-p": dict.fromkeys(data.KINDS, ("read", 4.0)),
    "top-p": {"real": ("exp", 2.0), "peaked": ("exp", 2.0), "flat": ("exp", 3.0)},
    "T+logp+entropy": dict.fromkeys(data.KINDS, ("exp", 2.5)),
}
ISA_GOAL = 2.5  # avx2 over avx512
BATCH_GOAL = 1.15  # a row of B = 64 over the same row alone
THREADS_GOAL = 0.95  # of the read floor's speed-up with two threads
LEAST_FLOOR_GAIN = 1.3  # below it the machine is busy, or has one core: not measured
SAMPLE_GOAL_US = 10.0
SAMPLER_GOAL_US = 6.0
MEMORY_GOAL = 1 << 20  # bytes per thread
MIX_GOAL = 1.03  # a call with mix_eps > 0 over the same call with mix_eps = 0
MIX_EPS = 0.05
MIX_KEYS = 64  # per batch: few enough fire that the first of a chunk would not stand for all


@dataclass
class Line:
    """One line of the table; `measured` and `limit` in `unit`, below is better unless `at_least`."""

    part: str
    goal: str
    measured: float
    limit: float
    unit: str
    note: str = ""
    at_least: bool = False

    @property
    def verdict(self) -> str:
        if self.measured != self.measured:
            return "not measured"
        excess = self.limit / self.measured if self.at_least else self.measured / self.limit
        if excess <= 1:
            return "yes"
        return f"NO, {excess:.2f} x off" + (" (over 2 x: not done)" if excess > 2 else "")

    def cells(self) -> tuple[str, str, str]:
        sign = ">=" if self.at_least else "<="
        goal = f"{self.goal}: {sign} {self.limit:g} {self.unit}"
        note = f" ({self.note})" if self.note else ""
        return goal, f"{self.measured:.2f}{note}", self.verdict


def load_engine():
    """The package under test. FUSEDRAW_ISA or --isa chooses its instruction set."""
    try:
        import fusedraw
        import fusedraw._C
    except ImportError as error:
        raise SystemExit(
            f"goals: fusedraw cannot be imported ({error}); build it first: make build"
        ) from error
    return fusedraw


def make_keys(rows: int, count: int = KEYS, seed: int = 11) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(-(2**62), 2**62, (rows, 2), generator=generator) for _ in range(count)]


def calls_for(config: str, logits: torch.Tensor) -> list[Callable[[], object]]:
    """The prepared call of a configuration on these rows, once per key."""
    draw = load_engine().Sampler(**cases.CONFIGS[config])
    return [functools.partial(draw, logits, keys=keys) for keys in make_keys(logits.shape[0])]


class RowByRow:
    """Chunks that each work on the row of the current round."""

    def __init__(self, rows: int):
        self.rows, self.row = rows, 0

    def start(self, round_number: int) -> None:
        self.row = round_number % self.rows

    def chunk(self, per_row: list[timing.Chunk]) -> timing.Chunk:
        return lambda k, warm=True: per_row[self.row](k, warm)

    def worst(self, samples: Samples, rounds: int, base: float = 0.0) -> float:
        """The largest median over the rounds of one row, less `base`."""
        if len(samples.values) != rounds:
            return samples.median - base
        rows = [Samples(0, samples.values[r :: self.rows]) for r in range(min(self.rows, rounds))]
        return max(s.median for s in rows) - base


def us(seconds: float) -> str:
    return f"{seconds * 1e6:.1f} us"


def engine_part(args: argparse.Namespace) -> list[Line]:
    """Ratios to the floors; bfloat16 against float32; avx2 against avx512."""
    lines: list[Line] = []
    engine = load_engine()
    best = args.isa or engine._C.isa()
    other = "avx2" if best == "avx512" and "isa" in args.part else None
    wide = "bf16" in args.part
    for kind in args.data:
        rows = {name: data.make(kind, VOCAB, ROWS, dtype) for name, dtype in cases.DTYPES.items()}
        walk = RowByRow(ROWS)
        chunks: dict[str, timing.Chunk] = {}
        for floor in floors.KINDS:
            made = [floors.Floor(floor, rows["float32"][i : i + 1]) for i in range(ROWS)]
            chunks[floor] = walk.chunk([chunk_in_c(f) for f in made])
        variants = [("float32", best)]
        variants += [("bfloat16", best)] if wide else []
        variants += [("float32", other)] if other else []
        for config in args.config:
            for dtype, isa in variants:
                before = functools.partial(engine._C.set_isa, isa)
                for vocab in (VOCAB, SMALL_VOCAB):
                    views = [rows[dtype][i : i + 1, :vocab].contiguous() for i in range(ROWS)]
                    per_row = [chunk_of(calls_for(config, v), before) for v in views]
                    chunks[f"{config}/{dtype}/{isa}/{vocab}"] = walk.chunk(per_row)
        torch.set_num_threads(1)
        got = interleave(chunks, args.rounds, chunk_seconds=args.chunk, most_seconds=10, on_round=walk.start)
        engine._C.set_isa(best)
        label = data.label(kind, VOCAB)
        for config in args.config:
            time, call, small = engine_time(got, f"{config}/float32/{best}")
            floor, limit = ENGINE_GOALS.get(config, {}).get(kind, ("exp", float("nan")))
            base = got[floor].median
            worst = walk.worst(got[f"{config}/float32/{best}/{VOCAB}"], args.rounds, small) / base
            note = f"engine {us(time)}, {floor} {us(base)}, call {us(call)}, V=64 {us(small)}"
            note += f", worst row {worst:.2f}"
            goal = f"{cases.TITLES[config]}, {label}"
            if limit == limit:
                lines.append(Line("engine", goal, time / base, limit, f"x {floor}", note))
            if wide:
                half = engine_time(got, f"{config}/bfloat16/{best}")[0]
                lines.append(Line("bf16", goal + ", bfloat16", half / time, 1.0, "x float32", us(half)))
            if other:
                slow = engine_time(got, f"{config}/float32/{other}")[0]
                lines.append(Line("isa", f"{goal}, {other}", slow / time, ISA_GOAL, f"x {best}", us(slow)))
    return lines


def engine_time(got: dict[str, Samples], name: str) -> tuple[float, float, float]:
    call, small = got[f"{name}/{VOCAB}"].median, got[f"{name}/{SMALL_VOCAB}"].median
    return call - small, call, small


def batch_part(args: argparse.Namespace) -> list[Line]:
    """B = 64 against the same rows one by one, and two threads against one, over the same buffers.

    64 rows are 33 MB and are walked in order, so each row comes from beyond the second-level cache.
    """
    lines: list[Line] = []
    batch = 64
    for kind in args.data:
        rows = {
            vocab: data.make(kind, VOCAB, batch)[:, :vocab].contiguous() for vocab in (VOCAB, SMALL_VOCAB)
        }
        chunks: dict[str, timing.Chunk] = {}
        for threads in (1, 2):
            chunks[f"read/{threads}"] = chunk_in_c(floors.Floor("read", rows[VOCAB], threads))
        for config in args.config:
            for vocab, logits in rows.items():
                for threads in (1, 2):
                    before = functools.partial(torch.set_num_threads, threads)
                    chunks[f"{config}/{threads}/{vocab}"] = chunk_of(calls_for(config, logits), before)
                chunks[f"{config}/alone/{vocab}"] = one_by_one(config, logits)
        got = interleave(chunks, max(15, args.rounds // 4), chunk_seconds=5e-3, most_seconds=10)
        torch.set_num_threads(1)
        label = data.label(kind, VOCAB)
        floor_gain = got["read/1"].median / got["read/2"].median
        for config in args.config:
            together, alone, two = (engine_time(got, f"{config}/{w}")[0] for w in ("1", "alone", "2"))
            goal = f"{cases.TITLES[config]}, {label}, B = 64"
            note = f"{us(together / batch)} a row, alone {us(alone / batch)}"
            lines.append(Line("batch", goal, together / alone, BATCH_GOAL, "x the row alone", note))
            # a second thread that has no core to itself shows nothing about either of them
            gain = together / two if floor_gain > LEAST_FLOOR_GAIN else float("nan")
            note = f"engine {gain:.2f} x, floor {floor_gain:.2f} x, {us(two / batch)} a row"
            goal += ", 2 threads"
            lines.append(Line("threads", goal, gain / floor_gain, THREADS_GOAL, "x the floor's", note, True))
    return lines


def one_by_one(config: str, logits: torch.Tensor) -> timing.Chunk:
    """All rows, each in a call of its own; a chunk of one is the whole walk."""
    walks: list[Callable[[], object]] = []
    singles = [calls_for(config, logits[i : i + 1]) for i in range(logits.shape[0])]
    for key in range(KEYS):
        calls = [per_row[key] for per_row in singles]
        walks.append(lambda calls=calls: [call() for call in calls])
    return chunk_of(walks, lambda: torch.set_num_threads(1))


def overhead_part(args: argparse.Namespace) -> list[Line]:
    """What the facade and the dispatcher cost: whole calls, V = 64, B = 1."""
    engine = load_engine()
    torch.set_num_threads(1)
    row = data.make("flat", VOCAB, 1)[:, :SMALL_VOCAB].contiguous()
    keys = make_keys(1)
    draw = engine.Sampler(temperature=0.8)
    chunks = {
        "sample(temperature=0.8, keys=keys)": [
            functools.partial(engine.sample, row, temperature=0.8, keys=k) for k in keys
        ],
        "sample(temperature=0.8, seed=1, step=t)": [
            functools.partial(engine.sample, row, temperature=0.8, seed=1, step=t) for t in range(KEYS)
        ],
        "sample(top_k=50, top_p=0.95, keys=keys)": [
            functools.partial(engine.sample, row, top_k=50, top_p=0.95, keys=k) for k in keys
        ],
        "Sampler(temperature=0.8)(logits, keys=keys)": [functools.partial(draw, row, keys=k) for k in keys],
    }
    timed = {name: chunk_of(calls) for name, calls in chunks.items()}
    got = interleave(timed, args.rounds, chunk_seconds=1e-3, most_seconds=10)
    lines = []
    for name, samples in got.items():
        limit = SAMPLER_GOAL_US if name.startswith("Sampler") else SAMPLE_GOAL_US
        note = f"quartiles {samples.quantile(0.25) * 1e6:.2f} to {samples.quantile(0.75) * 1e6:.2f}"
        lines.append(
            Line("overhead", f"{name}, V = 64, B = 1", samples.median * 1e6, limit, "us a call", note)
        )
    return lines


def mix_part(args: argparse.Namespace) -> list[Line]:
    """What a share of chance costs: whole calls, with and without, on the same rows and keys in each round.

    Each batch of rows has keys of its own, of which about MIX_EPS let a coin fire. Turns go without, with,
    with, without, so that a drift cancels; the one ahead of them is not counted, since what runs first on a
    row finds less of it in the caches, which is 3 % of a call. Measured is the median over rounds of their
    ratio: a neighbour who takes the cache for a while slows both.
    """
    engine = load_engine()
    torch.set_num_threads(1)
    lines: list[Line] = []
    for kind in args.data:
        for batch in (1, 8):
            rows = data.make(kind, VOCAB, min(ROWS * batch, data.MAX_ROWS)).split(batch)
            keys = [make_keys(batch, MIX_KEYS, seed) for seed in range(len(rows))]
            walk = RowByRow(len(rows))
            chunks: dict[str, timing.Chunk] = {}
            configs = [config for config in ("T", "top-k", "top-p") if config in args.config]
            for config in configs:
                for turn, share in enumerate((0.0, 0.0, MIX_EPS, MIX_EPS, 0.0)):
                    draw = engine.Sampler(**cases.CONFIGS[config], mix_eps=share)
                    calls = [
                        [functools.partial(draw, x, keys=k) for k in some]
                        for x, some in zip(rows, keys, strict=True)
                    ]
                    chunks[f"{config}/{turn}"] = walk.chunk([chunk_of(c) for c in calls])
            got = interleave(chunks, args.rounds, args.chunk * batch, most_seconds=10, on_round=walk.start)
            for config in configs:
                _, *counted = (got[f"{config}/{turn}"].values for turn in range(5))
                rounds = list(zip(*counted, strict=True))
                without = statistics.median((a + d) / 2 for a, _, _, d in rounds)
                with_ = statistics.median((b + c) / 2 for _, b, c, _ in rounds)
                ratio = statistics.median((b + c) / (a + d) for a, b, c, d in rounds)
                goal = f"mix_eps = {MIX_EPS}, {cases.TITLES[config]}, {data.label(kind, VOCAB)}, B = {batch}"
                note = f"{us(without)} without, {us(with_)} with"
                lines.append(Line("mix", goal, ratio, MIX_GOAL, "x mix_eps = 0", note))
    return lines


def memory_part(args: argparse.Namespace) -> list[Line]:
    """Extra memory per thread at V = 262144, in a fresh process per configuration."""
    lines = []
    for config in args.config:
        for threads in (1, 2):
            command = [sys.executable, __file__, "--memory-child", config, str(threads)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                raise RuntimeError(f"goals: the memory of {config} was not measured: {done.stderr[-2000:]}")
            kept, passing = map(int, done.stdout.split()[-2:])
            goal = f"{cases.TITLES[config]}, V = {MOST_VOCAB}, {threads} thread{'s' * (threads > 1)}"
            note = f"kept {kept >> 10} KB, in passing {passing >> 10} KB"
            measured = (kept + passing) / threads / MEMORY_GOAL
            lines.append(Line("memory", goal, measured, 1.0, "MB a thread", note))
    return lines


def peers_part(args: argparse.Namespace) -> list[Line]:
    """One row, one thread, float32: whole calls against peers of Python, engine time against peers of C."""
    import peers

    torch.set_num_threads(1)
    lines: list[Line] = []
    for kind in args.data:
        vocab = data.REAL_VOCAB if kind == "real" else VOCAB
        row = data.make(kind, vocab, 1)
        for config in (*args.config, *peers.MORE_CONFIGS):
            found = peers.peers_of(config, row)
            if config in cases.CONFIGS:
                case = cases.Case(vocab, 1, "float32", 1, kind, config)
                for name, peer in found.items():
                    validate.check_draws(name, case, peer.call)
            chunks = {name: peer.chunk for name, peer in found.items()}
            chunks |= {f"{name}/base": peer.base for name, peer in found.items() if peer.base is not None}
            chunks["call"] = chunk_of(whole_calls(config, row))
            chunks["small"] = chunk_of(whole_calls(config, row[:, :SMALL_VOCAB].contiguous()))
            got = interleave(chunks, max(15, args.rounds // 4), chunk_seconds=1e-3, most_seconds=0.3)
            call, small = got["call"].median, got["small"].median
            gains, notes = [], [f"call {us(call)}, engine {us(call - small)}"]
            for name, peer in found.items():
                seconds = got[name].median - (got[f"{name}/base"].median if peer.base else 0.0)
                notes.append(f"{name} {us(seconds)}")
                if (name, config) != ("numpy", "greedy"):  # near the floor: reported, not required
                    gains.append(seconds / (call - small if peer.in_c else call))
            goal = f"{cases.TITLES.get(config, config)}, {kind}, V = {vocab}, against the best peer"
            lines.append(Line("peers", goal, min(gains), 1.0, "x as fast", ", ".join(notes), True))
    return lines


def whole_calls(config: str, row: torch.Tensor) -> list[Callable[[], object]]:
    engine = load_engine()
    if config == "softmax":
        return [functools.partial(engine.softmax, row)]
    if config in cases.CONFIGS:
        return calls_for(config, row)
    draw = engine.Sampler(temperature=0.8, returns=("logp",), top_n=5)
    return [functools.partial(draw, row, keys=keys) for keys in make_keys(1)]


def memory_child(config: str, threads: int) -> None:
    """Prints the bytes that calls keep, and the bytes that they touch in passing beside those.

    First pass: what stays afterwards was kept. Second pass, code and kept memory being there: the peak.
    """
    torch.set_num_threads(threads)
    libc = ctypes.CDLL(None)
    libc.mallopt(-2, 0)  # M_TOP_PAD: freed memory goes back whole, so that a peak is seen again
    inputs, small = [], []
    for kind in data.KINDS:
        for dtype in cases.DTYPES.values():
            rows = data.make(kind, MOST_VOCAB, threads, dtype)
            inputs += calls_for(config, rows)
            small += calls_for(config, rows[:, :SMALL_VOCAB].contiguous())
    data.base_rows.cache_clear()
    for call in small:
        call()
    libc.malloc_trim(0)
    before = memory("RssAnon")
    for call in inputs:
        call()
    libc.malloc_trim(0)
    kept = max(0, memory("RssAnon") - before)
    start = memory("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    for call in inputs:
        call()
    print(kept, max(0, memory("VmHWM") - start))


def memory(field: str) -> int:
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(field + ":")) * 1024


PARTS: dict[str, Callable[[argparse.Namespace], list[Line]]] = {
    "engine": engine_part,
    "batch": batch_part,
    "overhead": overhead_part,
    "mix": mix_part,
    "memory": memory_part,
    "peers": peers_part,
}
ALSO = {"bf16": "engine", "isa": "engine", "threads": "batch"}  # measured together with


def print_lines(lines: list[Line]) -> None:
    for line in lines:
        goal, measured, verdict = line.cells()
        print(f"{goal:<76} | {measured:<96} | {verdict}", flush=True)


def main() -> None:
    if sys.argv[1:2] == ["--memory-child"]:
        memory_child(sys.argv[2], int(sys.argv[3]))
        return
    timing.keep_memory()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    everything = [*PARTS, *ALSO]
    parser.add_argument("--part", nargs="+", default=everything, choices=everything)
    parser.add_argument("--data", nargs="+", default=list(data.KINDS), choices=data.KINDS)
    parser.add_argument("--config", nargs="+", default=list(ENGINE_GOALS), choices=list(cases.CONFIGS))
    parser.add_argument(
        "--isa", default=None, help="the instruction set of the engine (default: its own choice)"
    )
    parser.add_argument("--rounds", type=int, default=96)
    parser.add_argument("--chunk", type=float, default=3e-4, help="seconds of one chunk of calls")
    parser.add_argument(
        "--output", type=Path, default=None, help="where the JSON goes (default: results/goals.json)"
    )
    args = parser.parse_args()
    engine = load_engine()
    if args.isa:
        engine._C.set_isa(args.isa)
    print(f"goals: engine {engine._C.isa()}, floors {floors.isa()}, torch {torch.__version__}")
    print(f"{timing.machine()['cpu']}; medians of {args.rounds} interleaved rounds")
    print(timing.load_said(), flush=True)
    load = timing.load()
    lines: list[Line] = []
    for name, part in PARTS.items():
        if name in args.part or any(ALSO[p] == name for p in args.part if p in ALSO):
            new = [line for line in part(args) if line.part in args.part]
            print_lines(new)
            lines += new
    reached = sum(line.verdict == "yes" for line in lines)
    print(f"{reached} of {len(lines)} reached")
    partial = set(args.part) != set(everything) or len(args.data) < 3 or len(args.config) < len(ENGINE_GOALS)
    target = args.output or (None if partial else floors.HERE / "results" / "goals.json")
    if target is None:
        print("not stored: only a part was measured (--output stores it)")
        return
    target.parent.mkdir(exist_ok=True)
    stored = {
        "machine": timing.machine(),
        "versions": timing.versions(),
        "isa": {"engine": engine._C.isa(), "floors": floors.isa()},
        "rounds": args.rounds,
        "load_before": load,
        "lines": [{**asdict(line), "verdict": line.verdict} for line in lines],
    }
    target.write_text(json.dumps(stored, indent=1) + "\n")
    print(f"stored: {target}")


if __name__ == "__main__":
    main()
