# SPDX-License-Identifier: Apache-2.0
"""fusedraw.Sampler as a module of torch: in models, compiled with them, moved, copied, hooked."""

import copy
import pickle

import fusedraw
import pytest
import torch
from fusedraw import Sampler
from torch import nn

B, V = 4, 96
X = torch.randn(B, V, generator=torch.Generator().manual_seed(1))
KEYS = fusedraw.derive_keys(5, range(B))
NUMBERS = {"temperature": 0.7, "top_k": 30, "top_p": 0.9}
TENSORS = {
    "temperature": torch.linspace(0.5, 1.3, B),
    "top_p": torch.linspace(0.6, 1.0, B, dtype=torch.float64),
    "top_k": torch.tensor([5]),
}
each_kind = pytest.mark.parametrize("rules", [NUMBERS, TENSORS], ids=["numbers", "tensors"])


def expected(rules, x=X, **arguments):
    return fusedraw.sample(x, **rules, **(arguments or {"keys": KEYS}))


class Model(nn.Module):
    """One step of a language model, its draw included."""

    def __init__(self, rules):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(V, 16)
        self.head = nn.Linear(16, V)
        self.draw = Sampler(**rules)

    def logits(self, ids):
        return self.head(self.embedding(ids))

    def forward(self, ids, keys):
        return self.draw(self.logits(ids), keys=keys)


def test_is_a_module_without_weights():
    draw = Sampler(**NUMBERS)
    assert isinstance(draw, nn.Module)
    assert not draw.state_dict() and not list(draw.parameters()) and not list(draw.buffers())
    assert Model(NUMBERS).state_dict().keys() == {"embedding.weight", "head.weight", "head.bias"}
    strict = Model(TENSORS).load_state_dict(Model(NUMBERS).state_dict())  # what the sampler holds is no state
    assert not strict.missing_keys and not strict.unexpected_keys
    assert repr(draw).startswith("Sampler(temperature=0.7, top_p=0.9, ") and "\n" not in repr(draw)
    assert "(draw): Sampler(temperature=0.7" in repr(Model(NUMBERS))


@each_kind
def test_calls(rules):
    draw = Sampler(**rules)
    want = expected(rules)
    assert torch.equal(draw(X, keys=KEYS), want)
    assert torch.equal(draw.forward(X, keys=KEYS), want)
    assert torch.equal(nn.Module.__call__(draw, X, keys=KEYS), want)
    assert torch.equal(draw(X, seed=3, step=2), expected(rules, seed=3, step=2))
    assert torch.equal(draw.eval()(X, keys=KEYS), want) and torch.equal(draw.train()(X, keys=KEYS), want)


@each_kind
def test_in_a_model(rules):
    model, ids = Model(rules), torch.arange(B)
    logits = model.logits(ids)
    assert torch.equal(model(ids, KEYS), expected(rules, logits))
    torch.manual_seed(4)
    drawn = nn.Sequential(model.embedding, model.head, Sampler(**rules))(ids)
    torch.manual_seed(4)
    assert torch.equal(drawn, expected(rules, logits, generator=None))


@each_kind
def test_compiles_with_a_model(rules):
    model, ids = Model(rules), torch.arange(B)
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)
    for seed in range(3):
        keys = fusedraw.derive_keys(seed, range(B))
        assert torch.equal(compiled(ids, keys), model(ids, keys))
    alone = torch.compile(model.draw, backend="aot_eager", fullgraph=True)
    assert torch.equal(alone(X, keys=KEYS), expected(rules))
    in_place = Model(rules)
    in_place.compile(backend="aot_eager", fullgraph=True)
    assert torch.equal(in_place(ids, KEYS), model(ids, KEYS))


@each_kind
def test_compile_of_the_sampler_itself(rules):
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    draw = Sampler(**rules)
    draw.compile(backend=backend, fullgraph=True)
    assert torch.equal(draw(X, keys=KEYS), expected(rules)) and len(graphs) == 1


@each_kind
def test_compiled_output_by_name(rules):
    draw = Sampler(**rules, returns=("logp", "entropy"), top_n=2)
    compiled = torch.compile(draw, backend="aot_eager", fullgraph=True)
    for ours, want in zip(compiled(X, keys=KEYS), draw(X, keys=KEYS), strict=True):
        assert (ours is None and want is None) or torch.equal(ours, want)


