# SPDX-License-Identifier: Apache-2.0
"""The Python face: however arguments are given, the draw is the same; what comes back, in which form."""

import copy
import pickle
import subprocess
import sys

import fusedraw
import fusedraw.numpy
import numpy as np
import pytest
import torch
from fusedraw import SampleOutput, Sampler, Status, reference, sample

B, V = 5, 90
KEYS = fusedraw.derive_keys(21, range(B), step=2)
X = torch.randn(B, V, generator=torch.Generator().manual_seed(8)) * 2
PROBS = X.softmax(-1)
OUTPUTS = (
    *("status", "logp", "logp_full", "logp_raw", "entropy", "varentropy", "margin"),
    *("n_kept", "kept_mass", "rank", "explored", "kept"),
)
DTYPES = {
    "status": torch.uint8,
    **dict.fromkeys(("logp", "logp_full", "logp_raw", "entropy", "varentropy", "margin"), torch.float32),
    "n_kept": torch.int64,
    "kept_mass": torch.float32,
    "rank": torch.int64,
    "explored": torch.bool,
}
RULES = {"temperature": 0.7, "top_k": 30, "top_p": 0.9, "min_p": 0.01, "mix_eps": 0.1}


def equal(a, b):
    """Equal outputs, field by field (NaN equals NaN)."""
    if isinstance(a, torch.Tensor):
        return a.dtype == b.dtype and a.shape == b.shape and torch.equal(a.nan_to_num(9), b.nan_to_num(9))
    return len(a) == len(b) and all(
        (p is None and q is None) or equal(p, q) for p, q in zip(a, b, strict=True)
    )


def wide(**arguments):
    return sample(X, keys=KEYS, returns=OUTPUTS, top_n=3, **arguments)


# Parameters

FORMS = {
    "0-D": lambda v, dtype: torch.tensor(v, dtype=dtype),
    "[1]": lambda v, dtype: torch.tensor([v], dtype=dtype),
    "[B]": lambda v, dtype: torch.full((B,), v, dtype=dtype),
    "[B] strided": lambda v, dtype: torch.full((B, 3), v, dtype=dtype)[:, 1],
    "[B] expanded": lambda v, dtype: torch.tensor([v], dtype=dtype).expand(B),
    "Parameter": lambda v, dtype: torch.nn.Parameter(
        torch.tensor([v], dtype=dtype), requires_grad=dtype.is_floating_point
    ),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("name", RULES)
def test_parameter_as_tensor(name, form):
    expected = wide(**{name: RULES[name]})
    assert not equal(expected, wide())  # the parameter does something here
    for dtype in (
        (torch.int64, torch.int32, torch.uint8) if name == "top_k" else (torch.float32, torch.float64)
    ):
        value = form(RULES[name], dtype)
        assert equal(wide(**{name: value}), expected), dtype
        assert equal(Sampler(**{name: value}, returns=OUTPUTS, top_n=3)(X, keys=KEYS), expected), dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.int8])
def test_parameter_dtypes_that_hold_the_value(dtype):
    for name, value in (("temperature", 2.0), ("mix_eps", 1.0), ("min_p", 1.0)):
        assert equal(wide(**{name: torch.tensor(value).to(dtype)}), wide(**{name: value}))


def test_parameters_round_to_float32():
    # 0.1 of float64 and of float32 differ; both are the float32 one.
    for name in ("temperature", "top_p", "min_p", "mix_eps"):
        as_float32 = float(np.float32(0.1))
        forms = [0.1, as_float32, np.float32(0.1), np.float64(0.1), torch.tensor(0.1, dtype=torch.float64)]
        assert all(equal(wide(**{name: form}), wide(**{name: as_float32})) for form in forms), name
    assert equal(wide(temperature=2), wide(temperature=2.0))
    assert equal(wide(top_k=np.int32(7)), wide(top_k=7))


def test_one_value_per_row():
    columns = {
        "temperature": [0.0, 0.5, 1.0, 2.0, 1e-30],
        "top_k": [0, 1, -1, 5, 20],
        "top_p": [1.0, 0.9, 0.5, 0.0, 0.7],
        "min_p": [0.0, 0.1, 0.01, 1.0, 0.3],
        "mix_eps": [0.0, 1.0, 0.5, 0.1, 0.9],
    }
    together = wide(**{name: torch.tensor(values) for name, values in columns.items()})
    for row in range(B):
        alone = sample(
            X[row], keys=KEYS[row], returns=OUTPUTS, top_n=3, **{n: v[row] for n, v in columns.items()}
        )
        for name, got in together._asdict().items():
            if name not in ("kept_ids", "kept_offsets"):
                assert equal(got[row], getattr(alone, name)), (row, name)
        start, stop = together.kept_offsets[row : row + 2]
        assert equal(together.kept_ids[start:stop], alone.kept_ids)


