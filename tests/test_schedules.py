# SPDX-License-Identifier: Apache-2.0
"""Schedules: their formulas, torch's schedulers as a second opinion, jitter against R1, the exploit alias."""

import io
import math
from decimal import Decimal, localcontext

import fusedraw
import pytest
import torch
from fusedraw import _noise, reference, schedules
from fusedraw.schedules import (
    Chained,
    Choice,
    Constant,
    Cosine,
    Exponential,
    InverseSigmoid,
    Jitter,
    Linear,
    LogUniform,
    Plateau,
    Schedules,
    Sequential,
    Uniform,
    WarmUp,
    mix_eps_for_sequence,
    share_of_sequences,
)
from scipy import stats

ALPHA = 1e-4  # of a test on fixed keys


def value(schedule, step):
    (number,) = schedule.at(step).tolist()
    return number


# Formulas

SHAPES = {
    "constant": (Constant(0.3), lambda t: 0.3),
    "linear": (Linear(0.2, 1.0, 8), lambda t: 0.2 + 0.8 * min(t / 8, 1)),
    "cosine": (Cosine(1.2, 0.7, 10), lambda t: 0.7 + 0.5 * (1 + math.cos(math.pi * min(t / 10, 1))) / 2),
    "exponential": (Exponential(0.5, 0.9, 0.05), lambda t: 0.05 + 0.45 * 0.9**t),
    "inverse sigmoid": (InverseSigmoid(1.0, 0.1, 5), lambda t: 0.1 + 0.9 * 5 / (5 + math.exp(t / 5))),
    "warm-up": (WarmUp(Linear(1, 0, 20), 4, 0.1), lambda t: (1 - t / 20) * (0.1 + 0.9 * min(t / 4, 1))),
    "sequential": (
        Sequential([0.5, Linear(1, 0, 4), Constant(0.25)], [3, 9]),
        lambda t: 0.5 if t < 3 else max(1 - (t - 3) / 4, 0) if t < 9 else 0.25,
    ),
    "chained": (Chained([Linear(1, 0, 20), Exponential(1, 0.5)]), lambda t: (1 - t / 20) * 0.5**t),
}


@pytest.mark.parametrize("name", SHAPES)
def test_formula(name):
    schedule, formula = SHAPES[name]
    for t in range(20):
        assert value(schedule, t) == pytest.approx(formula(t), rel=1e-6, abs=1e-9), t


@pytest.mark.parametrize("name", SHAPES)
def test_values_are_float32_and_a_pure_function_of_the_step(name):
    schedule, _ = SHAPES[name]
    steps = torch.tensor([7, 0, 19, 3])
    at_once = schedule.at(steps)
    assert at_once.dtype == torch.float32 and at_once.shape == (4,)
    assert at_once.tolist() == [value(schedule, t) for t in steps.tolist()]
    assert torch.equal(schedule(steps), at_once)


@pytest.mark.parametrize("kind", [Linear, Cosine])
def test_ends_are_exact(kind):
    schedule = kind(0.1, 0.7, 3)
    assert schedule.at(0).item() == torch.tensor(0.1).item()
    assert schedule.at(3).item() == schedule.at(10**9).item() == torch.tensor(0.7).item()


def test_rows_have_their_own_settings():
    start, steps = torch.tensor([0.1, 0.2, 0.9]), torch.tensor([2, 4, 8])
    together = Linear(start, 0.5, steps)
    for t in (0, 1, 3, 8):
        alone = [value(Linear(s, 0.5, n), t) for s, n in zip(start.double(), steps, strict=True)]
        assert together.at(t).tolist() == alone


def test_inverse_sigmoid_does_not_overflow():
    assert value(InverseSigmoid(1.0, 0.25, 1), 10**6) == 0.25


# torch.optim.lr_scheduler, whose interface this is


def rates_of(make, steps):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


