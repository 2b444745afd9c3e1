# SPDX-License-Identifier: Apache-2.0
"""Controllers of the entropy on laws whose answer is known: analytic entropies, small vocabularies counted
out."""

import math

import fusedraw
import pytest
import torch
from controller_cases import REAL, SHARES, keys_of, softmax
from fusedraw.controllers import (
    DynamicTemperature,
    TargetEntropy,
    TargetMeanEntropy,
    solve_temperature,
)
from scipy import optimize

# Target entropy: the law with n0 logits 0 and n1 logits -gap has an entropy in closed form.


def two_level_entropy(n0, n1, gap, temperature):
    ratio = math.exp(-gap / temperature)
    total = n0 + n1 * ratio
    return math.log(total) + n1 * ratio * gap / temperature / total


TWO_LEVELS = [(1, 1, 1.0), (1, 999, 5.0), (10, 49990, 8.0), (3, 40, 0.2)]


@pytest.mark.parametrize(("n0", "n1", "gap"), TWO_LEVELS)
def test_two_levels(n0, n1, gap):
    """Rows with different targets, against the root of the closed form."""
    low, high = math.log(n0), math.log(n0 + n1)
    target = low + (high - low) * SHARES
    logits = torch.cat([torch.zeros(n0), torch.full((n1,), -gap)]).expand(len(target), -1)
    found = solve_temperature(logits, target, tolerance=0.01)
    assert int(found.steps.max()) <= 6 and bool(found.feasible.all())
    for t, wanted in zip(found.temperature.tolist(), target.tolist(), strict=True):
        assert two_level_entropy(n0, n1, gap, t) == pytest.approx(wanted, rel=0.01 + 1e-5)
    sharp = solve_temperature(logits, target, tolerance=1e-5, max_steps=20)
    for t, wanted in zip(sharp.temperature.tolist(), target.tolist(), strict=True):
        exact = optimize.brentq(
            lambda u, wanted=wanted: two_level_entropy(n0, n1, gap, math.exp(u)) - wanted, -6, 12
        )
        assert t == pytest.approx(math.exp(exact), rel=2e-3)


def laws():
    generator = torch.Generator().manual_seed(0)
    for sd in (0.1, 1, 3, 10, 30):
        yield f"normal {sd}", torch.randn(5000, generator=generator) * sd
    yield "zipf", -1.2 * torch.arange(1.0, 20001).log()
    yield "geometric", -2.0 * torch.arange(100.0)
    yield "one far above", torch.cat([torch.tensor([30.0]), torch.randn(3000, generator=generator)])
    for row in range(16):
        yield f"real {row}", REAL[row]


@pytest.mark.parametrize(
    ("name", "law"), list(laws()), ids=lambda value: value if isinstance(value, str) else ""
)
def test_within_one_percent_in_six_steps(name, law):
    target = SHARES * math.log(len(law))
    found = solve_temperature(law.expand(len(target), -1), target, tolerance=0.01, max_steps=6)
    seen = fusedraw.sample(
        law.expand(len(target), -1), temperature=found.temperature, seed=0, returns=("entropy",)
    ).entropy
    assert torch.equal(seen, found.entropy)
    assert ((seen - target).abs() / target).max() <= 0.01


def test_varentropy_is_the_slope():
    """dH / d ln T = varentropy, which makes the steps Newton's."""
    step = 0.01
    values = []
    for u in (-step, 0.0, step):
        out = fusedraw.sample(REAL, temperature=0.8 * math.exp(u), seed=0, returns=("entropy", "varentropy"))
        values.append((out.entropy.double(), out.varentropy.double()))
    slope = (values[2][0] - values[0][0]) / (2 * step)
    torch.testing.assert_close(slope, values[1][1], rtol=2e-3, atol=1e-3)


def test_rows_are_solved_alone():
    target = torch.linspace(0.5, 8, 16)
    together = solve_temperature(REAL, target)
    for row in (0, 7, 15):
        alone = solve_temperature(REAL[row : row + 1], target[row : row + 1])
        assert all(a[0] == b[row] for a, b in zip(alone, together, strict=True))


def test_infeasible_targets():
    logits = torch.tensor([[2.0, 2.0, 1.0, 0.0, -math.inf], [2.0, 2.0, 2.0, 0.0, 0.0]])
    with pytest.raises(
        ValueError,
        match=r"1.6 nats is infeasible in row 0: it lies in \[0.693147, 1.38629\], .* valid tokens",
    ):
        solve_temperature(logits, 1.6)
    with pytest.raises(ValueError, match=r"0.7 nats is infeasible in row 1.*number of tokens tied"):
        solve_temperature(logits, torch.tensor([0.7, 0.7]))
    mask = torch.tensor([True, False, True, True, True])
    with pytest.raises(ValueError, match=r"infeasible in row 0: it lies in \[0, 1.09861\]"):
        solve_temperature(logits, 1.2, mask=mask)
    clamped = solve_temperature(logits, torch.tensor([1.6, 0.7]), infeasible="clamp")
    assert clamped.feasible.tolist() == [False, False]
    assert clamped.temperature.tolist() == [math.inf, 2.0**-100]
    assert clamped.entropy.tolist() == pytest.approx([math.log(4), math.log(3)], rel=1e-6)
    ends = solve_temperature(logits, torch.tensor([math.log(4), math.log(3)]))
    assert ends.feasible.all() and ends.temperature.tolist() == [math.inf, 2.0**-100]


