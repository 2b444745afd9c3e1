# SPDX-License-Identifier: Apache-2.0
"""docs/scaling.md: bytes, launches and exchanges per token for one to eight ranks and V up to a million, on
paper. The counts are stored in results/scaling.json; everything else on the page is computed from them, from
results/cuda_report.json (instructions) and from results/bench_gpu.json (what an H100 measured).

python benchmarks/scaling.py              writes the page from the stored counts
python benchmarks/scaling.py --print      prints it
python benchmarks/scaling.py --count      counts again first (minutes; needs a C++ compiler)
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
RESULT = HERE / "results" / "scaling.json"
PAGE = HERE.parent / "docs" / "scaling.md"


def load(name: str) -> dict:
    """A stored result of this folder."""
    path = HERE / "results" / name
    if not path.is_file():
        raise SystemExit(f"scaling: no stored results in {path}")
    return json.loads(path.read_text(encoding="utf-8"))


def count_all() -> dict:
    import cuda_compile
    import scaling_counts as counts
    import torch

    torch.set_num_threads(1)
    before, started, entries = cuda_compile.digest(), time.monotonic(), []
    draws = list(counts.draws())
    for n, draw in enumerate(draws):
        entries.append(counts.count(draw))
        if n == 0 or draw.vocab != draws[n - 1].vocab:
            print(f"[{n + 1}/{len(draws)}, {time.monotonic() - started:.0f} s] V = {draw.vocab}", flush=True)
    if cuda_compile.digest() != before:
        raise SystemExit(
            "scaling: the sources changed in the meantime; counts of different versions, not stored"
        )
    return {
        "command": "python benchmarks/scaling.py --count",
        "sources": before,
        "row_count": counts.ROWS,
        "draws": entries,
    }


def page() -> str:
    import scaling_page

    return scaling_page.page(load("scaling.json"), load("cuda_report.json"), load("bench_gpu.json"))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--count", action="store_true", help="count again and store")
    parser.add_argument("--print", action="store_true", dest="only_print", help="print, write nothing")
    args = parser.parse_args()
    if args.count and args.only_print:
        parser.error("--count stores its counts and --print writes nothing: give one of them")
    if args.count:
        from cuda_report import write

        if hasattr(os, "nice"):
            os.nice(5)
        write(count_all(), RESULT)
        print(f"stored: {RESULT}")
    text = page()
    if args.only_print:
        print(text, end="")
    else:
        PAGE.write_text(text, encoding="utf-8")
        print(f"written: {PAGE}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
