# SPDX-License-Identifier: Apache-2.0
"""Edits and rules through the face of the package: forms of lists, numbers and tensors, errors, edit_logits,
Sampler, and what each rule means, against independent formulas."""

import math

import fusedraw
import pytest
import torch
from strategies import make_rows

V = 700
X = make_rows("normal", 4, V, seed=11) / 2
KEYS = fusedraw.derive_keys(7, torch.arange(4))
HISTORY = torch.randint(-1, V, (4, 300), generator=torch.Generator().manual_seed(1))
PROMPT = torch.randint(0, V, (4, 50), generator=torch.Generator().manual_seed(2))
ALL = ("logp", "n_kept", "kept_mass", "entropy", "rank")


def csr(padded):
    rows = [row[row >= 0] for row in padded]
    offsets = torch.tensor([0, *(len(row) for row in rows)]).cumsum(0)
    return torch.cat(rows), offsets


def same(a, b):
    assert a._fields == b._fields
    for name, left, right in zip(a._fields, a, b, strict=True):
        assert (left is None) == (right is None), name
        assert left is None or torch.equal(left, right), name


def kept_of(x=X, **arguments):
    """The kept sets, as sorted lists."""
    out = fusedraw.sample(x, keys=KEYS[: x.shape[0]], returns=("kept",), **arguments)
    return [ids.tolist() for ids in out.kept_ids.tensor_split(out.kept_offsets[1:-1])]


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


# What the rules mean, by formulas of their own in float64


def probabilities(t=1.0):
    return torch.softmax(X.double() / t, dim=-1)


@pytest.mark.parametrize("n", [0.5, 1.0, 2.0, 3.0])
def test_top_n_sigma(n):
    x = X.double()
    limit = x.amax(-1, keepdim=True) - n * x.std(-1, correction=0, keepdim=True)
    expected = [row.nonzero().flatten().tolist() for row in x >= limit]
    assert kept_of(top_n_sigma=n) == expected
    assert kept_of(top_n_sigma=n, temperature=3.0) == expected  # temperature does not matter


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_typical(share):
    p = probabilities(0.8)
    distance = (-p.log() - -(p * p.log()).sum(-1, keepdim=True)).abs()
    expected = []
    for row in range(4):
        order = distance[row].argsort()
        n = int((p[row][order].cumsum(0) < share).sum()) + 1
        expected.append(sorted(order[:n].tolist()))
    assert kept_of(typical_p=share, temperature=0.8) == expected


@pytest.mark.parametrize("epsilon", [1e-4, 3e-3, 0.02, 0.9])
def test_epsilon_and_eta(epsilon):
    p = probabilities()
    best = p >= p.amax(-1, keepdim=True)
    assert kept_of(epsilon_cutoff=epsilon) == [r.nonzero().flatten().tolist() for r in (p >= epsilon) | best]
    entropy = -(p * p.log()).sum(-1, keepdim=True)
    eta = torch.minimum(torch.tensor(epsilon), math.sqrt(epsilon) * (-entropy).exp())
    assert kept_of(eta_cutoff=epsilon) == [r.nonzero().flatten().tolist() for r in (p >= eta) | best]


def test_cutoffs_look_at_what_is_left():
    """After top-k the probabilities are those of the first k."""
    p = torch.zeros_like(probabilities())
    top = X.topk(40)
    p.scatter_(1, top.indices, torch.softmax(top.values.double(), -1))
    assert kept_of(top_k=40, epsilon_cutoff=0.02) == [r.nonzero().flatten().tolist() for r in p >= 0.02]


def test_xtc_drops_all_top_choices_but_the_last():
    p = probabilities(0.5)
    for row, kept in enumerate(kept_of(xtc_probability=1.0, xtc_threshold=0.05, temperature=0.5)):
        top = (p[row] >= 0.05).nonzero().flatten()
        dropped = top[p[row][top].argsort(descending=True)][:-1].tolist()
        assert dropped and set(range(V)) - set(kept) == set(dropped)


def test_xtc_fires_as_often_as_asked():
    x = X[:1].expand(20000, V)
    keys = fusedraw.derive_keys(3, torch.arange(20000))
    out = fusedraw.sample(
        x, keys=keys, returns=("n_kept",), xtc_probability=0.3, xtc_threshold=0.02, top_k=50
    )
    fired = (out.n_kept < 50).sum().item()
    assert abs(fired - 6000) < 5 * math.sqrt(20000 * 0.3 * 0.7)  # five standard errors, a fixed seed


def test_temperature_last():
    """Filters see T = 1; the draw sees T."""
    for rules in ({"top_p": 0.8}, {"min_p": 0.05}, {"typical_p": 0.7}, {"eta_cutoff": 0.01}):
        assert kept_of(temperature=2.5, temperature_last=True, **rules) == kept_of(**rules)
        assert kept_of(temperature=2.5, **rules) != kept_of(**rules)
    kept = kept_of(top_p=0.8)
    out = fusedraw.sample(X, temperature=2.5, temperature_last=True, top_p=0.8, keys=KEYS, returns=("logp",))
    for row in range(4):
        p = torch.softmax(X[row, kept[row]].double() / 2.5, -1)
        expected = p[kept[row].index(out.ids[row].item())].log()
        assert math.isclose(out.logp[row], expected, abs_tol=1e-5)


