# SPDX-License-Identifier: Apache-2.0
"""What can be said of the CUDA kernels' speed without a GPU: registers, spills, shared memory and occupancy
from the compiler, loops and loads from the machine code, instructions from executing it, bytes from the
executor, and an estimate on paper from all of these. Stored in results/cuda_report.json; the README's table.

python benchmarks/cuda_report.py                     everything (minutes, most of it for compiling)
python benchmarks/cuda_report.py --arch 90           one architecture
python benchmarks/cuda_report.py --static            without executing the machine code
python benchmarks/cuda_report.py --profile top-p --data peaked --dtype bfloat16    where the instructions are
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import sys
import time
from pathlib import Path

import cuda_compile
import cuda_devices as devices
import cuda_measure as measure
import cuda_table
import torch
from cuda_measure import Draw
from fusedraw.bench import cases, data
from sass import code

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "cuda_report.json"
README = HERE.parent / "README.md"
MAIN_ARCH = 90  # of the goals
KINDS = (("real", 49152), ("real", 128256), ("peaked", 128256))
ESTIMATED = ("real", 128256, "bfloat16")  # rows of the estimates
BATCHES = (1, 32, 256)
EXECUTED_ROWS = 1  # of each kind, for instructions


def element_bytes(text: str) -> int:
    """Of a kernel's rows, by its name or its source's."""
    return 2 if "loat16" in text else 4


def kernels_of(compiled: list[cuda_compile.Compiled]) -> list[dict]:
    threads = threads_of_block()
    out, seen = [], set()
    for part in compiled:
        for kernel in part.kernels:
            # Kernels that do not depend on the dtype are in several files.
            if (part.arch, kernel.name) in seen:
                continue
            seen.add((part.arch, kernel.name))
            fit = devices.occupancy(part.arch, threads, kernel.registers, kernel.shared)
            out.append(
                {
                    "arch": part.arch,
                    **cuda_compile.as_stored(kernel),
                    "occupancy": fit.share,
                    "resident": fit.blocks,
                    "limited_by": fit.limited_by,
                }
            )
    return out


def threads_of_block() -> int:
    """kThreads of csrc/cuda/tuning.cuh, which every launch uses."""
    found = re.search(r"\bkThreads = (\d+)", (cuda_compile.CSRC / "cuda" / "tuning.cuh").read_text())
    if found is None:
        raise SystemExit("cuda_report: tuning.cuh defines no kThreads")
    return int(found[1])


def source_of() -> code.Source:
    folders = ((cuda_compile.CSRC / "cuda", "*.cu*"), (cuda_compile.CSRC / "core", "*.h"))
    return code.Source(path for folder, pattern in folders for path in sorted(folder.glob(pattern)))


def loops_of(compiled: list[cuda_compile.Compiled]) -> list[dict]:
    source, out = source_of(), []
    for part in compiled:
        for name, kernel in part.machine_code.items():
            for function, way in code.hot_loops(kernel, source).items():
                out.append(
                    {
                        "arch": part.arch,
                        "kernel": name,
                        "function": function,
                        "loads16": way.loads16,
                        "instructions": way.instructions,
                        "per_element": way.per_element(element_bytes(name)),
                    }
                )
    return out


def draws() -> list[Draw]:
    return [
        Draw(kind, vocab, dtype, config, mode)
        for kind, vocab in KINDS
        for dtype in ("bfloat16", "float32")
        for config in cases.CONFIGS
        for mode in measure.MODES
    ]


def moved(draw: Draw) -> dict:
    """A draw's launches and bytes, or what went wrong."""
    entry = {**dataclasses.asdict(draw), "rows": data.label(draw.data, draw.vocab)}
    try:
        launches = measure.bytes_moved(draw)
    except (RuntimeError, AssertionError) as error:
        print(f"cuda_report: {error}")
        return {**entry, "error": str(error)}
    floor = draw.vocab * element_bytes(draw.dtype)
    return {
        **entry,
        "launches": launches,
        "read": sum(n["read"] for n in launches) / floor,
        "written": sum(n["written"] for n in launches) / floor,
    }


def execute_all(entries: list[dict], compiled: list[cuda_compile.Compiled], archs: list[int]) -> None:
    """Adds to each entry the instructions of its launches, by architecture, and those per element."""
    jobs = []
    for entry in entries:
        draw = Draw(*(entry[f.name] for f in dataclasses.fields(Draw)))
        for arch in archs:
            # What only the estimates need is counted for their rows alone.
            if arch == MAIN_ARCH or (draw.data, draw.vocab, draw.dtype) == ESTIMATED:
                jobs.append((entry, draw, arch))
    with measure.pool([part for part in compiled if part.arch in archs]) as pool:
        started = time.monotonic()
        futures = [pool.submit(measure.instructions, (draw, arch, EXECUTED_ROWS)) for _, draw, arch in jobs]
        for n, ((entry, draw, arch), future) in enumerate(zip(jobs, futures, strict=True)):
            try:
                issued = future.result()
            except Exception as error:  # of any kind: the rest of the report stands without it
                print(f"cuda_report: sm_{arch}, {draw}: {error}")
                entry.setdefault("failed", {})[str(arch)] = str(error)
                continue
            entry.setdefault("issued", {})[str(arch)] = issued
            entry.setdefault("per_element", {})[str(arch)] = sum(issued) * devices.WARP / draw.vocab
            done = f"[{n + 1}/{len(jobs)}, {time.monotonic() - started:.0f} s]"
            print(f"{done} sm_{arch} {draw.dtype} {entry['rows']} {draw.config}, {draw.mode}: ", end="")
            print(f"{entry['per_element'][str(arch)]:.1f} instructions per element", flush=True)


