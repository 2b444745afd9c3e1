# SPDX-License-Identifier: Apache-2.0
"""torch.compile and torch.export: the same bits as without, and few compilations."""

import fusedraw
import pytest
import torch
import torch._dynamo.testing
from torch_cases import B, V, X, keys, rows, same

# (name, function, argument tuples one after another, most compilations allowed)
COMPILED = [
    (
        "keys",
        lambda x, k: fusedraw.sample(x, temperature=0.8, top_k=5, keys=k),
        [(X, keys()), (X + 1, keys())],
        1,
    ),
    ("uint64 keys", lambda x, k: fusedraw.sample(x, keys=k), [(X, keys().view(torch.uint64))], 1),
    (
        "seed and step",
        lambda x, s, t: fusedraw.sample(x, top_p=0.9, seed=s, step=t),
        [(X, s, t) for t, s in enumerate([1] * 6 + [2, 3, -1, 2**62])],
        3,
    ),
    (
        "seed and step tensors",
        lambda x, s, t: fusedraw.sample(x, seed=s, step=t),
        [(X, torch.tensor([s]), torch.tensor(t)) for s, t in ((1, 0), (1, 1), (5, 2), (-7, 3))],
        1,
    ),
    ("seeds beyond int64", lambda x, s: fusedraw.sample(x, seed=s), [(X, 2**64 - 1), (X, 2**63), (X, 3)], 3),
    (
        "temperatures",
        lambda x, t: fusedraw.sample(x, temperature=t, seed=1),
        [(X, t / 10) for t in range(1, 13)],
        3,
    ),
    ("top_k", lambda x, k: fusedraw.sample(x, top_k=k, seed=1), [(X, k) for k in range(2, 14)], 3),
    (
        "everything",
        lambda x, k: fusedraw.sample(
            x,
            keys=k,
            temperature=torch.tensor([0.5, 1.0, 2.0]),
            top_k=20,
            min_p=0.01,
            mix_eps=0.1,
            mix_support="valid",
            filter_order="joint",
            ties="all",
            domain="draft",
            mask=x > -1,
            returns=("status", "logp", "logp_full", "logp_raw", "entropy", "varentropy", "margin"),
            top_n=3,
        ),
        [(X, keys())],
        1,
    ),
    ("1-D", lambda x, k: fusedraw.sample(x, keys=k, returns=("rank",), top_n=2), [(X[0], keys()[0])], 1),
    ("Sampler", fusedraw.Sampler(temperature=0.7, top_k=30).__call__, None, 1),
    (
        "sample_probs",
        lambda x, s: fusedraw.sample_probs(x, top_p=0.5, seed=s),
        [(X.softmax(-1).double(), 1)],
        1,
    ),
    ("softmax", lambda x: fusedraw.softmax(x, 0.7, mask=x > -1), [(X,), (X.half(),)], 2),
    ("log_softmax", lambda x: fusedraw.log_softmax(x, 0.7), [(X,), (X.double(),)], 2),
    ("top_k_mask", lambda x: fusedraw.top_k_mask(x, 3), [(X,)], 1),
    ("top_p_mask", lambda x: fusedraw.top_p_mask(x, 0.4, temperature=0.5), [(X,)], 1),
    ("top_k_renorm", lambda x: fusedraw.top_k_renorm(x, 3), [(X.softmax(-1),)], 1),
    ("top_p_renorm", lambda x: fusedraw.top_p_renorm(x, 0.4, from_logits=True), [(X,)], 1),
    (
        "multinomial",
        lambda x, s: fusedraw.multinomial(x, 3, seed=s),
        [(X.softmax(-1), s) for s in range(5)],
        2,
    ),
    (
        "derive_keys",
        lambda r, t: fusedraw.derive_keys(7, r, step=t),
        [(torch.arange(n), n) for n in (4, 5, 6, 7, 9)],
        2,
    ),
    (
        "rows",
        lambda x, k: fusedraw.sample(x, keys=k, top_p=0.9, returns=("logp",)),
        [(rows(shape=(n, V)), keys(n)) for n in (2, 3, 4, 5, 9, 1)],
        3,
    ),
    (
        "rows, by seed",
        lambda x, s: fusedraw.sample(x, seed=s),
        [(rows(shape=(n, V)), n) for n in (2, 3, 4, 5, 9)],
        2,
    ),
    (
        "vocabularies",
        lambda x, k: fusedraw.sample(x, keys=k, top_k=9, returns=("logp",)),
        [(rows(shape=(B, n)), keys()) for n in (64, 65, 70, 100, 300)],
        2,
    ),
]


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize(
    "function, calls, allowed", [row[1:] for row in COMPILED], ids=[row[0] for row in COMPILED]
)
def test_compile(function, calls, allowed, backend):
    if calls is None:
        sampler, calls = function.__self__, [(X, keys())]
        function = lambda x, k: sampler(x, keys=k)  # noqa: E731
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend(backend)
    compiled = torch.compile(function, fullgraph=True, backend=counter)
    for arguments in calls:
        assert same(compiled(*arguments), function(*arguments)), arguments[1:]
    assert counter.frame_count <= allowed


