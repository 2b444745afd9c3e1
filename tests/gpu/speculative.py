# SPDX-License-Identifier: Apache-2.0
"""verify on the device: the tests of test_cuda_verify.py that need neither forced noise nor a schedule; and
a call in a CUDA graph."""

import fusedraw
import pytest
import torch
from engines import make_keys
from on_device import DEVICE, ON_CPU
from test_cuda_verify import (  # noqa: F401  (collected here)
    executor,
    test_a_row_beyond_shared_memory,
    test_bad_rows,
    test_every_dtype,
    test_fewer_drafts_and_none,
    test_generated,
    test_odd_and_unaligned_rows,
    test_two_dtypes,
)
from verify_cases import spread_case


def test_through_the_package():
    case = spread_case(rows=12, size=50_000, noise=1.0, temperature=0.8, top_p=0.95)
    arguments = (case.draft_ids, case.draft, case.target)
    settings = {"temperature": 0.8, "top_p": 0.95, "returns": "logp"}
    expected = fusedraw.verify(*arguments, **settings, keys=make_keys(12))
    got = fusedraw.verify(*(t.to(DEVICE) for t in arguments), **settings, keys=make_keys(12).to(DEVICE))
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a.cpu().nan_to_num(7), b.nan_to_num(7))


@pytest.mark.skipif(ON_CPU, reason="a CPU has no CUDA graphs")
def test_in_a_graph():
    """Keys, drafts and logits are read at replay."""
    cases = [spread_case(rows=3, size=9000, noise=1.0, seed=seed) for seed in (1, 2)]
    there = [[t.to(DEVICE) for t in (c.draft_ids, c.draft, c.target, c.keys)] for c in cases]
    held = [t.clone() for t in there[0]]

    def call(ids, draft, target, keys):
        return fusedraw.verify(ids, draft, target, keys=keys, returns="logp", check="status")

    call(*held)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = call(*held)
    for new in reversed(there):
        for to, value in zip(held, new, strict=True):
            to.copy_(value)
        graph.replay()
        for a, b in zip(out, call(*new), strict=True):
            assert torch.equal(a.nan_to_num(7), b.nan_to_num(7))