def estimates_of(entries: list[dict], kernels: list[dict], loops: list[dict]) -> list[dict]:
    """For each device, configuration and batch."""
    resident = {(k["arch"], k["name"]): k["resident"] for k in kernels}
    tile: dict[tuple[int, str], int] = {}  # 16-byte loads of a lane that are on the way together
    for loop in loops:
        key = (loop["arch"], loop["kernel"])
        tile[key] = max(tile.get(key, 1), loop["loads16"])

    def work(launch: dict, instructions: float, arch: int) -> devices.Work:
        key = (arch, launch["kernel"])
        lanes = launch["blocks"] * launch["threads"]
        return devices.Work(
            launch["blocks"],
            launch["threads"],
            resident[key],
            launch["read"] + launch["written"],
            instructions,
            launch["loads16"] / lanes / tile.get(key, 1),
        )

    out = []
    for device in devices.DEVICES:
        for rows in BATCHES:
            mode = measure.MODES[rows >= measure.ONE_LAUNCH]
            for entry in entries:
                where = (entry["data"], entry["vocab"], entry["dtype"])
                issued = entry.get("issued", {}).get(str(device.arch))
                if where != ESTIMATED or entry["mode"] != mode or issued is None or "launches" not in entry:
                    continue
                pairs = zip(entry["launches"], issued, strict=True)
                works = [work(launch, instructions, device.arch) for launch, instructions in pairs]
                result = devices.estimate(works, rows, device)
                floor = rows * entry["vocab"] * element_bytes(entry["dtype"]) / device.bytes_per_us
                head = {"device": device.name, "batch": rows, "config": entry["config"], "floor_us": floor}
                out.append({**head, **dataclasses.asdict(result)})
    return out


# Goals: what was asked for, the worst that was found, and where.


@dataclasses.dataclass
class Goal:
    goal: str
    limit: float
    worst: float
    where: str
    at_least: bool = False

    @property
    def reached(self) -> bool:
        return self.worst >= self.limit if self.at_least else self.worst <= self.limit


def said(entry: dict) -> str:
    return f"{entry['config']}, {entry['rows']}, {entry['dtype']}, {entry['mode']}"


NARROW = ("T", "top-k", "min-p", "top-k+top-p")


def goals_of(kernels: list[dict], entries: list[dict]) -> list[Goal]:
    good = [e for e in entries if "launches" in e]
    out = []

    def add(goal, limit, chosen, value, where=said, at_least=False):
        """One line; nothing where there is nothing to look at."""
        found = [(value(entry), where(entry)) for entry in chosen]
        if found:
            extreme = (min if at_least else max)(found, key=lambda pair: pair[0])
            out.append(Goal(goal, limit, *extreme, at_least))

    def kernel_name(k):
        return f"sm_{k['arch']} {k['name'].replace('fusedraw::', '').replace('cuda::', '')}"

    main = [k for k in kernels if k["arch"] == MAIN_ARCH]
    add("bytes spilled, every architecture", 0, kernels, lambda k: k["spills"], kernel_name)
    add(f"occupancy, sm_{MAIN_ARCH}", 0.5, main, lambda k: k["occupancy"], kernel_name, at_least=True)
    for mode, most in zip(measure.MODES, (2, 1), strict=True):
        of = [e for e in good if e["mode"] == mode]
        add(f"launches, {'B >= 128' if most == 1 else mode}", most, of, lambda e: len(e["launches"]))
    for vocab, limit in ((128256, 1.05), (49152, 1.10)):
        of = [e for e in good if e["vocab"] == vocab and e["config"] in NARROW]
        add(f"read / floor: T, top-k, min-p, top-k + top-p, V = {vocab}", limit, of, lambda e: e["read"])
    add("read / floor: top-p", 2.1, [e for e in good if e["config"] == "top-p"], lambda e: e["read"])
    add("written / floor", 0.01, good, lambda e: e["written"])
    counted = [e for e in entries if str(MAIN_ARCH) in e.get("per_element", {})]
    plain = [e for e in counted if (e["config"], e["dtype"]) == ("T", "bfloat16")]
    others = [e for e in counted if e not in plain]
    for name, limit, of in (("T, bfloat16", 10, plain), ("all others", 17, others)):
        for mode in reversed(measure.MODES):
            chosen = [e for e in of if e["mode"] == mode]
            goal = f"instructions per element: {name}, {mode}"
            add(goal, limit, chosen, lambda e: e["per_element"][str(MAIN_ARCH)])
    return out