lr = torch.optim.lr_scheduler
TWINS = {
    "LinearLR": (lambda o: lr.LinearLR(o, 0.2, 1.0, 6), WarmUp(0.5, 6, 0.2)),
    "CosineAnnealingLR": (lambda o: lr.CosineAnnealingLR(o, 40, 0.1), Cosine(0.5, 0.1, 40)),
    "ExponentialLR": (lambda o: lr.ExponentialLR(o, 0.8), Exponential(0.5, 0.8)),
    "SequentialLR": (
        lambda o: lr.SequentialLR(o, [lr.LinearLR(o, 0.1, 1.0, 5), lr.ExponentialLR(o, 0.9)], [5]),
        Sequential([WarmUp(0.5, 5, 0.1), Exponential(0.5, 0.9)], [5]),
    ),
    "ChainedScheduler": (
        lambda o: lr.ChainedScheduler([lr.LinearLR(o, 0.1, 1.0, 5), lr.ExponentialLR(o, 0.9)]),
        Chained([WarmUp(0.5, 5, 0.1), Exponential(1.0, 0.9)]),
    ),
}


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.filterwarnings("ignore:.*epoch parameter.*")
def test_torch_gives_the_same_values(name):
    make, schedule = TWINS[name]
    for expected in rates_of(make, 30):
        assert schedule.get_last_value().item() == pytest.approx(expected, rel=1e-6)
        schedule.step()


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize("threshold_mode", ["rel", "abs"])
def test_plateau_is_reduce_lr_on_plateau(mode, threshold_mode):
    """Row by row, on metrics of their own."""
    metrics = torch.randn(60, 3, generator=torch.Generator().manual_seed(1)).cumsum(0) * 0.1 + 2.0
    options = {"patience": 2, "threshold": 0.02, "threshold_mode": threshold_mode, "cooldown": 1}
    schedule = Plateau(0.5, 0.7, mode=mode, rows=3, limit=0.05, **options)
    twins = []
    for _ in range(3):
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.5)
        twins.append(lr.ReduceLROnPlateau(optimizer, mode, 0.7, min_lr=0.05, eps=0.0, **options))
    seen = set()
    for metric in metrics.double():
        schedule.step(metric)
        for twin, number in zip(twins, metric.tolist(), strict=True):
            twin.step(number)
        expected = [twin.optimizer.param_groups[0]["lr"] for twin in twins]
        assert schedule.get_last_value().tolist() == pytest.approx(expected, rel=1e-6)
        seen.update(expected)
    assert len(seen) > 3


def test_plateau_may_raise_a_value():
    explore = Plateau(0.01, 2.0, patience=1, limit=0.05, mode="max", parameter="mix_eps")
    values = []
    for reward in (1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0):
        explore.step(reward)
        values.append(round(explore.get_last_value().item(), 6))
    assert values == [0.01, 0.01, 0.02, 0.02, 0.04, 0.04, 0.05, 0.05]


def test_plateau_resumes():
    first, second = (Plateau(torch.tensor([1.0, 2.0]), 0.5, patience=1) for _ in range(2))
    metrics = torch.rand(20, 2, generator=torch.Generator().manual_seed(2))
    for metric in metrics[:9]:
        first.step(metric)
    second.load_state_dict(reloaded(first.state_dict()))
    for metric in metrics[9:]:
        first.step(metric)
        second.step(metric)
        assert torch.equal(first.get_last_value(), second.get_last_value())
    assert second.last_step == 20


