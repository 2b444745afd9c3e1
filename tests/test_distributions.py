# SPDX-License-Identifier: Apache-2.0
"""fusedraw.Categorical as a torch distribution: the checks that apply to any of them, torch's own beside it,
and the draws of `sample`."""

import copy
import math
import pickle

import fusedraw
import pytest
import torch
from fusedraw.distributions import Categorical
from scipy.stats import chisquare
from torch.autograd import gradcheck, gradgradcheck
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, MixtureSameFamily, Normal, constraints, kl_divergence


def logits_of(shape, dtype=torch.float32, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


# Parameters of every shape and both kinds; weights, which need not sum to 1.
EXAMPLES = {
    "logits 1-D": {"logits": logits_of((5,))},
    "logits 2-D": {"logits": logits_of((3, 5)) * 3},
    "logits 4-D": {"logits": logits_of((2, 1, 3, 7))},
    "logits, one event": {"logits": logits_of((2, 1))},
    "logits float64": {"logits": logits_of((2, 5), torch.float64)},
    "logits with -inf": {"logits": torch.tensor([[0.0, -math.inf, 1.0], [-math.inf, 2.0, -math.inf]])},
    "probs 1-D": {"probs": torch.tensor([1.0, 2.0, 3.0, 4.0])},
    "probs 2-D": {"probs": torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.3, 0.2]])},
    "probs 3-D": {"probs": logits_of((2, 3, 4)).exp()},
    "probs with 0": {"probs": torch.tensor([[1.0, 0.0], [0.0, 1.0]])},
    "probs float64": {"probs": logits_of((2, 5), torch.float64).exp() * 1e-60},
}
each_example = pytest.mark.parametrize("given", EXAMPLES.values(), ids=EXAMPLES.keys())
# Where every probability is above 0, so that logarithms are finite.
POSITIVE = {name: given for name, given in EXAMPLES.items() if not name.endswith((" 0", "-inf"))}
each_positive = pytest.mark.parametrize("given", POSITIVE.values(), ids=POSITIVE.keys())


def twin(given):
    """torch's distribution of the same parameters."""
    return TorchCategorical(**given)


# What it is


@each_example
def test_scores_are_torchs(given):
    law, torchs = Categorical(**given), twin(given)
    assert isinstance(law, TorchCategorical) and isinstance(law, torch.distributions.Distribution)
    for name in ("logits", "probs", "mean", "variance", "stddev"):
        ours, theirs = getattr(law, name), getattr(torchs, name)
        assert ours.dtype == theirs.dtype
        assert torch.equal(ours.nan_to_num(nan=-7), theirs.nan_to_num(nan=-7)), name
    for name in ("batch_shape", "event_shape", "param_shape", "has_rsample", "has_enumerate_support"):
        assert getattr(law, name) == getattr(torchs, name), name
    assert torch.equal(law.mode, torchs.mode)
    assert torch.equal(law.entropy(), torchs.entropy()) and torch.equal(law.perplexity(), torchs.perplexity())
    for expand in (True, False):
        support = law.enumerate_support(expand)
        assert torch.equal(support, torchs.enumerate_support(expand))
        assert torch.equal(law.log_prob(support), torchs.log_prob(support))
    assert law.support.lower_bound == 0 and law.support.upper_bound == law.param_shape[-1] - 1
    assert law.arg_constraints.keys() == {"probs", "logits"}
    with pytest.raises(NotImplementedError):
        law.rsample()
    with pytest.raises(NotImplementedError):
        law.cdf(law.mode)


def test_moments_are_nan():
    law = Categorical(logits=logits_of((3, 5)))
    assert law.mean.shape == (3,) and law.mean.isnan().all() and law.variance.isnan().all()


@each_example
def test_parameters_meet_their_constraints(given):
    law = Categorical(**given)
    assert constraints.simplex.check(law.probs).all()
    assert constraints.real_vector.check(law.logits).all()


