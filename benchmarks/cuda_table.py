# SPDX-License-Identifier: Apache-2.0
"""The README's text between the markers cuda-report:begin and cuda-report:end, from results/cuda_report.json.

python benchmarks/cuda_table.py --print
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from fusedraw.bench import cases

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "cuda_report.json"
README = HERE.parent / "README.md"
NAME = "cuda-report"
MAIN_ARCH = 90
KINDS = ("real", "real-like", "peaked")


def short(name: str) -> str:
    """A kernel's name without namespaces and dtype: what is alike for all dtypes is one line."""
    plain = name.replace("fusedraw::cuda::", "").replace("fusedraw::", "")
    for dtype in ("BFloat16", "Float16", "float"):
        plain = plain.replace(f"<{dtype}>", "").replace(f"<{dtype}, ", "<")
    return plain


def markdown(header: list[str], rows: list[list[str]], left: int = 1) -> list[str]:
    align = "|" + "---|" * left + "--:|" * (len(header) - left)
    return ["| " + " | ".join(header) + " |", align, *("| " + " | ".join(row) + " |" for row in rows), ""]


def span(values: list[float], form: str) -> str:
    """One number, or the least and the most."""
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"


def goals(stored: dict) -> list[str]:
    rows = []
    for g in stored["goals"]:
        worst = f"{g['worst']:g}" if g["worst"] == int(g["worst"]) else f"{g['worst']:.3g}"
        limit = f"{'>=' if g['at_least'] else '<='} {g['limit']:g}"
        rows.append([g["goal"], limit, worst, "yes" if g["reached"] else "**no**", g["where"]])
    return markdown(["goal", "limit", "worst", "reached", "where"], rows, left=1)


def compiled(stored: dict) -> list[str]:
    """Registers and occupancy of each kernel, by architecture; the worst dtype."""
    archs = sorted({k["arch"] for k in stored["kernels"]})
    names = sorted({short(k["name"]) for k in stored["kernels"]})
    rows = []
    for name in names:
        mine = [k for k in stored["kernels"] if short(k["name"]) == name]
        cells = []
        for arch in archs:
            here = [k for k in mine if k["arch"] == arch]
            worst = min((k["occupancy"] for k in here), default=0)
            cells.append(f"{max(k['registers'] for k in here)}, {worst:.0%}" if here else "-")
        spills = max(k["spills"] for k in mine)
        shared = f"{max(k['shared'] for k in mine) / 1024:.1f}"
        rows.append([f"`{name}`", shared, str(spills), *cells])
    header = ["kernel", "shared, KiB", "spilled, bytes", *(f"sm_{a}" for a in archs)]
    return [
        f"Registers and occupancy ({stored['threads']} threads a thread block), shared memory and bytes "
        "spilled, each of the worst dtype:",
        "",
        *markdown(header, rows),
    ]


def loops(stored: dict) -> list[str]:
    archs = sorted({loop["arch"] for loop in stored["loops"]})
    found: dict[tuple[str, str], dict[int, dict]] = {}
    for loop in stored["loops"]:
        if "Float16>" in loop["kernel"].replace("BFloat16", "") or "::Float16" in loop["kernel"]:
            continue
        dtype = "bfloat16" if "BFloat16" in loop["kernel"] else "float32"
        best = found.setdefault((loop["function"], dtype), {})
        if loop["arch"] not in best or loop["per_element"] > best[loop["arch"]]["per_element"]:
            best[loop["arch"]] = loop
    rows = []
    for (function, dtype), by_arch in sorted(found.items()):
        loads = span([loop["loads16"] for loop in by_arch.values()], "g")
        cells = [f"{by_arch[a]['per_element']:.1f}" if a in by_arch else "-" for a in archs]
        rows.append([f"`{function}`", dtype, loads, *cells])
    header = ["loop in", "rows", "16-byte loads", *(f"sm_{a}" for a in archs)]
    return [
        "Loops over a row's 16-byte loads: loads of a lane in one round, and the least instructions per "
        "element that a round with all of them can take (no mask, nothing kept; the worst kernel):",
        "",
        *markdown(header, rows, left=2),
    ]


def cell(values: list[float | None], form: str) -> str:
    return " / ".join("-" if v is None else format(v, form) for v in values)


