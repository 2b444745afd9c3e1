# SPDX-License-Identifier: Apache-2.0
"""Metadata errors, from the table: raised before any work, by name, and with the generators left alone."""

import re

import bad_input
import fusedraw
import pytest
import torch
from input_cases import rows
from torch.utils._python_dispatch import TorchDispatchMode

ROWS = [*bad_input.REFUSED, *bad_input.REFUSED_AT_WORK]


def named(table):
    return [pytest.param(row, id=f"{row.function}: {row.what}") for row in table]


@pytest.mark.parametrize("row", named(ROWS))
def test_refused(row):
    before = torch.get_rng_state()
    with pytest.raises(row.error, match=row.message) as caught:
        row.call()
    assert caught.type is row.error  # not a subclass that says less
    assert torch.equal(before, torch.get_rng_state())


class Finished(TorchDispatchMode):
    """Names of the package's operators that came to an end, and of what takes numbers from a generator. Keys
    of given numbers are no work: nothing is drawn, and no row is read."""

    KEYS = ("fusedraw::derive_keys", "fusedraw::row_keys")

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if "random" in function.name() or (
            function.namespace == "fusedraw" and function.name() not in self.KEYS
        ):
            self.names.append(function.name())
        return out


# A second call is part of the row; a state and a batch come from a first one.
AFTER_WORK = re.compile("after .* was cached|update without what it needs")


@pytest.mark.parametrize("row", named(row for row in bad_input.REFUSED if not AFTER_WORK.search(row.what)))
def test_refused_before_any_work(row):
    with Finished() as finished, pytest.raises(row.error):
        row.call()
    assert finished.names == []


@pytest.mark.parametrize("function", [fusedraw.sample, fusedraw.Sampler(top_p=0.5)])
def test_refusal_without_keys_leaves_generator_alone(function):
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    for x, arguments in [(rows().int(), {}), (rows(torch.float64), {}), (rows(), {"mask": rows()})]:
        with pytest.raises(TypeError):
            function(x, generator=generator, **arguments)
    with pytest.raises(ValueError):
        function(torch.zeros(2, 3, 4), generator=generator)
    assert torch.equal(generator.get_state(), before)
