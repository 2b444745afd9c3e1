# SPDX-License-Identifier: Apache-2.0
"""Data errors, from the table: they stay in their row."""

import fusedraw
import pytest
import torch
from bad_input import BAD_ROWS
from bad_input.bad_rows import edited
from bad_input.rows import BAD, REST, outputs
from fusedraw import Status
from input_cases import INF, NAN, B, multinomial, probs, sample_probs

# What a bad row gets, by the name of an output; any other float is NaN.
NOTHING = {"ids": -1, "top_ids": -1, "n_kept": 0, "rank": 0, "explored": False, "n_accepted": 0}


@pytest.mark.parametrize("row", [pytest.param(row, id=f"{row.function}: {row.what}") for row in BAD_ROWS])
def test_bad_row(row):
    out, alone = row.call(None, "status"), row.call(REST, "status")
    got, expected = outputs(out), outputs(alone)
    assert got.keys() == expected.keys()
    for name, value in got.items():
        if name == "status":
            assert value.tolist() == [row.status if i == BAD else 0 for i in range(B)]
        elif name in NOTHING and not value.is_floating_point():
            assert (value[BAD] == NOTHING[name]).all(), name
        else:
            assert value[BAD].isnan().all(), name
        same = torch.equal(value[REST], expected[name])
        assert same and not (value.is_floating_point() and value[REST].isnan().any()), name
    if getattr(out, "kept_offsets", None) is not None:
        assert out.kept_offsets[BAD] == out.kept_offsets[BAD + 1] and torch.equal(
            out.kept_ids, alone.kept_ids
        )
    with pytest.raises(ValueError, match="^" + row.message):
        row.call(None, "raise")
    with pytest.raises(ValueError, match="^" + row.message.replace(f"row {BAD}", "row 0")):
        row.call([BAD], "raise")


# (name, call on rows whose row 1 is bad, the name in the message)
BAD_EVERYWHERE = [
    ("softmax", lambda x: fusedraw.softmax(x)),
    ("log_softmax", lambda x: fusedraw.log_softmax(x)),
    ("softmax", lambda x: fusedraw.softmax(x.double())),
    ("top_k_mask", lambda x: fusedraw.top_k_mask(x, 2)),
    ("top_p_mask", lambda x: fusedraw.top_p_mask(x, 0.5)),
    ("top_k_renorm", lambda x: fusedraw.top_k_renorm(x, 2)),
    ("top_p_renorm", lambda x: fusedraw.top_p_renorm(x, 0.5, from_logits=True)),
    ("sample_probs", lambda x: fusedraw.sample_probs(x, seed=1)),
    ("multinomial", lambda x: fusedraw.multinomial(x, 1, seed=1)),
    ("multinomial", lambda x: fusedraw.multinomial(x, 2, seed=1)),
    ("multinomial", lambda x: fusedraw.multinomial(x, 2, True, seed=1)),
    ("sample", lambda x: fusedraw.Sampler(top_p=0.5)(x, seed=1)),
]


@pytest.mark.parametrize("value, status", [(NAN, "NAN"), (INF, "POS_INF")])
@pytest.mark.parametrize("op, call", BAD_EVERYWHERE)
def test_bad_row_raises_by_name(op, call, value, status):
    x = probs()
    x[1, 5] = value
    with pytest.raises(ValueError, match=f"^{op}: row 1 has status {status}"):
        call(x)


def test_bad_row_of_softmax_is_nan():
    for x in (edited(i4=NAN), edited(i4=NAN).double(), edited(i4=NAN).half()):
        for function in (fusedraw.softmax, fusedraw.log_softmax):
            out = function(x, check="status")
            assert out.isnan().all(1).tolist() == [False, False, True, False]


@pytest.mark.parametrize(
    "value, status", [(-0.5, "BAD_PARAM"), (NAN, "NAN"), (INF, "POS_INF"), (None, "EMPTY")]
)
def test_bad_probabilities(value, status):
    x = probs()
    if value is None:
        x[1] = 0
    else:
        x[1, 5] = value
    out = sample_probs(x, returns=("status", "logp"), check="status")
    assert out.status.tolist() == [0, Status[status], 0, 0]
    assert out.ids[1] == -1 and out.logp[1].isnan()
    for n, replacement in ((1, False), (3, False), (3, True)):
        ids = multinomial(x, n, replacement=replacement, check="status")
        assert ids[1].tolist() == [-1] * n and (ids[[0, 2, 3]] >= 0).all()
        with pytest.raises(ValueError, match=f"multinomial: row 1 has status {status}"):
            multinomial(x, n, replacement=replacement)


def test_multinomial_runs_dry():
    x = torch.tensor([[0.5, 0.0, 0.25, 0.25, 0.0]])
    ids = multinomial(x, 5, check="status")
    assert sorted(ids[0, :3].tolist()) == [0, 2, 3] and ids[0, 3:].tolist() == [-1, -1]
    with pytest.raises(ValueError, match="multinomial: row 0 has status EMPTY"):
        multinomial(x, 5)
