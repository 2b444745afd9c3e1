# SPDX-License-Identifier: Apache-2.0
"""What happened to a row: the codes of the `status` output."""

from enum import IntEnum


class Status(IntEnum):
    """uint8 code per row; the first that holds, in the order BAD_PARAM, NAN, POS_INF, EMPTY, OK."""

    OK = 0
    BAD_PARAM = 1  # a parameter outside its range, or a negative probability
    NAN = 2  # an allowed logit is NaN
    POS_INF = 3  # an allowed logit is +inf
    EMPTY = 4  # nothing left to draw from
