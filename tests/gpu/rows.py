# SPDX-License-Identifier: Apache-2.0
"""Long, real, real-like and generated rows of test_cuda_rows.py, on the device."""

import pytest
from engines import EXECUTOR
from on_device import ON_CPU
from test_cuda_rows import (  # noqa: F401  (collected here)
    executor,
    test_bad_values_anywhere_in_a_split_row,
    test_benchmarked_configurations,
    test_every_output,
    test_generated_rows,
    test_more_blocks_than_shared_memory_holds,
    test_probabilities,
    test_split_rows_equal_whole_rows,
    test_strides_and_alignments_of_long_rows,
    test_top_k_and_top_n_of_every_size,
    test_top_p_on_flat_rows,
    test_whole_rows,
    test_whole_rows_of_more_blocks_than_shared_memory_holds,
)
from test_laws_agree import (
    test_long_lists_of_ties,
    test_long_probabilities,
    test_long_rows,
    test_top_k_on_long_rows,
    test_top_n_of_long_rows,
    test_very_long_rows,
    test_whole_rows_of_70000,
)

LONG = (
    test_long_lists_of_ties,
    test_long_probabilities,
    test_long_rows,
    test_top_k_on_long_rows,
    test_top_n_of_long_rows,
    test_very_long_rows,
    test_whole_rows_of_70000,
)
# pytest would collect them as they are, against the instruction sets.
for function in LONG:
    del globals()[function.__name__]


@pytest.fixture
def engines_are_the_device(monkeypatch):
    import test_cuda_rows
    import test_laws_agree

    monkeypatch.setattr(test_laws_agree, "on_every_engine", test_cuda_rows.both)
    monkeypatch.setattr(test_laws_agree, "FAST", [EXECUTOR])


def cases_of(function):
    """The arguments of its pytest.mark.parametrize."""
    marks = [m for m in getattr(function, "pytestmark", ()) if m.name == "parametrize"]
    rows = [{}]
    for mark in marks:
        names = [n.strip() for n in mark.args[0].split(",")]
        values = [v if len(names) > 1 else (v,) for v in mark.args[1]]
        rows = [{**row, **dict(zip(names, value, strict=True))} for row in rows for value in values]
    return rows


CASES = [(function, case) for function in LONG for case in cases_of(function)]


@pytest.mark.skipif(ON_CPU, reason="the CPU engines have these tests already")
@pytest.mark.parametrize("function, case", CASES, ids=lambda v: getattr(v, "__name__", str(v)))
def test_long_rows_of_the_engines(engines_are_the_device, function, case):
    function(**case)
