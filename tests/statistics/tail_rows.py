# SPDX-License-Identifier: Apache-2.0
"""C3: tokens far below the best one win as often as the law says. C5: a uniform row of 2^20 tokens."""

from decimal import Decimal, localcontext

import laws
import torch
from engines import BF16
from fusedraw import reference as r1
from scipy import stats
from tasks import RowCase, two_sided_normal

TAILS = (  # gap in nats, heads, tokens at the gap, draws on a CPU, on a GPU
    (10, 1, 22, 640_000_000, 640_000_000),
    (10, 50, 11, 640_000_000, 640_000_000),
    (18, 1, 65_725, 6_400_000, 64_000_000),
    (18, 1, 657, 640_000_000, 640_000_000),
    (24, 1, 26_500_000, 20_000, 64_000),
    (24, 1, 265_000, 6_400_000, 6_400_000),
    (28, 1, (1 << 20) - 1, 22_000_000, 22_000_000),
)
PLACES = 16


class Tail(RowCase):
    """A few best tokens, all others `gap` nats below. Codes: 0 for the best, 1 + 16 * (id mod 16) + place."""

    def __init__(self, gap, heads, tail, cpu, cuda):
        self.heads, self.tail, size = heads, tail, heads + tail
        w = r1.weight(r1.fl32(-gap * r1.fl32(r1.LOG2E)))
        self.mass = tail * w / (heads * r1.ONE + tail * w)
        super().__init__("C3", f"gap {gap}, mass {self.mass:.2g}, V = {size:,}", torch.empty(0), cpu, cuda)
        self.size, self.gap = size, gap

    def on(self, device):
        if device not in self.placed:
            at = (2 * torch.arange(self.heads) + 1) * self.size // (2 * self.heads)
            x = torch.full((self.size,), -float(self.gap), dtype=BF16).index_fill(0, at, 0.0)
            self.placed[device] = x.to(device), None
        return self.placed[device]

    def encoded(self, ids):
        inside = (ids >= 0) & (ids < self.size)
        ids = ids.clamp(0, self.size - 1)
        code = 1 + ids % PLACES * PLACES + ids * PLACES // self.size
        best = self.on(ids.device)[0][ids] == 0
        return torch.where(inside, torch.where(best, 0, code), -1)

    def codes(self, indices, seed):
        return self.encoded(self.ids(self.keys(indices, seed)))

    def law(self):
        p = torch.zeros(1 + PLACES * PLACES, dtype=torch.float64)
        step = 1 << 22
        for begin in range(0, self.size, step):
            ids = torch.arange(begin, min(begin + step, self.size))
            p += torch.bincount(self.encoded(ids), minlength=len(p))
        assert p[0] == self.heads
        p[1:] *= self.mass / self.tail
        p[0] = 1 - self.mass
        return p

    def binnings(self):
        codes = torch.arange(1 + PLACES * PLACES)
        return {
            "tail": (codes > 0).long(),
            "tail, index mod 16": torch.where(codes > 0, 1 + (codes - 1) // PLACES, 0),
            "tail, place": torch.where(codes > 0, 1 + (codes - 1) % PLACES, 0),
        }

    def judge(self, draws, counts):
        p = stats.binomtest(counts["tail"][1], draws, self.mass).pvalue
        return [("tail", float(p), 1), *super().judge(draws, counts)[1:]]

    def power(self, draws, tests, counts):
        loss = laws.detectable(draws, self.mass)
        return ("nothing yet" if loss > 1 else f"loss of {loss:.0%} of the tail"), None

    def uniform(self, pieces):
        return []  # counts of so rare an event are too few to be uniform


class Collisions(RowCase):
    """A uniform row: each piece is a birthday experiment of its own."""

    def __init__(self, size=1 << 20, cpu=10_000_000, cuda=10_000_000):
        super().__init__("C5", f"uniform, V = {size:,}", torch.zeros(size), cpu, cuda)

    def binnings(self):
        ids = torch.arange(self.size)
        return {"index mod 64": ids % 64, "place": ids * 64 // self.size}

    def binned(self, counts):
        more = {"repeats": [int((counts - 1).clamp(min=0).sum()), 1]}  # of one piece
        return {**super().binned(counts), **more}

    def judge(self, draws, counts):
        return [("repeated ids", self.p_of_repeats(draws, counts), 1), *super().judge(draws, counts)]

    def p_of_repeats(self, draws, counts):
        repeated, pieces = counts["repeats"]
        mean, variance = moments_of_repeats(draws // pieces, self.size)
        return two_sided_normal((repeated - pieces * mean) / (pieces * variance) ** 0.5)

    def power(self, draws, tests, counts):
        pairs = draws * (draws // counts["repeats"][1] - 1) / 2
        return f"chance of a repeat off by {8 * (self.size / pairs) ** 0.5:.1%}", None


def moments_of_repeats(draws, cells):
    """Mean and variance of draws minus distinct cells, exactly: both are those of the empty cells."""
    with localcontext() as context:
        context.prec = 80
        one, two = ((1 - Decimal(k) / cells) ** draws for k in (1, 2))
        empty = cells * one
        variance = cells * (cells - 1) * two + empty - empty**2
        return float(draws - cells + empty), float(variance)


def tails():
    return (Tail(*of) for of in TAILS)


def repeats():
    yield Collisions()
