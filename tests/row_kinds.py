# SPDX-License-Identifier: Apache-2.0
"""Rows and masks by kind, size and seed. Each kind of row exercises another part of the engines."""

import torch
from engines import F32, FLT_MAX, INF

SPREADS = (1.0, 2.5, 3.0, 6.0, 10.0)  # standard deviations


def _random(g, rows, size):
    return torch.randn(rows, size, generator=g)


def _normal(g, rows, size):
    scale = SPREADS[torch.randint(0, len(SPREADS), (), generator=g)]
    return _random(g, rows, size) * scale


def _peaked(g, rows, size):
    """Zipf's law, shuffled."""
    ranks = torch.stack([torch.randperm(size, generator=g) for _ in range(rows)])
    return ranks.float().add(1).log() * -1.5 + _random(g, rows, size) * 0.1


def _tied(g, rows, size):
    return (_random(g, rows, size) * 2).round()


def _equal(g, rows, size):
    value = (0.0, -0.0, 3.5, -1e30, FLT_MAX)[torch.randint(0, 5, (), generator=g)]
    return torch.full((rows, size), value)


def _two_values(g, rows, size):
    low = -float(torch.randint(0, 46, (), generator=g))
    high_share = (0.5, 0.01, 0.99)[torch.randint(0, 3, (), generator=g)]
    high = torch.rand(rows, size, generator=g) < high_share
    return torch.where(high, 0.0, low)


def _holes(g, rows, size):
    x = _random(g, rows, size)
    x[torch.rand(rows, size, generator=g) < 0.7] = -INF
    x[:, torch.randint(0, size, (), generator=g)] = 1.0
    return x


def _signed_zeros(g, rows, size):
    x = (_random(g, rows, size)).round().clamp(-1, 0)
    return torch.where(torch.rand(rows, size, generator=g) < 0.5, x, -x.abs())


def _huge(g, rows, size):
    scale = (1e20, 1e30, 3e38)[torch.randint(0, 3, (), generator=g)]
    return (_random(g, rows, size) * scale).clamp(-FLT_MAX, FLT_MAX)


def _denormal(g, rows, size):
    scale = (1e-38, 1e-40, 1e-44)[torch.randint(0, 3, (), generator=g)]
    return _random(g, rows, size) * scale


def _cliff(g, rows, size):
    """One best token; the others around the gap of 44 bits (30.5 nats) at which weights end."""
    x = -30.5 + _random(g, rows, size) * 0.5
    x[:, torch.randint(0, size, (), generator=g)] = 0.0
    return x


def _sunken(g, rows, size):
    """A few high tokens, the bulk 15 to 29 nats below: blocks whose weights need one limb."""
    x = -15 - 14 * torch.rand(rows, size, generator=g)
    high = torch.randint(0, size, (3,), generator=g)
    x[:, high] = _random(g, rows, 3)
    return x


def _ramp(g, rows, size):
    """Distinct, evenly spaced values in random order, over 2 to 60 nats."""
    span = 2 + 58 * torch.rand((), generator=g)
    ranks = torch.stack([torch.randperm(size, generator=g) for _ in range(rows)])
    return -ranks.float() / size * span


def _integers(g, rows, size):
    """Whole bits below the best (at T = HALVING): weights are powers of two, sums hit thresholds exactly."""
    return -torch.randint(0, 46, (rows, size), generator=g).float()


KINDS = {
    "normal": _normal,
    "peaked": _peaked,
    "tied": _tied,
    "equal": _equal,
    "two_values": _two_values,
    "holes": _holes,
    "signed_zeros": _signed_zeros,
    "huge": _huge,
    "denormal": _denormal,
    "cliff": _cliff,
    "sunken": _sunken,
    "ramp": _ramp,
    "integers": _integers,
}
FINITE_IN_F16 = [kind for kind in KINDS if kind not in ("huge", "denormal", "equal")]


def make_rows(kind, rows, size, seed=0, dtype=F32):
    return KINDS[kind](torch.Generator().manual_seed(seed), rows, size).to(dtype)


def make_probs(kind, rows, size, seed=0, dtype=F32):
    """Non-negative numbers that do not sum to 1; some kinds hold zeros and subnormals."""
    x = make_rows(kind, rows, size, seed).clamp(-3e38, 3e38)
    p = torch.softmax(x, -1) * (1 if seed % 2 else 3.7)
    return (p * 1e-36 if seed % 5 == 4 else p).to(dtype)


def make_mask(kind, rows, size, seed=0):
    """A mask of this kind: None, bool or int32 words, one row or many, dense or sparse."""
    if kind == "none":
        return None
    g = torch.Generator().manual_seed(seed)
    form, share = kind.split("-")
    if form == "words":
        draws = torch.randint(-(2**31), 2**31, (int(share), rows, (size + 31) // 32), generator=g)
        words = draws[0]
        for more in draws[1:]:  # each halves the share of allowed tokens
            words = words & more
        return words.int()
    return torch.rand((rows, size) if form == "rows" else (size,), generator=g) < float(share)


MASKS = ("none", "line-0.5", "line-0.9", "rows-0.01", "rows-0.5", "rows-0.95", "words-1", "words-4")
EDGES = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 257, 511, 512, 513, 768, 1024, 1025)
