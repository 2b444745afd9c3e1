# SPDX-License-Identifier: Apache-2.0
"""What all pieces say together: a file of facts for each device, and one page made of them.

python tests/statistics/evidence.py      makes the page again from docs/evidence-statistics-*.json
"""

import json
import os
import platform
import sys
from collections import Counter, defaultdict
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
if __name__ == "__main__":
    sys.path[:0] = [str(HERE), str(HERE.parent)]

import fusedraw  # noqa: E402
import laws  # noqa: E402
import torch  # noqa: E402
from machine import processor  # noqa: E402
from plan import ABOUT  # noqa: E402
from scipy import stats  # noqa: E402

PAGE = "evidence-statistics.md"
DEVICES = ("cpu", "cuda")
SHORT, LONG = 4096, 128_256  # where the promise of no forbidden id is counted


def collect(pieces, cases, device, seed):
    """Everything the evidence file holds."""
    by_case = defaultdict(dict)
    for piece in pieces:
        by_case[piece["case"]][piece["piece"]] = piece
    found = [judged(case, list(by_case[name].values())) for name, case in cases.items() if name in by_case]
    found += external(by_case)
    uniform = defaultdict(list)
    for name, case in cases.items():
        uniform[case.row] += case.uniform(list(by_case.get(name, {}).values()))
    return {
        "stream_version": fusedraw._C.build_info()["stream_version"],
        "version": fusedraw.__version__,
        "device": device.type,
        "machine": machine(device),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "engine": fusedraw._C.isa() if device.type == "cpu" else "cuda",
        "seed": seed,
        "alpha": laws.ALPHA,
        "power": laws.POWER,
        "seconds": round(sum(piece["seconds"] for piece in pieces), 1),
        "never": never(found),
        "uniform": {row: ks(values) for row, values in uniform.items() if len(values) >= 20},
        "cases": found,
    }


def judged(case, pieces):
    draws, counts = sum(piece["draws"] for piece in pieces), sums(pieces)
    tests = [t for t in case.judge(draws, counts) if t[2] > 0]  # what has one bin cannot fail
    test, p, _ = min(tests, key=lambda t: t[1], default=("", 1.0, 0))
    sees, power = case.power(draws, tests, counts)
    forbidden = sum(piece["forbidden"] for piece in pieces)
    return {
        "row": case.row,
        "case": case.name,
        "size": case.size,
        "pieces": len(pieces),
        "draws": draws,
        "forbidden": forbidden,
        "tests": len(tests),
        "df": max((df for *_, df in tests), default=0),
        "p": p,
        "least": test,
        "sees": sees,
        "power_at_1_percent": None if power is None else round(power, 6),
        "seconds": round(sum(piece["seconds"] for piece in pieces), 1),
        "notes": sorted({piece["note"] for piece in pieces if piece.get("note")}),
        "fails": forbidden > 0 or p < laws.ALPHA,
    }


def external(by_case):
    """Cases of other programs (row A4), which say themselves what they found."""
    out = []
    for pieces in by_case.values():
        for piece in pieces.values():
            if "external" in piece:
                out.append({**piece["external"], "seconds": piece["seconds"]})
    return out


def sums(pieces):
    """Counts of all pieces."""
    total = {}
    for piece in pieces:
        for name, counts in piece["counts"].items():
            so_far = total.get(name)
            total[name] = counts if so_far is None else [a + b for a, b in zip(so_far, counts, strict=True)]
    return total


def ks(values):
    """Of p-values that should be uniform."""
    return {
        "p_values": len(values),
        "least": min(values),
        "ks_p": float(stats.kstest(values, "uniform").pvalue),
    }


def never(found):
    """Draws of rows C and D by length, and how many ids among them were forbidden."""
    out = {}
    for name, inside in (("short", lambda n: n <= SHORT), ("long", lambda n: n >= LONG)):
        for rows in ("D1", "all"):
            some = [c for c in found if inside(c["size"]) and (c["row"] == rows or rows == "all")]
            some = [c for c in some if c["row"][0] in "CD"]
            out[f"{name}, {rows}"] = {k: sum(c[k] for c in some) for k in ("draws", "forbidden")}
    return out


def machine(device):
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{processor()}, {os.cpu_count()} cores"


def failures(found):
    uniform = [row for row, u in found["uniform"].items() if u["ks_p"] < found["alpha"]]
    return [f"{c['row']} {c['case']}" for c in found["cases"] if c["fails"]] + uniform


def write(found, folder):
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"evidence-statistics-{found['device']}.json"
    path.write_text(json.dumps(found, indent=1) + "\n")
    (folder / PAGE).write_text(page(stored(folder)))


def stored(folder):
    paths = [folder / f"evidence-statistics-{device}.json" for device in DEVICES]
    return [json.loads(path.read_text()) for path in paths if path.exists()]


