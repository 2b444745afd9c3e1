# SPDX-License-Identifier: Apache-2.0
"""What can be counted instead of timed, against perf_baseline.json: fails where a count grew by over 2 %.

python benchmarks/perf_check.py                    counts, compares, prints; exit code 1 where something grew
python benchmarks/perf_check.py --only engine      one part: engine, facade, cuda, floors
python benchmarks/perf_check.py --move             the counts become the baseline; say why in the commit

engine   instructions of the AVX2 engine for fixed rows (perf_cases.py), without torch, by callgrind
facade   instructions a call of the facade, by callgrind: runs of 2 N and of N calls subtracted, one thread
cuda     bytes that the kernels read and write, by the executor
floors   times over the floors of this machine, printed and stored; they never fail

Instructions belong to a compiler (engine) or to Python and torch (facade): where these are others than in
the baseline, the counts are printed, not compared, and the line says so. Parts whose tools are missing say
so, too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
BASELINE = HERE / "perf_baseline.json"
RATIOS = HERE / "build" / "perf_ratios.json"  # of this machine: not kept by git
MOST = 1.02
VALGRIND = ("valgrind", "--tool=callgrind", "--collect-atstart=no")
sys.path[:0] = [str(ROOT / "tests"), str(ROOT / "tests" / "aarch64")]

Counts = dict[str, int]


class Missing(Exception):
    """What a part needs and this machine lacks, in one line."""


def need(*tools: str) -> None:
    if absent := [tool for tool in tools if shutil.which(tool) is None]:
        raise Missing(f"{', '.join(absent)} not found (Debian: apt-get install valgrind g++)")
    if not Path("/usr/include/valgrind/callgrind.h").exists():
        raise Missing("valgrind/callgrind.h not found (Debian: apt-get install valgrind)")


def compiler() -> str:
    done = subprocess.run(["g++", "-dumpfullversion"], capture_output=True, text=True, check=True)
    return f"g++ {done.stdout.strip()}"


def dumps(folder: Path) -> list[int]:
    """The totals of callgrind's dumps, in their order."""
    found = {}
    for path in folder.glob("counts.*"):
        total = re.search(r"^totals: (\d+)$", path.read_text(), flags=re.M)
        if total is None:
            raise SystemExit(f"perf-check: no totals in {path}")
        found[int(path.suffix[1:])] = int(total[1])
    return [found[i] for i in sorted(found)]


def callgrind(command: list[str], environment: dict[str, str] | None = None) -> list[int]:
    with tempfile.TemporaryDirectory() as folder:
        counted = [*VALGRIND, f"--callgrind-out-file={folder}/counts", *command]
        done = subprocess.run(
            counted, env={**os.environ, **(environment or {})}, capture_output=True, text=True
        )
        if done.returncode != 0:
            raise SystemExit(f"perf-check: {' '.join(counted)}\n{done.stderr[-3000:]}")
        return dumps(Path(folder))


def count_engine(program: Path | None = None) -> Counts:
    """By case; `program`: golden.cpp with another engine than that of the sources."""
    need("valgrind", "g++")
    import golden_file
    import perf_cases
    import run as native

    program = program or Path(native.build(native=True))
    calls = perf_cases.all_cases()
    with tempfile.TemporaryDirectory() as folder:
        golden_file.write(f"{folder}/calls", list(calls.values()))
        counts = callgrind([str(program), "avx2", f"{folder}/calls", f"{folder}/results"])
    if len(counts) != len(calls):
        raise SystemExit(f"perf-check: {len(counts)} counts for {len(calls)} calls")
    return dict(zip(calls, counts, strict=True))


