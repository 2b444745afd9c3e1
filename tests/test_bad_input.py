# SPDX-License-Identifier: Apache-2.0
"""What happens to bad and odd input, one table row each.

REFUSED: metadata errors, raised before any work. BAD_ROWS: data errors, which stay in their row. EXACT: odd
input that is no error; the result equals that of plain Python (fusedraw.reference). The rest: own tests.
"""

import math
import mmap
import threading

import fusedraw
import numpy as np
import pytest
import torch
from fusedraw import Status, reference

B, V = 4, 70
NAN, INF = math.nan, math.inf
FLT_MAX = torch.finfo(torch.float32).max
MAP_NORESERVE = 0x4000  # Linux; Python has no name for it
TINY = 2.0**-149  # the smallest float32
KEYS = fusedraw.derive_keys(11, range(B))


def rows(dtype=torch.float32):
    return torch.randn(B, V, generator=torch.Generator().manual_seed(5)).to(dtype)


def probs(dtype=torch.float32):
    return rows().softmax(-1).to(dtype)


def sample(x=None, **arguments):
    if not {"keys", "seed", "generator"} & set(arguments):
        arguments["keys"] = KEYS
    return fusedraw.sample(rows() if x is None else x, **arguments)


def sample_probs(x=None, **arguments):
    return fusedraw.sample_probs(probs() if x is None else x, keys=KEYS, **arguments)


def multinomial(x=None, n=3, **arguments):
    return fusedraw.multinomial(probs() if x is None else x, n, seed=1, **arguments)


def ints(dtype):
    return torch.zeros(B, V, dtype=dtype)


def huge():
    return torch.zeros(1, 1).expand(1, 2**33 + 1)