def reloaded(state):
    """Through a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file)


def test_schedules_resume():
    def make():
        return Schedules(temperature=Cosine(1.2, 0.7, 10), mix_eps=Plateau(0.1, 0.5, patience=0), top_k=40)

    first, second = make(), make()
    for metric in (3.0, 2.0, 4.0, 5.0):
        first.step(metric)
    second.load_state_dict(reloaded(first.state_dict()))
    for metric in (1.0, 6.0, 7.0):
        a, b = first.get_last_value(), second.get_last_value()
        assert a.keys() == {"temperature", "mix_eps", "top_k"}
        assert all(torch.equal(a[name], b[name]) for name in a)
        first.step(metric)
        second.step(metric)


# Into sample

LOGITS = torch.randn(6, 300, generator=torch.Generator().manual_seed(3)) * 2
KEYS = fusedraw.derive_keys(9, torch.arange(6), step=2)


def test_values_go_straight_into_sample():
    """Six rows with settings of their own draw what each draws alone with numbers."""
    rows = torch.arange(6)
    plan = Schedules(
        temperature=Linear(0.5 + 0.1 * rows, 1.5, 10),
        top_p=Cosine(1.0, 0.5 + 0.05 * rows, 10),
        min_p=Exponential(0.1, 0.9 - 0.1 * rows),
        mix_eps=WarmUp(0.1 * rows, 20),
        top_k=Linear(5 + 10 * rows, 100, 10),
    )
    values = plan.at(4)
    assert values["top_k"].dtype == torch.int64
    together = fusedraw.sample(LOGITS, keys=KEYS, returns=("logp",), **values)
    for row in range(6):
        numbers = {name: tensor[row if len(tensor) > 1 else 0].item() for name, tensor in values.items()}
        alone = fusedraw.sample(LOGITS[row : row + 1], keys=KEYS[row : row + 1], returns=("logp",), **numbers)
        assert alone.ids[0] == together.ids[row] and torch.equal(alone.logp[0], together.logp[row])


def test_rows_at_positions_of_their_own():
    plan = Schedules(temperature=Linear(0.5, 2.0, 10))
    positions = torch.tensor([0, 3, 10, 4, 4, 99])
    ids = fusedraw.sample(LOGITS, keys=KEYS, **plan.at(positions))
    for row, step in enumerate(positions.tolist()):
        alone = fusedraw.sample(LOGITS[row : row + 1], keys=KEYS[row : row + 1], **plan.at(step))
        assert alone[0] == ids[row]


# exploit = 1 - mix_eps


@pytest.mark.parametrize("exploit", [0.0, 0.25, 0.9, 1.0])
def test_exploit_is_one_minus_mix_eps(exploit):
    def draw(**chance):
        out = fusedraw.sample(LOGITS, keys=KEYS, returns=("logp", "explored"), **chance)
        probs = fusedraw.sample_probs(LOGITS.softmax(-1), keys=KEYS, returns=("logp",), **chance)
        sampler = fusedraw.Sampler(returns=("logp",), **chance)(LOGITS, keys=KEYS)
        several = fusedraw.mixture([LOGITS, -LOGITS], keys=KEYS, returns="logp", **chance)
        scores = fusedraw.token_logprob(LOGITS, out.ids, **chance)
        assert torch.equal(scores, out.logp)
        each = [probs.ids, probs.logp, sampler.ids, sampler.logp, several.ids, several.logp]
        return [out.ids, out.logp, out.explored, *each]

    expected = draw(mix_eps=1 - exploit)
    for given in (exploit, torch.tensor([exploit], dtype=torch.float64)):
        assert all(map(torch.equal, draw(exploit=given), expected))


def test_exploit_compiles():
    def draw(x, exploit):
        return fusedraw.sample(x, exploit=exploit, keys=KEYS)

    compiled = torch.compile(draw, fullgraph=True, backend="eager")
    assert torch.equal(compiled(LOGITS, 0.3), draw(LOGITS, 0.3))
    rows = torch.linspace(0, 1, 6)
    assert torch.equal(compiled(LOGITS, rows), draw(LOGITS, rows))


def test_exploit_refuses():
    half = torch.full((1,), 0.5)
    for given in ({"mix_eps": 0.1, "exploit": 0.9}, {"mix_eps": half, "exploit": half}):
        with pytest.raises(ValueError, match="give one of mix_eps and exploit"):
            fusedraw.sample(LOGITS, keys=KEYS, **given)
    for wrong in (1.5, -0.1, math.nan):
        with pytest.raises(ValueError, match=r"exploit must be in \[0, 1\], got"):
            fusedraw.sample(LOGITS, keys=KEYS, exploit=wrong)
    for call in (
        lambda **c: fusedraw.mixture([LOGITS], keys=KEYS, **c),
        lambda **c: fusedraw.token_logprob(LOGITS, torch.zeros(6, dtype=torch.int64), **c),
    ):
        with pytest.raises(ValueError, match="give one of mix_eps and exploit"):
            call(mix_eps=0.1, exploit=0.9)
    with pytest.raises(TypeError, match="exploit must be a number"):
        fusedraw.sample(LOGITS, keys=KEYS, exploit="much")
    with pytest.raises(ValueError, match="give one of mix_eps and exploit"):
        Schedules(mix_eps=0.1, exploit=0.9)


# The chance of a sequence


@pytest.mark.parametrize("share", [1e-15, 1e-9, 0.01, 0.5, 0.999999])
@pytest.mark.parametrize("length", [1, 17, 100_000])
def test_mix_eps_for_sequence_to_the_last_digits(share, length):
    with localcontext() as context:
        context.prec = 60
        exact = 1 - (1 - Decimal(share)) ** (1 / Decimal(length))
    assert mix_eps_for_sequence(share, length) == pytest.approx(float(exact), rel=1e-14)
    assert share_of_sequences(mix_eps_for_sequence(share, length), length) == pytest.approx(share, rel=1e-9)
    tensor = mix_eps_for_sequence(torch.tensor([share], dtype=torch.float64), length)
    assert tensor.dtype == torch.float32 and tensor.item() == pytest.approx(float(exact), rel=1e-7)


def test_mix_eps_for_sequence_ends_and_rows():
    assert mix_eps_for_sequence(0, 10) == 0.0 and mix_eps_for_sequence(1, 10) == 1.0
    rows = mix_eps_for_sequence(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([4, 1, 7]))
    assert rows.tolist() == [0.0, 0.5, 1.0]
    with pytest.raises(ValueError, match="length must have length 1 or 3"):
        mix_eps_for_sequence(torch.rand(3), torch.tensor([1, 2]))
    for wrong in ((1.5, 3), (math.nan, 3), (0.5, 0), (0.5, 2.5)):
        with pytest.raises(ValueError, match=r"mix_eps_for_sequence: (share|length) must be"):
            mix_eps_for_sequence(*wrong)


def test_share_of_sequences_that_explore():
    """3000 texts of 25 tokens, of which 30 % shall hold an exploring token."""
    texts, length = 3000, 25
    mix_eps = mix_eps_for_sequence(0.3, length)
    logits = torch.zeros(texts, 4)
    fired = torch.zeros(texts, dtype=torch.bool)
    for step in range(length):
        keys = fusedraw.derive_keys(1, torch.arange(texts), step=step)
        fired |= fusedraw.sample(logits, keys=keys, mix_eps=mix_eps, returns=("explored",)).explored
    assert stats.binomtest(int(fired.sum()), texts, 0.3).pvalue > ALPHA


# Jitter


def test_noise_is_that_of_the_law():
    keys = torch.tensor([[0, 0], [5, 7], [-1, -1], [2**62 + 3, -(2**61)]])
    ids = [0, 1, 2, 3, 4, _noise.ARM_ID, 1001]
    v = _noise.control_uniform(keys, ids)
    assert torch.equal(v, _noise.control_uniform(keys.view(torch.uint64), ids))
    assert _noise.CONTROL == reference.CONTROL
    for row, key in enumerate(keys.tolist()):
        for column, number in enumerate(ids):
            r64 = reference.Noise(key=tuple(word % 2**64 for word in key)).r64(reference.CONTROL, number)
            assert v[row, column].item() == min((float(r64) + 0.5) * 2.0**-64, 1 - 2.0**-53)


PRIORS = {"temperature": LogUniform(0.5, 2.0), "top_p": Uniform(0.8, 1.0), "mix_eps": Choice((0.0, 0.02))}


def test_jitter_is_a_function_of_seed_step_and_row():
    jitter = Jitter(seed=4, rows=5, **PRIORS)
    first = jitter.at(3)
    again = Jitter(seed=4, rows=5, **PRIORS).at(3)
    alone = Jitter(seed=4, request_ids=torch.tensor([2]), **PRIORS).at(3)
    only = Jitter(seed=4, rows=5, top_p=PRIORS["top_p"]).at(3)
    for name, column in first.items():
        assert column.dtype == torch.float32 and torch.equal(column, again[name])
        assert alone[name][0] == column[2]
    assert torch.equal(only["top_p"], first["top_p"])
    for other in (Jitter(seed=5, rows=5, **PRIORS).at(3), jitter.at(4)):
        assert not torch.equal(other["temperature"], first["temperature"])
    keys = fusedraw.derive_keys(4, torch.arange(5), step=3)
    assert all(torch.equal(column, first[name]) for name, column in jitter.from_keys(keys).items())


def test_jitter_follows_its_prior():
    n = 20000
    drawn = Jitter(
        seed=1,
        rows=n,
        temperature=LogUniform(0.25, 4.0),
        top_p=Uniform(0.5, 1.0),
        min_p=Uniform(0.0, torch.linspace(0.1, 1.0, n)),
        mix_eps=Choice((0.0, 0.1, 0.5)),
        top_k=Uniform(0.5, 10.5),
    ).at(0)
    uniforms = {
        "temperature": (drawn["temperature"].double().log() / math.log(4) + 1) / 2,
        "top_p": (drawn["top_p"].double() - 0.5) * 2,
        "min_p": drawn["min_p"].double() / torch.linspace(0.1, 1.0, n),
    }
    for name, u in uniforms.items():
        assert stats.kstest(u.numpy(), "uniform").pvalue > ALPHA, name
    for name, kinds in (("mix_eps", 3), ("top_k", 10)):
        _, counts = drawn[name].unique(return_counts=True)
        assert len(counts) == kinds and stats.chisquare(counts.numpy()).pvalue > ALPHA, name
    pairs = torch.stack([*uniforms.values(), drawn["mix_eps"].double(), drawn["top_k"].double()]).corrcoef()
    assert (pairs - torch.eye(5)).abs().max() < 4 / math.sqrt(n)


def test_jitter_takes_torch_distributions():
    jitter = Jitter(seed=1, rows=4000, temperature=torch.distributions.LogNormal(0.0, 0.1))
    logs = jitter.at(0)["temperature"].double().log() / 0.1
    assert stats.kstest(logs.numpy(), "norm").pvalue > ALPHA


def test_jitter_period_and_log():
    jitter = Jitter(seed=2, rows=3, period=2, **PRIORS)
    for _ in range(5):
        values = jitter.get_last_value()
        jitter.get_last_value()  # asked twice, logged once
        fusedraw.sample(LOGITS[:3], keys=KEYS[:3], **values)
        jitter.step()
    assert [entry.step for entry in jitter.log] == [0, 1, 2, 3, 4]
    table = jitter.table()
    assert table["step"].tolist() == [0, 1, 2, 3, 4]
    for step in range(5):
        for name, column in jitter.at(step).items():
            assert torch.equal(table[name][step], column)
    t = table["temperature"]
    assert torch.equal(t[0], t[1]) and torch.equal(t[2], t[3]) and not torch.equal(t[1], t[2])
    held = Jitter(seed=2, rows=3, period=None, **PRIORS)
    assert torch.equal(held.at(0)["top_p"], held.at(1000)["top_p"])


def test_jitter_resumes():
    first, second = (Jitter(seed=2, rows=3, **PRIORS) for _ in range(2))
    for _ in range(7):
        first.step()
    second.load_state_dict(reloaded(first.state_dict()))
    a, b = first.get_last_value(), second.get_last_value()
    assert all(torch.equal(a[name], b[name]) for name in PRIORS)


# What is refused

REFUSED = {
    "mix_eps above 1": (lambda: Linear(0.1, 1.5, 10, parameter="mix_eps"), r"mix_eps must be in \[0, 1\]"),
    "mix_eps below 0": (lambda: Schedules(mix_eps=Cosine(0.1, -0.1, 5)), r"mix_eps must be in \[0, 1\]"),
    "one row": (lambda: Schedules(top_p=torch.tensor([0.5, 1.5])), r"top_p must be in \[0, 1\], got 1.5"),
    "exploit": (lambda: Constant(2.0, parameter="exploit"), r"exploit must be in \[0, 1\]"),
    "cold": (lambda: Schedules(temperature=Linear(-1, 1, 3)), "temperature must be >= 0"),
    "product": (
        lambda: Chained([Constant(2.0), Linear(0, 1, 5)], parameter="min_p"),
        r"min_p must be in \[0, 1\], got 2",
    ),
    "nan": (lambda: Linear(0.1, math.nan, 10), "Linear: end must be finite, got nan"),
    "nan in a row": (lambda: Constant(torch.tensor([0.1, math.nan])), "value must be finite, got nan"),
    "no steps": (lambda: Linear(0, 1, 0), "steps must be >= 1, got 0"),
    "half a step": (lambda: Cosine(0, 1, 2.5), "steps must be whole, got 2.5"),
    "gamma 0": (lambda: Exponential(1, 0.0), "gamma must be > 0, got 0"),
    "gamma 2": (lambda: Exponential(1, 2.0), "gamma must be <= 1, got 2"),
    "k": (lambda: InverseSigmoid(1, 0, 0.5), "k must be >= 1"),
    "lengths": (lambda: Linear(torch.rand(2), torch.rand(3), 5), "end must have length 1 or 2"),
    "milestones": (lambda: Sequential([1, 2, 3], [5, 4]), "milestones must be > 0 and increase"),
    "too few": (lambda: Sequential([1, 2, 3], [5]), r"milestones must be one fewer than schedules \(3\)"),
    "empty": (lambda: Chained([]), "schedules must not be empty"),
    "negative step": (lambda: Linear(0, 1, 5).at(-1), "step must be >= 0, got -1"),
    "other parameter": (
        lambda: Schedules(top_p=Constant(1, parameter="min_p")),
        "top_p got a schedule made for min_p",
    ),
    "no parameter": (lambda: Schedules(heat=1.0), "a parameter must be 'temperature'"),
    "state": (
        lambda: Constant(1.0).load_state_dict({"epoch": 3}),
        r"a state must have the keys \['last_step'",
    ),
    "factor": (lambda: Plateau(0.1, 1.0), "factor must not be 1"),
    "limit": (lambda: Plateau(0.5, 2.0, limit=0.1), "limit must be >= value for factor > 1"),
    "no limit": (lambda: Plateau(0.1, 2.0, parameter="mix_eps"), r"mix_eps must be in \[0, 1\], got inf"),
    "nan metric": (lambda: Plateau(0.5, 0.5).step(math.nan), "metric must be finite, got nan"),
    "nan metrics": (
        lambda: Plateau(0.5, 0.5, rows=2).step(torch.tensor([1.0, math.nan])),
        "metric must not be NaN",
    ),
    "prior ends": (
        lambda: Jitter(seed=1, mix_eps=Uniform(0.5, 1.5)),
        r"mix_eps must be in \[0, 1\], got 1.5",
    ),
    "prior order": (lambda: Jitter(seed=1, top_p=Uniform(0.9, 0.5)), "top_p must have low <= high"),
    "endless prior": (
        lambda: Jitter(seed=1, temperature=torch.distributions.Normal(1.0, 0.1)),
        "the prior of temperature must stay finite, it reaches -",
    ),
    "nan choice": (lambda: Jitter(seed=1, top_p=Choice((1.0, math.nan, 0.5))), "it reaches nan"),
    "no choice": (lambda: Choice(()), "values must not be empty"),
    "no prior": (lambda: Jitter(seed=1), "give at least one prior"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name):
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        make()


def test_refuses_types():
    with pytest.raises(TypeError, match="start must be a number or a tensor, got str"):
        Linear("a", 1, 3)
    with pytest.raises(TypeError, match="step must be an int or an integer tensor"):
        Linear(0, 1, 3).at(1.5)
    with pytest.raises(TypeError, match="must be a schedule of the step alone, got a Plateau"):
        WarmUp(Plateau(0.5, 0.5), 3)
    with pytest.raises(TypeError, match="mix_eps is a Plateau: no function of the step"):
        Schedules(mix_eps=Plateau(0.5, 0.5)).at(3)
    with pytest.raises(TypeError, match="step needs a metric"):
        Schedules(mix_eps=Plateau(0.5, 0.5)).step()
    with pytest.raises(TypeError, match=r"the prior of top_p must have icdf\(u\), got float"):
        Jitter(seed=1, top_p=0.9)


def test_every_public_name_is_there():
    for name in schedules.__all__:
        assert getattr(fusedraw.schedules, name).__doc__
