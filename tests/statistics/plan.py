# SPDX-License-Identifier: Apache-2.0
"""All cases, and which piece comes next: each row has a share of the time, and what it leaves goes to those
that are furthest from their targets."""

import functools

import agree_rows
import law_rows
import never_rows
import pair_rows
import stream_rows
import tail_rows

# In the order in which they are drawn; shares of the time.
SHARES = {
    "A1": 0.03,
    "A2": 0.02,
    "A3": 0.01,
    "A5": 0.02,
    "B3": 0.01,
    "B4": 0.1,
    "C3": 0.29,
    "D1": 0.20,
    "C1": 0.13,
    "C2": 0.10,
    "C4": 0.05,
    "C5": 0.04,
}
ABOUT = {
    "A1": "known answers of Philox and of the exponential variate",
    "A2": "noise in every lane is Philox's",
    "A3": "streams do not meet",
    "A4": "the stream in our order, by dieharder and ent",
    "A5": "the ends of the noise",
    "B3": "sums do not depend on their order",
    "B4": "every engine is the reference, bit for bit",
    "C1": "the law without filters",
    "C2": "the law with filters, mixing, verify, multinomial",
    "C3": "the tail",
    "C4": "neighbours and purposes are independent",
    "C5": "repeats in a uniform row",
    "D1": "what must never be drawn",
}


@functools.cache
def all_cases(device):
    """{id: case} for "cpu" or "cuda"."""
    makers = (
        *(stream_rows.streams(device), agree_rows.agreements(device), tail_rows.tails(), never_rows.never()),
        *(law_rows.plain(), law_rows.filtered(), pair_rows.pairs(), tail_rows.repeats()),
    )
    found = {case.id: case for maker in makers for case in maker}
    order = list(SHARES)
    return dict(sorted(found.items(), key=lambda item: order.index(item[1].row)))


class Plan:
    """What is left to do of some cases.

    device: "cpu" or "cuda"; budget: seconds of all workers together, with those that the stored pieces of
    these cases took; scale: of the targets.
    """

    def __init__(self, cases, device, budget, scale, stored):
        self.cases, self.device = cases, device
        self.pieces = {c.id: -(-max(int(c.targets[device] * scale), 1) // c.piece(device)) for c in cases}
        self.done = {c.id: set() for c in cases}
        self.spent = {c.id: 0.0 for c in cases}
        for piece in stored:
            if piece["case"] in self.done:
                self.finish(piece)
        self.given = {c.id: set() for c in cases}
        self.allowance = self.allowances(budget)

    def allowances(self, budget):
        """Within a row by the root of what a case would cost: long ones get more, short ones end."""
        rows = {case.row for case in self.cases}
        shares = {row: SHARES[row] / sum(SHARES[r] for r in rows) for row in rows}
        need = {c.id: c.seconds(self.device, c.targets[self.device]) ** 0.5 for c in self.cases}
        of_row = {row: sum(need[c.id] for c in self.cases if c.row == row) for row in rows}
        return {c.id: budget * shares[c.row] * need[c.id] / of_row[c.row] for c in self.cases}

    def finish(self, piece):
        self.done[piece["case"]].add(piece["piece"])
        self.spent[piece["case"]] += piece["seconds"]

    def next(self):
        """(case, number), or None where nothing is left."""
        open_cases = [c for c in self.cases if len(self.done[c.id] | self.given[c.id]) < self.pieces[c.id]]
        if not open_cases:
            return None
        within = (c for c in open_cases if self.expected(c) < self.allowance[c.id])
        case = next(within, None) or min(open_cases, key=self.progress)
        taken = self.done[case.id] | self.given[case.id]
        number = next(n for n in range(self.pieces[case.id]) if n not in taken)
        self.given[case.id].add(number)
        return case, number

    def expected(self, case):
        """Seconds spent when what is running has ended."""
        done, running = len(self.done[case.id]), len(self.given[case.id] - self.done[case.id])
        return self.spent[case.id] * (1 + running / done) if done else running * 1e9

    def progress(self, case):
        return len(self.done[case.id] | self.given[case.id]) / self.pieces[case.id]
