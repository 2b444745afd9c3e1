# SPDX-License-Identifier: Apache-2.0
"""The Python face: `Sampler` draws as `sample` does."""

import copy
import pickle

import pytest
import torch
from facade_cases import KEYS, RULES, B, X, equal
from fusedraw import Sampler, sample


@pytest.mark.parametrize("check", [None, "raise", "status"])
def test_sampler_equals_sample(check):
    options = {
        "mix_support": "valid",
        "filter_order": "joint",
        "ties": "all",
        "domain": "recovery",
        "check": check,
    }
    draw = Sampler(**RULES, **options, returns=["logp", "kept"], top_n=2)
    expected = sample(X, keys=KEYS, **RULES, **options, returns=("logp", "kept"), top_n=2)
    for _ in range(2):
        assert equal(draw(X, keys=KEYS), expected)
    assert equal(
        draw(X[0], keys=KEYS[0]),
        sample(X[0], keys=KEYS[0], **RULES, **options, returns=("logp", "kept"), top_n=2),
    )
    half = sample(X.half(), seed=3, mask=X > 0, **RULES, **options, returns=("logp", "kept"), top_n=2)
    assert equal(draw(X.half(), seed=3, mask=X > 0), half)
    bad = X.clone()
    bad[2, 1] = torch.nan
    if check == "status":
        assert draw(bad, keys=KEYS).ids[2] == -1
    else:
        with pytest.raises(ValueError, match="sample: row 2 has status NAN"):
            draw(bad, keys=KEYS)


def test_sampler_speaks_for_itself():
    assert "temperature=0.7" in repr(Sampler(temperature=0.7))
    draw = Sampler(**RULES)
    for other in (copy.copy(draw), copy.deepcopy(draw), pickle.loads(pickle.dumps(draw))):
        assert torch.equal(other(X, keys=KEYS), draw(X, keys=KEYS))
    with pytest.raises(TypeError):
        Sampler(keys=KEYS)


def test_sampler_with_rows_takes_only_such_batches():
    draw = Sampler(temperature=torch.linspace(0.5, 1, B))
    assert torch.equal(draw(X, keys=KEYS), sample(X, keys=KEYS, temperature=torch.linspace(0.5, 1, B)))
    with pytest.raises(ValueError, match="temperature must have length 1 or 2"):
        draw(X[:2], keys=KEYS[:2])
