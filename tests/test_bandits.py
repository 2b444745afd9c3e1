# SPDX-License-Identifier: Apache-2.0
"""Bandits over settings with known means, and the loop of generate, score, learn."""

import math

import fusedraw
import pytest
import torch
from controller_cases import ALPHA, ARMS, REAL, keys_of, reloaded
from fusedraw.controllers import (
    EXP3,
    UCB1,
    FeedbackLoop,
    TargetMeanEntropy,
    grid,
)
from fusedraw.schedules import Linear, Plateau, Schedules
from scipy import stats

# Bandits. The arm with index j pays 1 with probability MEANS[j].

MEANS = torch.tensor([0.2, 0.4, 0.5, 0.8], dtype=torch.float64)


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