def test_best_token_stays_under_the_cutoffs():
    for name in ("epsilon_cutoff", "eta_cutoff"):
        for kept, best in zip(kept_of(**{name: 1.0}), X.argmax(-1).tolist(), strict=True):
            assert kept == [best] or (name == "eta_cutoff" and best in kept)


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


BAD = [
    ({"repetition_penalty": 1.2}, ValueError, "repetition_penalty needs history or prompt"),
    ({"frequency_penalty": 0.1, "prompt": PROMPT}, ValueError, "frequency_penalty needs history"),
    ({"presence_penalty": 0.1}, ValueError, "presence_penalty needs history"),
    ({"repetition_penalty": 0, "history": HISTORY}, ValueError, "repetition_penalty must be > 0 and finite"),
    ({"repetition_penalty": math.inf, "history": HISTORY}, ValueError, "repetition_penalty must be > 0"),
    ({"frequency_penalty": math.nan, "history": HISTORY}, ValueError, "frequency_penalty must be finite"),
    (
        {"presence_penalty": "1", "history": HISTORY},
        TypeError,
        "presence_penalty must be a number or a tensor",
    ),
    ({"typical_p": 1.5}, ValueError, r"typical_p must be in \[0, 1\], got 1.5"),
    ({"epsilon_cutoff": -0.1}, ValueError, "epsilon_cutoff must be in"),
    ({"eta_cutoff": True}, TypeError, "eta_cutoff must be a number"),
    ({"top_n_sigma": -1}, ValueError, "top_n_sigma must be >= 0"),
    ({"xtc_threshold": 0.2}, ValueError, "xtc_threshold needs xtc_probability"),
    ({"temperature_last": 1}, TypeError, "temperature_last must be a bool, got int"),
    ({"typical_p": torch.ones(3)}, ValueError, "typical_p must have length 1 or 4"),
    ({"typical_p": torch.ones(4, dtype=torch.bool)}, TypeError, "typical_p tensor must be"),
    ({"history": [1, 2, 3]}, TypeError, r"history must be a tensor \[B, L\] or a pair"),
    ({"history": HISTORY.float()}, TypeError, "history must be int32 or int64, got float32"),
    ({"history": HISTORY[:3]}, ValueError, r"history must be \[4, L\], got shape \[3, 300\]"),
    ({"history": HISTORY[0]}, ValueError, r"history must be \[4, L\], got shape \[300\]"),
    ({"prompt": (PROMPT[0], torch.tensor([0, 50, 50]))}, ValueError, r"offsets \[5\]"),
    ({"prompt": (PROMPT[0], torch.tensor([0, 50], dtype=torch.int32))}, TypeError, "offsets of prompt"),
    (
        {"prompt": (PROMPT[0], torch.tensor([0, 49]))},
        ValueError,
        "offsets of prompt must rise from 0 to the 50",
    ),
    ({"prompt": (PROMPT[0], torch.tensor([0, 30, 20, 40, 50]))}, ValueError, "must rise"),
    ({"history": torch.full((4, 1), V)}, ValueError, "BAD_PARAM"),
    ({"logit_bias": {V: 1.0}}, ValueError, rf"logit_bias must hold ids in \[0, {V}\), got {V}"),
    ({"logit_bias": {1: math.nan}}, ValueError, "logit_bias must be a number or -inf"),
    ({"logit_bias": {"1": 1.0}}, TypeError, "logit_bias must hold token ids"),
    ({"logit_bias": {1: "x"}}, TypeError, "logit_bias must map ids to numbers"),
    ({"logit_bias": [{1: 1.0}]}, ValueError, "logit_bias must hold 4 dicts"),
    ({"logit_bias": 3}, TypeError, "logit_bias must be a dict"),
    ({"suppress": [V]}, ValueError, "suppress must hold ids"),
    ({"suppress": 3}, TypeError, "suppress must be ids"),
    ({"suppress": list(range(V))}, ValueError, "EMPTY"),
    ({"deny_mask": torch.zeros(3, dtype=torch.bool)}, ValueError, "mask must be"),
    ({"deny_mask": [True]}, TypeError, "deny_mask must be a torch.Tensor"),
    (
        {
            "deny_mask": torch.zeros(V, dtype=torch.bool),
            "mask": torch.zeros((V + 31) // 32, dtype=torch.int32),
        },
        TypeError,
        "mask and deny_mask must be of one kind",
    ),
]


@pytest.mark.parametrize(("arguments", "error", "text"), BAD, ids=lambda v: str(v)[:40])
def test_bad_input(arguments, error, text):
    with pytest.raises(error, match=text):
        fusedraw.sample(X, keys=KEYS, **arguments)


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
