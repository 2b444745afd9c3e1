# SPDX-License-Identifier: Apache-2.0
"""Data errors, one table row each: they stay in their row."""

import fusedraw
import pytest
import torch
from fusedraw import Status
from input_cases import EVERYTHING, INF, KEYS, NAN, B, V, multinomial, probs, rows, sample, sample_probs


def edited(**at):
    """Rows with row 2 changed: index -> value."""
    x = rows()
    for index, value in at.items():
        x[2, int(index[1:])] = value
    return x


def filled(value):
    x = rows()
    x[2] = value
    return x


def mask_without(row, allowed=()):
    mask = torch.ones(B, V, dtype=torch.bool)
    mask[row] = False
    mask[row, list(allowed)] = True
    return mask


def one_in(value, neutral, dtype=torch.float32):
    """A [B] parameter that is neutral but in row 2."""
    parameter = torch.full((B,), neutral, dtype=dtype)
    parameter[2] = value
    return parameter


# (name, logits, arguments, the status of row 2)
BAD_ROWS = [
    *[(f"NaN at {i}", edited(**{f"i{i}": NAN}), {}, Status.NAN) for i in range(V)],
    *[(f"+inf at {i}", edited(**{f"i{i}": INF}), {}, Status.POS_INF) for i in range(V)],
    ("NaN before +inf", edited(i3=INF, i60=NAN), {}, Status.NAN),
    ("all NaN", filled(NAN), {}, Status.NAN),
    ("all -inf", filled(-INF), {}, Status.EMPTY),
    ("all +inf", filled(INF), {}, Status.POS_INF),
    ("mask all", rows(), {"mask": mask_without(2)}, Status.EMPTY),
    ("mask all but -inf", edited(i7=-INF), {"mask": mask_without(2, [7])}, Status.EMPTY),
    ("mask all but NaN", edited(i7=NAN), {"mask": mask_without(2, [7])}, Status.NAN),
    ("greedy all -inf", filled(-INF), {"temperature": 0.0}, Status.EMPTY),
    ("greedy NaN", edited(i9=NAN), {"temperature": 0.0}, Status.NAN),
    ("top_k NaN", edited(i9=NAN), {"top_k": 1}, Status.NAN),
    ("temperature -1", rows(), {"temperature": one_in(-1.0, 1.0)}, Status.BAD_PARAM),
    ("temperature NaN", rows(), {"temperature": one_in(NAN, 1.0)}, Status.BAD_PARAM),
    ("temperature before NaN", edited(i9=NAN), {"temperature": one_in(-1.0, 1.0)}, Status.BAD_PARAM),
    ("top_k -2", rows(), {"top_k": one_in(-2, 0, torch.int64)}, Status.BAD_PARAM),
    ("top_k int64 min", rows(), {"top_k": one_in(-(2**63), 0, torch.int64)}, Status.BAD_PARAM),
    ("top_p 1.5", rows(), {"top_p": one_in(1.5, 1.0)}, Status.BAD_PARAM),
    ("top_p -0.5", rows(), {"top_p": one_in(-0.5, 1.0)}, Status.BAD_PARAM),
    ("top_p NaN", rows(), {"top_p": one_in(NAN, 1.0)}, Status.BAD_PARAM),
    ("min_p 1.5", rows(), {"min_p": one_in(1.5, 0.0)}, Status.BAD_PARAM),
    ("min_p NaN", rows(), {"min_p": one_in(NAN, 0.0)}, Status.BAD_PARAM),
    ("mix_eps 1.5", rows(), {"mix_eps": one_in(1.5, 0.0)}, Status.BAD_PARAM),
    ("mix_eps NaN", rows(), {"mix_eps": one_in(NAN, 0.0)}, Status.BAD_PARAM),
]


@pytest.mark.parametrize(
    "x, arguments, status", [row[1:] for row in BAD_ROWS], ids=[row[0] for row in BAD_ROWS]
)
def test_bad_row(x, arguments, status):
    out = sample(x, returns=EVERYTHING, top_n=2, check="status", **arguments)
    assert out.status.tolist() == [0, 0, status, 0]
    assert out.ids[2] == -1
    for name in ("logp", "logp_full", "logp_raw", "entropy", "varentropy", "margin", "kept_mass"):
        assert getattr(out, name).isnan().tolist() == [False, False, True, False], name
    assert out.n_kept[2] == 0 and out.rank[2] == 0 and not out.explored[2]
    assert out.kept_offsets[2] == out.kept_offsets[3]
    assert out.top_ids[2].tolist() == [-1, -1] and out.top_logps[2].isnan().all()
    # The other rows are those of a batch without the bad one.
    rest = [0, 1, 3]
    alone = {k: v[rest] if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
    expected = fusedraw.sample(x[rest], keys=KEYS[rest], returns=EVERYTHING, top_n=2, **alone)
    for name, got in out._asdict().items():
        if not name.startswith("kept_") or name == "kept_mass":
            assert torch.equal(got[rest], getattr(expected, name)), name
    assert torch.equal(out.kept_ids, expected.kept_ids)
    with pytest.raises(ValueError, match=f"^sample: row 2 has status {status.name}"):
        sample(x, **arguments)
    with pytest.raises(ValueError, match=f"^sample: row 0 has status {status.name}"):
        own = {k: v[2:3] if isinstance(v, torch.Tensor) else v for k, v in arguments.items()}
        fusedraw.sample(x[2], keys=KEYS[2], **own)


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