def test_tensor_parameters_are_not_remembered():
    temperature = torch.tensor([2.0])
    draw = Sampler(temperature=temperature)
    hot = sample(X, keys=KEYS, temperature=temperature)
    temperature.fill_(0.0)
    assert torch.equal(sample(X, keys=KEYS, temperature=temperature), X.argmax(1))
    assert torch.equal(draw(X, keys=KEYS), hot)  # a sampler copies


def test_everything_equals_plain_python():
    mask = torch.rand(B, V, generator=torch.Generator().manual_seed(1)) > 0.2
    for filter_order in ("sequential", "joint", "min_p_first"):
        for ties in ("index", "all"):
            for mix_support in ("kept", "valid"):
                options = {"filter_order": filter_order, "ties": ties, "mix_support": mix_support}
                x = (X * 4).round() / 4  # ties
                out = sample(
                    x, keys=KEYS, mask=mask, domain="draft", returns=OUTPUTS, top_n=4, **RULES, **options
                )
                for row in range(B):
                    want = reference.sample_row(
                        x[row].tolist(),
                        key=tuple(KEYS[row].tolist()),
                        mask=mask[row].tolist(),
                        domain=reference.DRAFT,
                        top_n=4,
                        **RULES,
                        **options,
                    )
                    got = [out.ids, *(getattr(out, name) for name in DTYPES)]
                    assert [t[row].item() for t in got] == [
                        want.id,
                        *(getattr(want, name) for name in DTYPES),
                    ]
                    assert out.top_ids[row].tolist() == want.top_ids
                    assert out.top_logps[row].tolist() == want.top_logps
                    start, stop = out.kept_offsets[row : row + 2].tolist()
                    assert out.kept_ids[start:stop].tolist() == sorted(want.kept)


# What comes back


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


# Masks


def test_masks_of_every_form():
    allowed = torch.rand(B, V, generator=torch.Generator().manual_seed(2)) > 0.5
    padded = torch.zeros(B, 96, dtype=torch.int64)
    padded[:, :V] = allowed
    words = (padded.view(B, 3, 32) << torch.arange(32)).sum(-1).to(torch.int32)  # wraps into the sign bit
    expected = sample(X.masked_fill(~allowed, -torch.inf), keys=KEYS, returns=("logp", "kept"), **RULES)
    for mask in (allowed, words):
        assert equal(sample(X, keys=KEYS, mask=mask, returns=("logp", "kept"), **RULES), expected)
    shared = sample(X.masked_fill(~allowed[:1], -torch.inf), keys=KEYS)
    for mask in (allowed[0], allowed[:1], words[0], words[:1]):
        assert torch.equal(sample(X, keys=KEYS, mask=mask), shared)
        assert torch.equal(Sampler()(X, keys=KEYS, mask=mask), shared)
    noisy = X.masked_fill(~allowed, torch.nan)  # what is excluded is not looked at
    assert equal(sample(noisy, keys=KEYS, mask=words, returns=("logp", "kept"), **RULES), expected)


# Keys


def test_seed_is_a_convenience_for_keys():
    for seed, step in ((0, 0), (7, 3), (-1, 0), (2**64 - 1, 0), (2**63, 2**40), (5, 2**64 - 1), (5, -1)):
        keys = fusedraw.derive_keys(seed, range(B), 0, step)
        expected = sample(X, keys=keys)
        assert torch.equal(sample(X, seed=seed, step=step), expected)
        assert torch.equal(Sampler()(X, seed=seed, step=step), expected)
        signed = torch.tensor([(seed + 2**63) % 2**64 - 2**63]), torch.tensor((step + 2**63) % 2**64 - 2**63)
        assert torch.equal(sample(X, seed=signed[0], step=signed[1]), expected)
        unsigned = (
            torch.tensor(seed % 2**64, dtype=torch.uint64),
            torch.tensor([step % 2**64], dtype=torch.uint64),
        )
        assert torch.equal(sample(X, seed=unsigned[0], step=unsigned[1]), expected)
    assert torch.equal(sample(X, seed=7), sample(X, seed=7, step=0))


