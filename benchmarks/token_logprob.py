# SPDX-License-Identifier: Apache-2.0
"""Time and peak memory of token_logprob beside log_softmax + gather, on the CPU.

    python benchmarks/token_logprob.py                          # time, N = 256
    python benchmarks/token_logprob.py --rows 4096 --memory     # peak memory of forward and backward

Medians of interleaved rounds. Both sides are checked against float64 first. The peak is that of the resident
memory of a process, less that before the call: what is left after the gradient is the working memory.
"""

from __future__ import annotations

import argparse
import functools
import sys

import fusedraw
import torch
from fusedraw.bench.timing import chunk_of, interleave, keep_memory, load_said, machine, versions

VOCAB = 128_256
MIB = 2**20


def fused(x, ids, entropy):
    if not entropy:
        return fusedraw.token_logprob(x, ids), None
    out = fusedraw.token_logprob(x, ids, returns="entropy")
    return out.logp, out.entropy


def plain(x, ids, entropy):
    logp = torch.log_softmax(x, dim=-1)
    return logp.gather(1, ids[:, None])[:, 0], -(logp.exp() * logp).sum(-1) if entropy else None


def forward(score, x, ids, entropy):
    with torch.no_grad():
        return score(x, ids, entropy)


def both(score, x, ids, entropy, weight):
    x = x.detach().requires_grad_()
    logp, h = score(x, ids, entropy)
    loss = (weight * logp).sum()
    (loss + h.sum() if entropy else loss).backward()
    return x.grad


def validate(x, ids, weight):
    few = slice(0, 4)
    exact = plain(x[few].double(), ids[few], True)
    grad = both(plain, x[few].double(), ids[few], True, weight[few].double())
    for score in (fused, plain):
        for got, want in zip(forward(score, x[few], ids[few], True), exact, strict=True):
            torch.testing.assert_close(got.double(), want, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(
            both(score, x[few], ids[few], True, weight[few]).double(), grad, rtol=1e-4, atol=1e-7
        )


def compare(x, ids, weight, rounds, threads):
    torch.set_num_threads(threads)
    print(f"\n{threads} thread(s), N = {x.shape[0]}, V = {x.shape[1]}, {x.dtype}")
    print(f"{'':34}{'fusedraw':>12}{'torch':>12}{'ratio':>9}")
    for entropy in (False, True):
        for name, run in (("forward", forward), ("forward and backward", both)):
            arguments = (x, ids, entropy, weight) if run is both else (x, ids, entropy)
            calls = {
                label: chunk_of([functools.partial(run, score, *arguments)])
                for label, score in (("fusedraw", fused), ("torch", plain))
            }
            samples = interleave(calls, rounds=rounds, most_seconds=1e9)
            ours, theirs = samples["fusedraw"].median, samples["torch"].median
            label = name + (", entropy" if entropy else "")
            print(f"{label:34}{ours * 1e3:9.1f} ms{theirs * 1e3:9.1f} ms{theirs / ours:8.2f}x")


def resident(field):
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) * 1024


def measure_memory(x, ids, weight):
    before = resident("VmHWM")
    grad = both(fused, x, ids, True, weight)
    peak = resident("VmHWM") - before
    beyond = peak - grad.numel() * grad.element_size()
    logits = x.numel() * x.element_size() / MIB
    print(
        f"N = {x.shape[0]}: logits {logits:.0f} MiB, peak beyond logits and gradient {beyond / MIB:.1f} MiB"
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--memory", action="store_true", help="peak memory instead of time (Linux)")
    args = parser.parse_args()
    if not args.memory:
        keep_memory()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(args.rows, VOCAB, generator=generator).mul_(3)
    ids = torch.randint(VOCAB, (args.rows,), generator=generator)
    weight = torch.randn(args.rows, generator=generator)
    if args.memory:
        both(fused, x[:2], ids[:2], True, weight[:2])  # loads code
        measure_memory(x, ids, weight)
        return
    print(load_said(), machine()["cpu"], versions(), fusedraw.isa(), sep="\n")
    validate(x, ids, weight)
    for threads in sorted({1, torch.get_num_threads()}):
        compare(x, ids, weight, args.rounds, threads)


if __name__ == "__main__":
    sys.exit(main())
