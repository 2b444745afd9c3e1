# SPDX-License-Identifier: Apache-2.0
"""B3: sums do not depend on the order of the tokens, nor on how threads share a row. B4: every engine is the
reference that sorts, and that is plain Python, on rows, parameters, masks and modes drawn at random."""

import random

import torch
from engines import (
    ALL,
    BF16,
    F16,
    F32,
    FAST,
    INF,
    ORDERS,
    SUPPORTS,
    TIES,
    bits_of,
    engine,
    make_mode,
    op,
    sample,
)
from fusedraw._threads import threads
from operations_r1 import sample_r1
from row_kinds import EDGES, FINITE_IN_F16, KINDS, MASKS, make_mask, make_rows
from tasks import Check

TEMPERATURES = (1.0, 1.0, 0.7, 0.3, 1.8, 1e-30, 0.0, 2.0**64, INF)
SHARES = (1.0, 1.0, 0.9, 0.95, 0.5, 0.999, 1e-9, 0.0)
LEAST = (0.0, 0.0, 0.05, 0.5, 1e-3, 1.0)
MIXING = (0.0, 0.0, 0.0, 0.05, 0.5, 1.0)
WORD = {1: torch.uint8, 4: torch.int32, 8: torch.int64}
ASKED = ALL & ~bits_of("kept")  # whose size is data


def make_size(g, most):
    return g.choice([n for n in EDGES if n <= most]) if g.random() < 0.3 else g.randint(1, most)


def make_call(g, rows, most):
    """(x, params, keys, mask, mode): one kind and length of rows, parameters of each row's own."""
    size, dtype, seed = make_size(g, most), g.choice((F32, F32, BF16, F16)), g.getrandbits(31)
    x = make_rows(g.choice(list(KINDS) if dtype == F32 else FINITE_IN_F16), rows, size, seed, dtype)
    counts = (0, 0, 1, 2, 5, 50, size, size + 1)
    lines = [[g.choice(v) for v in (TEMPERATURES, SHARES, LEAST, MIXING, counts)] for _ in range(rows)]
    keys = torch.tensor([[g.getrandbits(63), g.getrandbits(63)] for _ in range(rows)])
    mode = make_mode(g.choice(ORDERS), g.choice(TIES), g.choice(SUPPORTS), g.randrange(4))
    mask = make_mask(g.choice(("none", *MASKS)), rows, size, seed + 1)
    return x, torch.tensor(lines, dtype=torch.float64), keys, mask, mode


def differ(got, expected):
    """bool [rows]: some output of the row has another bit (every NaN is one)."""
    wrong = torch.zeros(len(expected["ids"]), dtype=torch.bool)
    for name, value in expected.items():
        a, b = (t.cpu() for t in (got[name], value))
        if a.is_floating_point():
            a, b = (t.contiguous().view(WORD[t.element_size()]).masked_fill(t.isnan(), -1) for t in (a, b))
        wrong |= (a != b).reshape(len(wrong), -1).any(1)
    return wrong


class Agreement(Check):
    """A piece is some batches; draws: rows compared."""

    rows, batches, most = 64, 32, 4096

    def piece(self, device):
        return self.rows * self.batches

    def seconds(self, device, draws):
        return draws * 1e-3

    def measure(self, number, device, seed):
        g = random.Random(self.own_seed(seed) + (number << 64))
        wrong = sum(int(self.wrong(g, device).sum()) for _ in range(self.batches))
        return {"draws": self.piece(device.type), "forbidden": wrong, "counts": {}}


class Engines(Agreement):
    def __init__(self):
        super().__init__(
            "B4", "every engine is the reference that sorts, V <= 4,096", 4096, 10_000_000, 200_000
        )

    def wrong(self, g, device):
        arguments = make_call(g, self.rows, self.most)
        with engine("reference"):
            expected = sample(*arguments, ASKED)
        if device.type == "cuda":
            there = [t.to(device) if isinstance(t, torch.Tensor) else t for t in arguments]
            return differ(sample(*there, ASKED), expected)
        wrong = torch.zeros(self.rows, dtype=torch.bool)
        for name in FAST:
            with engine(name):
                wrong |= differ(sample(*arguments, ASKED), expected)
        return wrong


class PlainPython(Agreement):
    rows, batches, most = 16, 16, 600

    def __init__(self):
        super().__init__("B4", "the reference that sorts is plain Python, V <= 600", 600, 100_000, 0)

    def wrong(self, g, device):
        arguments = make_call(g, self.rows, self.most)
        with engine("reference"):
            return differ(sample(*arguments, ASKED), sample_r1(*arguments, ASKED))


class Sums(Agreement):
    """Statistics of the whole row, whose tokens are put in another order and shared by up to 16 threads."""

    rows, batches, most = 4, 16, 300_000

    def __init__(self):
        super().__init__("B3", "sums in any order, by any number of threads", 300_000, 10_000, 10_000)

    def seconds(self, device, draws):
        return draws * 5e-3

    def statistics(self, x, device):
        outputs = bits_of("entropy", "varentropy")
        keys = torch.zeros(len(x), 2, dtype=torch.int64)
        params = torch.tensor([[0.9, 1.0, 0.0, 0.0, 0]], dtype=torch.float64)
        x, keys = x.to(device), keys.to(device)
        found = op.sample(x, params, keys, None, 0, outputs, 0)[1:]
        return {"ids": torch.zeros(len(x)), **dict(zip(("entropy", "varentropy"), found, strict=True))}

    def wrong(self, g, device):
        size, dtype = g.randint(2, self.most), g.choice((F32, BF16))
        x = make_rows("normal", self.rows, size, g.getrandbits(31), dtype)
        expected = self.statistics(x, torch.device("cpu"))
        order = torch.randperm(size, generator=torch.Generator().manual_seed(g.getrandbits(31)))
        with threads(g.choice((1, 2, 3, 5, 8, 16))):
            return differ(self.statistics(x[:, order], device), expected)


def agreements(device):
    yield Sums()
    yield Engines()
    if device == "cpu":
        yield PlainPython()
