# SPDX-License-Identifier: Apache-2.0
"""Controllers of the surprise and of the probability of what is drawn: the rules of their sources, by hand,
and where they steer."""

import math

import fusedraw
import pytest
import torch
from controller_cases import ALPHA, LN2, keys_of, softmax
from fusedraw.controllers import (
    AdaptiveP,
    Mirostat2,
)
from scipy import stats

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
