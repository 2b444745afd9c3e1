# SPDX-License-Identifier: Apache-2.0
"""Runs under callgrind (perf_check.py starts it): for every call of the facade a dump of N calls and one of
2 N. Their difference is that of N calls, without what each dump costs.

python benchmarks/perf_facade.py          prints the names, in the order of the dumps
python benchmarks/perf_facade.py MARKS    runs; MARKS is perf_marks.cpp, compiled
"""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Callable

N = 40
WARM_UP = 30
VOCAB = 64  # so that the engine's part is small
NAMES = (
    "sample(temperature=0.8, keys=keys)",
    "sample(temperature=0.8, seed=1, step=7)",
    "sample(top_k=50, top_p=0.95, keys=keys)",
    "Sampler(temperature=0.8)(logits, keys=keys)",
    "Sampler(temperature=0.8)(logits, seed=1, step=7)",
)


def calls() -> dict[str, Callable[[], object]]:
    import fusedraw
    import torch

    x = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(1))
    keys = torch.tensor([[1, 2]])
    sampler = fusedraw.Sampler(temperature=0.8)
    made = (
        functools.partial(fusedraw.sample, x, temperature=0.8, keys=keys),
        functools.partial(fusedraw.sample, x, temperature=0.8, seed=1, step=7),
        functools.partial(fusedraw.sample, x, top_k=50, top_p=0.95, keys=keys),
        functools.partial(sampler, x, keys=keys),
        functools.partial(sampler, x, seed=1, step=7),
    )
    return dict(zip(NAMES, made, strict=True))


def repeat(call: Callable[[], object], n: int) -> None:
    for _ in range(n):
        call()


def main() -> int:
    if len(sys.argv) == 1:
        print("\n".join(NAMES))
        return 0
    import gc

    import torch

    torch.set_num_threads(1)
    marks = ctypes.CDLL(sys.argv[1])
    for call in calls().values():
        repeat(call, WARM_UP)
        gc.collect()
        gc.disable()
        for n in (N, 2 * N):
            marks.perf_begin()
            repeat(call, n)
            marks.perf_end()
        gc.enable()
    return 0


if __name__ == "__main__":
    sys.exit(main())