@each_kind
def test_export(rules):
    model, ids = Model(rules), torch.arange(B)
    program = torch.export.export(model, (ids, KEYS.view(torch.int64)))
    assert torch.equal(program.module()(ids, KEYS.view(torch.int64)), model(ids, KEYS))


@each_kind
@pytest.mark.parametrize(
    "copies",
    [copy.copy, copy.deepcopy, lambda draw: pickle.loads(pickle.dumps(draw))],
    ids=["copy", "deep", "pickle"],
)
def test_copies(rules, copies):
    draw = Sampler(**rules, returns=("logp",))
    again = copies(draw)
    assert repr(again) == repr(draw)
    for ours, want in zip(again(X, keys=KEYS), draw(X, keys=KEYS), strict=True):
        assert (ours is None and want is None) or torch.equal(ours, want)
    whole = copies(Model(rules))
    assert torch.equal(whole(torch.arange(B), KEYS), Model(rules)(torch.arange(B), KEYS))


@each_kind
@pytest.mark.parametrize("cast", ["half", "bfloat16", "float", "double"])
def test_casts_leave_the_parameters(rules, cast):
    """0.9 in half precision would be another top_p."""
    draw = Sampler(**rules)
    assert getattr(draw, cast)() is draw
    assert torch.equal(draw(X, keys=KEYS), expected(rules))
    model = getattr(Model(rules), cast)()
    assert torch.equal(model.draw(X, keys=KEYS), expected(rules))
    assert torch.equal(draw.to(torch.float16)(X, keys=KEYS), expected(rules))


def test_to_moves_tensors():
    model = Model(TENSORS).to("meta")
    out = model(torch.arange(B, device="meta"), KEYS.to("meta"))
    assert out.device.type == "meta" and out.shape == (B,)
    with pytest.raises(ValueError, match="meta"):  # it has left the CPU
        model.draw(X, keys=KEYS)
    numbers = Model(NUMBERS).to("meta")
    assert numbers(torch.arange(B, device="meta"), KEYS.to("meta")).device.type == "meta"
    assert torch.equal(numbers.draw(X, keys=KEYS), expected(NUMBERS))  # numbers lie nowhere
    stays = Sampler(**TENSORS)
    assert stays.to("cpu") is stays and torch.equal(stays(X, keys=KEYS), expected(TENSORS))
    if torch.cuda.is_available():
        draw = Sampler(**TENSORS).cuda()
        assert torch.equal(draw(X.cuda(), keys=KEYS.cuda()).cpu(), expected(TENSORS))
        assert torch.equal(draw.cpu()(X, keys=KEYS), expected(TENSORS))


def test_copied_when_made():
    temperature = torch.full((B,), 0.5)
    draw = Sampler(temperature=temperature)
    temperature.fill_(50.0)
    assert torch.equal(draw(X, keys=KEYS), expected({"temperature": 0.5}))


@each_kind
def test_hooks_run(rules):
    seen = []
    draw = Sampler(**rules)
    want = draw(X, keys=KEYS)
    before = draw.register_forward_pre_hook(lambda module, args: seen.append(("before", args[0].shape)))
    after = draw.register_forward_hook(lambda module, args, out: out + 1000)
    assert torch.equal(draw(X, keys=KEYS), want + 1000) and seen == [("before", X.shape)]
    before.remove()
    after.remove()
    assert torch.equal(draw(X, keys=KEYS), want) and len(seen) == 1
    for register in (
        nn.modules.module.register_module_forward_pre_hook,
        nn.modules.module.register_module_forward_hook,
    ):
        handle = register(lambda module, *rest: seen.append(type(module)))
        try:
            assert torch.equal(draw(X, keys=KEYS), want)
        finally:
            handle.remove()
    assert seen[1:] == [Sampler, Sampler]


def test_bad_arguments_are_named():
    draw = Sampler(**NUMBERS)
    with pytest.raises(TypeError, match="unexpected keyword"):
        draw(X, temperature=0.5)
    with pytest.raises(TypeError, match="positional"):
        draw(X, KEYS)
    with pytest.raises(TypeError, match="logits must be"):
        draw(X.double(), keys=KEYS)
