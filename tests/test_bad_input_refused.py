# SPDX-License-Identifier: Apache-2.0
"""Metadata errors, one table row each: raised before any work, by name, and with the generator left alone."""

import fusedraw
import numpy as np
import pytest
import torch
from input_cases import INF, KEYS, NAN, TINY, B, V, multinomial, probs, rows, sample, sample_probs


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
