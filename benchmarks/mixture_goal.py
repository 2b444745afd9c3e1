# SPDX-License-Identifier: Apache-2.0
"""`mixture` of M models beside M times `sample` with T, logp and entropy on one: the goal is at most 1.15.

    python benchmarks/mixture_goal.py [--rounds N] [--members 2 4] [--data real flat peaked]

V = 128256, float32, B = 1, one thread, whole calls of the public functions. Medians over interleaved rounds;
`sample` goes through the same M rows that `mixture` reads. Three sets of outputs: what the baseline gives
(logp, entropy), what one asks of several models (logp, member_logp), and all of them.
"""

from __future__ import annotations

import argparse
import functools

import torch
from fusedraw.bench import data, timing

VOCAB = 128256
GOAL = 1.15
TEMPERATURE = 0.8
RETURNS = {
    "logp, entropy": ("logp", "entropy"),
    "logp, member_logp": ("logp", "member_logp"),
    "all": ("logp", "entropy", "member_logp", "mean_entropy", "mutual_information"),
}


def chunks_of(kind: str, members: int) -> dict[str, timing.Chunk]:
    import fusedraw

    rows = list(data.make(kind, VOCAB, members).split(1))
    keys = fusedraw.derive_keys(1, range(1)).view(torch.int64)
    keyed = {"keys": keys, "temperature": TEMPERATURE}
    one = [functools.partial(fusedraw.sample, x, returns=("logp", "entropy"), **keyed) for x in rows]
    chunks = {"sample": timing.chunk_of(one)}
    for mode in ("arithmetic", "geometric"):
        for name, returns in RETURNS.items():
            offered = tuple(r for r in returns if mode == "arithmetic" or r != "mutual_information")
            several = functools.partial(fusedraw.mixture, rows, mode=mode, returns=offered, **keyed)
            chunks[f"{mode}: {name}"] = timing.chunk_of([several])
    return chunks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--members", type=int, nargs="+", default=[2, 4])
    parser.add_argument("--data", nargs="+", default=list(data.KINDS), choices=data.KINDS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    print(timing.load_said())
    print("| data | M | mixture | us | M x sample, us | ratio | goal |")
    print("|---|--:|---|--:|--:|--:|---|")
    for kind in arguments.data:
        for members in arguments.members:
            samples = timing.interleave(chunks_of(kind, members), rounds=arguments.rounds)
            micros = {name: 1e6 * s.quantile(0.5) for name, s in samples.items()}
            baseline = members * micros.pop("sample")
            for name, time in micros.items():
                ratio = time / baseline
                reached = "yes" if ratio <= GOAL else "no"
                line = f"| {data.label(kind, VOCAB)} | {members} | {name} "
                print(f"{line}| {time:.0f} | {baseline:.0f} | {ratio:.2f} | {reached} |")


if __name__ == "__main__":
    timing.keep_memory()
    main()