# (name, call, exception, what the message must say)
REFUSED = [
    # logits: type, dtype, layout, shape
    (
        "logits list",
        lambda: sample([[1.0, 2.0]]),
        TypeError,
        "sample: logits must be a torch.Tensor, got list",
    ),
    ("logits numpy", lambda: sample(np.zeros((B, V), "f4")), TypeError, "torch.Tensor, got ndarray"),
    ("logits int64", lambda: sample(ints(torch.int64)), TypeError, "float32, bfloat16 or float16, got int64"),
    ("logits bool", lambda: sample(ints(torch.bool)), TypeError, "got bool"),
    ("logits complex", lambda: sample(ints(torch.complex64)), TypeError, "got complex64"),
    ("logits fp8", lambda: sample(ints(torch.float8_e4m3fn)), TypeError, "got float8_e4m3fn"),
    (
        "logits float64",
        lambda: sample(rows(torch.float64)),
        TypeError,
        "float32, bfloat16 or float16, got float64",
    ),
    ("logits sparse", lambda: sample(rows().to_sparse()), TypeError, "dense"),
    ("logits 0-D", lambda: sample(torch.tensor(1.0)), ValueError, r"\[V\] or \[B, V\], got shape \[\]"),
    ("logits 3-D", lambda: sample(torch.zeros(2, 3, 4)), ValueError, r"got shape \[2, 3, 4\]"),
    ("V = 0", lambda: sample(torch.zeros(B, 0)), ValueError, "at least one token"),
    ("V = 0, B = 0", lambda: sample(torch.zeros(0, 0), seed=1), ValueError, "at least one token"),
    ("V = 0, 1-D", lambda: sample(torch.zeros(0), seed=1), ValueError, "at least one token"),
    ("V > 2^33", lambda: sample(huge(), seed=1), ValueError, r"2\^33"),
    (
        "probs int",
        lambda: sample_probs(ints(torch.int32)),
        TypeError,
        "sample_probs: probs must be .* got int32",
    ),
    ("probs 3-D", lambda: sample_probs(torch.zeros(2, 3, 4)), ValueError, r"got shape \[2, 3, 4\]"),
    (
        "softmax int",
        lambda: fusedraw.softmax(ints(torch.int64)),
        TypeError,
        "softmax: logits .* or float64, got",
    ),
    ("softmax 3-D", lambda: fusedraw.log_softmax(torch.zeros(2, 3, 4)), ValueError, "log_softmax: logits"),
    ("softmax V = 0", lambda: fusedraw.softmax(torch.zeros(2, 0)), ValueError, "at least one token"),
    ("mask float64", lambda: fusedraw.top_k_mask(rows(torch.float64), 3), TypeError, "got float64"),
    (
        "renorm float64",
        lambda: fusedraw.top_k_renorm(rows(torch.float64), 3, from_logits=True),
        TypeError,
        "got float64",
    ),
    ("renorm int", lambda: fusedraw.top_p_renorm(ints(torch.int8), 0.5), TypeError, "top_p_renorm: probs"),
    # parameters: numbers
    (
        "temperature < 0",
        lambda: sample(temperature=-1.0),
        ValueError,
        r"sample: temperature must be >= 0, got -1\.0",
    ),
    ("temperature NaN", lambda: sample(temperature=NAN), ValueError, "temperature must be >= 0, got nan"),
    ("temperature -inf", lambda: sample(temperature=-INF), ValueError, "temperature must be >= 0, got -inf"),
    ("temperature None", lambda: sample(temperature=None), TypeError, "temperature must be a number"),
    (
        "temperature bool",
        lambda: sample(temperature=True),
        TypeError,
        "temperature must be a number .* got bool",
    ),
    (
        "temperature str",
        lambda: sample(temperature="1"),
        TypeError,
        "temperature must be a number .* got str",
    ),
    (
        "temperature list",
        lambda: sample(temperature=[1.0]),
        TypeError,
        "temperature must be a number .* got list",
    ),
    ("temperature complex", lambda: sample(temperature=1j), TypeError, "temperature must be a number"),
    ("temperature huge int", lambda: sample(temperature=-(10**400)), ValueError, "temperature must be >= 0"),
    (
        "top_k < -1",
        lambda: sample(top_k=-2),
        ValueError,
        "top_k must be >= 1, or 0, -1 or None for off, got -2",
    ),
    ("top_k float", lambda: sample(top_k=50.0), TypeError, "top_k must be an int .* got float"),
    ("top_k bool", lambda: sample(top_k=True), TypeError, "top_k must be an int .* got bool"),
    ("top_k bool, after 1 was cached", lambda: (sample(top_k=1), sample(top_k=True)), TypeError, "got bool"),
    (
        "top_k float, after 50 was cached",
        lambda: (sample(top_k=50), sample(top_k=50.0)),
        TypeError,
        "got float",
    ),
    ("top_p > 1", lambda: sample(top_p=1.1), ValueError, r"top_p must be in \[0, 1\], got 1\.1"),
    ("top_p < 0", lambda: sample(top_p=-0.1), ValueError, r"top_p must be in \[0, 1\], got -0\.1"),
    ("top_p NaN", lambda: sample(top_p=NAN), ValueError, r"top_p must be in \[0, 1\], got nan"),
    ("top_p just above 1", lambda: sample(top_p=1 + 2.0**-23), ValueError, "top_p must be"),
    ("top_p just below 0", lambda: sample(top_p=-TINY), ValueError, "top_p must be"),
    ("min_p > 1", lambda: sample(min_p=2), ValueError, r"min_p must be in \[0, 1\], got 2"),
    ("min_p < 0", lambda: sample(min_p=-1e-3), ValueError, "min_p must be"),
    ("min_p NaN", lambda: sample(min_p=NAN), ValueError, "min_p must be"),
    ("mix_eps > 1", lambda: sample(mix_eps=1.5), ValueError, "mix_eps must be"),
    ("mix_eps < 0", lambda: sample(mix_eps=-0.5), ValueError, "mix_eps must be"),
    ("mix_eps NaN", lambda: sample(mix_eps=NAN), ValueError, "mix_eps must be"),
    ("mix_eps bool", lambda: sample(mix_eps=False), TypeError, "mix_eps must be a number"),
    ("epsilon", lambda: sample(epsilon=0.1), TypeError, "epsilon"),
    ("Sampler top_p", lambda: fusedraw.Sampler(top_p=2.0), ValueError, "Sampler: top_p must be"),
    ("Sampler returns", lambda: fusedraw.Sampler(returns=("x",)), ValueError, "Sampler: returns"),
    ("softmax temperature", lambda: fusedraw.softmax(rows(), -1), ValueError, "softmax: temperature"),
    ("top_k_mask", lambda: fusedraw.top_k_mask(rows(), 1.5), TypeError, "top_k_mask: top_k"),
    ("top_p_mask", lambda: fusedraw.top_p_mask(rows(), 1.5), ValueError, "top_p_mask: top_p"),
    (
        "renorm temperature",
        lambda: fusedraw.top_p_renorm(probs(), 0.5, temperature=2.0),
        ValueError,
        "from_logits",
    ),
    # parameters: tensors
    (
        "length 3",
        lambda: sample(temperature=torch.ones(3)),
        ValueError,
        r"temperature must have length 1 or 4, got shape \[3\]",
    ),
    ("length 0", lambda: sample(top_p=torch.ones(0)), ValueError, "top_p must have length 1 or 4"),
    ("[B, 1]", lambda: sample(min_p=torch.ones(B, 1)), ValueError, "min_p must have length 1 or 4"),
    (
        "length B of another batch",
        lambda: fusedraw.Sampler(top_p=torch.ones(3))(rows(), keys=KEYS),
        ValueError,
        "top_p",
    ),
    (
        "two lengths",
        lambda: fusedraw.Sampler(top_p=torch.ones(3), min_p=torch.ones(2)),
        ValueError,
        "common B",
    ),
    (
        "other device",
        lambda: sample(mix_eps=torch.ones(B, device="meta")),
        ValueError,
        "mix_eps must be on cpu",
    ),
    (
        "bool tensor",
        lambda: sample(temperature=torch.ones(B, dtype=torch.bool)),
        TypeError,
        "temperature .* got bool",
    ),
    (
        "complex tensor",
        lambda: sample(top_p=torch.ones(1, dtype=torch.complex64)),
        TypeError,
        "got complex64",
    ),
    ("fp8 tensor", lambda: sample(top_p=torch.ones(1).to(torch.float8_e4m3fn)), TypeError, "got float8"),
    (
        "float top_k tensor",
        lambda: sample(top_k=torch.ones(B)),
        TypeError,
        "top_k tensor must be int64.* got float32",
    ),
    ("numpy parameter", lambda: sample(top_p=np.ones(B)), TypeError, "top_p must be a number or a tensor"),
    # names
    (
        "mix_support",
        lambda: sample(mix_support="all"),
        ValueError,
        "mix_support must be 'kept' or 'valid', got 'all'",
    ),
    ("filter_order", lambda: sample(filter_order="x"), ValueError, "'sequential', 'joint' or 'min_p_first'"),
    ("ties", lambda: sample(ties=1), TypeError, "ties must be a str"),
    ("domain", lambda: sample(domain="TARGET"), ValueError, "domain must be"),
    ("check", lambda: sample(check="ignore"), ValueError, "check must be 'raise' or 'status'"),
    (
        "returns",
        lambda: sample(returns=("logits",)),
        ValueError,
        "returns must be among status, .* got 'logits'",
    ),
    ("returns int", lambda: sample(returns=3), TypeError, "returns must be a tuple"),
    ("returns of ints", lambda: sample(returns=(3,)), TypeError, "returns must hold names"),
    (
        "entropy of probs",
        lambda: sample_probs(returns=("entropy",)),
        ValueError,
        "among status, logp, margin",
    ),
    ("top_n of probs", lambda: sample_probs(top_n=2), TypeError, "top_n"),
    ("top_n < 0", lambda: sample(top_n=-1), ValueError, "top_n must be >= 0"),
    ("top_n float", lambda: sample(top_n=1.0), TypeError, "top_n must be an int"),
    ("top_n bool", lambda: sample(top_n=True), TypeError, "top_n must be an int"),
    # mask
    ("mask list", lambda: sample(mask=[True] * V), TypeError, "mask must be a torch.Tensor"),
    (
        "mask uint8",
        lambda: sample(mask=torch.ones(V, dtype=torch.uint8)),
        TypeError,
        "bool or int32, got uint8",
    ),
    (
        "mask int64",
        lambda: sample(mask=torch.ones(3, dtype=torch.int64)),
        TypeError,
        "bool or int32, got int64",
    ),
    (
        "mask short",
        lambda: sample(mask=torch.ones(V - 1, dtype=torch.bool)),
        ValueError,
        r"must be \[70\], .* \[69\]",
    ),
    (
        "mask rows",
        lambda: sample(mask=torch.ones(3, V, dtype=torch.bool)),
        ValueError,
        r"\[4, 70\], .* \[3, 70\]",
    ),
    ("mask 3-D", lambda: sample(mask=torch.ones(1, B, V, dtype=torch.bool)), ValueError, "mask must be"),
    (
        "mask words",
        lambda: sample(mask=torch.ones(V, dtype=torch.int32)),
        ValueError,
        r"int32 mask must be \[3\]",
    ),
    (
        "mask device",
        lambda: sample(mask=torch.ones(V, dtype=torch.bool, device="meta")),
        ValueError,
        "mask must be on",
    ),
    (
        "softmax mask",
        lambda: fusedraw.softmax(rows(), mask=torch.ones(3, dtype=torch.bool)),
        ValueError,
        "softmax: a",
    ),
    # keys, seed, step, generator
    ("keys list", lambda: sample(keys=[[1, 2]] * B), TypeError, "keys must be a torch.Tensor"),
    (
        "keys float",
        lambda: sample(keys=torch.zeros(B, 2)),
        TypeError,
        "keys must be int64 or uint64, got float32",
    ),
    ("keys int32", lambda: sample(keys=torch.zeros(B, 2, dtype=torch.int32)), TypeError, "got int32"),
    ("keys [B]", lambda: sample(keys=KEYS[:, 0]), ValueError, r"keys must be \[4, 2\]"),
    ("keys [2]", lambda: sample(keys=KEYS[0]), ValueError, r"keys must be \[4, 2\].* got shape \[2\]"),
    ("keys of one row", lambda: sample(keys=KEYS[:1]), ValueError, r"got shape \[1, 2\]"),
    (
        "keys [B, 4]",
        lambda: sample(keys=torch.zeros(B, 4, dtype=torch.int64)),
        ValueError,
        r"got shape \[4, 4\]",
    ),
    ("keys device", lambda: sample(keys=KEYS.to("meta")), ValueError, "keys must be on cpu"),
    (
        "keys and seed",
        lambda: sample(keys=KEYS, seed=1),
        ValueError,
        "one of keys, seed and generator, got keys and seed",
    ),
    (
        "keys and generator",
        lambda: sample(keys=KEYS, generator=torch.Generator()),
        ValueError,
        "keys and generator",
    ),
    (
        "seed and generator",
        lambda: sample(seed=1, generator=torch.Generator()),
        ValueError,
        "seed and generator",
    ),
    ("keys and step", lambda: sample(keys=KEYS, step=1), ValueError, "step needs seed"),
    ("step alone", lambda: fusedraw.sample(rows(), step=1), ValueError, "step needs seed"),
    ("generator int", lambda: sample(generator=3), TypeError, "generator must be a torch.Generator, got int"),
    ("seed float", lambda: sample(seed=1.0), TypeError, "seed must be an int or an int64 tensor, got float"),
    ("seed bool", lambda: sample(seed=True), TypeError, "seed must be an int .* got bool"),
    ("seed str", lambda: sample(seed="1"), TypeError, "seed must be an int .* got str"),
    ("seed numpy float", lambda: sample(seed=np.float64(1)), TypeError, "seed must be an int"),
    ("seed numpy bool", lambda: sample(seed=np.bool_(True)), TypeError, "seed must be an int"),
    (
        "seed float tensor",
        lambda: sample(seed=torch.ones(1)),
        TypeError,
        "seed must be int64, uint64 or int32",
    ),
    (
        "seed tensor of 3",
        lambda: sample(seed=torch.arange(3)),
        ValueError,
        "seed must have length 1 or 4, got 3",
    ),
    ("step float", lambda: sample(seed=1, step=1.0), TypeError, "step must be an int"),
    ("step bool", lambda: sample(seed=1, step=False), TypeError, "step must be an int"),
    ("step 2^64", lambda: sample(seed=1, step=2**64), OverflowError, "step must fit int64 or uint64"),
    (
        "step < -2^63",
        lambda: sample(seed=1, step=-(2**63) - 1),
        OverflowError,
        "step must fit int64 or uint64",
    ),
    ("request 2^64", lambda: fusedraw.derive_keys(1, [2**64]), OverflowError, "request_ids must fit"),
    ("request float", lambda: fusedraw.derive_keys(1, [1.0]), TypeError, "request_ids must be an int"),
    (
        "request 2-D",
        lambda: fusedraw.derive_keys(1, torch.zeros(2, 2, dtype=torch.int64)),
        ValueError,
        "0-D or 1-D",
    ),
    (
        "request lengths",
        lambda: fusedraw.derive_keys(torch.arange(2), torch.arange(3)),
        ValueError,
        "length 1 or 3",
    ),
    (
        "sample id 2^32",
        lambda: fusedraw.derive_keys(1, [1], 2**32),
        ValueError,
        r"sample_ids must be in \[0, 2\^32\)",
    ),
    ("sample id -1", lambda: fusedraw.derive_keys(1, [1], [-1]), ValueError, "sample_ids must be in"),
    (
        "sample id tensor",
        lambda: fusedraw.derive_keys(1, [1], torch.tensor([-1])),
        ValueError,
        "derive_keys: sample_ids",
    ),
    # multinomial
    ("num_samples 0", lambda: multinomial(n=0), ValueError, "num_samples must be >= 1, got 0"),
    ("num_samples float", lambda: multinomial(n=1.0), TypeError, "num_samples must be an int"),
    ("num_samples bool", lambda: multinomial(n=True), TypeError, "num_samples must be an int"),
    ("replacement int", lambda: multinomial(replacement=1), TypeError, "replacement must be a bool"),
    ("input 3-D", lambda: multinomial(torch.ones(1, 2, 3)), ValueError, "multinomial: input"),
    (
        "out dtype",
        lambda: multinomial(out=torch.zeros(B, 3)),
        ValueError,
        r"out must be int64 \[4, 3\].* got float32",
    ),
    (
        "out shape",
        lambda: multinomial(out=torch.zeros(B, 2, dtype=torch.int64)),
        ValueError,
        r"got int64 \[4, 2\]",
    ),
    ("out list", lambda: multinomial(out=[]), TypeError, "out must be a torch.Tensor"),
    (
        "out device",
        lambda: multinomial(out=torch.zeros(B, 3, dtype=torch.int64, device="meta")),
        ValueError,
        "on cpu",
    ),
]