@each_positive
def test_probabilities_sum_to_one(given):
    law = Categorical(**given)
    assert torch.allclose(
        law.log_prob(law.enumerate_support()).exp().sum(0), torch.ones(law.batch_shape).to(law.probs)
    )


def test_normalised_values_are_computed_when_asked_for():
    law = Categorical(logits=logits_of((3, 5)))
    law.sample()
    assert {"logits", "probs"}.isdisjoint(law.__dict__)
    assert law.logits is law.logits and "probs" not in law.__dict__
    assert law.probs is law.probs
    assert repr(law) == "Categorical(logits: [3, 5])"


# Draws


@each_example
@pytest.mark.parametrize("sample_shape", [(), (1,), (4,), (2, 3), (0,), (3, 0)])
def test_shape_and_type_of_samples(given, sample_shape):
    law = Categorical(**given)
    ids = law.sample(sample_shape)
    assert ids.dtype == torch.int64 and ids.shape == (*sample_shape, *law.batch_shape)
    if 0 not in sample_shape:  # torch draws at least one
        assert ids.shape == twin(given).sample(sample_shape).shape
    assert law.support.check(ids).all()
    assert (law.probs.expand(*ids.shape, -1).gather(-1, ids.unsqueeze(-1)) > 0).all()
    assert torch.equal(law.log_prob(ids), twin(given).log_prob(ids))


def test_no_rows():
    law = Categorical(logits=torch.zeros(0, 5))
    assert law.sample((2,)).shape == (2, 0) and law.entropy().shape == (0,) and law.mode.shape == (0,)
    assert law.expand((4, 0)).sample(seed=1).shape == (4, 0)


@each_example
def test_samples_are_detached(given):
    ((name, value),) = given.items()
    law = Categorical(**{name: value.clone().requires_grad_()})
    ids = law.sample((2,))
    assert not ids.requires_grad
    assert law.log_prob(ids).requires_grad


@each_example
def test_draws_are_those_of_sample(given):
    ((name, value),) = given.items()
    law = Categorical(**given)
    rows = value.reshape(-1, value.shape[-1])
    if rows.dtype == torch.float64:
        top = rows.amax(-1, keepdim=True)
        rows = (rows - top if name == "logits" else rows / top).float()
    draw = fusedraw.sample if name == "logits" else fusedraw.sample_probs
    assert torch.equal(law.sample(seed=5, step=2).reshape(-1), draw(rows, seed=5, step=2))
    n = max(1, len(rows))
    keys = fusedraw.derive_keys(9, range(3 * n))[: 3 * len(rows)]
    ids = law.sample((3,), keys=keys.view(3, *law.batch_shape, 2)).reshape(3, -1)
    for number in range(3):
        assert torch.equal(ids[number], draw(rows, keys=keys.view(3, -1, 2)[number]))


@pytest.mark.parametrize("rows, draws", [(2, 5), (5, 2), (1, 4), (3, 3)])
def test_every_way_through_the_rows_draws_the_same(rows, draws, monkeypatch):
    law = Categorical(logits=logits_of((rows, 20)))
    at_once = law.sample((draws,), seed=4)
    monkeypatch.setattr("fusedraw.distributions._COPIED_TOGETHER", 0)
    assert torch.equal(law.sample((draws,), seed=4), at_once)
    assert len(set(map(tuple, law.sample((50,), seed=4).tolist()))) > 1


