# SPDX-License-Identifier: Apache-2.0
"""Arbitrary arguments of every public function (facade_fuzz.py): an error that names one, or R2's result."""

import fractions
import json
import subprocess
import sys
from pathlib import Path

import facade_fuzz
import fusedraw
import numpy as np
import pytest
import torch
from engines import on_every_engine
from facade_values import Value, plain
from hypothesis import given
from strategies import examples

BATCH = {"logits": Value("[2, 70]", lambda: torch.arange(140.0).reshape(2, 70) % 11), "seed": plain(1)}
PROBS = {"probs": Value("[2, 70]", lambda: torch.ones(2, 70)), "top_k": plain(5)}
NESTED = Value("nested", lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]))
TWO = Value("[2, 2]", lambda: torch.zeros(2, 2))

# What once was wrong.
FOUND = {
    "mix_eps does not broadcast": (
        "importance_weight",
        {"logp_pi": TWO, "logp_mu": TWO, "mix_eps": Value("[3]", lambda: torch.zeros(3))},
    ),
    "mask is no tensor": ("edit_logits", {"logits": BATCH["logits"], "mask": plain(True)}),
    "mask of another shape": (
        "edit_logits",
        {"logits": BATCH["logits"], "mask": Value("[1, 1]", lambda: torch.ones(1, 1, dtype=torch.bool))},
    ),
    "no rows, one bias for all": (
        "edit_logits",
        {
            "logits": Value("[0, 70]", lambda: torch.zeros(0, 70)),
            "logit_bias": Value("{4: 1}", lambda: {4: 1.0}),
        },
    ),
    "from_logits is a tensor": ("top_k_renorm", {**PROBS, "from_logits": TWO}),
    "temperature is an array": (
        "top_k_renorm",
        {**PROBS, "temperature": Value("ones(2)", lambda: np.ones(2))},
    ),
    "penalty is an array": (
        "edit_logits",
        {"logits": BATCH["logits"], "repetition_penalty": Value("ones(2)", lambda: np.ones(2))},
    ),
    "a nested parameter": ("sample", {**BATCH, "top_p": NESTED}),
    "nested logits": ("sample", {**BATCH, "logits": NESTED}),
    "a nested mask": ("sample", {**BATCH, "mask": NESTED}),
    "nested keys": ("sample", {"logits": BATCH["logits"], "keys": NESTED}),
    "a bias beyond float64": ("sample", {**BATCH, "logit_bias": Value("{4: 10**400}", lambda: {4: 10**400})}),
    "a rule beyond float64": ("sample", {**BATCH, "top_n_sigma": plain(-fractions.Fraction(10**400))}),
    "an array of objects": (
        "numpy.sample",
        {
            "logits": Value("zeros", lambda: np.zeros((2, 70), np.float32)),
            "seed": plain(1),
            "mix_eps": Value("objects", lambda: np.array([None, 1], object)),
        },
    ),
}


@examples(1200)
@given(facade_fuzz.calls())
def test_arbitrary_arguments(made):
    facade_fuzz.check(*made)


@pytest.mark.parametrize("name", FOUND)
def test_what_was_found(name):
    facade_fuzz.check(*FOUND[name])


@pytest.mark.parametrize("share", [1, 3, 60])
def test_any_byte_of_a_bool_mask_that_is_not_0_is_true(share):
    """A view of other bytes as bools holds any value: no neighbour is let through, none is lost."""
    g = torch.Generator().manual_seed(share)
    allowed = torch.rand(50, 90, generator=g) < share / 64
    allowed[:, 7] = True
    values = torch.randint(1, 256, (50, 90), generator=g, dtype=torch.uint8)
    odd = (values * allowed).view(torch.bool)
    x, keys = torch.randn(50, 90, generator=g), torch.randint(0, 2**62, (50, 2), generator=g)
    expected = fusedraw.sample(x, mask=allowed, keys=keys, top_p=0.9)
    assert allowed[torch.arange(50), expected].all()
    got = on_every_engine(
        lambda: {"ids": fusedraw.sample(x, mask=odd, keys=keys, top_p=0.9)}, expected={"ids": expected}
    )
    assert torch.equal(got["ids"], expected)


# The fuzzer itself


def test_every_public_function_is_fuzzed():
    others = {
        *("STREAM_VERSION", "__version__", "Status", "info", "isa", "isa_list"),  # take nothing
        *("SampleOutput", "MixtureOutput", "RouteOutput", "TokenScores", "VerifyOutput"),  # are given back
        *("Categorical", "replacing_torch_multinomial"),  # torch's own arguments and errors
    }
    assert {*facade_fuzz.SIGNATURES} - {"numpy.sample"} == {*fusedraw.__all__} - others


@pytest.mark.parametrize("function", facade_fuzz.SIGNATURES)
def test_right_arguments_give_results(function):
    """Not only errors: among a few examples of each function."""
    seen = []

    @examples(12)
    @given(facade_fuzz.calls((function,), hostile=(0,)))
    def some(made):
        seen.append(facade_fuzz.run(*made))

    some()
    assert any(not isinstance(result, Exception) for result in seen)


@pytest.mark.parametrize(
    "wrong, said",
    [
        (lambda *_: ValueError("something is odd"), "does not say who complains"),
        (lambda *_: ValueError("sample: it is odd"), "names no argument"),
        (lambda *_: torch.tensor([70, 3]), r"ids out of \[-1, 70\)"),
        (lambda *_: torch.tensor([-2, 3]), r"ids out of \[-1, 70\)"),
        (lambda *_: torch.tensor([1.0, 3.0]), r"ids out of"),
    ],
)
def test_it_sees_what_is_wrong(monkeypatch, wrong, said):
    monkeypatch.setattr(facade_fuzz, "run", wrong)
    with pytest.raises(AssertionError, match=said):
        facade_fuzz.check("sample", BATCH)


def test_it_sees_engines_that_differ(monkeypatch):
    monkeypatch.setattr(facade_fuzz, "run", lambda *_: torch.tensor([1 + (fusedraw.isa() != "reference")]))
    with pytest.raises(AssertionError, match="where R2 gives"):
        facade_fuzz.check("sample", BATCH)


def test_it_sees_undocumented_errors():
    with pytest.raises(ZeroDivisionError):
        facade_fuzz.check("sample", {**BATCH, "logits": Value("1 / 0", lambda: 1 / 0)})


def test_it_sees_a_hang(tmp_path):
    code = "import facade_fuzz as f, time; f.HANG_S, f.run = 1, lambda *_: time.sleep(60); f.check('x', {})"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    assert done.returncode == 1 and "Timeout" in done.stderr


def test_its_program_counts():
    done = subprocess.run(
        [sys.executable, Path(facade_fuzz.__file__), "0.1"], capture_output=True, text=True, check=True
    )
    counts = json.loads(done.stdout)
    assert counts["errors"] + counts["results"] >= 90
