# SPDX-License-Identifier: Apache-2.0
"""The Python face: however parameters and masks are given, the same draws."""

import numpy as np
import pytest
import torch
from facade_cases import DTYPES, KEYS, OUTPUTS, RULES, B, V, X, equal, wide
from fusedraw import Sampler, reference, sample

# Parameters

FORMS = {
    "0-D": lambda v, dtype: torch.tensor(v, dtype=dtype),
    "[1]": lambda v, dtype: torch.tensor([v], dtype=dtype),
    "[B]": lambda v, dtype: torch.full((B,), v, dtype=dtype),
    "[B] strided": lambda v, dtype: torch.full((B, 3), v, dtype=dtype)[:, 1],
    "[B] expanded": lambda v, dtype: torch.tensor([v], dtype=dtype).expand(B),
    "Parameter": lambda v, dtype: torch.nn.Parameter(
        torch.tensor([v], dtype=dtype), requires_grad=dtype.is_floating_point
    ),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("name", RULES)
def test_parameter_as_tensor(name, form):
    expected = wide(**{name: RULES[name]})
    assert not equal(expected, wide())  # the parameter does something here
    for dtype in (
        (torch.int64, torch.int32, torch.uint8) if name == "top_k" else (torch.float32, torch.float64)
    ):
        value = form(RULES[name], dtype)
        assert equal(wide(**{name: value}), expected), dtype
        assert equal(Sampler(**{name: value}, returns=OUTPUTS, top_n=3)(X, keys=KEYS), expected), dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int8])
def test_parameter_dtypes_that_hold_the_value(dtype):
    for name, value in (("temperature", 2.0), ("mix_eps", 1.0), ("min_p", 1.0)):
        assert equal(wide(**{name: torch.tensor(value).to(dtype)}), wide(**{name: value}))


def test_parameters_round_to_float32():
    # 0.1 of float64 and of float32 differ; both are the float32 one.
    for name in ("temperature", "top_p", "min_p", "mix_eps"):
        as_float32 = float(np.float32(0.1))
        forms = [0.1, as_float32, np.float32(0.1), np.float64(0.1), torch.tensor(0.1, dtype=torch.float64)]
        assert all(equal(wide(**{name: form}), wide(**{name: as_float32})) for form in forms), name
    assert equal(wide(temperature=2), wide(temperature=2.0))
    assert equal(wide(top_k=np.int32(7)), wide(top_k=7))


def test_one_value_per_row():
    columns = {
        "temperature": [0.0, 0.5, 1.0, 2.0, 1e-30],
        "top_k": [0, 1, -1, 5, 20],
        "top_p": [1.0, 0.9, 0.5, 0.0, 0.7],
        "min_p": [0.0, 0.1, 0.01, 1.0, 0.3],
        "mix_eps": [0.0, 1.0, 0.5, 0.1, 0.9],
    }
    together = wide(**{name: torch.tensor(values) for name, values in columns.items()})
    for row in range(B):
        alone = sample(
            X[row], keys=KEYS[row], returns=OUTPUTS, top_n=3, **{n: v[row] for n, v in columns.items()}
        )
        for name, got in together._asdict().items():
            if name not in ("kept_ids", "kept_offsets"):
                assert equal(got[row], getattr(alone, name)), (row, name)
        start, stop = together.kept_offsets[row : row + 2]
        assert equal(together.kept_ids[start:stop], alone.kept_ids)


def test_tensor_parameters_are_not_remembered():
    temperature = torch.tensor([2.0])
    draw = Sampler(temperature=temperature)
    hot = sample(X, keys=KEYS, temperature=temperature)
    temperature.fill_(0.0)
    assert torch.equal(sample(X, keys=KEYS, temperature=temperature), X.argmax(1))
    assert torch.equal(draw(X, keys=KEYS), hot)  # a sampler copies


def test_everything_equals_plain_python():
    mask = torch.rand(B, V, generator=torch.Generator().manual_seed(1)) > 0.2
    for filter_order in ("sequential", "joint", "min_p_first"):
        for ties in ("index", "all"):
            for mix_support in ("kept", "valid"):
                options = {"filter_order": filter_order, "ties": ties, "mix_support": mix_support}
                x = (X * 4).round() / 4  # ties
                out = sample(
                    x, keys=KEYS, mask=mask, domain="draft", returns=OUTPUTS, top_n=4, **RULES, **options
                )
                for row in range(B):
                    want = reference.sample_row(
                        x[row].tolist(),
                        key=tuple(KEYS[row].tolist()),
                        mask=mask[row].tolist(),
                        domain=reference.DRAFT,
                        top_n=4,
                        **RULES,
                        **options,
                    )
                    got = [out.ids, *(getattr(out, name) for name in DTYPES)]
                    assert [t[row].item() for t in got] == [
                        want.id,
                        *(getattr(want, name) for name in DTYPES),
                    ]
                    assert out.top_ids[row].tolist() == want.top_ids
                    assert out.top_logps[row].tolist() == want.top_logps
                    start, stop = out.kept_offsets[row : row + 2].tolist()
                    assert out.kept_ids[start:stop].tolist() == sorted(want.kept)


# Masks


def test_masks_of_every_form():
    allowed = torch.rand(B, V, generator=torch.Generator().manual_seed(2)) > 0.5
    padded = torch.zeros(B, 96, dtype=torch.int64)
    padded[:, :V] = allowed
    words = (padded.view(B, 3, 32) << torch.arange(32)).sum(-1).to(torch.int32)  # wraps into the sign bit
    expected = sample(X.masked_fill(~allowed, -torch.inf), keys=KEYS, returns=("logp", "kept"), **RULES)
    for mask in (allowed, words):
        assert equal(sample(X, keys=KEYS, mask=mask, returns=("logp", "kept"), **RULES), expected)
    shared = sample(X.masked_fill(~allowed[:1], -torch.inf), keys=KEYS)
    for mask in (allowed[0], allowed[:1], words[0], words[:1]):
        assert torch.equal(sample(X, keys=KEYS, mask=mask), shared)
        assert torch.equal(Sampler()(X, keys=KEYS, mask=mask), shared)
    noisy = X.masked_fill(~allowed, torch.nan)  # what is excluded is not looked at
    assert equal(sample(noisy, keys=KEYS, mask=words, returns=("logp", "kept"), **RULES), expected)
