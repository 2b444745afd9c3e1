# SPDX-License-Identifier: Apache-2.0
"""Controllers on laws whose answer is known: analytic entropies, small vocabularies counted out, bandits with
known means; and what all share: resumption, reset, rows that do not influence each other."""

import io
import math
from pathlib import Path

import fusedraw
import numpy as np
import pytest
import torch
from fusedraw import controllers
from fusedraw.controllers import (
    EXP3,
    UCB1,
    AdaptiveP,
    DynamicTemperature,
    FeedbackLoop,
    Mirostat2,
    TargetEntropy,
    TargetMeanEntropy,
    grid,
    solve_temperature,
)
from fusedraw.schedules import Linear, Plateau, Schedules
from scipy import optimize, stats

ALPHA = 1e-4  # of a test on fixed keys
LN2 = math.log(2)
REAL = torch.from_numpy(
    np.load(Path(fusedraw.__file__).parent / "data" / "real_logits.npz")["logits"].astype(np.float32)
)
SHARES = torch.tensor([0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.98], dtype=torch.float64)


def keys_of(rows, step, seed=1):
    return fusedraw.derive_keys(seed, torch.arange(rows), step=step)


def reloaded(state):
    """Through a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file)


def softmax(x, temperature=1.0):
    weights = [math.exp((v - max(x)) / temperature) for v in x]
    return [w / sum(weights) for w in weights]


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


# Mirostat 2


@pytest.mark.parametrize("surprise", ["kept", "full"])
def test_mirostat_is_the_papers_rule(surprise):
    """Rows of a small vocabulary, token by token, against the rule in float64."""
    rows, vocab, steps = 6, 12, 40
    generator = torch.Generator().manual_seed(2)
    tau, eta, heat = (
        torch.linspace(0.5, 3, rows),
        torch.linspace(0.05, 0.5, rows),
        torch.linspace(0.7, 1.3, rows),
    )
    control = Mirostat2(tau, eta=eta, temperature=heat, surprise=surprise, rows=rows)
    mu = [2 * t for t in tau.tolist()]
    cuts = set()
    for step in range(steps):
        logits = torch.randn(rows, vocab, generator=generator) * 2
        out = control.sample(logits, keys=keys_of(rows, step), returns=("n_kept",))
        for row in range(rows):
            p = softmax(logits[row].tolist(), heat[row].item())
            kept = [i for i in range(vocab) if -math.log2(p[i]) <= mu[row] or p[i] == max(p)]
            token = int(out.ids[row])
            assert token in kept and int(out.n_kept[row]) == len(kept)
            share = p[token] / (sum(p[i] for i in kept) if surprise == "kept" else 1)
            mu[row] -= eta[row].item() * (-math.log2(share) - tau[row].item())
            cuts.add(len(kept))
        assert control.state_dict()["mu"].tolist() == pytest.approx(mu, rel=1e-5)
    assert {1, vocab} < cuts


def test_mirostat_draws_from_what_it_kept():
    """Frequencies over 4000 rows in the same state."""
    rows, x = 4000, [2.0, 1.0, 0.5, 0.0, -1.0, -3.0]
    control = Mirostat2(1.2, rows=rows)  # mu = 2.4 bits
    out = control.sample(torch.tensor([x]).expand(rows, -1), keys=keys_of(rows, 0))
    p = softmax(x)
    kept = [i for i in range(6) if -math.log2(p[i]) <= 2.4]
    assert 1 < len(kept) < 6
    counts = torch.bincount(out.ids, minlength=6)
    assert counts.sum() == counts[kept].sum()
    total = sum(p[i] for i in kept)
    assert stats.chisquare(counts[kept].numpy(), [rows * p[i] / total for i in kept]).pvalue > ALPHA


def test_mirostat_reaches_its_surprise():
    """Reachable for laws that are flat enough: the mean over a text is tau + (mu_0 - mu_n) / (eta * n)."""
    rows, steps = 4, 400
    tau = torch.tensor([1.0, 2.0, 3.0, 4.0])
    control = Mirostat2(tau, rows=rows)
    total = torch.zeros(rows, dtype=torch.float64)
    generator = torch.Generator().manual_seed(8)
    for step in range(steps):
        logits = torch.randn(rows, 200, generator=generator) * 1.5
        total -= control.sample(logits, keys=keys_of(rows, step)).logp.double() / LN2
    mean = total / steps
    mu = control.state_dict()["mu"]
    torch.testing.assert_close(mean, tau + (2 * tau - mu) / (0.1 * steps), rtol=1e-6, atol=1e-6)
    assert ((mean - tau).abs() <= 0.1).all()


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


# Adaptive-p


def adaptive_logits(p, aim):
    z = []
    for q in p:
        d = abs(q - aim) / 0.3
        z.append(5 - 10 * d * d / (1 + d))
    return z


def test_adaptive_p_is_llama_cpps_rule():
    rows, vocab, steps = 5, 9, 30
    target, decay = torch.linspace(0.1, 0.9, rows), torch.linspace(0, 0.95, rows)
    min_p = torch.linspace(0, 0.2, rows)
    control = AdaptiveP(target, decay=decay, min_p=min_p, rows=rows)
    weighted = [t / (1 - d) for t, d in zip(target.tolist(), decay.tolist(), strict=True)]
    total = [1 / (1 - d) for d in decay.tolist()]
    generator = torch.Generator().manual_seed(4)
    for step in range(steps):
        logits = torch.randn(rows, vocab, generator=generator) * 2
        out = control.sample(logits, keys=keys_of(rows, step), returns=("logp",))
        for row in range(rows):
            p = softmax(logits[row].tolist())
            p = [q if q >= min_p[row].item() * max(p) else 0.0 for q in p]
            p = [q / sum(p) for q in p]
            aim = min(max(2 * target[row].item() - weighted[row] / total[row], 0), 1)
            z = adaptive_logits(p, aim)
            law = [math.exp(v) if q > 0 else 0.0 for v, q in zip(z, p, strict=True)]
            token = int(out.ids[row])
            assert out.logp[row].item() == pytest.approx(math.log(law[token] / sum(law)), abs=1e-4)
            weighted[row] = p[token] + decay[row].item() * weighted[row]
            total[row] = 1 + decay[row].item() * total[row]
        means = [w / t for w, t in zip(weighted, total, strict=True)]
        assert control.mean().tolist() == pytest.approx(means, rel=1e-4)


def test_adaptive_p_steers_the_mean():
    """A law with tokens on both sides of the target: the mean probability drawn comes to it."""
    p = torch.tensor([0.45, 0.25, 0.15, 0.1, 0.05])
    target = torch.tensor([0.15, 0.2, 0.3, 0.4])
    control = AdaptiveP(target, rows=4, min_p=0.0)
    logits = p.log().expand(4, -1)
    drawn = torch.stack([p[control.sample(logits, keys=keys_of(4, step)).ids] for step in range(600)])
    free = torch.stack([p[fusedraw.sample(logits, keys=keys_of(4, step))] for step in range(600)]).mean(0)
    assert ((drawn.mean(0) - target).abs() < 0.04).all()
    assert ((free - 0.3).abs() < 0.03).all()  # without: sum of p^2 = 0.3


# Bandits. The arm with index j pays 1 with probability MEANS[j].

MEANS = torch.tensor([0.2, 0.4, 0.5, 0.8], dtype=torch.float64)
ARMS = grid(temperature=(0.5, 1.0), mix_eps=(0.0, 0.1))


def play(bandit, rounds, seed=0):
    """float64 [B]: the regret of each row, by means, not by luck."""
    generator = torch.Generator().manual_seed(seed)
    regret = torch.zeros(bandit.rows, dtype=torch.float64)
    for _ in range(rounds):
        mean = MEANS[bandit.arm()]
        bandit.update((torch.rand(bandit.rows, generator=generator) < mean).double())
        regret += MEANS.max() - mean
    return regret


def test_grid():
    assert ARMS == [
        {"temperature": 0.5, "mix_eps": 0.0},
        {"temperature": 0.5, "mix_eps": 0.1},
        {"temperature": 1.0, "mix_eps": 0.0},
        {"temperature": 1.0, "mix_eps": 0.1},
    ]
    bandit = UCB1(grid(top_k=(5, 50), temperature=(0.5, 1.5)), rows=3)
    assert bandit.parameters()["top_k"].tolist() == [5, 5, 5]
    assert bandit.parameters()["top_k"].dtype == torch.int64


def test_ucb1_by_hand():
    """Rewards that depend on the arm alone: the arms follow from the index."""
    rows, rounds = 3, 60
    width = [1.0, 0.3, 0.05]
    bandit = UCB1(ARMS, rows=rows, width=torch.tensor(width))
    for row in range(rows):
        pulls, gain, expected = [0] * 4, [0.0] * 4, []
        for n in range(rounds):
            if n < 4:
                arm = n
            else:
                index = [
                    gain[j] / pulls[j]
                    + torch.tensor(width)[row].item() * math.sqrt(2 * math.log(n) / pulls[j])
                    for j in range(4)
                ]
                arm = index.index(max(index))
            expected.append(arm)
            pulls[arm] += 1
            gain[arm] += MEANS[arm].item()
        arms = []
        bandit.reset()
        for _ in range(rounds):
            arms.append(bandit.arm()[row].item())
            bandit.update(MEANS[bandit.arm()])
        assert arms == expected
    assert (bandit.best_arm() == 3).all()


def test_ucb1_regret():
    rows, rounds = 64, 1500
    regret = play(UCB1(ARMS, rows=rows), rounds).mean()
    gaps = [0.6, 0.4, 0.3]
    bound = 8 * sum(math.log(rounds) / gap for gap in gaps) + (1 + math.pi**2 / 3) * sum(gaps)
    chance = rounds * (0.8 - MEANS.mean().item())
    assert regret < bound and regret < 0.3 * chance


def test_exp3_regret():
    rows, rounds = 32, 1000
    bandit = EXP3(ARMS, seed=3, horizon=rounds, rows=rows)
    regret = play(bandit, rounds).mean()
    assert regret < 2.63 * math.sqrt(rounds * 4 * math.log(4))
    assert regret < 0.6 * rounds * (0.8 - MEANS.mean().item())
    assert (bandit.best_arm() == 3).double().mean() > 0.9


def test_exp3_follows_an_adversary():
    """The best arm changes half-way: a law to which UCB1's bound does not apply."""
    rows, rounds = 32, 600
    bandit = EXP3(ARMS, seed=5, horizon=rounds, rows=rows)
    earned = torch.zeros(rows, dtype=torch.float64)
    for n in range(rounds):
        good = 0 if n < rounds / 3 else 3
        reward = (bandit.arm() == good).double()
        earned += reward
        bandit.update(reward)
    best = rounds * 2 / 3
    assert best - earned.mean() < 2.63 * math.sqrt(rounds * 4 * math.log(4))


