# SPDX-License-Identifier: Apache-2.0
"""What sample, sample_probs, Sampler, numpy.sample and derive_keys refuse."""

import fusedraw
import fusedraw.numpy
import numpy as np
import torch
from input_cases import INF, KEYS, NAN, TINY, B, V, probs, rows, sample

from .rows import Refused, refusing

I64 = torch.int64
of = refusing("sample", fusedraw.sample, logits=rows(), keys=KEYS)
seeded = refusing("sample", fusedraw.sample, logits=rows())
huge = torch.zeros(1, 1).expand(1, 2**33 + 1)
zeros = torch.zeros(B, V)

LOGITS = [
    of(TypeError, "sample: logits must be a torch.Tensor, got list", logits=[[1.0, 2.0]]),
    of(TypeError, "torch.Tensor, got ndarray", logits=np.zeros((B, V), "f4")),
    of(TypeError, "float32, bfloat16 or float16, got int64", logits=zeros.long()),
    of(TypeError, "got bool", logits=zeros.bool()),
    of(TypeError, "got complex64", logits=zeros.to(torch.complex64)),
    of(TypeError, "got float8_e4m3fn", logits=zeros.to(torch.float8_e4m3fn)),
    of(TypeError, "float32, bfloat16 or float16, got float64", logits=zeros.double()),
    of(TypeError, "dense", logits=rows().to_sparse()),
    of(ValueError, r"\[V\] or \[B, V\], got shape \[\]", logits=torch.tensor(1.0)),
    of(ValueError, r"got shape \[2, 3, 4\]", logits=torch.zeros(2, 3, 4)),
    of(ValueError, "at least one token", logits=torch.zeros(B, 0)),
    seeded(ValueError, "at least one token", logits=torch.zeros(0, 0), seed=1),
    seeded(ValueError, "at least one token", logits=torch.zeros(0), seed=1),
    seeded(ValueError, r"2\^33", "logits of 2^33 + 1 tokens", logits=huge, seed=1),
]

NUMBERS = [
    of(ValueError, r"sample: temperature must be >= 0, got -1\.0", temperature=-1.0),
    of(ValueError, "temperature must be >= 0, got nan", temperature=NAN),
    of(ValueError, "temperature must be >= 0, got -inf", temperature=-INF),
    of(TypeError, "temperature must be a number", temperature=None),
    of(TypeError, "temperature must be a number .* got bool", temperature=True),
    of(TypeError, "temperature must be a number .* got str", temperature="1"),
    of(TypeError, "temperature must be a number .* got list", temperature=[1.0]),
    of(TypeError, "temperature must be a number", temperature=1j),
    of(ValueError, "temperature must be >= 0", temperature=-(10**400)),
    of(ValueError, "top_k must be >= 1, or 0, -1 or None for off, got -2", top_k=-2),
    of(TypeError, "top_k must be an int .* got float", top_k=50.0),
    of(TypeError, "top_k must be an int .* got bool", top_k=True),
    Refused(
        *("sample", "top_k bool, after 1 was cached", lambda: (sample(top_k=1), sample(top_k=True))),
        *(TypeError, "got bool"),
    ),
    Refused(
        *("sample", "top_k float, after 50 was cached", lambda: (sample(top_k=50), sample(top_k=50.0))),
        *(TypeError, "got float"),
    ),
    of(ValueError, r"top_p must be in \[0, 1\], got 1\.1", top_p=1.1),
    of(ValueError, r"top_p must be in \[0, 1\], got -0\.1", top_p=-0.1),
    of(ValueError, r"top_p must be in \[0, 1\], got nan", top_p=NAN),
    of(ValueError, "top_p must be", "top_p=1 + 2^-23, the next float32", top_p=1 + 2.0**-23),
    of(ValueError, "top_p must be", "top_p=-2^-149, the smallest float32", top_p=-TINY),
    of(ValueError, r"min_p must be in \[0, 1\], got 2", min_p=2),
    of(ValueError, "min_p must be", min_p=-1e-3),
    of(ValueError, "min_p must be", min_p=NAN),
    of(ValueError, "mix_eps must be", mix_eps=1.5),
    of(ValueError, "mix_eps must be", mix_eps=-0.5),
    of(ValueError, "mix_eps must be", mix_eps=NAN),
    of(TypeError, "mix_eps must be a number", mix_eps=False),
    of(ValueError, r"exploit must be in \[0, 1\]", exploit=1.5),
    of(ValueError, "give one of mix_eps and exploit", mix_eps=0.5, exploit=0.5),
    of(TypeError, "epsilon", epsilon=0.1),
]

