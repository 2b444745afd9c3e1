# SPDX-License-Identifier: Apache-2.0
"""What each rule means, against formulas of its own in float64."""

import math

import fusedraw
import pytest
import torch
from processing_cases import KEYS, V, X


def kept_of(x=X, **arguments):
    """The kept sets, as sorted lists."""
    out = fusedraw.sample(x, keys=KEYS[: x.shape[0]], returns=("kept",), **arguments)
    return [ids.tolist() for ids in out.kept_ids.tensor_split(out.kept_offsets[1:-1])]


def probabilities(t=1.0):
    return torch.softmax(X.double() / t, dim=-1)


@pytest.mark.parametrize("n", [0.5, 1.0, 2.0, 3.0])
def test_top_n_sigma(n):
    x = X.double()
    limit = x.amax(-1, keepdim=True) - n * x.std(-1, correction=0, keepdim=True)
    expected = [row.nonzero().flatten().tolist() for row in x >= limit]
    assert kept_of(top_n_sigma=n) == expected
    assert kept_of(top_n_sigma=n, temperature=3.0) == expected  # temperature does not matter


@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_typical(share):
    p = probabilities(0.8)
    distance = (-p.log() - -(p * p.log()).sum(-1, keepdim=True)).abs()
    expected = []
    for row in range(4):
        order = distance[row].argsort()
        n = int((p[row][order].cumsum(0) < share).sum()) + 1
        expected.append(sorted(order[:n].tolist()))
    assert kept_of(typical_p=share, temperature=0.8) == expected


@pytest.mark.parametrize("epsilon", [1e-4, 3e-3, 0.02, 0.9])
def test_epsilon_and_eta(epsilon):
    p = probabilities()
    best = p >= p.amax(-1, keepdim=True)
    assert kept_of(epsilon_cutoff=epsilon) == [r.nonzero().flatten().tolist() for r in (p >= epsilon) | best]
    entropy = -(p * p.log()).sum(-1, keepdim=True)
    eta = torch.minimum(torch.tensor(epsilon), math.sqrt(epsilon) * (-entropy).exp())
    assert kept_of(eta_cutoff=epsilon) == [r.nonzero().flatten().tolist() for r in (p >= eta) | best]


def test_cutoffs_look_at_what_is_left():
    """After top-k the probabilities are those of the first k."""
    p = torch.zeros_like(probabilities())
    top = X.topk(40)
    p.scatter_(1, top.indices, torch.softmax(top.values.double(), -1))
    assert kept_of(top_k=40, epsilon_cutoff=0.02) == [r.nonzero().flatten().tolist() for r in p >= 0.02]


def test_xtc_drops_all_top_choices_but_the_last():
    p = probabilities(0.5)
    for row, kept in enumerate(kept_of(xtc_probability=1.0, xtc_threshold=0.05, temperature=0.5)):
        top = (p[row] >= 0.05).nonzero().flatten()
        dropped = top[p[row][top].argsort(descending=True)][:-1].tolist()
        assert dropped and set(range(V)) - set(kept) == set(dropped)


def test_xtc_fires_as_often_as_asked():
    x = X[:1].expand(20000, V)
    keys = fusedraw.derive_keys(3, torch.arange(20000))
    out = fusedraw.sample(
        x, keys=keys, returns=("n_kept",), xtc_probability=0.3, xtc_threshold=0.02, top_k=50
    )
    fired = (out.n_kept < 50).sum().item()
    assert abs(fired - 6000) < 5 * math.sqrt(20000 * 0.3 * 0.7)  # five standard errors, a fixed seed


def test_temperature_last():
    """Filters see T = 1; the draw sees T."""
    for rules in ({"top_p": 0.8}, {"min_p": 0.05}, {"typical_p": 0.7}, {"eta_cutoff": 0.01}):
        assert kept_of(temperature=2.5, temperature_last=True, **rules) == kept_of(**rules)
        assert kept_of(temperature=2.5, **rules) != kept_of(**rules)
    kept = kept_of(top_p=0.8)
    out = fusedraw.sample(X, temperature=2.5, temperature_last=True, top_p=0.8, keys=KEYS, returns=("logp",))
    for row in range(4):
        p = torch.softmax(X[row, kept[row]].double() / 2.5, -1)
        expected = p[kept[row].index(out.ids[row].item())].log()
        assert math.isclose(out.logp[row], expected, abs_tol=1e-5)


def test_best_token_stays_under_the_cutoffs():
    for name in ("epsilon_cutoff", "eta_cutoff"):
        for kept, best in zip(kept_of(**{name: 1.0}), X.argmax(-1).tolist(), strict=True):
            assert kept == [best] or (name == "eta_cutoff" and best in kept)
