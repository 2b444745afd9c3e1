# SPDX-License-Identifier: Apache-2.0
"""The exchanges of docs/scaling.md, played on the reference: ranks that see only their share of a row and
what was exchanged. Not how the package samples; it shows that the law permits it."""

import struct

from fusedraw import reference as r1

BITS = 8  # of the order key, a level
BINS = 1 << BITS


def order_key(x):
    """Monotone, 32 bits; -0 and +0 share a key."""
    (bits,) = struct.unpack("<I", struct.pack("<f", x + 0.0))
    return (bits ^ 0xFFFFFFFF) if bits >> 31 else bits | 1 << 31


class Rank:
    """Tokens [start, start + len(x)) of a row."""

    def __init__(self, start, x):
        self.x = {start + n: value + 0.0 for n, value in enumerate(x) if value > -r1.INF}

    def first(self, n):
        """(x, id) in the order."""
        return sorted(((v, i) for i, v in self.x.items()), key=lambda pair: (-pair[0], pair[1]))[:n]

    def weigh(self, m, temperature):
        self.w = {i: weight(v, m, temperature) for i, v in self.x.items()}

    def winner(self, noise, ids):
        """(value, block, id) of its best block; None where it has nothing."""
        ids = [i for i in ids if self.w[i] > 0]
        if not ids:
            return None
        sums = {}
        for i in ids:
            sums[i // r1.BLOCK_SIZE] = sums.get(i // r1.BLOCK_SIZE, 0) + self.w[i]
        value, block = min((noise.exponential(r1.BLOCK, b) / float(s), b) for b, s in sums.items())
        return value, block, r1.race(noise, self.w, [i for i in ids if i // r1.BLOCK_SIZE == block])

    def masses(self, prefix, shift):
        """Of bins of the next bits, over the tokens whose key begins with the prefix."""
        out = [0] * BINS
        for i, v in self.x.items():
            key = order_key(v) >> shift
            if key >> BITS == prefix:
                out[key & BINS - 1] += self.w[i]
        return out


def tempered(x, m, temperature):
    return r1.fl32(r1.fl32(x - m) * min(r1.fl32(r1.LOG2E / temperature), r1.FLT_MAX))


def weight(x, m, temperature):
    t = tempered(x, m, temperature)
    return r1.weight(t) if t > -44 else 0


class Ranks:
    """What the ranks know together, exchange by exchange."""

    def __init__(self, x, number, key, temperature=1.0):
        blocks = -(-len(x) // r1.BLOCK_SIZE)
        share = -(-blocks // number) * r1.BLOCK_SIZE
        self.ranks = [Rank(n * share, x[n * share : (n + 1) * share]) for n in range(number)]
        self.noise, self.temperature, self.exchanges = r1.Noise(key), temperature, 0

    def exchange(self, give):
        """All-gather of what each rank gives."""
        self.exchanges += 1
        return [give(rank) for rank in self.ranks]

    def weigh(self, firsts):
        self.m = max(first[0][0] for first in firsts if first)
        for rank in self.ranks:
            rank.weigh(self.m, self.temperature)

    def race(self, ids_of):
        self.kept = sorted(i for rank in self.ranks for i in ids_of(rank) if rank.w[i] > 0)
        records = self.exchange(lambda rank: rank.winner(self.noise, ids_of(rank)))
        return min(record for record in records if record)[2]

    def greedy(self):
        pairs = [first[0] for first in self.exchange(lambda rank: rank.first(1)) if first]
        self.kept = [min(pairs, key=lambda pair: (-pair[0], pair[1]))[1]]
        return self.kept[0]

    def draw(self, min_p=0.0):
        self.weigh(self.exchange(lambda rank: rank.first(1)))
        floor = r1.ceil_mul(r1.out32(min_p), r1.ONE)
        return self.race(lambda rank: [i for i in rank.x if rank.w[i] >= floor])

    def entropy(self):
        """From the sums that ride with the record of the race."""
        s = g = h = 0
        for rank in self.ranks:
            for i, v in rank.x.items():
                if rank.w[i]:
                    t = tempered(v, self.m, self.temperature)
                    each = r1.fl32(-t * r1.exp2p(t))
                    s, g, h = s + rank.w[i], g + r1.fixed(each), h + r1.fixed(r1.fl32(each * -t))
        return r1.log_sum(s) + r1.LN2 * (float(g) / float(s))

    def merged(self, lists):
        return sorted((pair for one in lists for pair in one), key=lambda pair: (-pair[0], pair[1]))

    def known(self, kept):
        """The race over tokens that every rank knows."""
        w = {i: weight(v, self.m, self.temperature) for v, i in kept}
        self.kept = sorted(i for i in w if w[i] > 0)
        return r1.race(self.noise, w, self.kept)

    def top_k(self, k, top_p=1.0):
        order = self.merged(self.exchange(lambda rank: rank.first(k)))[:k]
        self.m = order[0][0]
        if top_p < 1:
            w = {i: weight(v, self.m, self.temperature) for v, i in order}
            order = order[: r1.nucleus([i for _, i in order], w, r1.out32(top_p))]
        return self.known(order)

    def top_p(self, top_p, offered, levels):
        lists = self.exchange(lambda rank: rank.first(offered))
        self.weigh(lists)
        total = sum(self.exchange(lambda rank: sum(rank.w.values())))
        target = r1.ceil_mul(r1.out32(top_p), total)
        ends = [one[-1] for one in lists if len(one) == offered]  # of ranks that may have more
        limit = min(ends, key=lambda pair: (-pair[0], pair[1])) if ends else (-r1.INF, 0)
        reached, kept = 0, []
        for v, i in self.merged(lists):
            kept.append((v, i))
            reached += weight(v, self.m, self.temperature)
            if reached >= target:
                return self.known(kept)
            if (v, i) == limit:
                break
        return self.long(target, levels)

    def long(self, target, levels):
        prefix = above = 0
        for level in range(levels):
            shift = 32 - BITS * (level + 1)
            gathered = self.exchange(lambda rank, p=prefix, s=shift: rank.masses(p, s))
            for bin_ in reversed(range(BINS)):
                mass = sum(masses[bin_] for masses in gathered)
                if above + mass >= target:
                    break
                above += mass
            prefix = prefix << BITS | bin_
        each = next(
            rank.w[i] for rank in self.ranks for i, v in rank.x.items() if order_key(v) >> shift == prefix
        )
        left = -(-(target - above) // each)
        stays = {}  # how many of the equal tokens, by rank: lower ids first
        for rank, masses in zip(self.ranks, gathered, strict=True):
            stays[rank] = min(left, masses[bin_] // each)
            left -= stays[rank]

        def ids_of(rank):
            equal = [i for i in rank.x if order_key(rank.x[i]) >> shift == prefix]
            return [i for i in rank.x if order_key(rank.x[i]) >> shift > prefix] + equal[: stays[rank]]

        return self.race(ids_of)
