# SPDX-License-Identifier: Apache-2.0
"""The Python face: draws from probabilities, and functions that return whole rows."""

import fusedraw
import numpy as np
import pytest
import torch
from facade_cases import KEYS, PROBS, RULES, B, V, X
from fusedraw import reference

# Probabilities


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_probabilities(dtype):
    p = PROBS.to(dtype)
    offered = ("status", "logp", "margin", "n_kept", "kept_mass", "rank", "explored", "kept")
    rules = {name: value for name, value in RULES.items() if name != "temperature"}
    out = fusedraw.sample_probs(p, keys=KEYS, returns=offered, **rules)
    for row in range(B):
        want = reference.sample_row(p[row].tolist(), key=tuple(KEYS[row].tolist()), probs=True, **rules)
        names = ("status", "logp", "margin", "n_kept", "kept_mass", "rank", "explored")
        assert [getattr(out, n)[row].item() for n in names] == [getattr(want, n) for n in names]
        assert out.ids[row] == want.id
    assert torch.equal(fusedraw.sample_probs(p, keys=KEYS, **rules), out.ids)
    if dtype == torch.float64:
        assert torch.equal(out.ids, fusedraw.sample_probs(p.float(), keys=KEYS, **rules))
        assert torch.equal(fusedraw.top_k_renorm(p, 5), fusedraw.top_k_renorm(p.float(), 5))
        assert torch.equal(fusedraw.multinomial(p, 5, seed=1), fusedraw.multinomial(p.float(), 5, seed=1))
    power_of_two = p * 0.25  # weights need not sum to 1
    assert torch.equal(fusedraw.sample_probs(power_of_two, keys=KEYS, **rules), out.ids)


def test_multinomial_forms():
    out = torch.full((B, 4), -7)
    ids = fusedraw.multinomial(PROBS, 4, keys=KEYS, out=out)
    assert ids is out and torch.equal(ids, fusedraw.multinomial(PROBS, 4, keys=KEYS))
    assert ids.dtype == torch.int64 and all(len(set(row)) == 4 for row in ids.tolist())
    row = torch.empty(4, dtype=torch.int64)
    assert torch.equal(fusedraw.multinomial(PROBS[0], 4, keys=KEYS[0], out=row), ids[0])
    assert torch.equal(
        fusedraw.multinomial(PROBS, 1, keys=KEYS)[:, 0], fusedraw.sample_probs(PROBS, keys=KEYS)
    )
    again = fusedraw.multinomial(PROBS, 50, True, keys=KEYS)
    assert again.shape == (B, 50) and all(len(set(row)) < 50 for row in again.tolist())
    for row in range(B):
        key = tuple(KEYS[row].tolist())
        assert reference.multinomial_row(PROBS[row].tolist(), 50, True, key=key) == (0, again[row].tolist())
        assert reference.multinomial_row(PROBS[row].tolist(), 4, key=key) == (0, ids[row].tolist())


# Whole rows


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_equal_plain_python(dtype):
    x, mask = X.to(dtype), X > -2
    p = PROBS.to(dtype)
    calls = [
        (fusedraw.softmax(x, 0.6, mask=mask), lambda r, m, q: reference.softmax_row(r, 0.6, m)),
        (fusedraw.log_softmax(x, 2, mask=mask), lambda r, m, q: reference.softmax_row(r, 2, m, log=True)),
        (
            fusedraw.top_k_mask(x, 7, mask=mask),
            lambda r, m, q: reference.mask_row(r, mask=m, keep_weightless=True, top_k=7),
        ),
        (
            fusedraw.top_p_mask(x, 0.6, temperature=0.5, mask=mask, ties="all"),
            lambda r, m, q: reference.mask_row(r, mask=m, top_p=0.6, temperature=0.5, ties="all"),
        ),
        (
            fusedraw.top_k_renorm(p, 7, mask=mask, ties="all"),
            lambda r, m, q: reference.renorm_row(q, mask=m, top_k=7, ties="all"),
        ),
        (
            fusedraw.top_p_renorm(x, 0.6, from_logits=True, temperature=0.5),
            lambda r, m, q: reference.renorm_row(r, from_logits=True, top_p=0.6, temperature=0.5),
        ),
    ]
    for got, want in calls:
        for row in range(B):
            status, values = want(x[row].tolist(), mask[row].tolist(), p[row].tolist())
            assert status == 0 and got[row].tolist() == values
    assert fusedraw.top_k_mask(x, 7).dtype == dtype and fusedraw.top_k_renorm(p, 7).dtype == torch.float32


def test_float64_softmax():
    x = X.double()
    t = torch.tensor([0.1, 0.5, 1.0, 3.0, 10.0])
    wide = x / t.double()[:, None]
    assert (fusedraw.softmax(x, t) - wide.softmax(-1)).abs().max() < 1e-12
    assert (fusedraw.log_softmax(x, t) - wide.log_softmax(-1)).abs().max() < 1e-12
    assert fusedraw.softmax(x, 0.0).equal(torch.nn.functional.one_hot(x.argmax(1), V).double())
    tenth = float(np.float32(0.1))  # parameters are rounded to float32, here too
    assert (fusedraw.log_softmax(x, 0.1) - (x / tenth).log_softmax(-1)).abs().max() < 1e-12
