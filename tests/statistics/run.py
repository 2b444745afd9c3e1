# SPDX-License-Identifier: Apache-2.0
"""The large statistical tests: hundreds of laws, tails, pairs of draws and things that must never be drawn.

    python tests/statistics/run.py [--minutes 120] [--device cpu|cuda] [--only C3,D1] [--scale 0.1] [--seed 1]

Pieces are kept in build/statistics as they end, so a run that was stopped (Ctrl-C, SIGTERM, kill) goes on
where it was; --fresh begins anew. At the end, or when stopped, docs/evidence-statistics-DEVICE.json says what
was found, and docs/evidence-statistics.md is made of it. Exit status 1 if a test fails. --with-dieharder adds
row A4.
"""

import argparse
import concurrent.futures as futures
import multiprocessing
import os
import signal
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path[:0] = [str(HERE), str(HERE.parent)]

import evidence  # noqa: E402
import fusedraw  # noqa: E402
import torch  # noqa: E402
from plan import Plan, all_cases  # noqa: E402
from tasks import do  # noqa: E402
from work_file import WorkFile  # noqa: E402


def arguments(given=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu (default), cuda, cuda:1, ...")
    parser.add_argument("--minutes", type=float, default=120, help="of this call (120)")
    parser.add_argument("--scale", type=float, default=1.0, help="of the draws that are aimed at (1)")
    parser.add_argument("--only", default="", help="rows or beginnings of cases, by commas: C3,D1")
    parser.add_argument("--seed", type=int, default=1, help="all draws follow from it (1)")
    parser.add_argument("--workers", type=int, default=2, help="processes on a CPU, one thread each (2)")
    parser.add_argument("--work", type=Path, help="where pieces are kept (build/statistics)")
    parser.add_argument("--fresh", action="store_true", help="forget the pieces that are there")
    parser.add_argument("--out", type=Path, default=ROOT / "docs", help="where the evidence goes (docs)")
    parser.add_argument("--with-dieharder", action="store_true", help="row A4 too: minutes more")
    parser.add_argument("--list", action="store_true", help="say the cases, draw nothing")
    options = parser.parse_args(given)
    if not 0 <= options.seed < 2**31:
        parser.error(f"--seed must be in [0, 2^31), got {options.seed}")
    if options.minutes <= 0 or options.scale <= 0 or not 1 <= options.workers <= 16:
        parser.error("--minutes and --scale must be above 0, --workers in [1, 16]")
    return options


def header(device, seed):
    """What pieces must have in common to add up."""
    return {
        "device": device,
        "seed": seed,
        "stream_version": fusedraw._C.build_info()["stream_version"],
        "version": fusedraw.__version__,
    }


def chosen(cases, only):
    starts = [part.strip() for part in only.split(",") if part.strip()]
    some = [case for case in cases if not starts or any(case.id.startswith(s) for s in starts)]
    if not some:
        raise SystemExit(f"--only {only}: no case begins so")
    return some


class Stop:
    """Set by the first SIGINT or SIGTERM; the pieces that run are waited for."""

    def __init__(self):
        self.asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self)

    def __call__(self, number, frame):
        self.asked = True
        signal.signal(number, signal.SIG_DFL)  # a second one ends it


def quiet_worker():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)


def work(name, number, device, seed):
    """In a worker."""
    return do(all_cases(torch.device(device).type)[name], number, torch.device(device), seed)


def here(plan, keep, over, device, seed):
    while not over():
        task = plan.next()
        if task is None:
            return
        keep(do(*task, device, seed))


def in_workers(plan, keep, over, device, seed, workers):
    context = multiprocessing.get_context("spawn")
    with futures.ProcessPoolExecutor(workers, context, initializer=quiet_worker) as pool:
        running = set()
        while True:
            while len(running) < workers and not over():
                task = plan.next()
                if task is None:
                    break
                running.add(pool.submit(work, task[0].id, task[1], str(device), seed))
            if not running:
                return
            ended, running = futures.wait(running, timeout=1, return_when=futures.FIRST_COMPLETED)
            for one in ended:
                keep(one.result())


def draw_all(options, device, cases, pieces, stop):
    """Draws until the time or the pieces end."""
    workers = options.workers if device.type == "cpu" else 1
    names = {case.id for case in cases}
    stored = sum(piece["seconds"] for piece in pieces.pieces if piece["case"] in names)
    budget = options.minutes * 60 * workers + stored
    plan = Plan(cases, device.type, budget, options.scale, pieces.pieces)
    deadline, said = time.monotonic() + options.minutes * 60, [0.0]

    def keep(piece):
        pieces.add(piece)
        plan.finish(piece)
        if piece["forbidden"]:
            print(f"{piece['case']}, piece {piece['piece']}: {piece['forbidden']} wrong", flush=True)
        if time.monotonic() > said[0] + 10:
            said[0] = time.monotonic()
            done, of = sum(map(len, plan.done.values())), sum(plan.pieces.values())
            print(f"{deadline - said[0]:6.0f} s left, {done} of {of} pieces, {piece['case']}", flush=True)

    def over():
        return stop.asked or time.monotonic() > deadline

    if device.type == "cpu" and workers > 1:
        in_workers(plan, keep, over, device, options.seed, workers)
    else:
        here(plan, keep, over, device, options.seed)


def main(given=None):
    options, stop = arguments(given), Stop()
    device = torch.device(options.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print(f"test-statistics: skipped, no CUDA device (torch {torch.__version__})")
        return 0
    if device.type == "cpu":
        torch.set_num_threads(1)
    cases = chosen(all_cases(device.type).values(), options.only)
    if options.list:
        for case in cases:
            print(f"{case.id}: {int(case.targets[device.type] * options.scale):,}")
        return 0
    path = options.work or ROOT / "build" / "statistics" / f"{device.type}-{options.seed}.jsonl"
    if options.fresh and path.exists():
        path.unlink()
    pieces = WorkFile(path, header(device.type, options.seed))
    if options.with_dieharder:
        import dieharder

        dieharder.run(pieces, options.seed, stop)
    draw_all(options, device, cases, pieces, stop)
    found = evidence.collect(pieces.pieces, all_cases(device.type), device, options.seed)
    evidence.write(found, options.out)
    print(evidence.summary(found))
    return 1 if evidence.failures(found) else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
