# SPDX-License-Identifier: Apache-2.0
"""Jitter: a function of seed, step and row, of the law of its prior."""

import math

import fusedraw
import torch
from fusedraw import _noise, reference
from fusedraw.schedules import (
    Choice,
    Jitter,
    LogUniform,
    Uniform,
)
from schedule_cases import ALPHA, KEYS, LOGITS, reloaded
from scipy import stats


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
