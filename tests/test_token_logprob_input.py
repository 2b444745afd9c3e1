# SPDX-License-Identifier: Apache-2.0
"""token_logprob and importance_weight: bad input named before any work, malformed kept sets, the bound of the
weight."""

import fusedraw
import pytest
import torch
from bad_input.laws import of_scores
from engines import make_params, on_every_engine
from scoring import score

# Bad input

X, IDS = torch.zeros(2, 4), torch.zeros(2, dtype=torch.int64)
DOUBLE = [row for rows in of_scores(X.double()) for row in rows]


@pytest.mark.parametrize("row", [pytest.param(row, id=row.what) for row in DOUBLE])
def test_bad_input_beside_float64_is_named(row):
    """float32 is in the table."""
    with pytest.raises(row.error, match=f"^token_logprob: .*{row.message}"):
        row.call()


# In row 1: an id that is none, descending ids, an offset past the end, descending offsets.
MALFORMED = [
    (torch.tensor(ids, dtype=torch.int32), torch.tensor(offsets))
    for ids, offsets in (
        *(([0, 7], [0, 1, 2]), ([1, 0], [0, 0, 2])),
        *(([0, 1], [0, 1, 9]), ([0, 1], [0, 1, -3])),
    )
]


def test_malformed_kept_sets_are_a_status_too():
    for kept in MALFORMED:
        got = on_every_engine(score, X, IDS, make_params(), None, kept, 0, True, (torch.ones(2), None))
        assert got["status"][1].item() == fusedraw.Status.BAD_PARAM.value
        assert got["logp"][1].isnan() and not got["grad"][1].any()


def test_importance_weight():
    pi, mu = torch.tensor([0.5, 0.25, 0.0]), torch.tensor([0.25, 0.5, 0.25])
    weight = fusedraw.importance_weight(pi.log(), mu.log())
    assert weight.tolist() == pytest.approx([2.0, 0.5, 0.0])
    logp = mu.log().requires_grad_()
    fusedraw.importance_weight(logp, mu.log()).sum().backward()
    torch.testing.assert_close(logp.grad, torch.ones(3))  # d (pi / mu) = pi / mu d log pi
    assert fusedraw.importance_weight(pi.log(), mu.log(), mix_eps=0.5).tolist() == weight.tolist()
    assert fusedraw.importance_weight(pi.log(), mu.log(), mix_eps=torch.tensor([0.5, 0.0, 0.0])).shape == (3,)
