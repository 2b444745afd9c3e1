# SPDX-License-Identifier: Apache-2.0
"""Time per call on a CUDA device, beside torch and, where installed, FlashInfer's and vLLM's kernels; printed
and stored as results/bench_gpu.json. Where there is no device, says so in one line.

python benchmarks/bench_gpu.py                       V = 128256, bfloat16 and float32, B = 1, 32, 256
python benchmarks/bench_gpu.py --config T top-p --batch 1 --provider fusedraw torch
python benchmarks/bench_gpu.py --device cpu --quick  only tries this script: times of a CPU mean nothing here

Three ways: `warm`, calls one after the other, the rows in L2 if they fit; `flushed`, a buffer of twice the
L2 written before each call; `graph`, a captured call replayed, rows warm. CUDA events around a call, behind
a kernel that sleeps while the calls are queued: the device never waits for Python. Medians and quartiles in
microseconds. Before, draws are checked: fusedraw's are the CPU engine's, others' lie in the kept set.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import gpu_peers
import torch
from fusedraw.bench import cases, data, timing, validate

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "bench_gpu.json"
WAYS = ("warm", "flushed", "graph")
BATCHES = (1, 32, 256)
CALLS = 20  # queued behind one sleep
ROUNDS = 10
SLEEP_CYCLES = 4_000_000  # two milliseconds, more than Python needs to queue CALLS
L2_BYTES = 64 << 20  # where the device does not say


def missing(device: torch.device) -> str | None:
    """Why nothing can be timed here, or None."""
    if device.type == "cpu":
        return None
    if not torch.cuda.is_available():
        return f"no CUDA device (torch {torch.__version__})"
    from fusedraw._device import HAS_CUDA

    return None if HAS_CUDA else "this build of fusedraw has no CUDA code"


class Clock:
    """Times calls on a device."""

    def __init__(self, device: torch.device, calls: int = CALLS, rounds: int = ROUNDS):
        self.device, self.calls, self.rounds = device, calls, rounds
        size = 2 * L2_BYTES
        if device.type == "cuda":
            properties = torch.cuda.get_device_properties(device)
            size = 2 * int(getattr(properties, "L2_cache_size", 0) or L2_BYTES)
        self.flush = torch.empty(size, dtype=torch.uint8, device=device)

    def times(self, call: Callable[[], object], way: str) -> list[float]:
        """Microseconds of each call."""
        if self.device.type == "cpu":
            return self.times_on_cpu(call)
        for _ in range(3):
            call()
        torch.cuda.synchronize(self.device)
        if way == "graph":
            call = self.captured(call)
        out = []
        for _ in range(self.rounds):
            events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(self.calls)]
            torch.cuda._sleep(SLEEP_CYCLES)
            for start, end in events:
                if way == "flushed":
                    self.flush.zero_()
                start.record()
                call()
                end.record()
            torch.cuda.synchronize(self.device)
            out += [start.elapsed_time(end) * 1e3 for start, end in events]
        return out

    def times_on_cpu(self, call: Callable[[], object]) -> list[float]:
        call()
        out = []
        for _ in range(3):
            started = time.perf_counter()
            call()
            out.append((time.perf_counter() - started) * 1e6)
        return out

    def captured(self, call: Callable[[], object]) -> Callable[[], object]:
        side = torch.cuda.Stream(self.device)
        side.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(side):
            call()
        torch.cuda.current_stream(self.device).wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            kept = call()
        self.last = (graph, kept)
        return graph.replay


def make_rows(kind: str, vocab: int, batch: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """Beyond data.MAX_ROWS the rows repeat."""
    rows = data.make(kind, vocab, min(batch, data.MAX_ROWS), dtype).to(device)
    return rows.repeat(-(-batch // len(rows)), 1)[:batch].contiguous()


def make_keys(batch: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(11)
    return torch.randint(-(2**62), 2**62, (batch, 2), generator=generator)


def check(name: str, case: cases.Case, logits: torch.Tensor, keys: torch.Tensor, call) -> None:
    """fusedraw: the CPU engine's draws. Others: in the kept set, ties and rounding granted."""
    if name == "read":
        return
    ids = gpu_peers.ids_of(call()).cpu()
    if name == "fusedraw":
        import fusedraw

        expected = fusedraw.sample(logits.cpu(), keys=keys.cpu(), **case.settings)
        if not torch.equal(ids, gpu_peers.ids_of(expected)):
            raise SystemExit(f"bench-gpu: fusedraw's draws are not those of the CPU engine: {case.name}")
        return
    for row in range(min(validate.ROWS, len(ids))):
        law = validate.law(case.data, case.vocab, case.dtype, case.config, row)
        if not law.wide[int(ids[row])]:
            raise ValueError(f"{name} drew outside the kept set of row {row}")


