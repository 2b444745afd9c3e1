# SPDX-License-Identifier: Apache-2.0
"""Routing for the tests: the operator as a dict of tensors, the same in plain Python (R1), random calls."""

import random
from dataclasses import dataclass, field

import torch
from engines import BF16, F16, F32, INF, NAN, make_keys, op
from fusedraw import reference_routing as r1

SIZES = (1, 2, 3, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 128, 200, 255, 256, 257, 300)
NONE, GUMBEL, JITTER = range(3)
SIGMOID, RENORMALISE = 4, 8


@dataclass
class Case:
    """Arguments of the operator."""

    x: torch.Tensor
    k: int
    mode: int = RENORMALISE
    params: torch.Tensor = field(default_factory=lambda: make_route_params())
    keys: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    replay: torch.Tensor | None = None


def make_route_params(temperature=1.0, jitter=0.01, mix_eps=0.0):
    return torch.tensor([[temperature, jitter, mix_eps]], dtype=torch.float64)


def route(case):
    weights, ids, counts, status, explored = op.route(
        case.x, case.params, case.keys, case.bias, case.replay, case.k, case.mode
    )
    return {"ids": ids, "weights": weights, "counts": counts, "status": status, "explored": explored}


def route_r1(case, forced=None):
    rows = []
    for row, line in enumerate(case.x.float().tolist()):
        temperature, jitter, mix_eps = case.params[row % len(case.params)].tolist()
        rows.append(
            r1.route_row(
                line,
                case.k,
                noise=r1.NOISES[case.mode & 3],
                score=r1.SCORES[case.mode >> 2 & 1],
                renormalise=bool(case.mode & RENORMALISE),
                temperature=temperature,
                jitter=jitter,
                # Without keys the operator draws nothing.
                mix_eps=mix_eps if case.keys is not None or not 0 <= mix_eps <= 1 else 0.0,
                bias=None if case.bias is None else case.bias.tolist(),
                replay=None if case.replay is None else case.replay[row].tolist(),
                key=(0, 0) if case.keys is None else tuple(case.keys[row].tolist()),
                forced=forced,
            )
        )
    ids = torch.tensor([r.ids for r in rows])
    return {
        "ids": ids,
        "weights": torch.tensor([r.weights for r in rows], dtype=F32),
        "counts": torch.bincount(ids[ids >= 0], minlength=case.x.shape[1]),
        "status": torch.tensor([r.status for r in rows], dtype=torch.uint8),
        "explored": torch.tensor([r.explored for r in rows]),
    }


def random_rows(choose, g, tokens, experts):
    x = torch.randn(tokens, experts, generator=g) * choose((0.1, 1.0, 3.0, 30.0, 1000.0, 1e38))
    if choose((0, 0, 1)):
        x = x.round()
    if choose((0, 0, 0, 1)):
        x[torch.rand(x.shape, generator=g) < 0.3] = -INF
    if choose((0, 0, 0, 1)):
        x[torch.randint(tokens, (), generator=g), torch.randint(experts, (), generator=g)] = choose(
            (NAN, INF)
        )
    x = x.to(choose((F32, BF16, F16)))
    # Strides: every second row of wider ones.
    wide = torch.zeros(2 * tokens, experts + 3, dtype=x.dtype)
    wide[::2, :experts] = x
    return wide[::2, :experts] if choose((0, 1)) else x


def random_case(seed, sizes=SIZES):
    """One call; what it is depends on the seed alone."""
    choose, g = random.Random(seed).choice, torch.Generator().manual_seed(seed)
    tokens, experts = choose((1, 2, 5)), choose(sizes)
    k = choose((1, min(2, experts), min(8, experts), experts, 1 + seed * 7919 % experts))
    noise = choose((NONE, GUMBEL, GUMBEL, JITTER))
    rows = choose((1, tokens))
    temperature = torch.tensor([choose((0.0, 1e-3, 0.5, 1.0, 5.0, 1e30, INF)) for _ in range(rows)])
    jitter = torch.tensor([choose((0.0, 0.01, 0.5, 1.0)) for _ in range(rows)])
    mix_eps = torch.tensor([choose((0.0, 0.0, 0.3, 1.0)) for _ in range(rows)])
    return Case(
        random_rows(choose, g, tokens, experts),
        k,
        noise | choose((0, SIGMOID)) | choose((0, RENORMALISE)),
        torch.stack([temperature, jitter, mix_eps], dim=1).double(),
        make_keys(tokens, seed),
        torch.randn(experts, generator=g) if noise == NONE and choose((0, 1)) else None,
        torch.randint(experts, (tokens, k), generator=g) if choose((0, 0, 0, 0, 1)) else None,
    )