TENSORS = [
    of(ValueError, r"temperature must have length 1 or 4, got shape \[3\]", temperature=torch.ones(3)),
    of(ValueError, "top_p must have length 1 or 4", top_p=torch.ones(0)),
    of(ValueError, "min_p must have length 1 or 4", min_p=torch.ones(B, 1)),
    of(ValueError, "mix_eps must be on cpu", mix_eps=torch.ones(B, device="meta")),
    of(TypeError, "temperature .* got bool", temperature=torch.ones(B, dtype=torch.bool)),
    of(TypeError, "got complex64", top_p=torch.ones(1, dtype=torch.complex64)),
    of(TypeError, "got float8", "top_p=float8_e4m3fn [1]", top_p=torch.ones(1).to(torch.float8_e4m3fn)),
    of(TypeError, "top_k tensor must be int64.* got float32", top_k=torch.ones(B)),
    of(TypeError, "top_p must be a number or a tensor", top_p=np.ones(B)),
]

NAMES = [
    of(ValueError, "mix_support must be 'kept' or 'valid', got 'all'", mix_support="all"),
    of(ValueError, "'sequential', 'joint' or 'min_p_first'", filter_order="x"),
    of(TypeError, "ties must be a str", ties=1),
    of(ValueError, "domain must be", domain="TARGET"),
    of(ValueError, "check must be 'raise' or 'status'", check="ignore"),
    of(ValueError, "returns must be among status, .* got 'logits'", returns=("logits",)),
    of(TypeError, "returns must be a tuple", returns=3),
    of(TypeError, "returns must hold names", returns=(3,)),
    of(ValueError, "top_n must be >= 0", top_n=-1),
    of(ValueError, "top_n must be at most 1048576", top_n=2**31 - 1),
    of(TypeError, "top_n must be an int", top_n=1.0),
    of(TypeError, "top_n must be an int", top_n=True),
]

MASKS = [
    of(TypeError, "mask must be a torch.Tensor", mask=[True] * V),
    of(TypeError, "bool or int32, got uint8", mask=torch.ones(V, dtype=torch.uint8)),
    of(TypeError, "bool or int32, got int64", mask=torch.ones(V, dtype=I64)),
    of(ValueError, r"must be \[70\], .* \[69\]", mask=torch.ones(V - 1, dtype=torch.bool)),
    of(ValueError, r"\[4, 70\], .* \[3, 70\]", mask=torch.ones(3, V, dtype=torch.bool)),
    of(ValueError, "mask must be", mask=torch.ones(1, B, V, dtype=torch.bool)),
    of(ValueError, r"int32 mask must be \[3\]", mask=torch.ones(V, dtype=torch.int32)),
    of(ValueError, "mask must be on", mask=torch.ones(V, dtype=torch.bool, device="meta")),
]

KEYS_AND_SEEDS = [
    of(TypeError, "keys must be a torch.Tensor", keys=[[1, 2]] * B),
    of(TypeError, "keys must be int64 or uint64, got float32", keys=torch.zeros(B, 2)),
    of(TypeError, "got int32", keys=torch.zeros(B, 2, dtype=torch.int32)),
    of(ValueError, r"keys must be \[4, 2\]", keys=KEYS[:, 0]),
    of(ValueError, r"keys must be \[4, 2\].* got shape \[2\]", keys=KEYS[0]),
    of(ValueError, r"got shape \[1, 2\]", keys=KEYS[:1]),
    of(ValueError, r"got shape \[4, 4\]", keys=torch.zeros(B, 4, dtype=I64)),
    of(ValueError, "keys must be on cpu", keys=KEYS.to("meta")),
    of(ValueError, "one of keys, seed and generator, got keys and seed", keys=KEYS, seed=1),
    of(ValueError, "keys and generator", keys=KEYS, generator=torch.Generator()),
    seeded(ValueError, "seed and generator", seed=1, generator=torch.Generator()),
    of(ValueError, "step needs seed", keys=KEYS, step=1),
    seeded(ValueError, "step needs seed", step=1),
    seeded(TypeError, "generator must be a torch.Generator, got int", generator=3),
    seeded(TypeError, "seed must be an int or an int64 tensor, got float", seed=1.0),
    seeded(TypeError, "seed must be an int .* got bool", seed=True),
    seeded(TypeError, "seed must be an int .* got str", seed="1"),
    seeded(TypeError, "seed must be an int", seed=np.float64(1)),
    seeded(TypeError, "seed must be an int", seed=np.bool_(True)),
    seeded(TypeError, "seed must be int64, uint64 or int32", seed=torch.ones(1)),
    seeded(ValueError, "seed must have length 1 or 4, got 3", seed=torch.arange(3)),
    seeded(TypeError, "step must be an int", seed=1, step=1.0),
    seeded(TypeError, "step must be an int", seed=1, step=False),
    seeded(OverflowError, "step must fit int64 or uint64", seed=1, step=2**64),
    seeded(OverflowError, "step must fit int64 or uint64", seed=1, step=-(2**63) - 1),
]

