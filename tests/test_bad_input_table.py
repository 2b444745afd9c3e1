# SPDX-License-Identifier: Apache-2.0
"""The table of bad input has every public function, and no row twice."""

import enum
import inspect
from collections import Counter

import bad_input
import fusedraw
import pytest
from fusedraw import comparing, controllers, flashinfer, metrics, numpy, schedules

MODULES = (fusedraw, comparing, controllers, flashinfer, metrics, numpy, schedules)
# Of these a caller makes no object: their subclasses have the rows.
BASES = {"controllers.Controller", "controllers.Bandit", "schedules.Schedule"}
# They hold what they are given; Jitter and comparing check it.
HELD = {"schedules.Uniform", "schedules.LogUniform"}
# Made by functions, not by callers.
MADE = {"comparing.Comparison", "comparing.Table"}


# What else may stand in front of a message: methods, and what draws for the function.
ALSO = {
    "Sampler": ("sample",),
    "replacing_torch_multinomial": ("multinomial",),
    "schedules.Schedules": ("Constant", "Cosine", "Linear"),
    "comparing.coupled": ("Sampler",),
    "comparing.Sweep": ("sweep",),
    "flashinfer.top_k_renorm_prob": ("top_k_renorm_probs",),  # two names of one function
    "flashinfer.top_p_renorm_prob": ("top_p_renorm_probs",),
}


def takes_something(thing) -> bool:
    try:
        return bool(inspect.signature(thing).parameters)
    except ValueError:  # of the extension: isa and isa_list, called below
        return False


def names_of(module) -> list[str]:
    """What a module offers: __all__, or the public functions that it defines."""
    if hasattr(module, "__all__"):
        return module.__all__
    return [
        name
        for name, thing in vars(module).items()
        if name[0] != "_" and getattr(thing, "__module__", "") == module.__name__
    ]


def callables():
    """name -> public class or function that takes something."""
    found = {}
    for module in MODULES:
        place = "" if module is fusedraw else module.__name__.removeprefix("fusedraw.") + "."
        for name in names_of(module):
            thing = getattr(module, name)
            is_result = inspect.isclass(thing) and issubclass(thing, (tuple, enum.Enum))
            if callable(thing) and not is_result and takes_something(thing):
                found[place + name] = thing
    return found


PUBLIC = callables()


@pytest.mark.parametrize("name", sorted(PUBLIC))
def test_every_public_function_has_rows(name):
    rows = [row for row in bad_input.REFUSED if row.function == name]
    if name in BASES:
        heirs = [
            other for other in PUBLIC.values() if inspect.isclass(other) and PUBLIC[name] in other.__mro__[1:]
        ]
        assert heirs and not rows
    elif name in HELD | MADE:
        assert not rows
    else:
        assert rows


def test_the_functions_without_a_signature_take_nothing():
    for function in (fusedraw.isa, fusedraw.isa_list):
        with pytest.raises(TypeError):
            function(1)


def test_every_row_is_of_a_public_function():
    everything = (*bad_input.REFUSED, *bad_input.REFUSED_AT_WORK, *bad_input.BAD_ROWS, *bad_input.WORKS)
    assert {row.function for row in everything} <= PUBLIC.keys()


@pytest.mark.parametrize("name", ["REFUSED", "REFUSED_AT_WORK", "BAD_ROWS", "WORKS"])
def test_no_row_twice(name):
    counts = Counter((row.function, row.what) for row in getattr(bad_input, name))
    assert [key for key, count in counts.items() if count > 1] == []


def test_messages_begin_with_the_function():
    """As far as they are ours: Python and torch word the ones about the arguments of a call."""
    for row in bad_input.REFUSED:
        with pytest.raises(row.error) as caught:
            row.call()
        text, name = str(caught.value), row.function.rsplit(".", 1)[-1]
        allowed = {name, *ALSO.get(row.function, ())}
        assert text.split(":")[0] in allowed or "argument" in text, (row.function, row.what, text)
