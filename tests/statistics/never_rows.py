# SPDX-License-Identifier: Apache-2.0
"""D1: what must never be drawn. Masked tokens hold what would win, NaN or +inf; others are -inf, cut by a
filter, too far below the best, or of probability 0; ids beyond the row; a single survivor at every place."""

import laws
import torch
from engines import INF, NAN, make_params, op
from law_rows import FILTERS, filtered_row
from tasks import Check, RowCase, share_seen

SHORT = 40_000_000  # draws of a case with V <= 4096: 25 such cases are 10^9
ODD_SIZES = (1, 2, 3, 15, 17, 31, 33, 65, 127, 255, 257, 511, 1000, 4095)
TEMPTING = {"high logits": 60.0, "NaN": NAN, "+inf": INF}
LONG = 128_256


def never():
    for size in (64, 257, 1000, 4096):
        yield from (masked(what, size, SHORT) for what in TEMPTING)
    for size in (257, 4096):
        yield holed(size, SHORT)
        yield weightless(size, SHORT)
    for name in ("top_k", "top_p", "min_p", "top_k and top_p", "top_k and mixing"):
        yield cut(name, SHORT // 2)
    yield Sizes()
    yield from (Multinomial(replacement) for replacement in (True, False))
    yield from (Survivor(size, by) for size in (64, 257, 1030) for by in ("mask", "-inf"))
    yield masked("high logits", LONG, 300_000)
    yield masked("NaN", 151_936, 300_000)
    yield holed(LONG, 300_000)
    yield cut("top_k and top_p", 100_000, LONG, plain=True)


class Forbidden(RowCase):
    """Only the support is looked at."""

    def binnings(self):
        return {}

    def power(self, draws, tests, counts):
        return share_seen(draws), None


def some(size, share=0.5):
    """bool [size], dense and without a pattern, the ends and the ends of blocks both ways by size."""
    g = torch.Generator().manual_seed(size)
    allowed = torch.rand(size, generator=g) < share
    allowed[0] = size % 2 == 0
    allowed[size // 2] = True
    return allowed


def support_law(allowed):
    return lambda: allowed.double() / allowed.sum()


def masked(what, size, draws):
    allowed = some(size)
    x = laws.logits("normal", size).masked_fill(~allowed, TEMPTING[what])
    name = f"masked tokens hold {what}, V = {size:,}"
    return Forbidden("D1", name, x, draws, draws, mask=allowed, law=support_law(allowed))


def holed(size, draws):
    allowed = some(size, 0.02)
    x = laws.logits("normal", size).masked_fill(~allowed, -INF)
    return Forbidden("D1", f"-inf, V = {size:,}", x, draws, draws, law=support_law(allowed))


def weightless(size, draws):
    """31 nats below the best, the weight is 0."""
    allowed = some(size)
    x = torch.where(allowed, 0.0, -31.0)
    return Forbidden("D1", f"31 nats below, V = {size:,}", x, draws, draws, law=support_law(allowed))


def cut(name, draws, size=400, plain=False):
    x, options = filtered_row(name, size), FILTERS[name]
    values, mode = laws.split_options(options)

    def law():
        kept = kept_of_few(x, options) if plain else laws.law_of(x.tolist(), **options) > 0
        return kept.double() / kept.sum()

    case = Forbidden("D1", f"cut by {name}, V = {size:,}", x, draws, draws, mode=mode, slow=8.0, law=law)
    case.params = values
    return case


def kept_of_few(x, options):
    """The kept set of a long row cut by top-k (first): R1's, of the k largest and as many again."""
    few = x.argsort(descending=True, stable=True)[: 2 * options["top_k"]].sort().values
    kept = torch.zeros(len(x), dtype=torch.bool)
    kept[few] = laws.law_of(x[few].tolist(), **options) > 0
    return kept


class Sizes(Check):
    """All tokens allowed, at odd lengths: ids lie in the row."""

    def __init__(self):
        super().__init__("D1", f"ids in the row, V = {', '.join(map(str, ODD_SIZES))}", 1000, SHORT, SHORT)

    def codes(self, indices, seed):
        keys, codes = self.keys(indices, seed), []
        for size, part in zip(ODD_SIZES, keys.chunk(len(ODD_SIZES)), strict=False):
            x = torch.zeros(size, device=keys.device).expand(len(part), -1)
            ids = op.sample(x, make_params(), part, None, 0, 0, 0)[0]
            codes.append(torch.where((ids >= 0) & (ids < size), 0, -1))
        return torch.cat(codes)


class Survivor(Check):
    """Row r of a batch has one token, number r mod V; with a mask, all others hold more."""

    tokens = 1 << 22  # of a batch

    def __init__(self, size, by):
        name = f"one survivor at every place ({by}), V = {size:,}"
        super().__init__("D1", name, size, SHORT, SHORT)
        self.by, self.placed = by, {}

    def on(self, device):
        if device not in self.placed:
            times = max(self.tokens // self.size**2, 1)
            alone = torch.eye(self.size, dtype=torch.bool, device=device).repeat(times, 1)
            zeros = torch.zeros(alone.shape, device=device)
            if self.by == "mask":
                self.placed[device] = zeros.masked_fill(~alone, 50.0), alone
            else:
                self.placed[device] = zeros.masked_fill(~alone, -INF), None
        return self.placed[device]

    def codes(self, indices, seed):
        x, mask = self.on(indices.device)
        keys, codes = self.keys(indices, seed), []
        for part in keys.split(len(x)):
            rows = x[: len(part)], make_params(), part, None if mask is None else mask[: len(part)]
            ids = op.sample(*rows, 0, 0, 0)[0]
            codes.append(torch.where(ids == torch.arange(len(part), device=ids.device) % self.size, 0, -1))
        return torch.cat(codes)


class Multinomial(Check):
    """Tokens of probability 0 are not drawn; without replacement, none twice."""

    def __init__(self, replacement, per_row=32, size=257):
        how = "with" if replacement else "without"
        name = f"multinomial {how} replacement, p = 0, V = {size:,}"
        super().__init__("D1", name, size, SHORT, SHORT)
        self.replacement, self.per_row, self.allowed = replacement, per_row, some(size)

    def codes(self, indices, seed):
        allowed = self.allowed.to(indices.device)
        keys = self.keys(indices[indices % self.per_row == 0] // self.per_row, seed)
        p = torch.where(allowed, 0.5, 0.0).expand(len(keys), -1)
        ids = op.multinomial(p, keys, self.per_row, self.replacement, 0)[0]
        wrong = (ids < 0) | (ids >= self.size) | ~allowed[ids.clamp(0, self.size - 1)]
        if not self.replacement:
            order = ids.sort(1).values
            wrong[:, 1:] |= order[:, 1:] == order[:, :-1]
        return torch.where(wrong, -1, 0).flatten()

    def piece(self, device):
        return max(super().piece(device), self.per_row)