def test_exp3_by_hand():
    """One update from the uniform law: w = exp(gamma * reward / (K * p)), p = 1/4."""
    gamma = torch.tensor([0.1, 0.5, 1.0])
    bandit = EXP3(ARMS, seed=1, gamma=gamma, rows=3)
    assert bandit.probabilities().tolist() == [[0.25] * 4] * 3
    arms, reward = bandit.arm().tolist(), torch.tensor([1.0, 0.5, 0.7])
    bandit.update(reward)
    for row, arm in enumerate(arms):
        g = gamma[row].item()
        weight = math.exp(g * reward[row].item() / (4 * 0.25))
        expected = [(1 - g) * (weight if j == arm else 1) / (weight + 3) + g / 4 for j in range(4)]
        assert bandit.probabilities()[row].tolist() == pytest.approx(expected, rel=1e-12)


def test_exp3_draws_from_its_law():
    rows = 8000
    bandit = EXP3(ARMS, seed=11, gamma=0.2, rows=rows)
    assert stats.chisquare(torch.bincount(bandit.arm(), minlength=4).numpy()).pvalue > ALPHA
    state = bandit.state_dict()
    state["log_weights"] = torch.tensor([0.0, 0.5, 1.0, 2.0], dtype=torch.float64).expand(rows, -1)
    bandit.load_state_dict(state)
    law = bandit.probabilities()[0]
    bandit.update(torch.zeros(rows))
    counts = torch.bincount(bandit.arm(), minlength=4)
    assert stats.chisquare(counts.numpy(), (rows * law).numpy()).pvalue > ALPHA
    assert torch.equal(
        EXP3(ARMS, seed=11, gamma=0.2, rows=9).arm(), EXP3(ARMS, seed=11, gamma=0.9, rows=9).arm()
    )