def count_facade() -> Counts:
    """By call."""
    need("valgrind", "g++")
    import perf_facade

    with tempfile.TemporaryDirectory() as folder:
        marks = f"{folder}/marks.so"
        subprocess.run(
            ["g++", "-O2", "-shared", "-fPIC", str(HERE / "perf_marks.cpp"), "-o", marks], check=True
        )
        environment = {"FUSEDRAW_ISA": "avx2", "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1"}
        counts = callgrind([sys.executable, str(HERE / "perf_facade.py"), marks], environment)
    pairs = list(zip(counts[::2], counts[1::2], strict=True))
    n = perf_facade.N
    return {name: (two - one) // n for name, (one, two) in zip(perf_facade.NAMES, pairs, strict=True)}


def count_cuda() -> Counts:
    """Bytes that a draw reads and writes, by configuration, way and dtype; real rows, V = 49152."""
    if shutil.which("g++") is None:
        raise Missing("g++ not found (Debian: apt-get install g++)")
    import cuda_measure
    from fusedraw.bench import cases

    out = {}
    for dtype in ("bfloat16",):
        for mode in cuda_measure.MODES:
            for config in cases.CONFIGS:
                draw = cuda_measure.Draw("real", 49152, dtype, config, mode)
                launches = cuda_measure.bytes_moved(draw, rows=1)
                for moved in ("read", "written"):
                    out[f"{config}, {dtype}, {mode}: {moved}"] = int(sum(part[moved] for part in launches))
    return out


def versions_of(part: str) -> dict[str, str]:
    """What a part's counts depend on beside the sources."""
    if part == "engine":
        return {"compiler": compiler()}
    if part == "facade":
        import torch

        python = ".".join(map(str, sys.version_info[:3]))
        return {"python": python, "torch": torch.__version__.split("+")[0], "compiler": compiler()}
    return {}


PARTS: dict[str, tuple[str, Callable[[], Counts]]] = {
    "engine": ("instructions", count_engine),
    "facade": ("instructions a call", count_facade),
    "cuda": ("bytes", count_cuda),
}


def compare(
    part: str, counts: Counts, versions: dict[str, str], baseline: dict
) -> tuple[list[str], list[str]]:
    """(lines to print, what grew). Names that only one side has are errors: the baseline must be moved."""
    old = baseline.get(part)
    if old is None:
        return [f"{part}: no baseline; --move writes one"], []
    comparable = old["versions"] == versions
    lines, grew = [], []
    if not comparable:
        lines.append(f"{part}: not compared: the baseline is of {old['versions']}, this is {versions}")
    elif set(old["counts"]) != set(counts):
        changed = sorted(set(old["counts"]) ^ set(counts))
        grew.append(f"{part}: cases differ from the baseline's, --move it: {', '.join(changed)}")
    for name, count in counts.items():
        before = old["counts"].get(name)
        ratio = count / before if comparable and before else None
        said = f"{ratio:8.3f}" if ratio else f"{'':8}"
        lines.append(f"{said} {count:>12,}  {part}: {name}")
        if ratio and ratio > MOST:
            grew.append(
                f"{part}: {name}: {count:,} {PARTS[part][0]}, {100 * (ratio - 1):.1f} % more than {before:,}"
            )
    return lines, grew


def print_ratios() -> None:
    """Times over floors, interleaved in this process: for the eye, since machines are noisy."""
    import torch
    from fusedraw.bench import cases, data, providers, timing

    torch.set_num_threads(1)
    ratios = {}
    for dtype in ("float32", "bfloat16"):
        logits = data.make("real", 49152, 1, cases.DTYPES[dtype])
        chunks = {}
        for config in cases.CONFIGS:
            case = cases.Case(49152, 1, dtype, 1, "real", config)
            chunks[config] = providers.chunk("fusedraw", case, logits)
        for floor in ("read", "exp"):
            chunks[floor] = providers.chunk(floor, case, logits)
        got = timing.interleave(chunks)
        for config in cases.CONFIGS:
            for floor in ("read", "exp"):
                ratios[f"{config}, {dtype} / {floor}"] = round(got[config].median / got[floor].median, 2)
    for name, ratio in ratios.items():
        print(f"{ratio:8.2f}               floors: {name}")
    RATIOS.parent.mkdir(exist_ok=True)
    timing.store(RATIOS, load=timing.load(), ratios=ratios)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=[*PARTS, "floors"], default=[*PARTS, "floors"])
    parser.add_argument("--baseline", type=Path, default=BASELINE)
    parser.add_argument("--move", action="store_true", help="the counts become the baseline")
    args = parser.parse_args()
    baseline = json.loads(args.baseline.read_text()) if args.baseline.exists() else {}
    grew = []
    for part in [p for p in PARTS if p in args.only]:
        try:
            counts, versions = PARTS[part][1](), versions_of(part)
        except Missing as error:
            print(f"{part}: not counted: {error}")
            continue
        lines, more = compare(part, counts, versions, baseline)
        print("\n".join(lines), flush=True)
        grew += more
        if args.move:
            baseline[part] = {"unit": PARTS[part][0], "versions": versions, "counts": counts}
    if args.move:
        args.baseline.write_text(json.dumps(baseline, indent=1) + "\n")
        print(f"perf-check: {args.baseline} moved")
        return 0
    if "floors" in args.only:
        print_ratios()
    for line in grew:
        print(f"perf-check: {line}")
    print(f"perf-check: {'FAILED' if grew else 'passed'}; limit: {100 * (MOST - 1):.0f} % more")
    return int(bool(grew))


if __name__ == "__main__":
    sys.exit(main())
