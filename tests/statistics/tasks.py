# SPDX-License-Identifier: Apache-2.0
"""A case is one thing to draw many times; a piece is a stretch of its draws, which can be done anywhere and
adds up with the others.

Draw i of a case is a function of the seed, the case's name and i, so pieces are the same whenever they run.
Everything stays on the device until a piece's counts are made.
"""

import math
import time
import zlib
from functools import cached_property

import fusedraw
import laws
import torch
from engines import make_params, op
from scipy import stats

# Guessed speed, for the size of pieces: seconds a row, tokens a second; seconds that a piece may take.
SPEED = {"cpu": (1.6e-6, 1.2e10, 2.0), "cuda": (1.5e-8, 8e11, 0.3)}
# What one call may hold: rows, and tokens if each row had its own.
ROWS = {"cpu": (1 << 18, 1 << 40), "cuda": (1 << 21, 1 << 33)}


class Case:
    """Draws with a known law over codes 0 .. n - 1; whatever must not be drawn is code -1.

    targets: draws to make on a "cpu" and on "cuda". slow: how much more than a plain draw one of these costs.
    """

    slow = 1.0

    def __init__(self, row, name, size, cpu, cuda):
        self.row, self.name, self.size = row, name, size
        self.targets = {"cpu": cpu, "cuda": cuda}

    @property
    def id(self):
        return f"{self.row} {self.name}"

    # For subclasses

    def law(self):
        """Probabilities of the codes, float64."""
        raise NotImplementedError

    def codes(self, indices, seed):
        """int64 [n] on the device of `indices`: what the draws of these numbers give."""
        raise NotImplementedError

    def binnings(self):
        """{name: bin of each code}; the first is the one whose p-values are tested for uniformity."""
        return dict(laws.binnings(self.p))

    # Common

    @cached_property
    def p(self):
        p = self.law()
        assert abs(p.sum().item() - 1) < 1e-9, f"{self.id}: the law sums to {p.sum().item()}"
        return p

    @cached_property
    def bins(self):
        return self.binnings()

    def own_seed(self, seed):
        """One for each case, so that no two share a key."""
        return seed << 32 | zlib.crc32(self.id.encode())

    def keys(self, indices, seed):
        return fusedraw.derive_keys(self.own_seed(seed), indices).view(torch.int64)

    def seconds(self, device, draws):
        """What they may take, roughly."""
        row, tokens, _ = SPEED[device]
        return draws * self.slow * (row + self.size / tokens)

    def piece(self, device):
        """Draws of a piece: a power of two, so that it is the same on every machine."""
        at_most = max(min(SPEED[device][2] / self.seconds(device, 1), self.targets[device]), 1)
        return 1 << max(int(at_most).bit_length() - 1, 0)

    def measure(self, number, device, seed):
        """Piece `number`: draws, how many of them were forbidden, counts by binning."""
        draws = self.piece(device.type)
        counts = self.count(number * draws, draws, device, seed).cpu()
        forbidden = int(counts[0] + counts[1:][self.p == 0].sum())
        return {"draws": int(counts.sum()), "forbidden": forbidden, "counts": self.binned(counts[1:])}

    def count(self, first, draws, device, seed):
        """int64 [codes + 1]: how often each code came, -1 first."""
        rows, tokens = ROWS[device.type]
        step = 1 << max(min(rows, tokens // self.size).bit_length() - 1, 0)
        total = torch.zeros(len(self.p) + 1, dtype=torch.int64, device=device)
        for begin in range(first, first + draws, step):
            indices = torch.arange(begin, min(begin + step, first + draws), device=device)
            codes = self.codes(indices, seed)
            codes = torch.where((codes < 0) | (codes >= len(self.p)), -1, codes)
            total += torch.bincount(codes + 1, minlength=len(total))
        return total

    def binned(self, counts):
        return {name: add_up(bins, counts).tolist() for name, bins in self.bins.items()}

    def judge(self, draws, counts):
        """[(what, p-value, degrees of freedom)] of all draws together."""
        return [(name, *self.g_test(name, draws, counts[name])) for name in self.bins]

    def g_test(self, name, draws, counts):
        expected = add_up(self.bins[name], self.p) * draws
        return laws.g_test(torch.tensor(counts, dtype=torch.float64), expected)

    def power(self, draws, tests, counts):
        """What the weakest of the tests detects: (text, probability that it sees 1 % of total variation or
        None where that is not what it looks for)."""
        if not tests:
            return "", None
        df = max(df for _, _, df in tests)
        return f"TV {laws.smallest_tv(draws, df):.2g}", float(laws.power(draws, df))

    def uniform(self, pieces):
        """p-values of single pieces, which together should be uniform."""
        name = next(iter(self.bins), None)
        if name is None:
            return []
        tests = [self.g_test(name, piece["draws"], piece["counts"][name]) for piece in pieces]
        return [p for p, df in tests if df > 0]


def add_up(bins, values):
    return torch.zeros(int(bins.max()) + 1, dtype=values.dtype).index_add_(0, bins, values)


class RowCase(Case):
    """One row, drawn from with every key."""

    def __init__(self, row, name, x, cpu, cuda, mask=None, mode=0, slow=1.0, law=None, **params):
        super().__init__(row, name, len(x), cpu, cuda)
        self.x, self.mask, self.mode, self.slow, self.make_law = x, mask, mode, slow, law
        self.params = make_params(**params)
        self.placed = {}

    def on(self, device):
        if device not in self.placed:
            self.placed[device] = tuple(None if t is None else t.to(device) for t in (self.x, self.mask))
        return self.placed[device]

    def law(self):
        return self.make_law() if self.make_law else laws.plain_law(self.x, self.params[0, 0].item())

    def ids(self, keys):
        x, mask = self.on(keys.device)
        return op.sample(x.expand(len(keys), -1), self.params, keys, mask, self.mode, 0, 0)[0]

    def codes(self, indices, seed):
        return self.ids(self.keys(indices, seed))


class Check(Case):
    """Comparisons of which none may fail; nothing is binned. `codes` gives 0, or -1 for a failure."""

    def law(self):
        return torch.ones(1, dtype=torch.float64)

    def binnings(self):
        return {}

    def power(self, draws, tests, counts):
        return share_seen(draws), None


def share_seen(draws):
    """In words: the share of wrong draws that comes to light among so many."""
    return f"share of {-math.log(1 - laws.POWER) / max(draws, 1):.1g}"


def do(case, number, device, seed):
    """A piece as it is stored."""
    began = time.monotonic()
    result = case.measure(number, device, seed)
    return {"case": case.id, "piece": number, "seconds": round(time.monotonic() - began, 3), **result}


def two_sided_normal(z):
    return float(2 * stats.norm.sf(abs(z)))