@pytest.mark.parametrize(
    "call, error, message", [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_refused(call, error, message):
    with pytest.raises(error, match=message) as caught:
        call()
    assert caught.type is error  # not a subclass that says less


@pytest.mark.parametrize(
    "call, error, message", [row[1:] for row in REFUSED], ids=[row[0] for row in REFUSED]
)
def test_refusal_leaves_generator_alone(call, error, message):
    before = torch.get_rng_state()
    with pytest.raises(error):
        call()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("function", [fusedraw.sample, fusedraw.Sampler(top_p=0.5)])
def test_refusal_without_keys_leaves_generator_alone(function):
    generator = torch.Generator().manual_seed(1)
    before = generator.get_state()
    for x, arguments in [(ints(torch.int32), {}), (rows(torch.float64), {}), (rows(), {"mask": rows()})]:
        with pytest.raises(TypeError):
            function(x, generator=generator, **arguments)
    with pytest.raises(ValueError):
        function(torch.zeros(2, 3, 4), generator=generator)
    assert torch.equal(generator.get_state(), before)


def test_out_must_not_alias_input():
    memory = torch.rand(16).view(2, 8)
    out = memory.view(torch.int64)[:, :2]
    with pytest.raises(ValueError, match="must not share memory"):
        fusedraw.multinomial(memory, 2, seed=1, out=out)


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
EVERYTHING = (
    *("status", "logp", "logp_full", "logp_raw", "entropy", "varentropy", "margin"),
    *("n_kept", "kept_mass", "rank", "explored", "kept"),
)


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


# Odd, not bad. (name, logits of a row, parameters): the draw and its log-probability equal plain Python's.
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


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_memory_layouts(dtype):
    x = rows(dtype)
    odd = torch.empty(B * V + 1, dtype=dtype)[1:].view(B, V)  # off by one element from every alignment
    wide = torch.empty(B, V + 3, dtype=dtype)[:, 2 : V + 2]
    apart = torch.empty(B, V, 2, dtype=dtype)[:, :, 1]  # elements two apart
    layouts = {"odd": odd, "wide": wide, "apart": apart, "transposed": torch.empty(V, B, dtype=dtype).t()}
    expected = sample(x, returns=("logp",), top_k=20)
    for name, view in layouts.items():
        view.copy_(x)
        out = sample(view, returns=("logp",), top_k=20)
        assert torch.equal(out.ids, expected.ids) and torch.equal(out.logp, expected.logp), name
        assert torch.equal(fusedraw.softmax(view), fusedraw.softmax(x)), name
        assert torch.equal(fusedraw.top_k_mask(view, 3), fusedraw.top_k_mask(x, 3)), name
    same = x[:1].expand(B, V)  # row stride 0
    assert torch.equal(sample(same), sample(same.contiguous()))
    assert torch.equal(sample(x.flip(1)), sample(x.flip(1).contiguous()))
    keys = torch.empty(2, B, dtype=torch.int64).t().copy_(KEYS.view(torch.int64))
    assert torch.equal(sample(x, keys=keys), sample(x))
    mask = torch.rand(V, B) > 0.5
    assert torch.equal(sample(x, mask=mask.t()), sample(x, mask=mask.t().contiguous()))
    stepped = torch.linspace(0.1, 2, 2 * B)[::2]
    assert torch.equal(sample(x, temperature=stepped), sample(x, temperature=stepped.contiguous()))


def test_rows_beyond_32_bit_offsets():
    # Rows 2^31 and 2^32 elements apart in memory that is reserved, not used.
    size = 2 * (2**32 + V)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    x = torch.frombuffer(memory, dtype=torch.float16).as_strided((3, V), (2**31, 1))
    x.copy_(rows(torch.float16)[:3])
    assert torch.equal(sample(x, keys=KEYS[:3]), sample(x.clone(), keys=KEYS[:3]))
    assert torch.equal(fusedraw.softmax(x), fusedraw.softmax(x.clone()))


@pytest.mark.parametrize("vocab", [2**20, pytest.param(2**25, marks=pytest.mark.slow)])
def test_long_rows(vocab):
    x = torch.zeros(1, vocab)
    x[0, -1] = 60.0
    assert sample(x, seed=1).item() == vocab - 1
    x[0, -1] = 0.0
    assert 0 <= sample(x, seed=1).item() < vocab


@pytest.mark.slow
def test_more_than_2_to_the_32_elements():
    if fusedraw.isa() == "reference":
        pytest.skip("hours with the reference engine")
    x = torch.randn(1, 2**18, generator=torch.Generator().manual_seed(1)).expand(2**14 + 3, 2**18)
    ids = fusedraw.sample(x, seed=1, top_k=50)
    keys = fusedraw.derive_keys(1, range(2**14 + 3))
    for row in (0, 2**13 - 1, 2**13, 2**14 - 1, 2**14, 2**14 + 2):
        assert ids[row] == fusedraw.sample(x[0], keys=keys[row], top_k=50)


def test_tensors_of_other_classes():
    class Named(torch.Tensor):
        pass

    expected = sample()
    for x in (torch.nn.Parameter(rows()), rows().as_subclass(Named), rows().requires_grad_()):
        ids = sample(x, keys=KEYS)
        assert ids.dtype == torch.int64 and not ids.requires_grad and ids.tolist() == expected.tolist()
        assert (
            sample(rows(), keys=KEYS, temperature=torch.ones(B).as_subclass(type(x))).tolist() == ids.tolist()
        )
    assert sample(keys=KEYS.as_subclass(Named), mask=torch.ones(V).bool().as_subclass(Named)).equal(expected)


def test_seeds_count_mod_2_to_the_64():
    x = rows()
    for seed, same in [
        (-1, 2**64 - 1),
        (2**63, -(2**63)),
        (2**64, 0),
        (2**64 + 5, 5),
        (-(2**64) - 7, -7),
        (10**30, 10**30 % 2**64),
    ]:
        assert torch.equal(sample(x, seed=seed), sample(x, seed=same))
    for seed in (-1, 2**63, 2**40 + 3):
        assert torch.equal(sample(x, seed=np.array(seed % 2**64, "u8")[()]), sample(x, seed=seed))
    assert torch.equal(sample(x, seed=np.int64(-5)), sample(x, seed=-5))
    assert torch.equal(sample(x, seed=np.int32(5)), sample(x, seed=5))
    many = torch.zeros(1, 2**15)  # the high bits matter
    assert len({sample(many, seed=5 + (bit << 32)).item() for bit in range(50)}) > 45


def test_steps_of_64_bits():
    x = torch.zeros(1, 2**15)
    for step, same in [(-1, 2**64 - 1), (-(2**63), 2**63)]:
        assert sample(x, seed=1, step=step) == sample(x, seed=1, step=same)
    assert len({sample(x, seed=1, step=step << 32).item() for step in range(50)}) > 45


def test_logits_that_change_meanwhile():
    # Undefined token, but one of the row or -1, and no crash.
    x, stop = torch.randn(2, 5000), threading.Event()

    def disturb():
        generator = torch.Generator().manual_seed(1)
        while not stop.is_set():
            x.copy_(torch.randn(2, 5000, generator=generator))
            x[0, 7] = NAN

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for step in range(300):
            ids = fusedraw.sample(x, seed=1, step=step, top_k=40, top_p=0.9, check="status")
            assert ((ids >= -1) & (ids < 5000)).all()
    finally:
        stop.set()
        thread.join()
