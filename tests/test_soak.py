# SPDX-License-Identifier: Apache-2.0
"""soak.py in small, and that it counts where an engine and R2 differ. (Ten million calls: `make soak`.)"""

import fusedraw
import soak
import torch


def quiet(*_, **__):
    pass


def test_ten_thousand_calls():
    result = soak.soak(10_000, quiet)
    assert result["calls"] == 10_000 and result["compared"] == 11 and result["mismatches"] == 0
    assert {*soak.TURN} == {*range(len(result["kinds"]))}, "every kind has its turn"


def test_a_mismatch_is_counted(monkeypatch):
    kinds = soak.kinds()

    def odd(keys):
        return torch.tensor([fusedraw.isa() == "reference"])

    monkeypatch.setattr(soak, "kinds", lambda: [(name, odd) for name, _ in kinds])
    assert soak.soak(3000, quiet)["mismatches"] == 4
