# SPDX-License-Identifier: Apache-2.0
"""The table of times on a CUDA device, from results/bench_gpu.json (bench_gpu.py); table.py puts it into the
README."""

from __future__ import annotations

from fusedraw.bench import cases

WAYS = {"graph": "replayed from a CUDA graph", "warm": "called", "flushed": "called, L2 flushed before"}


def batches(stored: dict) -> list[int]:
    return sorted({r["batch"] for r in stored["results"]})


def providers(stored: dict) -> list[str]:
    """In the order of the file, the floor first."""
    names = dict.fromkeys(name for r in stored["results"] for name in r["us"])
    return list(names)


def text_of(result: dict | None, name: str, way: str) -> str:
    found = result and result["us"].get(name, {}).get(way)
    return f"{found[1]:.3g}" if found and found[1] < 1000 else f"{found[1]:.0f}" if found else "-"


def table(stored: dict, way: str = "graph") -> str:
    device, versions = stored["device"], stored["versions"]
    vocab, dtype = stored["results"][0]["vocab"], stored["results"][0]["dtype"]
    names, sizes = providers(stored), batches(stored)
    found = {
        (r["config"], r["batch"]): r
        for r in stored["results"]
        if (r["vocab"], r["dtype"], r["data"]) == (vocab, dtype, stored["results"][0]["data"])
    }
    machine = f"{device['name']}, CUDA {device['cuda']}, torch {versions['torch']}"
    lines = [
        f"{machine}; V = {vocab}, {dtype}, {WAYS[way]}; medians of"
        f" {stored['calls']} calls in microseconds. read: `torch.amax`, which reads each logit once.",
        "",
        "| |" + "".join(f" B = {b}: {' / '.join(names)} |" for b in sizes),
        "|---|" + "--:|" * len(sizes),
    ]
    for config in cases.CONFIGS:
        cells = []
        for b in sizes:
            cells.append(" / ".join(text_of(found.get((config, b)), name, way) for name in names))
        if any(cell.strip("-/ ") for cell in cells):
            lines.append(f"| {cases.TITLES[config]} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
