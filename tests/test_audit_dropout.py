# SPDX-License-Identifier: Apache-2.0
"""Keyed dropout on models that have none: masks by seed, nothing left behind, and what it is for."""

import fusedraw
import numpy as np
import pytest
import torch
from fusedraw.audit import dropout, uncertainty
from fusedraw.audit.dropout import mc_dropout
from torch import nn


def net(hidden=32, out=7):
    """A small network with a block named mlp."""
    torch.manual_seed(0)
    block = nn.Sequential(nn.Linear(5, hidden), nn.Tanh())
    return nn.ModuleDict({"mlp": block, "head": nn.Linear(hidden, out)}).eval()


def run(model, x):
    return model["head"](model["mlp"](x))


def hooks(model):
    return sum(len(module._forward_hooks) for module in model.modules())


class Ones(nn.Module):
    """Ones, whose masks can be read off."""

    def __init__(self, units, kind=lambda x: x):
        super().__init__()
        self.units, self.kind = units, kind

    def forward(self, shape=()):
        return self.kind(torch.ones(*shape, self.units))


def mask(rate, seed, units=1000, number=0):
    """What layer `number` of several is multiplied by."""
    model = nn.ModuleList([Ones(units) for _ in range(number + 1)])
    with mc_dropout(model, rate, seed, layers=lambda name, module: True):
        return model[number]()


X = torch.randn(6, 5, generator=torch.Generator().manual_seed(3))


def test_a_seed_is_a_mask():
    assert torch.equal(mask(0.3, 7), mask(0.3, 7))
    seen = {tuple(mask(0.3, seed).tolist()) for seed in (0, 1, -1, 2**32, 2**63, 2**64 - 2)}
    assert len(seen) == 6
    assert torch.equal(mask(0.3, -1), mask(0.3, 2**64 - 1))  # mod 2^64
    assert not torch.equal(mask(0.3, 7), mask(0.3, 7, number=1))
    assert torch.equal(mask(0.3, 7, units=40), mask(0.3, 7)[:40])


@pytest.mark.parametrize("rate", [0.05, 0.5, 0.9])
def test_the_share_of_dropped_units_and_the_scale(rate):
    """20,000 units: the share within 4 standard deviations; kept ones are 1 / (1 - rate)."""
    found = mask(rate, 11, units=20_000)
    assert set(found.tolist()) == {0.0, np.float32(1 / (1 - rate))}
    assert abs((found == 0).double().mean().item() - rate) < 4 * (rate * (1 - rate) / 20_000) ** 0.5


def test_masks_are_independent_across_seeds_layers_and_units():
    """Of 4,000 units, pairs dropped together: 0.25 of them at rate 0.5, within 4 standard deviations."""
    base = mask(0.5, 1, units=4000) == 0
    others = [mask(0.5, 2, units=4000), mask(0.5, 1, units=4000, number=1), mask(0.5, 1, units=4000).roll(1)]
    for other in others:
        together = (base & (other == 0)).double().mean().item()
        assert abs(together - 0.25) < 4 * (0.25 * 0.75 / 4000) ** 0.5


def test_masks_are_independent_of_tokens_drawn_with_the_seed():
    dropped = mask(0.5, 5, units=4000) == 0
    keys = fusedraw.derive_keys(5, torch.arange(4000))
    ids = fusedraw.sample_probs(torch.full((4000, 2), 0.5), keys=keys)
    agree = (dropped == (ids == 0)).double().mean().item()
    assert abs(agree - 0.5) < 4 * 0.5 / 4000**0.5


def test_rate_zero_changes_no_bit():
    model = net()
    before = run(model, X)
    with mc_dropout(model, 0.0, 3) as layers:
        assert torch.equal(run(model, X), before) and layers == ["mlp"] and hooks(model) == 0


def test_a_row_keeps_its_mask_in_any_batch_and_call():
    model = nn.ModuleDict({"mlp": Ones(200)})
    with mc_dropout(model, 0.5, 3):
        alone = model["mlp"]()
        for shape in [(1,), (6,), (2, 3)]:
            assert torch.equal(model["mlp"](shape), alone.expand(*shape, 200))
    assert (alone == 0).any() and (alone == 2).any()


def test_hooks_are_gone_afterwards():
    model = net()
    before = run(model, X)
    with mc_dropout(model, 0.5, 3):
        assert hooks(model) == 1 and not torch.equal(run(model, X), before)
    assert hooks(model) == 0 and torch.equal(run(model, X), before)
    with pytest.raises(RuntimeError, match="stop"), mc_dropout(model, 0.5, 3):
        raise RuntimeError("stop")
    assert hooks(model) == 0 and torch.equal(run(model, X), before)
    assert hooks(model) == 0


def test_other_hooks_stay():
    model = net()
    seen = []
    handle = model["mlp"].register_forward_hook(lambda *parts: seen.append(parts))
    with mc_dropout(model, 0.5, 3):
        run(model, X)
    run(model, X)
    assert len(seen) == 2 and hooks(model) == 1
    handle.remove()


def test_layers_are_chosen_by_name_or_by_function():
    model = net()
    with mc_dropout(model, 0.5, 1, ["head", "mlp.0"]) as layers:
        assert layers == ["mlp.0", "head"]
    with mc_dropout(model, 0.5, 1, lambda name, module: isinstance(module, nn.Linear)) as layers:
        assert layers == ["mlp.0", "head"]
    nested = nn.ModuleDict({"mlp": nn.ModuleDict({"fc2": nn.Linear(2, 2)}), "fc2": nn.Linear(2, 2)})
    with mc_dropout(nested, 0.5, 1) as layers:
        assert layers == ["mlp", "fc2"]  # fc2 within mlp would be masked twice