def test_a_bad_row_does_not_disturb_the_others():
    logits = REAL[:3].clone()
    logits[1, 5] = math.nan
    found = solve_temperature(logits, 2.0)
    clean = solve_temperature(REAL[:3], 2.0)
    assert found.temperature[1] == 1.0 and found.entropy[1].isnan()
    assert found.temperature[[0, 2]].tolist() == clean.temperature[[0, 2]].tolist()
    control = TargetEntropy(2.0, vocab_size=REAL.shape[1], rows=3)
    assert control.sample(logits, keys=keys_of(3, 0), check="status").status.tolist() == [0, 2, 0]


def test_target_entropy_holds_every_token():
    """Rows with different targets, the law of each changing from token to token."""
    rows = 8
    target = torch.linspace(0.5, 6.0, rows)
    control = TargetEntropy(target, vocab_size=REAL.shape[1], rows=rows, tolerance=0.01)
    for step in range(6):
        logits = REAL[(torch.arange(rows) + 3 * step) % 16]
        out = control.sample(logits, keys=keys_of(rows, step), returns=("logp_full",))
        assert ((out.entropy - target).abs() <= 0.01 * target).all()


def test_target_entropy_keeps_within_its_temperatures():
    control = TargetEntropy(
        torch.tensor([0.001, 10.0]), vocab_size=49152, rows=2, min_temperature=0.7, max_temperature=1.5
    )
    assert control.parameters(REAL[:2])["temperature"].tolist() == [
        pytest.approx(0.7),
        pytest.approx(1.5),
    ]


def test_target_entropy_with_one_allowed_token():
    """A grammar may allow one token: no error in the middle of a text, unless it is asked for."""
    mask = torch.zeros(16, 49152, dtype=torch.bool)
    mask[:, 17] = True
    control = TargetEntropy(2.0, vocab_size=49152, rows=16)
    assert (control.sample(REAL, mask=mask, keys=keys_of(16, 0)).ids == 17).all()
    with pytest.raises(ValueError, match="TargetEntropy: a target entropy of 2 nats is infeasible in row 0"):
        TargetEntropy(2.0, vocab_size=49152, rows=16, infeasible="raise").sample(REAL, mask=mask, seed=1)


def test_mean_entropy_is_newtons_method_on_a_fixed_law():
    law = torch.randn(1, 5000, generator=torch.Generator().manual_seed(0)) * 3
    target = torch.tensor([2.0, 3.0, 5.0, 7.0])
    control = TargetMeanEntropy(target, vocab_size=5000, rows=4, gain=1.0, decay=0.0, floor=1e-6)
    for step in range(6):
        control.sample(law.expand(4, -1), keys=keys_of(4, step))
    out = control.sample(law.expand(4, -1), keys=keys_of(4, 6))
    assert ((out.entropy - target).abs() <= 0.01 * target).all()


def test_mean_entropy_over_changing_laws():
    """The steps sum up to ln T_n - ln T_0, so the mean reaches the target although no single token does."""
    rows, steps = 8, 300
    target = torch.linspace(1.0, 6.0, rows)
    control = TargetMeanEntropy(target, vocab_size=49152, rows=rows, initial=0.8)
    entropies, last = [], torch.full((rows,), math.log(0.8), dtype=torch.float64)
    order = torch.Generator().manual_seed(5)
    for step in range(steps):
        logits = REAL[torch.randint(16, (rows,), generator=order), :]
        out = control.sample(logits, keys=keys_of(rows, step))
        state = control.state_dict()
        moved = state["log_temperature"] - last
        expected = 0.2 * (target.double() - out.entropy.double()) / state["varentropy"].clamp(min=0.1)
        free = (expected.abs() < 1.0) & (state["log_temperature"].abs() < math.log(20))
        torch.testing.assert_close(moved[free], expected[free], rtol=1e-9, atol=1e-12)
        last = state["log_temperature"]
        entropies.append(out.entropy)
    entropies = torch.stack(entropies).double()
    assert ((entropies[50:].mean(0) - target).abs() <= 0.05 * target).all()
    assert (entropies.std(0) > 0.3).all()


# Dynamic temperature


def test_dynamic_temperature():
    x = [
        [0.0, 0.0, 0.0, 0.0],
        [3.0, 1.0, 0.0, -math.inf],
        [9.0, 0.0, 0.0, 0.0],
        [1.0, -math.inf, -math.inf, 2.0],
    ]
    low, high, exponent = (
        torch.linspace(0, 0.6, 4),
        torch.linspace(1, 2, 4),
        torch.tensor([1.0, 0.5, 2.0, 1.0]),
    )
    control = DynamicTemperature(low, high, exponent=exponent, rows=4)
    expected = []
    for row, values in enumerate(x):
        p = [q for q in softmax(values) if q > 0]
        share = -sum(q * math.log(q) for q in p) / math.log(len(p))
        expected.append(low[row].item() + (high[row] - low[row]).item() * share ** exponent[row].item())
    assert control.parameters(torch.tensor(x))["temperature"].tolist() == pytest.approx(expected, rel=1e-5)
    one = torch.full((4, 4), -math.inf)
    one[:, 2] = 1.0
    assert control.parameters(one)["temperature"].tolist() == [1.0] * 4
    mask = torch.tensor([True, True, False, False])
    p = softmax(x[1][:2])
    share = -sum(q * math.log(q) for q in p) / math.log(2)
    got = control.parameters(torch.tensor(x), mask=mask)["temperature"][1].item()
    assert got == pytest.approx(0.2 + (4 / 3 - 0.2) * math.sqrt(share), rel=1e-5)