def traffic(stored: dict, dtype: str) -> list[str]:
    """Bytes and instructions of each configuration, B = 1 / one launch."""
    by = {(e["config"], e["rows"], e["mode"]): e for e in stored["draws"] if e["dtype"] == dtype}
    modes = ("B = 1", "one launch")
    rows = []
    for config in cases.CONFIGS:
        row = [cases.TITLES[config]]
        of = [[by.get((config, kind, mode), {}) for mode in modes] for kind in KINDS]
        row += [cell([e.get("read") for e in pair], ".2f") for pair in of]
        written = [e["written"] for pair in of for e in pair if "written" in e]
        row.append(f"{max(written):.2%}" if written else "-")
        row += [cell([e.get("per_element", {}).get(str(MAIN_ARCH)) for e in pair], ".1f") for pair in of]
        rows.append(row)
    header = [dtype, *(f"read, {k}" for k in KINDS), "written", *(f"instr., {k}" for k in KINDS)]
    return markdown(header, rows)


def estimates(stored: dict) -> list[str]:
    if not stored["estimates"]:
        return []
    names = list(dict.fromkeys(e["device"] for e in stored["estimates"]))
    batches = sorted({e["batch"] for e in stored["estimates"]})
    by = {(e["config"], e["device"], e["batch"]): e for e in stored["estimates"]}
    rows = []
    for config in cases.CONFIGS:
        cells = []
        for name in names:
            for batch in batches:
                e = by.get((config, name, batch))
                cells.append(f"{e['us']:.0f} ({e['bound']})" if e else "-")
        rows.append([cases.TITLES[config], *cells])
    floors = ["bytes of the rows alone"]
    for name in names:
        for batch in batches:
            e = by.get(("T", name, batch))
            floors.append(f"{e['floor_us']:.1f}" if e else "-")
    header = ["", *(f"{name}, B = {batch}" for name in names for batch in batches)]
    return [
        "**ESTIMATED, NOT MEASURED**: microseconds of a call on paper, V = 128256, bfloat16, real-like rows, "
        "and what bounds the longest launch. What an H100 measured is in the table above; the assumptions:",
        "",
        *(f"- {line}" for line in stored["assumptions"]),
        "",
        *markdown(header, [*rows, floors]),
    ]


def table(stored: dict) -> str:
    lines = [
        f"nvcc {stored['nvcc']}, nvdisasm {stored['nvdisasm']}; command: `{stored['command']}`. Nothing here "
        "was measured on a device: these are figures of the compiler, of the executor (bytes), of the "
        f"machine code for sm_{MAIN_ARCH} as executed on the CPU (warp instructions of the whole call, times "
        "32, per token of the row) and, last, an estimate.",
        "",
        *goals(stored),
        *compiled(stored),
        *loops(stored),
        "Bytes read over the bytes of the rows, the most bytes written over the same, and instructions per "
        "element, each B = 1 / one launch for many rows; V = 49152 (real), 128256 (real-like, peaked):",
        "",
        *traffic(stored, "bfloat16"),
        *traffic(stored, "float32"),
        *estimates(stored),
    ]
    return "\n".join(lines).rstrip() + "\n"


def put(readme: Path, stored: dict) -> None:
    """Into the README, which may lack the markers."""
    from table import put as put_between

    if f"<!-- {NAME}:begin -->" in readme.read_text():
        put_between(readme, NAME, table(stored))
    else:
        print(f"cuda_table: {readme} has no <!-- {NAME}:begin -->; not written")


def main() -> int:
    parser = argparse.ArgumentParser(description="Writes the README's part on the CUDA kernels.")
    parser.add_argument("--results", type=Path, default=RESULT)
    parser.add_argument("--readme", type=Path, default=README)
    parser.add_argument("--print", action="store_true", dest="only_print")
    args = parser.parse_args()
    if not args.results.exists():
        raise SystemExit(f"cuda_table: no stored results in {args.results}; run: make cuda-report")
    stored = json.loads(args.results.read_text())
    if args.only_print:
        print(table(stored))
    else:
        put(args.readme, stored)
    return 0


if __name__ == "__main__":
    sys.exit(main())
