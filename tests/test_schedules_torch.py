# SPDX-License-Identifier: Apache-2.0
"""Schedules: torch's schedulers, whose interface theirs is, as twins; states that resume."""

import pytest
import torch
from fusedraw.schedules import (
    Chained,
    Cosine,
    Exponential,
    Plateau,
    Schedules,
    Sequential,
    WarmUp,
)
from schedule_cases import reloaded


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
