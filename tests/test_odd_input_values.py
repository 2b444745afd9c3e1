# SPDX-License-Identifier: Apache-2.0
"""Odd numbers that are no error: most results are compared with plain Python (fusedraw.reference)."""

import fusedraw
import pytest
import torch
from fusedraw import reference
from input_cases import EVERYTHING, FLT_MAX, INF, KEYS, TINY, V, rows, sample

# (name, logits of a row, parameters): the draw and its log-probability equal plain Python's.
LADDER = [0.0, -1.0, 2.0, 2.0, -3.0, 0.5, 2.0, 1.0]
EXACT = [
    ("V = 1", [3.0], {}),
    ("V = 1, greedy", [-FLT_MAX], {"temperature": 0.0}),
    ("-0.0", [0.0, -0.0, -0.0, 0.0], {"temperature": 0.0}),
    ("-0.0 ties", [-0.0, 0.0, -1.0], {"top_k": 1}),
    ("subnormals", [TINY, 0.0, -TINY, 3 * TINY], {"temperature": TINY}),
    ("subnormals, T = 1", [TINY, 0.0, -TINY, 3 * TINY], {}),
    ("FLT_MAX and -FLT_MAX", [FLT_MAX, -FLT_MAX, FLT_MAX, 0.0], {}),
    ("FLT_MAX, T huge", [FLT_MAX, -FLT_MAX, 0.0], {"temperature": FLT_MAX}),
    ("finfo.min is no mask", [torch.finfo(torch.float32).min] * 5, {}),
    ("some -inf", [-INF, 1.0, -INF, 0.5, -INF], {}),
    ("all but one -inf", [-INF, -INF, -5.0, -INF], {"top_p": 0.5}),
    ("T = 0", LADDER, {"temperature": 0.0}),
    ("T = -0.0", LADDER, {"temperature": -0.0}),
    ("T = 0, filters", LADDER, {"temperature": 0.0, "top_k": 3, "top_p": 0.1, "min_p": 1.0}),
    ("T = 1e-45", LADDER, {"temperature": 1e-45}),
    ("T = 1e-38", LADDER, {"temperature": 1e-38}),
    ("T = 1e-30", LADDER, {"temperature": 1e-30}),
    ("T = 1e-30, no ties", [0.0, 1.0, 1.0000001], {"temperature": 1e-30}),
    ("T = 2^64", LADDER, {"temperature": 2.0**64}),
    ("T > 2^64", LADDER, {"temperature": 2.0**65}),
    ("T = inf", LADDER, {"temperature": INF}),
    ("T = 1e300", LADDER, {"temperature": 1e300}),
    ("T an int beyond float64", LADDER, {"temperature": 10**400}),
    ("top_k = 0", LADDER, {"top_k": 0}),
    ("top_k = -1", LADDER, {"top_k": -1}),
    ("top_k = 1", LADDER, {"top_k": 1}),
    ("top_k ties", LADDER, {"top_k": 2}),
    ("top_k ties, all", LADDER, {"top_k": 2, "ties": "all"}),
    ("top_k > V", LADDER, {"top_k": 9}),
    ("top_k = 2^30", LADDER, {"top_k": 2**30}),
    ("top_k = 2^31 - 1", LADDER, {"top_k": 2**31 - 1}),
    ("top_k = 2^63", LADDER, {"top_k": 2**63}),
    ("top_p = 0", LADDER, {"top_p": 0.0}),
    ("top_p = -0.0", LADDER, {"top_p": -0.0}),
    ("top_p = 1e-45", LADDER, {"top_p": 1e-45}),
    ("top_p = 1e-60", LADDER, {"top_p": 1e-60}),
    ("top_p = -1e-60", LADDER, {"top_p": -1e-60}),
    ("top_p = 1", LADDER, {"top_p": 1.0}),
    ("top_p = 1 + 1e-9", LADDER, {"top_p": 1 + 1e-9}),
    ("top_p = 1 - 2^-24", LADDER, {"top_p": 1 - 2.0**-24}),
    ("min_p = 0", LADDER, {"min_p": 0.0}),
    ("min_p = 1", LADDER, {"min_p": 1.0}),
    ("min_p = 1, min_p_first", LADDER, {"min_p": 1.0, "filter_order": "min_p_first"}),
    ("mix_eps = 0", LADDER, {"mix_eps": 0.0}),
    ("mix_eps = 1", LADDER, {"mix_eps": 1.0, "top_k": 3}),
    ("mix_eps = 1, valid", [*LADDER, -INF], {"mix_eps": 1.0, "top_k": 3, "mix_support": "valid"}),
    ("mix_eps = 1e-45", LADDER, {"mix_eps": 1e-45}),
]


@pytest.mark.parametrize("x, parameters", [row[1:] for row in EXACT], ids=[row[0] for row in EXACT])
def test_exact(x, parameters):
    keys = fusedraw.derive_keys(7, range(16), step=3)
    batch = torch.tensor([x] * 16)
    out = fusedraw.sample(batch, keys=keys, returns=("logp", "logp_full", "n_kept", "rank"), **parameters)
    plain = {k: min(v, 1e308) if k == "temperature" else v for k, v in parameters.items()}
    for i, key in enumerate(keys.tolist()):
        want = reference.sample_row([float(v) for v in batch[i]], key=tuple(key), **plain)
        assert want.status == 0
        got = (out.ids[i], out.logp[i], out.logp_full[i], out.n_kept[i], out.rank[i])
        assert [v.item() for v in got] == [want.id, want.logp, want.logp_full, want.n_kept, want.rank]


@pytest.mark.parametrize("name", ["top_k", "top_p", "min_p", "mix_eps"])
def test_none_is_off(name):
    assert torch.equal(sample(**{name: None}), sample())


def test_minus_infinity_is_never_drawn():
    x = rows()
    x[:, ::2] = -INF
    for step in range(200):
        assert (sample(x, seed=3, keys=None, step=step, mix_eps=0.5, mix_support="valid") % 2 == 1).all()


def test_low_temperature_draws_ties_evenly():
    x = torch.tensor([[1.0, 3.0, 3.0, 2.0, 3.0]]).expand(3000, 5)
    counts = fusedraw.sample(x, temperature=1e-30, seed=9).bincount(minlength=5)
    assert counts[[0, 3]].tolist() == [0, 0] and (counts[[1, 2, 4]] > 880).all()  # 1000 each, sd 26


def test_empty_batch():
    x = torch.zeros(0, V)
    out = sample(x, keys=KEYS[:0], returns=EVERYTHING, top_n=3)
    assert out.ids.shape == (0,) and out.ids.dtype == torch.int64
    assert out.kept_offsets.tolist() == [0] and out.kept_ids.shape == (0,) and out.top_ids.shape == (0, 3)
    for ids in (sample(x, seed=1), fusedraw.sample(x), sample(x, seed=torch.tensor([1]))):
        assert ids.shape == (0,)
    assert fusedraw.softmax(x).shape == (0, V) and fusedraw.top_k_mask(x, 3).shape == (0, V)
    assert fusedraw.multinomial(x, 3, seed=1).shape == (0, 3)