def test_tuples_keep_their_rest():
    lstm = nn.ModuleDict({"cell": nn.LSTM(5, 16, batch_first=True)}).eval()
    plain, (hidden, _) = lstm["cell"](X[None])
    with mc_dropout(lstm, 0.5, 1, ["cell"]):
        thin, (same, _) = lstm["cell"](X[None])
    assert torch.equal(hidden, same) and (thin == 0).any(-1).all()
    assert torch.equal(thin[thin != 0], (plain * 2)[thin != 0])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_the_dtype_of_the_output_stays(dtype):
    model, plain = net().to(dtype), net()
    with mc_dropout(model, 0.5, 3), mc_dropout(plain, 0.5, 3):
        thin = model["mlp"](X.to(dtype))
        assert thin.dtype == dtype
        assert torch.equal(thin == 0, plain["mlp"](X) == 0)


def test_gradients_after_inference():
    model = net()
    with mc_dropout(model, 0.5, 3):
        with torch.inference_mode():
            run(model, X)
        run(model, X).sum().backward()
    weight = model["mlp"][0].weight.grad
    assert (weight == 0).all(1).any() and (weight != 0).any()


def test_mutual_information_of_thinned_models():
    model = net()

    def disagreement(rate):
        laws = []
        for seed in range(8):
            with mc_dropout(model, rate, seed):
                laws.append(run(model, X).detach())
        return uncertainty.mutual_information(torch.stack(laws))

    assert (disagreement(0.0) < 1e-14).all()
    assert (disagreement(0.5) > disagreement(0.05)).all() and (disagreement(0.05) > 0).all()


BAD = [
    (lambda: mc_dropout("gpt", 0.1, 0), TypeError, "model must be a torch.nn.Module, got str"),
    (lambda: mc_dropout(net(), 1.0, 0), ValueError, "mc_dropout: rate must be in [0, 1), got 1.0"),
    (lambda: mc_dropout(net(), float("nan"), 0), ValueError, "rate must be in [0, 1), got nan"),
    (lambda: mc_dropout(net(), "0.1", 0), TypeError, "rate must be a number, got str"),
    (lambda: mc_dropout(net(), 0.1, 0.5), TypeError, "seed must be an int, got float"),
    (lambda: mc_dropout(nn.Linear(2, 2), 0.1, 0), ValueError, "Linear has no module named mlp, ffn"),
    (lambda: mc_dropout(net(), 0.1, 0, ["tail"]), ValueError, "ModuleDict has no layer 'tail'"),
    (lambda: mc_dropout(net(), 0.1, 0, []), ValueError, "layers must choose at least one of ModuleDict"),
    (lambda: mc_dropout(net(), 0.1, 0, "mlp"), TypeError, "layers must be a list of names or a function"),
]


@pytest.mark.parametrize(("call", "error", "says"), BAD, ids=[says for _, _, says in BAD])
def test_bad_input_is_named_at_the_call(call, error, says):
    with pytest.raises(error) as caught:
        call()
    assert says in str(caught.value) and "\n" not in str(caught.value)


def test_an_output_that_cannot_be_masked_is_named():
    model = nn.ModuleDict({"mlp": Ones(3, str)})
    with pytest.raises(TypeError, match="got str of Ones"), mc_dropout(model, 0.1, 0):
        model["mlp"]()
    assert hooks(model) == 0


# A language model


@pytest.fixture(scope="module")
def llama():
    pytest.importorskip("transformers", reason="needs transformers: pip install -r requirements-demo.txt")
    import transformers_models

    return transformers_models.llama(), transformers_models.prompts(3, 6)


def test_a_language_model_without_dropout(llama):
    model, x = llama
    assert not any(isinstance(module, nn.Dropout) for module in model.modules())
    with torch.inference_mode():
        before = model(x).logits
        laws = []
        for seed in (0, 0, 1):
            with mc_dropout(model, 0.2, seed) as layers:
                laws.append(model(x).logits)
        after = model(x).logits
        with mc_dropout(model, 0.0, 0):
            assert torch.equal(model(x).logits, before)
    assert layers == ["model.layers.0.mlp", "model.layers.1.mlp"]
    assert torch.equal(laws[0], laws[1]) and not torch.equal(laws[0], laws[2])
    assert torch.equal(before, after) and hooks(model) == 0


def test_the_cache_does_not_matter(llama):
    """Step by step with a cache or all at once: one thinned model, to rounding."""
    model, x = llama
    with torch.inference_mode(), mc_dropout(model, 0.2, 4):
        whole = model(x).logits
        cache, steps = None, []
        for t in range(x.shape[1]):
            out = model(x[:, t : t + 1], past_key_values=cache, use_cache=True)
            cache, steps = out.past_key_values, [*steps, out.logits]
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-4, atol=1e-4)


def test_generation_under_dropout(llama):
    model, x = llama

    def texts(rate, seed):
        with mc_dropout(model, rate, seed):
            return model.generate(x, max_new_tokens=8, do_sample=False).tolist()

    assert texts(0.5, 0) == texts(0.5, 0)
    assert texts(0.5, 0) != texts(0.5, 1)
    assert hooks(model) == 0 and dropout.BLOCKS[0] == "mlp"
