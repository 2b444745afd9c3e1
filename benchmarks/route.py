# SPDX-License-Identifier: Apache-2.0
"""`route` beside the pure PyTorch recipe of mixture-of-experts models: softmax, noise, top-k, gather,
renormalise, bincount. Interleaved medians in milliseconds a call; no noise, Gumbel noise, jitter; several
shapes. The goal is 5 x at T = 16384, E = 256, k = 8.

    python benchmarks/route.py [--threads 2] [--json benchmarks/results/route.json]
"""

from __future__ import annotations

import argparse
from pathlib import Path

import fusedraw
import torch
from fusedraw.bench.timing import chunk_of, interleave, keep_memory, load_said, store

GOAL = 5.0
SHAPES = [(16384, 256, 8), (16384, 64, 6), (16384, 8, 2), (4096, 2304, 8), (16384, 256, 32)]
JITTER = 0.01


def recipe(x: torch.Tensor, k: int, noise: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As models write it, with the fastest of the usual ways to draw the noise."""
    p = x.softmax(dim=-1)
    if noise == "gumbel":
        z = x - torch.empty_like(x).exponential_().log_()
    elif noise == "jitter":
        z = x * torch.empty_like(x).uniform_(1 - JITTER, 1 + JITTER)
    else:
        z = p
    ids = z.topk(k, dim=-1).indices
    w = p.gather(-1, ids)
    return ids, w / w.sum(dim=-1, keepdim=True), torch.bincount(ids.flatten(), minlength=x.shape[1])


def check(x: torch.Tensor, k: int) -> None:
    """First validated, then timed: without noise the recipe must choose the same experts."""
    ids, weights, counts = recipe(x, k, "none")
    out = fusedraw.route(x, k)
    torch.testing.assert_close(out.weights, weights, rtol=1e-5, atol=1e-6)
    assert (out.ids != ids).float().mean() < 1e-3 and (out.counts - counts).abs().sum() < 100


def measure(tokens: int, experts: int, k: int, noise: str) -> dict[str, object]:
    x = torch.randn(tokens, experts, generator=torch.Generator().manual_seed(0))
    check(x, k)
    steps = iter(range(10**9))
    chunks = {
        "recipe": chunk_of([lambda: recipe(x, k, noise)]),
        "fusedraw": chunk_of(
            [lambda: fusedraw.route(x, k, noise=noise, jitter=JITTER, seed=1, step=next(steps))]
        ),
    }
    if noise == "none":
        chunks["fusedraw, mix_eps = 0.01"] = chunk_of(
            [lambda: fusedraw.route(x, k, mix_eps=0.01, seed=1, step=next(steps))]
        )
    samples = interleave(chunks, rounds=31, chunk_seconds=5e-3, most_seconds=3.0)
    times = {name: round(s.median * 1e3, 3) for name, s in samples.items()}
    return {"T": tokens, "E": experts, "k": k, "noise": noise, "ms": times}


def main() -> None:
    keep_memory()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", type=Path, help="where to store the figures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(load_said())
    print(f"{'T':>6} {'E':>5} {'k':>3} {'noise':>7} {'recipe ms':>10} {'route ms':>9} {'ratio':>6}")
    cases = []
    for shape in SHAPES:
        for noise in ("none", "gumbel", "jitter"):
            case = measure(*shape, noise)
            cases.append(case)
            ours, theirs = case["ms"]["fusedraw"], case["ms"]["recipe"]
            goal = (
                ""
                if shape != SHAPES[0]
                else f"  goal {GOAL:g}: {'reached' if theirs >= GOAL * ours else 'missed'}"
            )
            print(
                "{:>6} {:>5} {:>3}".format(*shape),
                f"{noise:>7} {theirs:>10.2f} {ours:>9.2f} {theirs / ours:>6.1f}{goal}",
            )
    store(options.json, threads=options.threads, cases=cases)


if __name__ == "__main__":
    main()