# All of them: state, reset, errors

MAKERS = {
    "TargetEntropy": lambda rows: TargetEntropy(torch.linspace(1, 5, 8)[:rows], vocab_size=49152, rows=rows),
    "TargetMeanEntropy": lambda rows: TargetMeanEntropy(
        torch.linspace(1, 5, 8)[:rows], vocab_size=49152, rows=rows
    ),
    "Mirostat2": lambda rows: Mirostat2(torch.linspace(1, 4, 8)[:rows], rows=rows),
    "DynamicTemperature": lambda rows: DynamicTemperature(torch.linspace(0.2, 0.8, 8)[:rows], 1.6, rows=rows),
    "AdaptiveP": lambda rows: AdaptiveP(torch.linspace(0.1, 0.9, 8)[:rows], rows=rows),
    "UCB1": lambda rows: UCB1(ARMS, rows=rows, width=torch.linspace(0.2, 1, 8)[:rows]),
    "EXP3": lambda rows: EXP3(ARMS, seed=2, gamma=torch.linspace(0.2, 1, 8)[:rows], rows=rows),
}


def advance(control, step, rows=None):
    """One step; the draws of all rows, and what followed from them."""
    chosen = torch.arange(8) if rows is None else rows
    keys = fusedraw.derive_keys(6, chosen, step=step)
    logits = REAL[(chosen + 5 * step) % 16]
    out = control.sample(logits, keys=keys, returns=("logp",))
    if hasattr(control, "arm"):
        control.update((out.ids % 2).double())
    return torch.stack([out.ids.double(), out.logp.double()])


