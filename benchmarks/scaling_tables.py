# SPDX-License-Identifier: Apache-2.0
"""The tables of docs/scaling.md, each from counts (scaling_counts.py) and formulas (scaling_model.py)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import cuda_devices as devices
import cuda_measure as measure
import scaling_model as model
from cuda_table import markdown, span
from fusedraw.bench import cases
from scaling_model import Counts, Times

SPLIT, WHOLE = measure.MODES
MOVED_VOCABS = (16384, 32000, 65536, 128256, 262144, 524288, 1_000_000)
SHOWN_VOCABS = (32000, 128256, 262144, 1_000_000)
STEP_VOCABS = (32000, 128256, 1_000_000)
BATCHES = tuple(2**n for n in range(11))
STEP_BATCHES = (1, 32, 256)
STEP_CONFIGS = ("T", "top-k+top-p")
SPLIT_RANKS = model.RANKS[1:]
TOP_PS = ("top-p", "mix+top-p")


def rows_of(header: Sequence[str], rows: Iterable[Sequence[str]], left: int = 1) -> str:
    return "\n".join(markdown(list(header), [list(row) for row in rows], left=left))


def vocab_head(vocabs: Iterable[int], of: str = "V = ") -> list[str]:
    return [f"{of}{v}" for v in vocabs]


def us(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def percent(value: float) -> str:
    return f"{100 * value:.1f}"


# One rank


def mean_reads(entry: dict, count: int) -> float:
    return sum(model.reads(entry, r) for r in range(count)) / count


def moved(counts: Counts) -> str:
    rows = []
    for config, title in cases.TITLES.items():
        cells = []
        for vocab in MOVED_VOCABS:
            of = [counts.entry("real", "bfloat16", mode, config, vocab) for mode in (SPLIT, WHOLE)]
            cells.append(" / ".join(f"{mean_reads(e, counts.row_count):.2f}" for e in of))
        rows.append([title, *cells])
    return rows_of(["counted: bfloat16, real-like", *vocab_head(MOVED_VOCABS)], rows)


GROUPS = (
    ("real", "bfloat16", SPLIT),
    ("real", "bfloat16", WHOLE),
    ("real", "float32", WHOLE),
    ("peaked", "bfloat16", WHOLE),
)


def lines(counts: Counts) -> str:
    rows = []
    for config, title in cases.TITLES.items():
        cells = []
        for kind, dtype, mode in GROUPS:
            fit = counts.line(kind, dtype, mode, config)
            slope = fit.slope / model.ELEMENT[dtype]
            cells.append(
                f"{slope:.3f}, {fit.start / 1e3:+.1f} kB, off {percent(fit.residual)} % ({fit.points})"
            )
        rows.append([title, *cells])
    head = [
        "derived: slope, start, off (rows)",
        "real-like, bfloat16, B < 128",
        "the same, B >= 128",
        "float32, B >= 128",
        "peaked, bfloat16, B >= 128",
    ]
    return rows_of(head, rows)


def worst_residual(counts: Counts) -> float:
    return max(counts.line(*group, config).residual for group in GROUPS for config in cases.TITLES)


def ways(counts: Counts) -> str:
    rows = []
    for kind in ("real", "peaked"):
        cells = []
        for vocab in MOVED_VOCABS:
            entry = counts.entry(kind, "bfloat16", WHOLE, "top-p", vocab)
            others = [r for r in range(counts.row_count) if not model.usual(entry, r)]
            text = f"{counts.row_count - len(others)}"
            if others:
                text += f"; {span([model.reads(entry, r) for r in others], '.1f')}"
            cells.append(text)
        rows.append(["real-like" if kind == "real" else kind, *cells])
    return rows_of(["counted: top-p 0.9, B >= 128", *vocab_head(MOVED_VOCABS)], rows)


def instructions(times: Times) -> str:
    known = sorted(v for v, _ in times.issued["T", WHOLE])
    further = (262144, 1_000_000)
    rows = []
    for config, title in cases.TITLES.items():
        found = dict(times.issued[config, WHOLE])
        cells = [f"{sum(found[v]) * devices.WARP / v:.1f}" for v in known]
        cells += [f"{sum(times.instructions(config, 1, v)) * devices.WARP / v:.1f}" for v in further]
        rows.append([title, *cells])
    return rows_of(["", *vocab_head(known, "counted, V = "), *vocab_head(further, "derived, V = ")], rows)


def paper(times: Times) -> str:
    rows = []
    for config, title in cases.TITLES.items():
        cells = []
        for batch in (1, 256):
            for vocab in SHOWN_VOCABS:
                e = times.counted(config, batch, vocab)
                cells.append(f"{us(e.us)} ({e.bound})")
        rows.append([title, *cells])
    head = [f"B = {b}, V = {v}" for b in (1, 256) for v in SHOWN_VOCABS]
    return rows_of(["derived", *head], rows)


def compared(times: Times, config: str, batch: int) -> tuple[float, float] | None:
    measured = times.measured_us(config, batch)
    return None if measured is None else (times.paper_us(config, batch, model.MEASURED_VOCAB), measured)


def ratios(times: Times) -> list[float]:
    pairs = [compared(times, c, b) for c in cases.TITLES for b in model.MEASURED_BATCHES]
    return [pair[1] / pair[0] for pair in pairs if pair is not None]


def check(times: Times) -> str:
    rows = []
    for config, title in cases.TITLES.items():
        cells = []
        for batch in model.MEASURED_BATCHES:
            pair = compared(times, config, batch)
            cells.append(f"{us(pair[0])} / {us(pair[1])}, x {pair[1] / pair[0]:.2f}" if pair else "-")
        rows.append([title, *cells])
    return rows_of(["derived / measured", *(f"B = {b}" for b in model.MEASURED_BATCHES)], rows)


# Several ranks


def plans() -> list[tuple[str, str, bool]]:
    """(configuration, title, long): top-p stands there twice."""
    out = []
    for config, title in cases.TITLES.items():
        out.append((config, title, False))
        if config in TOP_PS:
            out.append((config, f"{title}, long", True))
    return out


def or_wide(narrow: object, wide: object) -> str:
    """bfloat16, and in brackets float32 where it differs."""
    return str(narrow) if narrow == wide else f"{narrow} ({wide})"


def exchanges() -> str:
    rows = []
    for config, title, long in plans():
        two, four = (model.plan(config, element, long=long) for element in (2, 4))
        steps = []
        for narrow, wide in zip(two.steps, four.steps, strict=True):
            often = or_wide(narrow.times, wide.times)
            steps.append(f"{narrow.what}: " + (f"{often} times " if often != "1" else ""))
            steps[-1] += or_wide(narrow.size, wide.size)
        number = or_wide(two.exchanges, four.exchanges)
        rows.append([title, ", ".join(steps), number, or_wide(two.bytes_given, four.bytes_given)])
    return rows_of(["derived, R = 8", "what each rank gives", "exchanges", "bytes"], rows, left=2)


def taken_in() -> str:
    """Of a row, by each rank."""
    rows = []
    for vocab in STEP_VOCABS:
        cells = [f"{model.gathered_bytes(vocab, 2, r):.0f}" for r in SPLIT_RANKS]
        rows.append([f"all logits, V = {vocab}", *cells])
    for config, title, long in plans():
        cells = [str(model.plan(config, 2, r, long).bytes_given * (r - 1)) for r in SPLIT_RANKS]
        rows.append([title, *cells])
    return rows_of(["derived", *(f"R = {r}" for r in SPLIT_RANKS)], rows)


def seen() -> str:
    """The formula of an exchange beside what others measured."""
    rows = []
    for size, ring, symmetric in model.SEEN_BY_OTHERS:
        formula = model.exchange_us(size / 8, 8, model.EXCHANGE_US)
        rows.append([f"{size >> 20} MiB", f"{formula:.1f}", f"{symmetric:.1f}", f"{ring:.1f}"])
    head = ["all-gather, 8 H100, us", "derived", "stated: symmetric memory", "stated: NCCL's rings"]
    return rows_of(head, rows)


def both_ways(times: Times) -> str:
    rows = []
    vocabs, ranks = (128256, 1_000_000), (2, 8)
    for config, title in cases.TITLES.items():
        cells = []
        for vocab in vocabs:
            for r in ranks:
                for batch in (1, 256):
                    gathered = model.gathered_us(times, config, batch, vocab, r)
                    sharded = model.sharded_us(times, config, batch, vocab, r)
                    cells.append(f"{gathered:.0f} / {sharded:.0f}")
        rows.append([title, *cells])
    head = [f"V = {v}, R = {r}, B = {b}" for v in vocabs for r in ranks for b in (1, 256)]
    return rows_of(["derived", *head], rows)


def winning(times: Times) -> str:
    rows = []
    for config, title in cases.TITLES.items():
        cells = []
        for vocab in (128256, 1_000_000):
            for r in SPLIT_RANKS:
                found = []
                for latency in model.EXCHANGE_SPREAD_US:

                    def faster(batch: int, c=config, v=vocab, ranks=r, late=latency) -> bool:
                        given = (times, c, batch, v, ranks, late)
                        return model.sharded_us(*given) < model.gathered_us(*given)

                    found.append(str(model.least(faster, BATCHES) or "-"))
                cells.append(" / ".join(found) if len(set(found)) > 1 else found[0])
        rows.append([title, *cells])
    head = [f"V = {v}, R = {r}" for v in (128256, 1_000_000) for r in SPLIT_RANKS]
    return rows_of(["derived", *head], rows)


# A decode step


def share(times: Times, of: model.Model, config: str, batch: int, vocab: int, ranks: int, way) -> float:
    return way(times, config, batch, vocab, ranks) / of.step_us(batch, vocab, ranks)


def shares(times: Times) -> str:
    rows = []
    for of in model.MODELS:
        for r in of.fits:
            for vocab in (128256, 1_000_000):
                step = [f"{of.step_us(b, vocab, r) / 1e3:.2f}" for b in (1, 256)]
                cells = []
                for config in STEP_CONFIGS:
                    for way in (model.gathered_us, model.sharded_us) if r > 1 else (model.gathered_us,):
                        found = [share(times, of, config, b, vocab, r, way) for b in STEP_BATCHES]
                        cells.append(" / ".join(map(percent, found)))
                    if r == 1:
                        cells.append("-")
                rows.append([f"{of.name}, R = {r}, V = {vocab}", " / ".join(step), *cells])
    batches = " / ".join(map(str, STEP_BATCHES))
    head = ["derived, %", "step, ms: B = 1 / 256"]
    for config in STEP_CONFIGS:
        head += [f"{cases.TITLES[config]}: B = {batches}", "sharded"]
    return rows_of(head, rows)


def crossings(times: Times) -> str:
    rows = []
    for of in model.MODELS:
        for r in of.fits:
            cells = []
            for config in STEP_CONFIGS:
                for vocab in STEP_VOCABS:
                    found = []
                    for limit in (0.01, 0.05):

                        def above(batch: int, c=config, v=vocab, ranks=r, m=of, most=limit) -> bool:
                            return share(times, m, c, batch, v, ranks, model.gathered_us) > most

                        found.append(str(model.least(above, BATCHES) or "-"))
                    cells.append(" / ".join(found))
            rows.append([f"{of.name}, R = {r}", *cells])
    head = [f"{cases.TITLES[c]}, V = {v}" for c in STEP_CONFIGS for v in STEP_VOCABS]
    return rows_of(["derived", *head], rows)


# Launches


def launches(counts: Counts) -> str:
    rows = []
    for mode, title in ((SPLIT, "B < 128"), (WHOLE, "B >= 128")):
        cells = []
        for vocab in counts.vocabs:
            found = {
                len(counts.entry("real", dtype, mode, config, vocab)["launches"])
                for dtype in model.ELEMENT
                for config in cases.TITLES
            }
            cells.append(span(sorted(found), "g"))
        rows.append([title, *cells])
    return rows_of(["counted", *vocab_head(counts.vocabs)], rows)


def queued(times: Times) -> str:
    rows = []
    for config, title in cases.TITLES.items():
        cells = []
        for batch in model.MEASURED_BATCHES:
            ways = times.measured[config, batch]["fusedraw"]
            if times.measured_us(config, batch) is None:
                cells.append("-")
            else:
                cells.append(f"{ways['warm'][1] - ways['graph'][1]:.1f}")
        rows.append([title, *cells])
    return rows_of(["measured", *(f"B = {b}" for b in model.MEASURED_BATCHES)], rows)
