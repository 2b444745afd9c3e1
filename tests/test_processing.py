# SPDX-License-Identifier: Apache-2.0
"""Edits and rules through the face of the package: forms of lists, edit_logits, Sampler, mixed batches,
shapes without data, compiled graphs."""

import math

import fusedraw
import pytest
import torch
from processing_cases import HISTORY, KEYS, PROMPT, V, X, csr
from row_kinds import make_rows
from torch._subclasses.fake_tensor import FakeTensorMode

ALL = ("logp", "n_kept", "kept_mass", "entropy", "rank")


def same(a, b):
    assert a._fields == b._fields
    for name, left, right in zip(a._fields, a, b, strict=True):
        assert (left is None) == (right is None), name
        assert left is None or torch.equal(left, right), name


def test_forms_of_lists_agree():
    bias = {3: 1.5, 400: -2.0, 12: -math.inf}
    arguments = {
        "repetition_penalty": 1.3,
        "frequency_penalty": 0.2,
        "presence_penalty": torch.tensor([0.1, 0.2, 0.3, 0.4]),
        "temperature": 0.7,
        "returns": ALL,
        "keys": KEYS,
    }
    expected = fusedraw.sample(
        X, history=HISTORY, prompt=PROMPT, logit_bias=bias, suppress=[5, 6], **arguments
    )
    forms = [
        {"history": csr(HISTORY), "prompt": csr(PROMPT), "logit_bias": [bias] * 4, "suppress": (5, 6)},
        {
            "history": HISTORY.int(),
            "prompt": PROMPT.t().contiguous().t(),
            "logit_bias": (torch.tensor(list(bias)), torch.tensor(list(bias.values())), torch.tensor([0, 3])),
            "suppress": torch.tensor([6, 5, 5]),
        },
        {
            "history": HISTORY,
            "prompt": PROMPT,
            "logit_bias": bias,
            "suppress": (torch.tensor([5, 6] * 4, dtype=torch.int32), torch.tensor([0, 2, 4, 6, 8])),
        },
    ]
    for form in forms:
        same(fusedraw.sample(X, **form, **arguments), expected)
    edited = fusedraw.edit_logits(
        X,
        repetition_penalty=1.3,
        frequency_penalty=0.2,
        presence_penalty=torch.tensor([0.1, 0.2, 0.3, 0.4]),
        history=csr(HISTORY),
        prompt=PROMPT,
        logit_bias=bias,
        suppress=[5, 6],
    )
    same(fusedraw.sample(edited, temperature=0.7, returns=ALL, keys=KEYS), expected)
    for row in range(4):  # a single row, alone
        one = fusedraw.sample(
            X[row],
            history=HISTORY[row],
            prompt=PROMPT[row],
            logit_bias=bias,
            suppress=[5, 6],
            **{**arguments, "presence_penalty": 0.1 * (row + 1), "keys": KEYS[row]},
        )
        assert one.ids == expected.ids[row] and one.logp == expected.logp[row]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_edit_logits_is_what_sample_draws_from(dtype):
    x = X.to(dtype)
    edits = {"repetition_penalty": 1.37, "frequency_penalty": 0.31, "presence_penalty": -0.2}
    lists = {"history": HISTORY, "prompt": csr(PROMPT), "logit_bias": [{i: i * 0.37} for i in range(4)]}
    mask, deny = torch.rand(4, V) < 0.9, torch.rand(V) < 0.1
    masks = {"mask": mask, "deny_mask": deny}
    y = fusedraw.edit_logits(x, **edits, **lists, **masks)
    assert y.dtype is torch.float32
    expected = fusedraw.sample(y, top_p=0.9, keys=KEYS, returns=(*ALL, "kept"), top_n=3)
    same(
        fusedraw.sample(x, top_p=0.9, keys=KEYS, returns=(*ALL, "kept"), top_n=3, **edits, **lists, **masks),
        expected,
    )