def test_whose_seed():
    law = Categorical(logits=logits_of((3, 50)))
    first = law.sample((2,), generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(3)
    assert torch.equal(law.sample((2,), generator=generator), first)
    assert not torch.equal(law.sample((2,), generator=generator), first)
    torch.manual_seed(8)
    by_default = law.sample((4,))
    torch.manual_seed(8)
    assert torch.equal(law.sample((4,)), by_default)
    assert not torch.equal(law.sample((4,)), by_default)


@pytest.mark.parametrize(
    "bad, kind",
    [
        ({"keys": fusedraw.derive_keys(1, range(2))}, ValueError),
        ({"keys": torch.zeros(3, 2)}, TypeError),
        ({"keys": [1, 2]}, TypeError),
        ({"keys": fusedraw.derive_keys(1, range(3)), "seed": 1}, ValueError),
        ({"seed": 1, "generator": torch.Generator()}, ValueError),
        ({"step": 1}, ValueError),
        ({"seed": 1.0}, TypeError),
        ({"generator": 1}, TypeError),
    ],
)
def test_bad_keys(bad, kind):
    with pytest.raises(kind, match="Categorical: "):
        Categorical(logits=logits_of((3, 5))).sample(**bad)


@each_positive
def test_draws_follow_the_law(given):
    law = Categorical(**given)
    draws = 4000
    ids = law.sample((draws,), seed=17).reshape(draws, -1)
    for row, probs in enumerate(law.probs.double().reshape(-1, law.param_shape[-1])):
        counts = torch.bincount(ids[:, row], minlength=len(probs))
        assert counts.sum() == draws
        if len(probs) > 1:
            assert chisquare(counts.numpy(), (probs / probs.sum() * draws).numpy()).pvalue > 1e-4


@each_positive
def test_entropy_is_the_mean_surprise(given):
    law = Categorical(**given)
    draws = 4000
    surprise = -law.log_prob(law.sample((draws,), seed=23))
    error = surprise.std(0) / math.sqrt(draws)
    assert ((surprise.mean(0) - law.entropy()).abs() <= 4.5 * error + 1e-5).all()


# Shapes


@each_example
def test_expand(given):
    for computed in (False, True):
        law = Categorical(**given)
        if computed:
            assert law.logits is not None and law.probs is not None
        shape = (2, *law.batch_shape)
        wide = law.expand(shape)
        assert type(wide) is Categorical and wide.batch_shape == shape
        assert wide.expand((3, *shape)).batch_shape == (3, *shape)
        assert wide.param_shape == (*shape, law.param_shape[-1])
        ids = wide.sample((4,), seed=1)
        assert ids.shape == (4, *shape)
        assert torch.equal(wide.log_prob(ids), twin(given).expand(shape).log_prob(ids))
        assert torch.equal(law.log_prob(ids), wide.log_prob(ids))
        assert torch.equal(wide.entropy(), law.entropy().expand(shape))
        assert torch.equal(
            wide.enumerate_support(),
            law.enumerate_support(False).reshape(-1, *[1] * len(shape)).expand(-1, *shape),
        )
        assert wide._validate_args == law._validate_args


def test_expand_of_a_subclass():
    class Mine(Categorical):
        pass

    assert type(Mine(logits=torch.zeros(3)).expand((2,))) is Mine

    class WithInit(Categorical):
        def __init__(self, scale):
            super().__init__(logits=torch.zeros(3) * scale)

    with pytest.raises(NotImplementedError, match="expand"):
        WithInit(2).expand((2,))


@each_example
def test_independent(given):
    law = Categorical(**given)
    for dims in range(len(law.batch_shape) + 1):
        whole = Independent(law, dims)
        ids = whole.sample((3,))
        assert ids.shape == (3, *law.batch_shape)
        assert whole.log_prob(ids).shape == ids.shape[: ids.dim() - dims]
        assert whole.entropy().shape == law.batch_shape[: len(law.batch_shape) - dims]


def test_mixture_of_torch():
    weights = Categorical(probs=torch.tensor([0.2, 0.8]))
    mixture = MixtureSameFamily(weights, Normal(torch.tensor([-9.0, 9.0]), 1.0))
    torch.manual_seed(2)
    values = mixture.sample((2000,))
    assert 0.75 < (values > 0).double().mean() < 0.85
    expected = MixtureSameFamily(TorchCategorical(weights.probs), mixture.component_distribution)
    assert torch.equal(mixture.log_prob(values), expected.log_prob(values))


# Derivatives


@pytest.mark.parametrize("name", ["logits", "probs"])
@pytest.mark.parametrize("shape", [(4,), (2, 4), (2, 1, 3)])
def test_gradients(name, shape):
    value = logits_of(shape, torch.float64)
    value = (value if name == "logits" else value.exp()).requires_grad_()
    ids = Categorical(**{name: value}).sample((3,), seed=1)
    for score in (lambda law: law.log_prob(ids), lambda law: law.entropy(), lambda law: law.probs):

        def function(value, score=score):
            return score(Categorical(**{name: value}))

        assert gradcheck(function, (value,)) and gradgradcheck(function, (value,))


def test_gradient_of_a_policy():
    x = logits_of((6, 9)).requires_grad_()
    law = Categorical(logits=x)
    ids = law.sample(seed=3)
    (ours,) = torch.autograd.grad(law.log_prob(ids).sum() + law.entropy().sum(), x)
    theirs = TorchCategorical(logits=x)
    (expected,) = torch.autograd.grad(theirs.log_prob(ids).sum() + theirs.entropy().sum(), x)
    assert torch.equal(ours, expected)


def test_lazy_value_computed_without_gradients_has_them():
    x = torch.zeros(3, requires_grad=True)
    law = Categorical(logits=x)
    with torch.no_grad():
        assert law.probs is not None
    assert law.probs.requires_grad and law.logits.requires_grad


# Divergence


PAIRS = [("logits 2-D", "logits 2-D"), ("logits 2-D", "logits 1-D"), ("probs 3-D", "probs 1-D")]


@pytest.mark.parametrize("first, second", PAIRS)
def test_kl_divergence(first, second):
    given, other = EXAMPLES[first], {k: v.flip(-1) for k, v in EXAMPLES[second].items()}
    expected = kl_divergence(twin(given), twin(other))
    assert torch.equal(kl_divergence(Categorical(**given), Categorical(**other)), expected)
    assert torch.equal(kl_divergence(Categorical(**given), twin(other)), expected)
    assert torch.equal(kl_divergence(twin(given), Categorical(**other)), expected)
    p, q, draws = Categorical(**given), Categorical(**other), 4000
    ids = p.sample((draws,), seed=31)
    gains = p.log_prob(ids) - q.log_prob(ids)
    assert ((gains.mean(0) - expected).abs() <= 4.5 * gains.std(0) / math.sqrt(draws) + 1e-5).all()


def test_kl_divergence_at_zero_probabilities():
    p, q = Categorical(probs=torch.tensor([0.5, 0.5, 0.0])), Categorical(probs=torch.tensor([1.0, 0.0, 0.0]))
    assert kl_divergence(p, q) == math.inf and kl_divergence(q, p) == pytest.approx(math.log(2))
    x = torch.tensor([0.0, -math.inf])
    assert kl_divergence(Categorical(logits=x), Categorical(logits=x)) == 0


# Extreme rows


def test_large_logits():
    law = Categorical(logits=torch.tensor([1000.0, 0.0, -1000.0]))
    assert law.log_prob(torch.arange(3)).tolist() == [0.0, -1000.0, -2000.0]
    assert law.sample((100,)).unique().tolist() == [0] and law.entropy() == 0
    shifted = torch.tensor([1e9, 1e9 + 1.0], dtype=torch.float64)  # one number in float32
    ids = Categorical(logits=shifted).sample((4000,), seed=1)
    assert chisquare(torch.bincount(ids).numpy(), (shifted.softmax(0) * 4000).numpy()).pvalue > 1e-4


def test_half_precision():
    for dtype in (torch.float16, torch.bfloat16):
        x = logits_of((4, 30), dtype)
        law = Categorical(logits=x)
        assert torch.equal(law.sample(seed=2), fusedraw.sample(x, seed=2))
        assert law.log_prob(law.sample()).dtype == dtype


def test_whole_numbers_are_parameters_too():
    law = Categorical(probs=torch.tensor([0, 3, 1]))
    assert law.probs.tolist() == [0.0, 0.75, 0.25] and set(law.sample((50,)).tolist()) == {1, 2}


# Checks


BAD = [
    {"logits": torch.tensor([0.0, math.nan])},
    {"logits": torch.tensor([[0.0, 1.0], [0.0, math.inf]])},
    {"logits": torch.tensor([-math.inf, -math.inf])},
    {"probs": torch.tensor([0.5, -0.5])},
    {"probs": torch.tensor([0.0, 0.0])},
    {"probs": torch.tensor([0.5, math.nan])},
    {"probs": torch.tensor([[1.0, 1.0], [1.0, math.inf]])},
]


@pytest.mark.parametrize("bad", BAD, ids=range(len(BAD)))
def test_bad_parameters(bad):
    with pytest.raises(ValueError):
        TorchCategorical(**bad, validate_args=True)
    with pytest.raises(ValueError, match=f"Categorical: each row of {next(iter(bad))} must"):
        Categorical(**bad, validate_args=True)
    with pytest.raises(ValueError, match="has status"):  # not checked: the draw sees it
        Categorical(**bad, validate_args=False).sample()


@pytest.mark.parametrize(
    "bad, kind",
    [
        ({}, ValueError),
        ({"probs": torch.ones(2), "logits": torch.ones(2)}, ValueError),
        ({"logits": torch.tensor(1.0)}, ValueError),
        ({"probs": [0.5, 0.5]}, TypeError),
    ],
)
def test_bad_calls(bad, kind):
    with pytest.raises(kind, match="Categorical: "):
        Categorical(**bad)


@each_example
def test_checking_changes_nothing(given):
    with_checks = Categorical(**given, validate_args=True)
    without = Categorical(**given, validate_args=False)
    ids = with_checks.sample((3,), seed=6)
    assert torch.equal(without.sample((3,), seed=6), ids)
    assert torch.equal(with_checks.log_prob(ids), without.log_prob(ids))
    size = with_checks.param_shape[-1]
    for wrong in (ids + size, ids - size, ids + 0.5):
        with pytest.raises(ValueError, match="support"):
            with_checks.log_prob(wrong)


def test_default_of_the_checks():
    bad = {"logits": torch.tensor([0.0, math.nan])}
    assert Categorical(logits=torch.zeros(2))._validate_args is __debug__
    torch.distributions.Distribution.set_default_validate_args(False)
    try:
        assert Categorical(**bad).param_shape == (2,)
    finally:
        torch.distributions.Distribution.set_default_validate_args(__debug__)
    with pytest.raises(ValueError):
        Categorical(**bad)


# Other uses


@each_example
def test_copies(given):
    law = Categorical(**given)
    for again in (copy.copy(law), copy.deepcopy(law), pickle.loads(pickle.dumps(law))):
        assert torch.equal(again.sample((3,), seed=1), law.sample((3,), seed=1))
        assert torch.equal(again.entropy(), law.entropy())


def test_compiles():
    def act(x, step):
        law = Categorical(logits=x, validate_args=False)
        ids = law.sample((2,), seed=5, step=step)
        return ids, law.log_prob(ids), law.entropy()

    compiled = torch.compile(act, backend="aot_eager", fullgraph=True)
    x = logits_of((3, 40))
    for step in range(3):
        for ours, expected in zip(compiled(x, step), act(x, step), strict=True):
            assert torch.equal(ours, expected)


def test_meta_tensors():
    law = Categorical(logits=torch.zeros(3, 5, device="meta"), validate_args=False)
    ids = law.sample((2,))
    assert ids.shape == (2, 3) and ids.device.type == "meta" and law.log_prob(ids).shape == (2, 3)