def test_seed_and_step_per_row():
    seeds, steps = torch.tensor([4, 9, 4, -3, 0]), torch.arange(B) * 7
    expected = [
        sample(X, seed=int(s), step=int(t))[row] for row, (s, t) in enumerate(zip(seeds, steps, strict=True))
    ]
    assert sample(X, seed=seeds, step=steps).tolist() == [int(i) for i in expected]


def test_derive_keys():
    keys = fusedraw.derive_keys(3, range(4), step=9)
    assert keys.dtype == torch.uint64 and keys.shape == (4, 2) and keys[:, 1].tolist() == [9] * 4
    for row in range(4):
        assert tuple(keys[row].tolist()) == reference.derive_key(3, row, 0, 9)
    big = fusedraw.derive_keys(2**64 - 1, [2**64 - 1, -1, 2**63], [0, 2**32 - 1, 5], -1)
    assert tuple(big[0].tolist()) == reference.derive_key(2**64 - 1, 2**64 - 1, 0, 2**64 - 1)
    assert tuple(big[1].tolist()) == reference.derive_key(2**64 - 1, 2**64 - 1, 2**32 - 1, 2**64 - 1)
    for ids in (
        range(4),
        [0, 1, 2, 3],
        torch.arange(4),
        torch.arange(4, dtype=torch.int32),
        torch.arange(4).to(torch.uint64),
    ):
        assert torch.equal(fusedraw.derive_keys(3, ids, step=9), keys)
    assert torch.equal(
        fusedraw.derive_keys(torch.tensor(3), torch.arange(4), step=torch.tensor([9] * 4)), keys
    )
    one = fusedraw.derive_keys(3, 2, torch.arange(6), 1)  # six samples of one request
    assert one.shape == (6, 2) and len({tuple(k) for k in one.tolist()}) == 6
    assert fusedraw.derive_keys(3, []).shape == (0, 2)
    assert torch.equal(fusedraw.derive_keys(3, 7), fusedraw.derive_keys(3, [7], None, 0))


def test_keys_signed_and_unsigned():
    for function in (sample, Sampler(**RULES)):
        assert torch.equal(function(X, keys=KEYS), function(X, keys=KEYS.view(torch.int64)))
    assert torch.equal(
        fusedraw.multinomial(PROBS, 3, keys=KEYS), fusedraw.multinomial(PROBS, 3, keys=KEYS.view(torch.int64))
    )


def test_keys_make_the_position_irrelevant():
    order = torch.tensor([3, 0, 4, 2, 1])
    assert torch.equal(sample(X[order], keys=KEYS[order]), sample(X, keys=KEYS)[order])


def test_domains_are_disjoint():
    flat = torch.zeros(64, 4096)
    draws = [sample(flat, seed=1, domain=domain) for domain in ("target", "draft", "accept", "recovery")]
    assert max((a == b).sum() for i, a in enumerate(draws) for b in draws[:i]) <= 2


def test_generators():
    def draws(generator, function=sample):
        return [function(X, generator=generator).tolist() for _ in range(4)]

    first = draws(torch.Generator().manual_seed(5))
    assert draws(torch.Generator().manual_seed(5)) == first
    assert draws(torch.Generator().manual_seed(5), Sampler()) == first
    assert draws(torch.Generator().manual_seed(6)) != first
    assert len(set(map(tuple, first))) == 4
    torch.manual_seed(5)
    assert [sample(X).tolist() for _ in range(4)] == first  # the default generator
    torch.manual_seed(5)
    assert [Sampler()(X).tolist() for _ in range(4)] == first
    generator = torch.Generator().manual_seed(5)
    seed = torch.empty(1, dtype=torch.int64).random_(-(2**63), None, generator=generator)  # one uint64 a call
    assert sample(X, seed=int(seed)).tolist() == first[0]
    assert sample(X, generator=generator).tolist() == first[1]
    state = generator.get_state()
    sample(X, seed=1), sample(X, keys=KEYS)
    assert torch.equal(generator.get_state(), state)
    for function in (
        fusedraw.sample_probs,
        lambda x, generator: fusedraw.multinomial(x, 3, generator=generator),
    ):
        a, b = (function(PROBS, generator=torch.Generator().manual_seed(5)) for _ in range(2))
        assert torch.equal(a, b)


# Sampler


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