def measure(case: cases.Case, names: list[str], ways: list[str], clock: Clock) -> dict:
    """{provider: {way: [lower quartile, median, upper quartile]}}."""
    logits = make_rows(case.data, case.vocab, case.batch, cases.DTYPES[case.dtype], clock.device)
    keys = make_keys(case.batch).to(clock.device)
    out: dict[str, dict[str, list[float]]] = {}
    for name in names:
        call = gpu_peers.call_of(name, case.config, logits, keys)
        if call is None:
            continue
        for way in ways:
            try:
                if way == ways[0]:
                    check(name, case, logits, keys, call)
                times = clock.times(call, way)
            except Exception as error:  # a peer's: what fails is left out, with the reason
                if name == "fusedraw":
                    raise
                text = str(error).splitlines()[0] if str(error) else ""
                print(f"left out: {name}, {way}, {case.name}: {type(error).__name__}: {text}", flush=True)
                continue
            out.setdefault(name, {})[way] = [float(f"{q:.4g}") for q in statistics.quantiles(times, n=4)]
    return out


def device_said(device: torch.device) -> dict:
    if device.type == "cpu":
        return {"name": "cpu: not a result"}
    p = torch.cuda.get_device_properties(device)
    return {
        "name": p.name,
        "sms": p.multi_processor_count,
        "memory": p.total_memory,
        "cuda": torch.version.cuda,
    }


def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    out = timing.versions()
    for name in ("flashinfer-python", "vllm", "triton"):
        try:
            out[name] = version(name)
        except PackageNotFoundError:
            out[name] = "absent"
    return out


def store(path: Path, device: dict, results: list[dict]) -> None:
    """After every case: what was measured outlives a run that is cut short."""
    stored = {
        "command": "python benchmarks/bench_gpu.py",
        "unit": "us per call of the whole batch: lower quartile, median, upper quartile",
        "device": device,
        "versions": versions(),
        "calls": CALLS * ROUNDS,
        "results": results,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(stored, indent=1) + "\n")


def line_of(case: cases.Case, way: str, us: dict, names: list[str]) -> str:
    floor = case.batch * case.vocab * cases.DTYPES[case.dtype].itemsize
    cells = []
    for name in names:
        found = us.get(name, {}).get(way)
        cells.append(f"{found[1]:>10.1f}" if found else f"{'-':>10}")
    ours = us.get("fusedraw", {}).get(way)
    rate = f"{floor / ours[1] / 1e3:8.0f}" if ours else f"{'-':>8}"
    shape = f"{case.config:<15} {case.data:<7} {case.dtype:<9} B = {case.batch:<4} {way:<8}"
    return f"{shape}{''.join(cells)} {rate}"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--config", nargs="+", choices=list(cases.CONFIGS), default=list(cases.CONFIGS))
    parser.add_argument("--data", nargs="+", choices=data.KINDS, default=["real", "peaked"])
    parser.add_argument("--dtype", nargs="+", choices=list(cases.DTYPES), default=["bfloat16", "float32"])
    parser.add_argument("--batch", nargs="+", type=int, default=list(BATCHES))
    parser.add_argument("--vocab", nargs="+", type=int, default=[128256])
    parser.add_argument("--provider", nargs="+", choices=gpu_peers.NAMES, default=list(gpu_peers.NAMES))
    parser.add_argument("--way", nargs="+", choices=WAYS, default=list(WAYS))
    parser.add_argument("--quick", action="store_true", help="two configurations, B = 1 and 32, bfloat16")
    parser.add_argument("--output", type=Path, default=RESULT)
    args = parser.parse_args()
    device = torch.device(args.device)
    if reason := missing(device):
        print(f"bench-gpu: skipped, {reason}")
        return 0
    if args.quick:
        args.config, args.data, args.dtype, args.batch = ["T", "top-k+top-p"], ["real"], ["bfloat16"], [1, 32]
    names = [name for name in args.provider if gpu_peers.missing(name) is None]
    for name in args.provider:
        if why := gpu_peers.missing(name):
            print(f"left out: {why}")
    if device.index is not None:
        torch.cuda.set_device(device)
    said = device_said(device)
    print(f"bench-gpu: {said['name']}; medians in microseconds; GB/s: the rows' bytes over fusedraw's median")
    print(f"{'':<15} {'':<7} {'':<9} {'':<8} {'':<8}{''.join(f'{n:>10}' for n in names)} {'GB/s':>8}")
    clock, results = Clock(device), []
    for vocab in args.vocab:
        for kind in args.data:
            for dtype in args.dtype:
                for batch in args.batch:
                    for config in args.config:
                        case = cases.Case(vocab, batch, dtype, 1, kind, config)
                        us = measure(case, names, args.way, clock)
                        for way in args.way:
                            print(line_of(case, way, us, names), flush=True)
                        entry = {"vocab": vocab, "data": kind, "rows": data.label(kind, vocab)}
                        results.append({**entry, "dtype": dtype, "batch": batch, "config": config, "us": us})
                        if device.type == "cuda" or args.output != RESULT:
                            store(args.output, said, results)
    if device.type == "cpu" and args.output == RESULT:
        print("bench-gpu: not stored: no result of a device")
        return 0
    print(f"stored: {args.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