@pytest.mark.parametrize("how", ["numbers", "tensors"])
def test_a_graph_that_is_run_again_goes_by_its_step(how):
    """Against keys of that step, which a graph and the same call outside it could both forget."""
    torch._dynamo.reset()
    draw = torch.compile(
        lambda x, seed, step: fusedraw.sample(x, seed=seed, step=step), fullgraph=True, backend="aot_eager"
    )
    x, drawn = torch.zeros(B, 5000), []
    for seed, step in ((5, 0), (5, 1), (5, 2**40), (6, 1)):
        given = (torch.tensor([seed]), torch.tensor(step)) if how == "tensors" else (seed, step)
        drawn.append(draw(x, *given))
        expected = fusedraw.sample(x, keys=fusedraw.derive_keys(seed, range(B), 0, step))
        assert torch.equal(drawn[-1], expected), (seed, step)
    assert len({tuple(ids.tolist()) for ids in drawn}) == len(drawn)


def test_compile_kept():
    torch._dynamo.reset()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        function = lambda x, k: fusedraw.sample(x, keys=k, top_k=7, returns=("kept",))  # noqa: E731
        assert same(torch.compile(function, fullgraph=True)(X, keys()), function(X, keys()))


def test_compile_default_generator():
    torch._dynamo.reset()
    draw = torch.compile(lambda x: fusedraw.sample(x), fullgraph=True)
    x = torch.zeros(8, 5000)
    first, second = draw(x), draw(x)
    assert ((first >= 0) & (first < 5000)).all() and not torch.equal(first, second)


def test_compiled_bad_row():
    torch._dynamo.reset()
    x = X.clone()
    x[1, 4] = torch.nan
    raising = torch.compile(lambda x: fusedraw.sample(x, seed=1), fullgraph=True)
    with pytest.raises(RuntimeError, match="row 1 has status NAN"):
        raising(x)
    telling = torch.compile(lambda x: fusedraw.sample(x, seed=1, check="status"), fullgraph=True)
    assert telling(x)[1] == -1


def test_compiled_gradient():
    torch._dynamo.reset()
    target = torch.tensor([3, 1, 4])

    def loss(x):
        return -fusedraw.log_softmax(x, 0.7).gather(1, target[:, None]).sum()

    eager, traced = X.clone().requires_grad_(), X.clone().requires_grad_()
    loss(eager).backward()
    torch.compile(loss, fullgraph=True)(traced).backward()
    assert torch.allclose(eager.grad, traced.grad, atol=1e-7, rtol=0)


class Model(torch.nn.Module):
    def forward(self, x, k):
        out = fusedraw.sample(x, keys=k, temperature=0.7, top_p=0.8, returns=("logp",))
        return out.ids, out.logp, fusedraw.softmax(x)


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict):
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(
        Model(), (X, keys()), dynamic_shapes={"x": {0: batch}, "k": {0: batch}}, strict=strict
    )
    for n in (B, 7):
        x = rows(shape=(n, V))
        assert same(program.module()(x, keys(n)), Model()(x, keys(n)))