def test_edit_logits_is_differentiable():
    x = X.clone().requires_grad_()
    y = fusedraw.edit_logits(x, repetition_penalty=1.5, frequency_penalty=0.1, history=HISTORY, suppress=[3])
    y.exp().sum().backward()
    count = torch.zeros(4, V).scatter_add_(1, HISTORY.clamp(min=0), (HISTORY >= 0).float())
    slope = torch.where(
        count > 0, torch.where(X > 0, torch.tensor(1 / 1.5), torch.tensor(1.5)), torch.tensor(1.0)
    )
    slope[:, 3] = 0.0
    torch.testing.assert_close(x.grad, slope * y.detach().exp())


def test_packed_masks():
    words = torch.randint(-(2**31), 2**31 - 1, (4, (V + 31) // 32), dtype=torch.int64).int()
    denied = (words.unsqueeze(-1) >> torch.arange(32, dtype=torch.int32) & 1).flatten(1)[:, :V].bool()
    expected = fusedraw.sample(X, mask=~denied, keys=KEYS, returns=ALL)
    same(fusedraw.sample(X, deny_mask=words, keys=KEYS, returns=ALL), expected)
    same(fusedraw.sample(X, deny_mask=denied, keys=KEYS, returns=ALL), expected)
    both = fusedraw.sample(X, mask=words, deny_mask=torch.zeros_like(words), keys=KEYS, returns=ALL)
    same(both, fusedraw.sample(X, mask=denied, keys=KEYS, returns=ALL))


def test_sampler_takes_rules_and_lists():
    rules = {
        "typical_p": 0.8,
        "repetition_penalty": torch.tensor([1.1, 1.2, 1.3, 1.4]),
        "temperature_last": True,
    }
    draw = fusedraw.Sampler(temperature=1.7, top_k=100, returns=ALL, **rules)
    lists = {
        "history": HISTORY,
        "logit_bias": {1: 2.0},
        "suppress": [9],
        "deny_mask": torch.arange(V) % 7 == 0,
    }
    expected = fusedraw.sample(X, temperature=1.7, top_k=100, returns=ALL, keys=KEYS, **rules, **lists)
    same(draw(X, keys=KEYS, **lists), expected)
    assert "typical_p=0.8" in repr(draw) and "temperature_last=True" in repr(draw)
    plain = fusedraw.Sampler(temperature=0.5)
    assert torch.equal(
        plain(X, keys=KEYS, suppress=[3]), fusedraw.sample(X, temperature=0.5, keys=KEYS, suppress=[3])
    )


def test_greedy_rows_have_edits_and_no_rules():
    y = fusedraw.edit_logits(X, repetition_penalty=2.0, history=X.topk(3).indices)
    got = fusedraw.sample(
        X,
        temperature=0,
        repetition_penalty=2.0,
        history=X.topk(3).indices,
        typical_p=0.1,
        xtc_probability=1.0,
        seed=1,
    )
    assert torch.equal(got, y.argmax(-1))


def test_torch_contract():
    """opcheck of the operator with lists and rules; eager and compiled agree."""
    lists = {"history": HISTORY, "logit_bias": {3: 1.0}, "suppress": [5]}

    def step(x, keys, penalty):
        return fusedraw.sample(x, keys=keys, repetition_penalty=penalty, typical_p=0.9, **lists)

    compiled = torch.compile(step, fullgraph=True)
    for penalty in (torch.tensor([1.5]), torch.tensor([1.1])):
        assert torch.equal(compiled(X, KEYS, penalty), step(X, KEYS, penalty))
    params = torch.tensor([[0.8, 0.9, 0.0, 0.0, 0]], dtype=torch.float64)
    rules = torch.tensor([[0, 0.9, 0, 0, 0.1, 0, 1.2, 0.1, 0.1]], dtype=torch.float64)
    ids, offsets = csr(HISTORY)
    torch.library.opcheck(
        torch.ops.fusedraw.sample_processed.default,
        (X, params, rules, KEYS, None, ids, offsets, PROMPT, None, *[None] * 5, 0, 0b111111, 2),
    )


def test_one_call_does_64_mixed_requests():
    """Greedy, seeded, filtered and penalised rows in one call: each as if it were alone."""
    rows = 64
    x = make_rows("normal", rows, V, seed=21) / 2
    g = torch.Generator().manual_seed(5)
    kind = torch.arange(rows) % 4  # greedy, plain, filtered, penalised
    settings = {
        "temperature": torch.where(kind == 0, 0.0, 0.5 + torch.rand(rows, generator=g)),
        "top_k": torch.where(kind == 2, 40, 0),
        "top_p": torch.where(kind >= 2, 0.9, 1.0),
        "min_p": torch.where(kind == 2, 0.01, 0.0),
        "repetition_penalty": torch.where(kind == 3, 1.3, 1.0),
        "frequency_penalty": torch.where(kind == 3, 0.2, 0.0),
        "typical_p": torch.where(kind == 2, 0.95, 1.0),
        "mix_eps": torch.where(kind == 1, 0.1, 0.0),
    }
    lengths = torch.randint(0, 60, (rows,), generator=g)
    history = torch.randint(0, V, (rows, 60), generator=g)
    history[torch.arange(60) >= lengths[:, None]] = -1
    bias = [{row: 3.0} if row % 5 == 0 else {} for row in range(rows)]
    keys = fusedraw.derive_keys(torch.arange(rows) * 17, torch.arange(rows), step=9)
    out = fusedraw.sample(x, keys=keys, returns=ALL, history=history, logit_bias=bias, **settings)
    for row in range(rows):
        one = {name: value[row].item() for name, value in settings.items()}
        alone = fusedraw.sample(
            x[row],
            keys=keys[row],
            returns=ALL,
            history=history[row, : lengths[row]],
            logit_bias=bias[row],
            **one,
        )
        for name in ("ids", *ALL):
            assert torch.equal(getattr(alone, name), getattr(out, name)[row]), (row, name)
    greedy = fusedraw.edit_logits(x, logit_bias=bias)[kind == 0].argmax(-1)
    assert torch.equal(out.ids[kind == 0], greedy)


def test_shapes_without_data():
    """Meta and fake tensors, plain numbers among the rules: shapes and dtypes, nothing drawn."""
    arguments = {"typical_p": 0.9, "top_p": 0.5, "suppress": [2], "returns": ("logp",)}
    keys = torch.empty(2, 2, dtype=torch.int64, device="meta")
    out = fusedraw.sample(torch.empty(2, 50, device="meta"), keys=keys, **arguments)
    assert out.ids.is_meta and out.ids.shape == out.logp.shape == (2,)
    with FakeTensorMode():
        keys = torch.empty(2, 2, dtype=torch.int64)
        out = fusedraw.sample(torch.empty(2, 50), keys=keys, **arguments)
    assert out.ids.dtype is torch.int64 and out.logp.dtype is torch.float32 and out.ids.shape == (2,)


def test_ids_outside_where_nobody_looks_make_the_row_nan():
    """As on devices: no sync, and no neighbour of the row is touched."""
    torch.compiler.reset()
    compiled = torch.compile(fusedraw.edit_logits, backend="eager")
    x, outside = torch.randn(3, 7), torch.tensor([[1, 2], [7, 1], [0, -1]])
    as_csr = (torch.tensor([1, 2, 7, 1, 0]), torch.tensor([0, 2, 4, 5]))
    for history in (outside, as_csr):
        y = compiled(x, history=history, repetition_penalty=1.5)
        assert y[1].isnan().all()
        inside = outside.clamp(max=6)
        expected = fusedraw.edit_logits(x, history=inside, repetition_penalty=1.5)
        assert torch.equal(y[[0, 2]], expected[[0, 2]])
