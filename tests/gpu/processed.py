# SPDX-License-Identifier: Apache-2.0
"""sample_processed on the device: the tests of test_cuda_processed.py; and a call in a CUDA graph."""

import pytest
import torch
from engines import BF16, make_keys, make_params
from on_device import DEVICE, ON_CPU
from processed_cases import make_rules
from row_kinds import make_rows
from test_cuda_processed import (  # noqa: F401  (collected here)
    on_the_executor,
    test_a_removed_token_is_not_looked_at,
    test_edits_are_those_of_float32,
    test_every_kind_of_row,
    test_generated_rows,
    test_lists_of_every_form_at_once,
    test_lists_that_are_not_allowed,
    test_many_rows,
    test_neutral_rules_change_nothing,
    test_rows_in_parts,
    test_rows_of_language_models,
    test_rows_of_more_blocks_than_shared_memory_holds,
    test_rules_that_are_not_allowed,
    test_tokens_edited_many_times,
)


@pytest.mark.skipif(ON_CPU, reason="a CPU has no CUDA graphs")
def test_in_a_graph():
    """Lists, offsets and rules are read at replay; the sizes of the lists stay."""

    def inputs(seed):
        x = make_rows("normal", 3, 40_000, seed, BF16)
        rules = make_rules(repetition_penalty=1.0 + 0.1 * seed, typical_p=0.9 - 0.1 * seed).repeat(3, 1)
        ids = torch.randint(0, 40_000, (300,), generator=torch.Generator().manual_seed(seed))
        offsets = torch.tensor([0, 100 * seed, 200, 300])
        lists = [ids, offsets, *[None] * 7]
        there = [x, make_params(0.8).repeat(3, 1), rules, make_keys(3, seed), None, *lists]
        return [t if t is None else t.to(DEVICE) for t in there]

    def call(arguments):
        return torch.ops.fusedraw.sample_processed(*arguments, 0, 3, 2)

    held, later = inputs(1), inputs(2)
    call(held)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call(held)
    for new in (later, inputs(1)):
        for to, value in zip(held, new, strict=True):
            if to is not None:
                to.copy_(value)
        graph.replay()
        for a, b in zip(out, call(new), strict=True):
            assert torch.equal(a.nan_to_num(7), b.nan_to_num(7))