def report(archs: list[int] | None, static: bool) -> dict:
    started = time.monotonic()
    torch.set_num_threads(1)  # before processes are forked
    kit = cuda_compile.toolkit()
    if kit is None:
        raise SystemExit("cuda_report: there is no nvcc; see README.md, Hacking")
    if cuda_compile.tool("nvdisasm") is None:
        raise SystemExit("cuda_report: there is no nvdisasm: pip install -r requirements-cuda.txt")
    before = cuda_compile.digest()
    known = cuda_compile.archs_of(kit)
    archs = archs or known
    if unknown := set(archs) - set(devices.LIMITS):
        raise SystemExit(
            f"cuda_report: no limits are known for {sorted(unknown)}, but for {list(devices.LIMITS)}"
        )
    print(f"compiling for {', '.join(f'sm_{a}' for a in archs)} with nvcc {kit.version}", flush=True)
    compiled = cuda_compile.compile_all(kit, archs)
    kernels, loops = kernels_of(compiled), loops_of(compiled)
    print(f"compiled [{time.monotonic() - started:.0f} s]; counting bytes", flush=True)
    entries = [moved(draw) for draw in draws()]
    if not static:
        needed = {MAIN_ARCH, *(device.arch for device in devices.DEVICES)}
        execute_all(entries, compiled, [a for a in archs if a in needed])
    stored = {
        "command": "python benchmarks/cuda_report.py",
        "nvcc": kit.version,
        "nvdisasm": cuda_compile.run(cuda_compile.tool("nvdisasm"), "--version").split(" V")[-1].split()[0],
        "sources": before,
        "threads": threads_of_block(),
        "assumptions": list(devices.ASSUMPTIONS),
        "seconds": round(time.monotonic() - started),
        "goals": [{**dataclasses.asdict(g), "reached": g.reached} for g in goals_of(kernels, entries)],
        "kernels": kernels,
        "loops": loops,
        "draws": entries,
        "estimates": estimates_of(entries, kernels, loops),
    }
    if cuda_compile.digest() != before:
        stored["sources"] = "changed in the meantime"
    return stored


def write(stored: dict, target: Path) -> None:
    """One line for each entry of a list: a diff shows what changed."""
    lists = {name: value for name, value in stored.items() if isinstance(value, list)}
    head = json.dumps({name: value for name, value in stored.items() if name not in lists}, indent=1)[:-2]
    parts = [
        f' "{name}": [\n  ' + ",\n  ".join(map(json.dumps, value)) + "\n ]" for name, value in lists.items()
    ]
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(head + ",\n" + ",\n".join(parts) + "\n}\n")


def print_profile(args: argparse.Namespace) -> None:
    kit = cuda_compile.toolkit()
    arch = args.arch[0] if args.arch else MAIN_ARCH
    measure.use(cuda_compile.compile_all(kit, [arch]))
    kind = "real" if args.data == "real-like" else args.data
    vocab = data.REAL_VOCAB if args.data == "real" else args.vocab
    draw = Draw(kind, vocab, args.dtype, args.profile, args.mode)
    own, inclusive, lines = measure.profile(draw, arch, source_of())
    print(f"sm_{arch}, {draw}: {sum(own.values()):.2f} instructions per element")
    for title, counter in (("own", own), ("with what is inlined", inclusive), ("lines", lines)):
        print(f"{title}:")
        for name, value in counter.most_common(args.top):
            print(f"  {value:8.3f}  {name}")


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--arch", type=int, nargs="+", default=None, help="75 80 86 89 90 100 120")
    parser.add_argument("--static", action="store_true", help="do not execute the machine code")
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--readme", type=Path, default=README)
    parser.add_argument("--no-readme", action="store_true")
    parser.add_argument("--profile", choices=list(cases.CONFIGS), default=None, metavar="CONFIG")
    parser.add_argument("--data", choices=("real", "real-like", "peaked", "flat"), default="real-like")
    parser.add_argument("--vocab", type=int, default=128256)
    parser.add_argument("--dtype", choices=list(cases.DTYPES), default="bfloat16")
    parser.add_argument("--mode", choices=measure.MODES, default="one launch")
    parser.add_argument("--top", type=int, default=25, help="lines of a profile")
    args = parser.parse_args()
    if args.profile:
        print_profile(args)
        return 0
    stored = report(args.arch, args.static)
    if stored["sources"] != cuda_compile.digest():
        print(f"cuda_report: the sources {stored['sources']}: figures of different versions, not stored")
        print(cuda_table.table(stored))
        return 1
    whole = args.arch is None and not args.static
    if whole or args.output != RESULT:
        write(stored, args.output)
        print(f"stored: {args.output}")
    print(cuda_table.table(stored))
    if whole and not args.no_readme:
        cuda_table.put(args.readme, stored)
    return 0


if __name__ == "__main__":
    sys.exit(main())