@pytest.mark.parametrize("name", MAKERS)
def test_resumption(name):
    first, second = MAKERS[name](8), MAKERS[name](8)
    for step in range(4):
        advance(first, step)
    second.load_state_dict(reloaded(first.state_dict()))
    for step in range(4, 8):
        assert torch.equal(advance(first, step), advance(second, step))
    assert all(
        torch.equal(a, b)
        for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("name", MAKERS)
def test_state_dict_is_a_copy(name):
    control = MAKERS[name](8)
    state = control.state_dict()
    before = {key: tensor.clone() for key, tensor in state.items()}
    advance(control, 0)
    assert all(torch.equal(state[key], before[key]) for key in before)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("as_mask", [False, True])
def test_reset_of_some_rows(name, as_mask):
    """The rows that are reset go on like new ones, the others as if nothing had been."""
    used, untouched, new = (MAKERS[name](8) for _ in range(3))
    for step in range(3):
        advance(used, step)
        advance(untouched, step)
    rows = [1, 6]
    chosen = torch.zeros(8, dtype=torch.bool)
    chosen[rows] = True
    used.reset(chosen if as_mask else rows)
    for key, tensor in used.state_dict().items():
        assert torch.equal(tensor[rows], new.state_dict()[key][rows])
        assert torch.equal(tensor[~chosen], untouched.state_dict()[key][~chosen])
    for step in range(3):
        draws, fresh, old = (advance(control, step) for control in (used, new, untouched))
        assert torch.equal(draws[:, chosen], fresh[:, chosen])
        assert torch.equal(draws[:, ~chosen], old[:, ~chosen])


@pytest.mark.parametrize("name", MAKERS)
def test_batch_mates_do_not_matter(name):
    many, few = MAKERS[name](8), MAKERS[name](3)
    for step in range(4):
        assert torch.equal(advance(many, step)[:, :3], advance(few, step, torch.arange(3)))


@pytest.mark.parametrize("name", ["TargetMeanEntropy", "Mirostat2", "AdaptiveP"])
def test_a_bad_row_keeps_its_state(name):
    control = MAKERS[name](8)
    advance(control, 0)
    before = control.state_dict()
    logits = REAL[:8].clone()
    logits[3, 100] = math.nan
    out = control.sample(logits, keys=keys_of(8, 1), check="status")
    assert out.status.tolist() == [0, 0, 0, 2, 0, 0, 0, 0] and out.ids[3] == -1
    for key, tensor in control.state_dict().items():
        assert tensor[3] == before[key][3] and not tensor.isnan().any()


REFUSED = {
    "target above ln V": (
        lambda: TargetEntropy(torch.tensor([1.0, 7.0]), vocab_size=1000, rows=2),
        r"TargetEntropy: a target entropy of 7 nats is infeasible in row 1: it lies in \[0, 6.90776\]",
    ),
    "mean above ln V": (
        lambda: TargetMeanEntropy(12.0, vocab_size=49152),
        "TargetMeanEntropy: a target entropy of 12 nats is infeasible",
    ),
    "negative target": (lambda: TargetEntropy(-1.0, vocab_size=9), "target must be >= 0, got -1"),
    "nan target": (lambda: solve_temperature(REAL, math.nan), "target must be finite, got nan"),
    "targets": (lambda: solve_temperature(REAL, torch.ones(3)), "target must have length 1 or 16, got 3"),
    "tolerance": (lambda: solve_temperature(REAL, 1.0, tolerance=0.0), r"tolerance must be in \(0, 1\)"),
    "infeasible": (lambda: solve_temperature(REAL, 1.0, infeasible="ok"), "infeasible must be 'raise' or"),
    "tau": (lambda: Mirostat2(0.0), "Mirostat2: tau must be > 0, got 0"),
    "eta": (lambda: Mirostat2(3.0, eta=math.nan), "eta must be finite, got nan"),
    "surprise": (lambda: Mirostat2(3.0, surprise="bits"), "surprise must be 'kept' or 'full'"),
    "order": (lambda: DynamicTemperature(2.0, 1.0), "min_temperature must be <= max_temperature"),
    "p": (lambda: AdaptiveP(1.5), r"target must be in \[0, 1\], got 1.5"),
    "decay": (lambda: AdaptiveP(0.5, decay=0.999), r"decay must be in \[0, 0.99\], got 0.999"),
    "rows": (lambda: Mirostat2(torch.ones(3), rows=2), "tau must have length 1 or 2, got 3"),
    "no rows": (lambda: Mirostat2(1.0, rows=0), "rows must be >= 1, got 0"),
    "one arm": (lambda: UCB1(grid(top_p=(0.5,))), "arms must be at least two, got 1"),
    "arm range": (lambda: UCB1(grid(mix_eps=(0.5, 1.5))), r"UCB1: mix_eps must be in \[0, 1\], got 1.5"),
    "arm nan": (lambda: UCB1(grid(mix_eps=(0.5, math.nan))), r"mix_eps must be in \[0, 1\], got nan"),
    "arm names": (lambda: UCB1([{"top_p": 0.5}, {"min_p": 0.5}]), "every arm must set"),
    "arm name": (lambda: UCB1(grid(heat=(1, 2))), "a parameter must be 'temperature'"),
    "reward": (lambda: UCB1(ARMS, rows=2).update(torch.tensor([0.5, 1.5])), r"in \[0, 1\], got 1.5 in row 1"),
    "nan reward": (lambda: UCB1(ARMS).update(math.nan), r"reward must be in \[0, 1\], got nan"),
    "rewards": (lambda: UCB1(ARMS, rows=3).update(0.5), r"reward must be \[3\]"),
    "gamma": (lambda: EXP3(ARMS, seed=1, gamma=1.5), "gamma must be <= 1, got 1.5"),
    "horizon": (lambda: EXP3(ARMS, seed=1), "give one of horizon and gamma"),
    "logits": (
        lambda: Mirostat2(3.0, rows=2).sample(REAL),
        r"logits must be \[2, V\], got shape \[16, 49152\]",
    ),
    "decided": (
        lambda: Mirostat2(3.0, rows=16).sample(REAL, min_p=0.1),
        "min_p is what the controller decides",
    ),
    "by-product": (
        lambda: Mirostat2(3.0, rows=16).update(fusedraw.sample(REAL, seed=1, returns=("logp_full",))),
        "update needs `logp`",
    ),
    "state": (lambda: Mirostat2(3.0).load_state_dict({"nu": 1}), r"a state must have the keys \['mu'\]"),
    "state rows": (
        lambda: Mirostat2(3.0, rows=2).load_state_dict({"mu": torch.ones(3)}),
        r"mu of the state must have shape \[2\], got \[3\]",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refuses(name):
    make, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        make()


def test_refuses_types_and_rows():
    with pytest.raises(TypeError, match="it changes the logits"):
        AdaptiveP(0.5).parameters(REAL)
    with pytest.raises(IndexError, match=r"rows must be in \[0, 2\), got \[5\]"):
        Mirostat2(3.0, rows=2).reset([5])
    with pytest.raises(TypeError, match="vocab_size must be an int, got float"):
        TargetEntropy(1.0, vocab_size=10.0)
    with pytest.raises(TypeError, match="score must be callable, got int"):
        FeedbackLoop(print, 3, UCB1(ARMS), 5)
    with pytest.raises(TypeError, match=r"controller must have parameters\(\), got int"):
        FeedbackLoop(print, print, 3, 5)
    with pytest.raises(ValueError, match="stop must be >= 0 rounds, got -1"):
        FeedbackLoop(print, print, UCB1(ARMS), -1)


# The loop


def bandit_loop(stop, controller=None):
    """The score is 1 where token 0 of [1, 0, 0] is drawn: colder is better, and the best arm is known."""
    logits = torch.tensor([[1.0, 0.0, 0.0]]).expand(16, -1)

    def generate(parameters, number):
        return fusedraw.sample(logits, keys=keys_of(16, number), **parameters)

    controller = controller or UCB1(grid(temperature=(0.2, 1.0, 5.0)), rows=16, width=0.5)
    return FeedbackLoop(generate, lambda ids: (ids == 0).double(), controller, stop, keep_outputs=True)


def test_feedback_loop_finds_the_best_setting():
    loop = bandit_loop(stop=150)
    history = loop.run()
    assert [turn.number for turn in history] == list(range(150)) and loop.run() is history
    assert (loop.controller.best_arm() == 0).all()
    late = torch.stack([turn.score for turn in history[-50:]]).mean()
    early = torch.stack([turn.score for turn in history[:9]]).mean()
    assert late > early + 0.1
    torch.testing.assert_close(history[0].parameters["temperature"], torch.full((16,), 0.2))
    assert history[3].outputs.shape == (16,)


def test_feedback_loop_stops_when_told():
    loop = bandit_loop(stop=lambda history: history[-1].number == 6)
    assert len(loop.run()) == 7


def test_feedback_loop_resumes():
    whole = bandit_loop(
        stop=40, controller=EXP3(grid(temperature=(0.2, 1.0, 5.0)), seed=1, gamma=0.3, rows=16)
    )
    first, second = (
        bandit_loop(15, EXP3(grid(temperature=(0.2, 1.0, 5.0)), seed=1, gamma=0.3, rows=16)) for _ in range(2)
    )
    expected = whole.run()
    first.run()
    second.load_state_dict(reloaded(first.state_dict()))
    for turn in expected[15:]:
        again = second.step()
        assert again.number == turn.number and torch.equal(again.outputs, turn.outputs)


def test_feedback_loop_with_schedules():
    """A plateau of the score raises the share of chance; the temperature follows its own schedule."""
    plan = Schedules(
        mix_eps=Plateau(0.01, 2.0, patience=1, limit=0.5, mode="max"), temperature=Linear(1.0, 0.5, 10)
    )
    loop = FeedbackLoop(lambda parameters, number: parameters, lambda outputs: 1.0, plan, stop=9)
    values = [turn.parameters for turn in loop.run()]
    got = [round(value["mix_eps"].item(), 4) for value in values]
    assert got == [0.01, 0.01, 0.01, 0.02, 0.02, 0.04, 0.04, 0.08, 0.08]
    assert values[4]["temperature"].item() == pytest.approx(0.8)


def test_feedback_loop_with_a_controller_of_draws():
    control = TargetMeanEntropy(3.0, vocab_size=49152, rows=16, gain=1.0, decay=0.0)

    def generate(parameters, number):
        return fusedraw.sample(REAL, keys=keys_of(16, number), returns=control.returns, **parameters)

    loop = FeedbackLoop(
        generate,
        lambda out: out,
        control,
        stop=lambda history: (history[-1].score.entropy - 3).abs().max() < 0.03,
    )
    assert 2 <= len(loop.run()) <= 12


def test_every_public_name_is_there():
    for name in controllers.__all__:
        assert getattr(fusedraw.controllers, name).__doc__
