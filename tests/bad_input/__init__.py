# SPDX-License-Identifier: Apache-2.0
"""Bad input, a row each: what the tests go through and what docs/bad-input.md prints."""

from . import bad_rows, fine, flashinfer_forms, laws, measuring, operations, sampling, settings

REFUSED = [
    *(*sampling.REFUSED, *laws.REFUSED, *operations.REFUSED),
    *(*settings.REFUSED, *measuring.REFUSED, *flashinfer_forms.REFUSED),
]
# Seen by the pass over the rows, not before it, by functions that have no status to tell.
REFUSED_AT_WORK = [*laws.FILTER_DATA, *laws.SCORE_DATA]
BAD_ROWS = bad_rows.ROWS
WORKS = fine.ROWS
