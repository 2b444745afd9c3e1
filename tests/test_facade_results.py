# SPDX-License-Identifier: Apache-2.0
"""The Python face: dtypes, shapes and forms of what comes back."""

import fusedraw
import torch
from facade_cases import DTYPES, KEYS, OUTPUTS, PROBS, RULES, B, X, equal, wide
from fusedraw import SampleOutput, Status, sample


def test_dtypes_and_shapes():
    out = wide(**RULES)
    assert out.ids.dtype == torch.int64 and out.ids.shape == (B,)
    for name, dtype in DTYPES.items():
        assert getattr(out, name).dtype == dtype and getattr(out, name).shape == (B,), name
    assert out.kept_ids.dtype == torch.int32 and out.kept_ids.shape == (out.n_kept.sum(),)
    assert out.kept_offsets.dtype == torch.int64
    assert torch.equal(out.kept_offsets.diff(), out.n_kept) and out.kept_offsets[0] == 0
    assert out.top_ids.dtype == torch.int64 and out.top_ids.shape == (B, 3)
    assert out.top_logps.dtype == torch.float32 and out.top_logps.shape == (B, 3)
    assert (out.status == Status.OK).all()


def test_returns_in_any_order_and_form():
    everything = wide(**RULES)
    for returns in [
        ("rank", "logp"),
        ("logp", "rank"),
        ["logp", "rank"],
        {"rank", "logp"},
        ("logp", "logp", "rank"),
    ]:
        out = sample(X, keys=KEYS, returns=returns, **RULES)
        assert isinstance(out, SampleOutput) and out[0] is out.ids
        assert torch.equal(out.logp, everything.logp) and torch.equal(out.rank, everything.rank)
        assert [name for name, field in out._asdict().items() if field is not None] == ["ids", "logp", "rank"]
    assert repr(out).count("=tensor") == 3 and "None" not in repr(out)
    for name in OUTPUTS:  # each alone is what it is among all
        out = sample(X, keys=KEYS, returns=name, **RULES)
        fields = ("kept_ids", "kept_offsets") if name == "kept" else (name,)
        assert all(equal(getattr(out, field), getattr(everything, field)) for field in fields), name
    top = sample(X, keys=KEYS, top_n=2)
    assert torch.equal(top.top_ids, everything.top_ids[:, :2]) and top.logp is None
    assert torch.equal(sample(X, keys=KEYS, **RULES), everything.ids)  # plain ids when nothing is asked


def test_top_n_beyond_the_vocabulary():
    out = sample(X[:, :3], keys=KEYS, top_n=5)
    assert (out.top_ids[:, 3:] == -1).all() and (out.top_logps[:, 3:] == -torch.inf).all()
    assert torch.equal(out.top_ids[:, :3], X[:, :3].sort(dim=1, descending=True, stable=True).indices)


def test_one_dimension():
    out = sample(X[1], keys=KEYS[1], returns=OUTPUTS, top_n=3, **RULES)
    batch = sample(X[1:2], keys=KEYS[1:2], returns=OUTPUTS, top_n=3, **RULES)
    assert out.ids.shape == () and out.logp.shape == () and out.top_ids.shape == (3,)
    assert torch.equal(out.kept_ids, batch.kept_ids) and torch.equal(out.kept_offsets, batch.kept_offsets)
    for name in DTYPES:
        assert torch.equal(getattr(out, name), getattr(batch, name)[0]), name
    assert torch.equal(sample(X[1], keys=KEYS[1:2]), sample(X[1:2], keys=KEYS[1:2])[0])
    assert torch.equal(sample(X[1], seed=4, step=1), sample(X[1:2], seed=4, step=1)[0])
    mask = X[1] > 0
    assert torch.equal(sample(X[1], seed=4, mask=mask), sample(X[1], seed=4, mask=mask[None]))
    assert torch.equal(fusedraw.sample_probs(PROBS[1], seed=4), fusedraw.sample_probs(PROBS[1:2], seed=4)[0])
    for function in (fusedraw.softmax, fusedraw.log_softmax):
        assert torch.equal(function(X[1], 0.5), function(X, 0.5)[1])
    assert torch.equal(fusedraw.top_k_mask(X[1], 3), fusedraw.top_k_mask(X, 3)[1])
    assert torch.equal(fusedraw.top_p_renorm(PROBS[1], 0.3), fusedraw.top_p_renorm(PROBS, 0.3)[1])
    assert torch.equal(
        fusedraw.multinomial(PROBS[1], 4, seed=1), fusedraw.multinomial(PROBS[1:2], 4, seed=1)[0]
    )
