# SPDX-License-Identifier: Apache-2.0
"""`verify` beside rejection sampling as it is written in PyTorch: softmax of both models, gather, compare
with uniform numbers, and for the last token relu of the difference and multinomial. Interleaved medians in
milliseconds a call, for drafts of several qualities, with and without top-p.

    python benchmarks/verify.py [--threads 1] [--json benchmarks/results/verify.json]
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import fusedraw
import torch
from fusedraw.bench.timing import chunk_of, interleave, keep_memory, load_said, store
from torch import Tensor

B, G, V = 1, 4, 128256
KEYS = 16  # drafts of so many rounds, in turn
NOISE = {"the same": 0.0, "near": 0.3, "far": 2.0}  # standard deviation of draft minus target logits
TARGET_SCALE = 4.0


def top_p_softmax(x: Tensor, top_p: float) -> Tensor:
    """As serving code writes it: sort, cumsum, scatter."""
    p = x.softmax(dim=-1)
    if top_p == 1:
        return p
    values, order = p.sort(dim=-1, descending=True)
    values = values.masked_fill(values.cumsum(dim=-1) - values >= top_p, 0.0)
    p = torch.zeros_like(p).scatter_(-1, order, values)
    return p / p.sum(dim=-1, keepdim=True)


def recipe(ids: Tensor, draft: Tensor, target: Tensor, top_p: float = 1.0) -> tuple[Tensor, Tensor]:
    """(ids [B, G + 1], n_accepted [B]) of one row: B = 1."""
    p, q = top_p_softmax(target, top_p), top_p_softmax(draft, top_p)
    at = ids.unsqueeze(-1)
    ratio = p[:, :G].gather(-1, at) / q.gather(-1, at)
    accepted = (torch.rand(ratio.shape) < ratio).squeeze(-1).long().cumprod(dim=-1)
    n = int(accepted.sum())
    left = (p[:, n] - q[:, n]).relu_() if n < G else p[:, G]
    last = torch.multinomial(left, 1)
    out = torch.full((B, G + 1), -1)
    out[:, :n], out[:, n] = ids[:, :n], last[:, 0]
    return out, accepted.sum(dim=-1)


def rounds_of(noise: float, params: dict[str, float]) -> list[tuple[Tensor, Tensor, Tensor, Tensor]]:
    """KEYS rounds: (keys, draft ids, draft logits, target logits)."""
    g = torch.Generator().manual_seed(1)
    target = torch.randn(B, G + 1, V, generator=g) * TARGET_SCALE
    draft = target[:, :G] + torch.randn(B, G, V, generator=g) * noise
    rounds = []
    for key in fusedraw.derive_keys(1, torch.arange(KEYS)).view(torch.int64)[:, None]:
        ids = [
            fusedraw.sample(draft[:, j], keys=key + torch.tensor([[0, j]]), domain="draft", **params)
            for j in range(G)
        ]
        rounds.append((key, torch.stack(ids, dim=1), draft, target))
    return rounds


def check(rounds: list, params: dict[str, float]) -> None:
    """First validated, then timed: both accept as many drafts, up to chance."""
    wide = [(key + torch.tensor([[s, 0]]), *rest) for s in range(20) for key, *rest in rounds]
    ours = [fusedraw.verify(*rest, keys=key, **params).n_accepted.item() for key, *rest in wide]
    theirs = [recipe(*rest, **params)[1].item() for _, *rest in wide]
    assert abs(sum(ours) - sum(theirs)) <= 6 * G * len(wide) ** 0.5, (ours, theirs)


def measure(name: str, top_p: float) -> dict[str, object]:
    params = {"top_p": top_p}
    rounds = rounds_of(NOISE[name], params)
    check(rounds[:4], params)
    chunks = {
        "recipe": chunk_of([lambda r=r: recipe(*r[1:], **params) for r in rounds]),
        "fusedraw": chunk_of([lambda r=r: fusedraw.verify(*r[1:], keys=r[0], **params) for r in rounds]),
        "fusedraw, logp": chunk_of(
            [lambda r=r: fusedraw.verify(*r[1:], keys=r[0], returns="logp", **params) for r in rounds]
        ),
    }
    samples = interleave(chunks, rounds=31, chunk_seconds=2e-2, most_seconds=6.0)
    accepted = [fusedraw.verify(*r[1:], keys=r[0], **params).n_accepted.item() for r in rounds]
    return {
        **{"B": B, "G": G, "V": V, "drafts": name, "top_p": top_p},
        "n_accepted": sum(accepted) / len(accepted),
        "ms": {name: round(s.median * 1e3, 3) for name, s in samples.items()},
    }


def main() -> None:
    keep_memory()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", type=Path, help="where to store the figures")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(load_said())
    print(f"{'drafts':>10} {'top_p':>6} {'accepted':>8} {'recipe ms':>10} {'verify ms':>10} {'ratio':>6}")
    cases = []
    for name, top_p in itertools.product(NOISE, (1.0, 0.95)):
        case = measure(name, top_p)
        cases.append(case)
        ours, theirs = case["ms"]["fusedraw"], case["ms"]["recipe"]
        print(
            f"{name:>10} {top_p:>6} {case['n_accepted']:>8.2f} {theirs:>10.2f} {ours:>10.3f} "
            f"{theirs / ours:>6.1f}  {case['ms']}"
        )
    store(options.json, threads=options.threads, cases=cases)


if __name__ == "__main__":
    main()
