# SPDX-License-Identifier: Apache-2.0
"""Every operator and dtype once, on few, many, short, long and unaligned rows: for compute-sanitizer, under
which a launch takes a hundred times as long. Results must still be those of the CPU engine."""

import pytest
import torch
from engines import (
    ALL,
    ALL_OF_PROBS,
    BF16,
    F16,
    F32,
    assert_same,
    keep,
    make_keys,
    make_mode,
    make_params,
    multinomial,
    op,
    sample,
    softmax,
)
from on_device import operators
from row_kinds import make_mask, make_probs, make_rows
from test_cuda_mixture import test_bad_rows as test_bad_rows_of_mixtures  # noqa: F401  (collected here)
from test_cuda_mixture import test_one_tensor_as_every_member  # noqa: F401
from test_cuda_processed import (  # noqa: F401
    test_lists_of_every_form_at_once,
    test_rows_in_parts,
    test_tokens_edited_many_times,
)
from test_cuda_route import test_bad_rows as test_bad_rows_of_routes  # noqa: F401
from test_cuda_route import test_replay_and_bias  # noqa: F401
from test_cuda_token_logprob import test_malformed_kept_sets_are_not_followed  # noqa: F401
from test_cuda_verify import test_bad_rows as test_bad_rows_of_verify  # noqa: F401
from test_cuda_verify import test_odd_and_unaligned_rows, test_two_dtypes  # noqa: F401

SHAPES = {
    "short": (3, 77),
    "blocks": (2, 1100),
    "many": (130, 300),
    "split": (2, 70_001),
    "far": (1, 270_000),
}
CONFIGURATIONS = (
    {"temperature": 0.8},
    {"top_k": 50},
    {"top_p": 0.9},
    {"top_k": 3000, "top_p": 0.9, "min_p": 0.001, "mix_eps": 0.5},
    {"temperature": 0.0, "mix_eps": 0.5},
)


def both(monkeypatch, function, *arguments):
    expected = function(*arguments)
    with monkeypatch.context() as patch:
        patch.setattr(op, "namespace", operators())
        assert_same(function(*arguments), expected)


def unaligned(x):
    room = torch.full((x.shape[0], x.shape[1] + 3), float("nan"), dtype=x.dtype)
    room[:, 1:-2] = x
    return room[:, 1:-2]


@pytest.mark.parametrize("dtype", [F32, BF16, F16])
@pytest.mark.parametrize("shape", SHAPES)
def test_sample(monkeypatch, shape, dtype):
    rows, size = SHAPES[shape]
    for i, configuration in enumerate(CONFIGURATIONS):
        x = make_rows(("normal", "tied", "peaked")[i % 3], rows, size, i, dtype)
        if i == 1:
            x = unaligned(x)
        mask = make_mask(("none", "rows-0.5", "words-1")[i % 3], rows, size, i)
        mode = make_mode(("sequential", "joint", "min_p_first")[i % 3], ("index", "all")[i % 2], "valid")
        params = make_params(**configuration)
        both(monkeypatch, sample, x, params, make_keys(rows, i), mask, mode, 0)
        both(monkeypatch, sample, x, params, make_keys(rows, i), mask, mode, ALL, 3)


@pytest.mark.parametrize("dtype", [F32, BF16, F16])
@pytest.mark.parametrize("shape", ["short", "blocks", "many", "split"])
def test_other_operators(monkeypatch, shape, dtype):
    rows, size = SHAPES[shape]
    x, keys = make_rows("normal", rows, size, 1, dtype), make_keys(rows)
    p = make_probs("peaked", rows, size, 1, dtype)
    temperature = torch.tensor([0.7], dtype=torch.float64)
    for log in (False, True):
        both(monkeypatch, softmax, x, temperature, make_mask("rows-0.5", rows, size), log)
    for renorm in (False, True):
        for params in (make_params(top_k=20), make_params(top_p=0.8)):
            both(monkeypatch, keep, x, params, None, 0, renorm)
    both(monkeypatch, sample, p, make_params(top_p=0.9), keys, None, make_mode(probs=True), ALL_OF_PROBS)
    for n, replacement in ((1, False), (5, True), (5, False)):
        both(monkeypatch, multinomial, p, keys, n, replacement)


def test_keys(monkeypatch):
    words = torch.arange(300) * 2654435761
    both(monkeypatch, lambda: {"keys": op.derive_keys(words, words, words[:1], words)})
    both(monkeypatch, lambda: {"keys": op.row_keys(torch.zeros(300, 1), 5, -1)})