def summary(found):
    bad = failures(found)
    draws = sum(case["draws"] for case in found["cases"] if case["row"][0] in "CD")
    said = [f"{len(found['cases'])} cases, {draws:,} draws, {len(bad)} fail"]
    for name, n in found["never"].items():
        said.append(f"forbidden ids, V {name}: {n['forbidden']} in {n['draws']:,}")
    return "\n".join(said + [f"FAILS: {name}" for name in bad])


# The page

HEAD = """# Evidence: statistics

Draws follow the law, neighbouring streams are independent, and what must not be drawn is not: this page is
made from `docs/evidence-statistics-cpu.json` and its like for a GPU, which hold every case. Expected
probabilities come from the integer weights of the law ([law.md](law.md)), not from a float softmax.

- Each p-value is held against {alpha:g}; of all tests together a false alarm is to be expected once in
  {alarms:,} runs. A p-value below it fails the run.
- "sees" is the smallest distortion that the weakest test of a case detects with probability {power:g}: in
  total variation (TV), for a law that is tilted up on half its mass and down on the other half; for a tail,
  the share of it that is lost; for comparisons, the share of wrong ones. "power" is the probability that a
  tilt of TV 1 % is seen.
- A row of logits is looked at in every binning: heaviest tokens and then octaves of probability, index
  modulo 8, 16, 32 and 64, block of 256, place in the last block, hash.
- "KS": p-values of single pieces of the draws, which are independent of each other, against uniform.
- Planted faults are found: `tests/test_statistics_rows.py` tilts a law by 1 %, draws with noise of 24 bits,
  plants a single forbidden id, ties neighbours together, and each kind of row refuses its own.
"""
FOOT = """
## Repeat

`make test-statistics` (two hours on two cores; a run that was stopped goes on). For less:
`python tests/statistics/run.py --minutes 30`, `--scale 0.1`, `--only C3,D1`; with another seed: `--seed 2`;
on a GPU: `--device cuda`. `--with-dieharder` adds row A4, where dieharder and ent are installed. A fast set
with the same helpers (`tests/laws.py`) is part of `make test`: `tests/test_statistics.py`.
"""


def page(all_found):
    tests = sum(case["tests"] for found in all_found for case in found["cases"])
    alpha = all_found[0]["alpha"] if all_found else laws.ALPHA
    alarms = int(1 / (alpha * max(tests, 1)))
    text = HEAD.format(alpha=alpha, power=laws.POWER, alarms=alarms)
    return text + "".join(map(part, all_found)) + FOOT


def part(found):
    """What one device gave."""
    lines = [
        f"\n## {'CPU' if found['device'] == 'cpu' else 'GPU'}\n",
        f"{found['machine']}; engine {found['engine']}; stream version {found['stream_version']}, fusedraw "
        f"{found['version']}, torch {found['torch']}, Python {found['python']}; seed {found['seed']}; "
        f"{found['seconds']:,.0f} seconds of drawing.\n",
        never_text(found["never"]),
        "| row | what | cases | draws | tests | least p | KS | fail |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for row in sorted({case["row"] for case in found["cases"]}):
        cases = [case for case in found["cases"] if case["row"] == row]
        total = Counter()
        for case in cases:
            total.update({k: int(case[k]) for k in ("draws", "tests", "fails")})
        u = found["uniform"].get(row)
        uniform = f"{u['ks_p']:.2g} of {u['p_values']}" if u else ""
        p = f"{min(c['p'] for c in cases):.2g}" if total["tests"] else ""
        lines.append(
            f"| {row} | {ABOUT[row]} | {len(cases)} | {total['draws']:,} | {total['tests']} | {p} "
            f"| {uniform} | {total['fails']} |"
        )
    lines += ["\n| row | case | draws | forbidden | tests | df | least p (of) | sees | power | s |"]
    lines += ["|---|---|--:|--:|--:|--:|---|---|--:|--:|"]
    lines += map(case_line, sorted(found["cases"], key=lambda case: case["row"]))
    return "\n".join(lines) + "\n"


def never_text(n):
    def said(rows):
        short, long = n[f"short, {rows}"], n[f"long, {rows}"]
        return (
            f"{short['forbidden']} in {short['draws']:,} draws at V <= {SHORT:,}, "
            f"{long['forbidden']} in {long['draws']:,} at V >= {LONG:,}"
        )

    return f"Forbidden ids: {said('D1')} in row D1; of all rows of draws: {said('all')}.\n"


def case_line(case):
    p = f"{case['p']:.2g} ({case['least']})" if case["tests"] else "; ".join(case["notes"])
    power = case["power_at_1_percent"]
    power = "" if power is None or not case["df"] else f"{power:.3g}"
    mark = "**fails** " if case["fails"] else ""
    return (
        f"| {case['row']} | {mark}{case['case']} | {case['draws']:,} | {case['forbidden']} "
        f"| {case['tests']} | {case['df'] or ''} | {p} | {case['sees']} | {power} | {case['seconds']:,.0f} |"
    )


if __name__ == "__main__":
    (ROOT / "docs" / PAGE).write_text(page(stored(ROOT / "docs")))