of = refusing("sample_probs", fusedraw.sample_probs, probs=probs(), keys=KEYS)
PROBS = [
    of(TypeError, "sample_probs: probs must be .* got int32", probs=zeros.int()),
    of(TypeError, "probs must be a torch.Tensor, got list", probs=[[0.5, 0.5]]),
    of(ValueError, r"got shape \[2, 3, 4\]", probs=torch.zeros(2, 3, 4)),
    of(ValueError, "at least one token", probs=torch.zeros(B, 0)),
    of(ValueError, "among status, logp, margin", returns=("entropy",)),
    of(TypeError, "top_n", top_n=2),
    of(TypeError, "temperature", temperature=0.5),
    of(ValueError, r"top_p must be in \[0, 1\], got 2", top_p=2),
    of(ValueError, "mask must be", mask=torch.ones(3, dtype=torch.bool)),
    of(ValueError, r"keys must be \[4, 2\]", keys=KEYS[:3]),
]

of = refusing("Sampler", fusedraw.Sampler)
SAMPLER = [
    of(ValueError, "Sampler: top_p must be", top_p=2.0),
    of(ValueError, "Sampler: returns", returns=("x",)),
    of(ValueError, "common B", top_p=torch.ones(3), min_p=torch.ones(2)),
    of(TypeError, "keys", keys=KEYS),
    Refused(
        *("Sampler", "top_p of 3 rows, called with 4"),
        lambda: fusedraw.Sampler(top_p=torch.ones(3))(rows(), keys=KEYS),
        *(ValueError, "top_p must have length 1 or 4"),
    ),
    Refused(
        *("Sampler", "called with float64 logits", lambda: fusedraw.Sampler()(rows(torch.float64), seed=1)),
        *(TypeError, "sample: logits must be .* got float64"),
    ),
    Refused(
        *("Sampler", "called with temperature=1.0", lambda: fusedraw.Sampler()(rows(), temperature=1.0)),
        *(TypeError, "unexpected keyword argument 'temperature'"),
    ),
]

of = refusing("numpy.sample", fusedraw.numpy.sample, logits=rows().numpy(), seed=1)
NUMPY = [
    of(TypeError, "float32, bfloat16 or float16, got float64", logits=np.zeros((2, 3))),
    of(TypeError, "got int64", logits=np.zeros((2, 3), np.int64)),
    of(TypeError, "sample: logits must be a numpy array or have __dlpack__, got list", logits=[[1.0]]),
    of(TypeError, "dtype that torch has, got <U1", logits=np.array([["a"]])),
    of(ValueError, "top_p must have length 1 or 4", top_p=np.ones(3, np.float32)),
    of(ValueError, "mask must be", mask=np.ones(3, np.bool_)),
]

of = refusing("derive_keys", fusedraw.derive_keys, seed=1, request_ids=[1])
DERIVE = [
    of(OverflowError, "request_ids must fit", request_ids=[2**64]),
    of(TypeError, "request_ids must be an int", request_ids=[1.0]),
    of(ValueError, "0-D or 1-D", request_ids=torch.zeros(2, 2, dtype=I64)),
    of(ValueError, "length 1 or 3", seed=torch.arange(2), request_ids=torch.arange(3)),
    of(ValueError, r"sample_ids must be in \[0, 2\^32\)", sample_ids=2**32),
    of(ValueError, "sample_ids must be in", sample_ids=[-1]),
    of(ValueError, "derive_keys: sample_ids", sample_ids=torch.tensor([-1])),
    of(TypeError, "seed must be an int", seed=1.0),
    of(TypeError, "step must be an int", step=1.5),
    of(OverflowError, "step must fit", step=2**64),
]

REFUSED = [*LOGITS, *NUMBERS, *TENSORS, *NAMES, *MASKS, *KEYS_AND_SEEDS, *PROBS, *SAMPLER, *NUMPY, *DERIVE]