# numpy


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_numpy_same_bits(dtype):
    x = X.numpy().astype(dtype)
    tensor = torch.from_numpy(x)
    ids = fusedraw.numpy.sample(x, keys=KEYS.numpy(), **RULES)
    assert isinstance(ids, np.ndarray) and ids.dtype == np.int64
    assert np.array_equal(ids, sample(tensor, keys=KEYS, **RULES).numpy())
    mask = (X > -1).numpy()
    temperature = np.linspace(0.5, 2, B)
    out = fusedraw.numpy.sample(
        x, seed=3, step=1, mask=mask, temperature=temperature, returns=OUTPUTS, top_n=2
    )
    want = sample(
        tensor,
        seed=3,
        step=1,
        mask=X > -1,
        temperature=torch.from_numpy(temperature),
        returns=OUTPUTS,
        top_n=2,
    )
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(out, want, strict=True))
    assert fusedraw.numpy.sample(x[0], seed=3).shape == ()
    for view in (x[:, ::2], x[::-1], x[:, ::-1], np.asfortranarray(x), x.astype(x.dtype.newbyteorder(">"))):
        dense = torch.from_numpy(np.ascontiguousarray(view.astype(dtype)))
        assert np.array_equal(fusedraw.numpy.sample(view, seed=3), sample(dense, seed=3).numpy())
    frozen = x.copy()
    frozen.flags.writeable = False
    assert np.array_equal(fusedraw.numpy.sample(frozen, seed=3), sample(tensor, seed=3).numpy())
    raw = np.empty(x.nbytes + 1, np.uint8)[1:]  # misaligned
    raw[:] = np.frombuffer(x.tobytes(), np.uint8)
    assert np.array_equal(
        fusedraw.numpy.sample(raw.view(dtype).reshape(x.shape), seed=3), sample(tensor, seed=3).numpy()
    )


def test_numpy_generator_and_default():
    a, b = (fusedraw.numpy.sample(X.numpy(), generator=torch.Generator().manual_seed(2)) for _ in range(2))
    assert np.array_equal(a, b)
    torch.manual_seed(2)
    assert np.array_equal(fusedraw.numpy.sample(X.numpy()), a)


def test_numpy_refuses():
    with pytest.raises(TypeError, match="float32, bfloat16 or float16, got float64"):
        fusedraw.numpy.sample(X.numpy().astype(np.float64))
    with pytest.raises(TypeError, match="got int64"):
        fusedraw.numpy.sample(np.zeros((2, 3), np.int64))
    with pytest.raises(TypeError, match="sample: logits must be a numpy array or have __dlpack__, got list"):
        fusedraw.numpy.sample([[1.0]])
    with pytest.raises(TypeError, match="dtype that torch has, got <U1"):
        fusedraw.numpy.sample(np.array([["a"]]))
    with pytest.raises(ValueError, match="row 0 has status NAN"):
        fusedraw.numpy.sample(np.full((1, 3), np.nan, np.float32))


def test_numpy_takes_dlpack():
    class Capsule:
        def __init__(self, tensor):
            self.tensor = tensor

        def __dlpack__(self, **arguments):
            return self.tensor.__dlpack__()

        def __dlpack_device__(self):
            return self.tensor.__dlpack_device__()

    for x in (X, X.bfloat16()):
        ids = fusedraw.numpy.sample(
            Capsule(x), keys=Capsule(KEYS.view(torch.int64)), temperature=Capsule(torch.ones(B))
        )
        assert np.array_equal(ids, sample(x, keys=KEYS).numpy())
        assert np.array_equal(fusedraw.numpy.sample(x, keys=KEYS), ids)


def test_numpy_bfloat16():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = X.numpy().astype(ml_dtypes.bfloat16)
    assert np.array_equal(fusedraw.numpy.sample(x, seed=3), sample(X.bfloat16(), seed=3).numpy())


# The package


def test_public_names():
    for name in fusedraw.__all__:
        assert getattr(fusedraw, name) is not None
    assert fusedraw.STREAM_VERSION == 1 and fusedraw.info()["build"]["stream_version"] == 1
    assert [s.name for s in Status] == ["OK", "BAD_PARAM", "NAN", "POS_INF", "EMPTY"]
    assert fusedraw.isa() in fusedraw.isa_list()
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        fusedraw.nothing  # noqa: B018
    code = "import fusedraw; print(fusedraw.numpy.sample.__module__, fusedraw.reference.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["fusedraw.numpy", "fusedraw.reference"], done.stderr


def test_info():
    facts = fusedraw.info()
    assert facts["fusedraw"] == fusedraw.__version__ == "0.1.0"
    assert facts["torch"] == torch.__version__ and facts["threads"] == torch.get_num_threads()
    assert facts["isa"] == fusedraw.isa() and facts["isa_available"] == fusedraw.isa_list()
