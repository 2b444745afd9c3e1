# SPDX-License-Identifier: Apache-2.0
"""The golden rows on the device: no bit of stream version 1 moves there."""

import dataclasses

import golden
import pytest
import torch
from golden_rows import all_calls
from on_device import DEVICE
from torch.utils._pytree import tree_map_only


@pytest.mark.parametrize("op", golden.PLACES)
def test_no_bit_moves(op):
    results = []
    for call in all_calls():
        if call.op == op:
            there = tree_map_only(torch.Tensor, lambda t: t.to(DEVICE), call.arguments)
            out = golden.run(dataclasses.replace(call, arguments=there))
            results.append((call, [t.cpu() for t in out]))
    assert golden.differences(golden.collect(results)) == []
