# SPDX-License-Identifier: Apache-2.0
"""What the audit costs, beside its goals:

    statistics    collecting them adds at most 2 % to decoding (interleaved runs, medians)
    report        10,000 stored outputs become a report in less than 30 s
    default       the default audit in less than 5 minutes on two cores, below 3 GB
    large         50 prompts, 8 conditions, 64 new tokens in less than 30 minutes, below 3 GB

    python benchmarks/audit_goals.py [statistics] [report] [default] [large]      (default: the first two)

Needs the audit's packages (requirements-audit.txt) and the packaged model.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy
import torch

ROUNDS = 9
TOKENS = 32
GOALS = ("statistics", "report", "default", "large")
MORE_PROMPTS = 50
LARGE = (
    *("seed:seed=2", "batch:batch=1", "threads:threads=1", "dtype:dtype=bfloat16"),
    *("warm:temperature=1.2", "explore:mix_eps=0.02", "narrow:top_p=0.8"),
)


def cost_of_statistics() -> None:
    """Seconds of `generate` with what an audit asks for, with the logits only, and with neither."""
    from fusedraw.audit import decode, models, plan

    loaded = models.load(None)
    condition = plan.make_plan(["x"]).base
    prompts = plan.read_prompts(plan.DEFAULT_PROMPTS)[: condition.batch]
    ids = [loaded.ids_of(text, True) for text in prompts]
    seeds = list(range(len(ids)))
    was = decode._RETURNS, decode.CONFIDENCE_TOP
    times: dict[str, list[float]] = {"with": [], "without": []}
    for turn in range(-1, ROUNDS):
        for name in sorted(times, reverse=turn % 2 == 0):
            decode._RETURNS, decode.CONFIDENCE_TOP = was if name == "with" else ((), 0)
            start = time.perf_counter()
            decode._generate(loaded, condition, ids, seeds, TOKENS)
            if turn >= 0:
                times[name].append(time.perf_counter() - start)
    decode._RETURNS, decode.CONFIDENCE_TOP = was
    plain, full = (statistics.median(times[name]) for name in ("without", "with"))
    print(f"statistics: {100 * (full / plain - 1):+.2f} % of decoding (goal: at most +2 %), batch {len(ids)}")


def time_of_a_report() -> None:
    """10,000 outputs of made-up numbers, through the store, the figures and the files."""
    from fusedraw.audit import plan, report, results
    from fusedraw.audit.store import STATS, Output, Store

    prompts, samples = 500, 10
    made = plan.make_plan(
        [f"prompt {n}" for n in range(prompts)],
        base={"samples": samples, "threads": 1},
        conditions={"other": {"seed": 2, "samples": samples}},
    )
    draw = numpy.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        store = Store(Path(name) / "audit.sqlite")
        model = {"name": "made up", "kind": "huggingface", "digest": "0", "parameters": 1, "vocab": 49152}
        store.begin({"model": model, "versions": {}, **made.identity()})
        store.add_prompts([(n, text, plan.digest(text)) for n, text in enumerate(made.prompts)])
        for number in range(prompts):
            outputs = []
            for condition in made.conditions:
                for sample in range(samples):
                    length = int(draw.integers(20, 64))
                    ids = draw.integers(0, 49152, length)
                    stats = draw.exponential(size=(length, len(STATS))) * -1.0
                    stats[:, 2:] *= -1
                    words = [f" word{i}" for i in ids]
                    text = "".join(words)
                    outputs.append(
                        Output(number, condition.name, sample, ids, stats, text, words, True, length, [])
                    )
            store.add_outputs(f"{number}", outputs)
            lines = [
                {"a": "base", "b": "other", "prompt": number, "sample": s, "equal": True, "length": 9}
                | {
                    "fork": None,
                    "agreement": 1.0,
                    "first_logit_difference": None,
                    "difference": 0.0,
                    "ulp": 0,
                }
                for s in range(samples)
            ]
            store.add_comparisons(f"{number}/compared", lines)
        store.close()
        start = time.perf_counter()
        analysis = results.analyse([Path(name) / "audit.sqlite"])
        figures = time.perf_counter() - start
        page = report.write(analysis, Path(name))
        total = time.perf_counter() - start
        size = page.stat().st_size / 1e6
    count = analysis["run"]["outputs"]
    print(
        f"report: {count} outputs in {total:.1f} s, {figures:.1f} of it figures (goal: 30 s); {size:.1f} MB"
    )


def whole_audit(name: str, minutes: float, arguments: list[str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "fusedraw", "audit", *arguments, "--output", folder]
        start = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        spent = (time.perf_counter() - start) / 60
        run = json.loads((Path(folder) / "report.json").read_text())["run"]
    memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    print(
        f"{name}: {run['outputs']} outputs, {run['tokens']} tokens in {spent:.1f} minutes (goal: "
        f"{minutes:g}), peak {memory:.2f} GB (goal: 3)"
    )


def large() -> None:
    from fusedraw.audit import plan

    texts = plan.read_prompts(plan.DEFAULT_PROMPTS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "prompts.txt"
        path.write_text("\n".join((texts * MORE_PROMPTS)[:MORE_PROMPTS]))
        conditions = [part for text in LARGE for part in ("--condition", text)]
        given = ["--prompts", str(path), "--base", "batch=8,samples=1", "--max-new-tokens", "64"]
        whole_audit("large", 30, [*given, *conditions])


def main() -> None:
    parser = argparse.ArgumentParser(description="What the audit costs, beside its goals.")
    parser.add_argument("goals", nargs="*", help=", ".join(GOALS))
    chosen = parser.parse_args().goals or list(GOALS[:2])
    unknown = set(chosen) - set(GOALS)
    if unknown:
        parser.error(f"expected some of {', '.join(GOALS)}, got {', '.join(sorted(unknown))}")
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    measures = {
        "statistics": cost_of_statistics,
        "report": time_of_a_report,
        "default": lambda: whole_audit("default", 5, []),
        "large": large,
    }
    for name in chosen:
        measures[name]()


if __name__ == "__main__":
    main()
