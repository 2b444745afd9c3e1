# SPDX-License-Identifier: Apache-2.0
"""The longest loop of a text: a phrase of tokens that is repeated at once, copy after copy."""

from typing import NamedTuple

import numpy

# A loop of fewer distinct positions counts as if it had three: "very very very", "----" and "0, 0, 0" are
# text, and turn into a loop at 9 tokens.
SHORTEST_PHRASE = 3
LONGEST_PHRASE = 256  # tokens; bounds the work, which is this times the length


class Loop(NamedTuple):
    """`copies` of a phrase of `period` tokens from step `start` on, `length` tokens in all; a last copy may
    be a part of one. Nothing repeated: 1 copy of 0 tokens."""

    copies: float
    period: int
    start: int
    length: int


def longest_loop(ids) -> Loop:
    """The loop of most copies in integers [n]; of equals, the one of the shortest phrase, then the first.

    Token i is in a loop of period p if it equals token i - p; a run of L such tokens makes 1 + L / p copies,
    and no less than SHORTEST_PHRASE is taken for p in the division.
    """
    ids = numpy.asarray(ids)
    best = Loop(1.0, 0, 0, 0)
    for period in range(1, min(LONGEST_PHRASE, len(ids) // 2) + 1):
        start, run = _longest_run(ids[period:] == ids[:-period])
        copies = 1 + run / max(period, SHORTEST_PHRASE)
        if run >= period and copies > best.copies:
            best = Loop(copies, period, start, run + period)
    return best


def _longest_run(flags) -> tuple[int, int]:
    """Where the first longest run of True in bool [n] begins, and its length; (0, 0) if there is none."""
    edges = numpy.flatnonzero(numpy.diff(numpy.concatenate(([0], flags.astype(numpy.int8), [0]))))
    if not len(edges):
        return 0, 0
    lengths = edges[1::2] - edges[::2]
    longest = int(lengths.argmax())
    return int(edges[2 * longest]), int(lengths[longest])
