# SPDX-License-Identifier: Apache-2.0
"""Operations on one engine and on every engine, their arguments, and comparison to the bit.

Engines are called through the bare operators, so that what is compared is the law and nothing else. Results
are dicts of tensors by name, equal only if every bit is (NaN equals NaN).
"""

import functools
import math
from contextlib import contextmanager

import fusedraw
import torch
from fusedraw import reference as r1

C = fusedraw._C
ENGINES = fusedraw.isa_list()
FAST = [name for name in ENGINES if name != "reference"]
BEST = ENGINES[-1]
EXECUTOR = "executor"  # the CUDA kernels, run on this machine: for engine(), on_every_engine()


class Operators:
    """Those of the engine in use."""

    namespace = torch.ops.fusedraw

    def __getattr__(self, name):
        return getattr(self.namespace, name)


op = Operators()

INF, NAN = math.inf, math.nan
FLT_MAX, TINY = r1.FLT_MAX, 2.0**-149
HALVING = 1.4426950216293335  # the float32 T for which c = 1: integer logits weigh powers of two
F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16

# Outputs of `sample` in the order of their bits; kept (bit 11) gives two tensors.
OUTPUTS = (
    *("status", "logp", "logp_full", "logp_raw", "entropy", "varentropy"),
    *("margin", "n_kept", "kept_mass", "rank", "explored", "kept"),
)
ALL = (1 << len(OUTPUTS)) - 1
LOGITS_ONLY = ("logp_full", "logp_raw", "entropy", "varentropy")
DTYPES = {"status": torch.uint8, "n_kept": torch.int64, "rank": torch.int64, "explored": torch.bool}
ORDERS, TIES, SUPPORTS = r1.FILTER_ORDERS, r1.TIES, r1.MIX_SUPPORTS


def bits_of(*names):
    """The output bits of these names."""
    return sum(1 << OUTPUTS.index(name) for name in names)


ALL_OF_PROBS = ALL & ~bits_of(*LOGITS_ONLY)


def make_mode(order="sequential", ties="index", support="kept", domain=0, probs=False, keep_weightless=False):
    return (
        ORDERS.index(order)
        | TIES.index(ties) << 2
        | SUPPORTS.index(support) << 3
        | domain << 4
        | probs << 6
        | keep_weightless << 8
    )


def make_params(temperature=1.0, top_p=1.0, min_p=0.0, mix_eps=0.0, top_k=0):
    """One packed parameter row, float64 [1, 5]."""
    return torch.tensor([[temperature, top_p, min_p, mix_eps, top_k]], dtype=torch.float64)


def make_keys(rows, seed=0):
    """int64 [rows, 2], both halves of 64 random bits."""
    g = torch.Generator().manual_seed(seed)
    return torch.randint(-(2**63), 2**63 - 1, (rows, 2), generator=g)


@contextmanager
def engine(name):
    before = C.isa(), op.namespace
    if name == EXECUTOR:
        import simt_engine  # builds it

        op.namespace = simt_engine.operators()
    else:
        C.set_isa(name)
        op.namespace = torch.ops.fusedraw
    try:
        yield
    finally:
        C.set_isa(before[0])
        op.namespace = before[1]


forcing = [C.force_noise]  # and that of the executor, once it is there


@contextmanager
def forced(values):
    """Noise replaced by {(purpose, id): r64}."""
    for force in forcing:
        force([(purpose, i, r64) for (purpose, i), r64 in values.items()])
    try:
        yield
    finally:
        for force in forcing:
            force([])


# Operations, on the engine in use


def sample(x, params=None, keys=None, mask=None, mode=0, outputs=ALL, top_n=0):
    params = make_params() if params is None else params
    keys = make_keys(x.shape[0]) if keys is None else keys
    return named_outputs(iter(op.sample(x, params, keys, mask, mode, outputs, top_n)), outputs, top_n)


def named_outputs(results, outputs, top_n):
    """What a draw's operator gives, in the order of the output bits, by name."""
    named = {"ids": next(results)}
    for i, name in enumerate(OUTPUTS):
        if outputs >> i & 1:
            for part in ("kept_ids", "kept_offsets") if name == "kept" else (name,):
                named[part] = next(results)
    if top_n > 0:
        named["top_ids"], named["top_logps"] = results
    return named


def softmax(x, temperature, mask=None, log=False):
    out, status = op.softmax(x, temperature, mask, int(log))
    return {"out": out, "status": status}


def keep(x, params, mask=None, mode=0, renorm=False):
    """The mask (x inside K, -inf outside) or renorm operation."""
    out, status = op.filter(x, params, mask, mode, int(renorm))
    return {"out": out, "status": status}


def multinomial(p, keys, n, replacement):
    ids, status = op.multinomial(p, keys, n, replacement, 0)
    return {"ids": ids, "status": status}


# Comparison


def same_bits(a, b):
    """Equal dtype, shape and bits; any NaN equals any NaN."""
    if a.dtype != b.dtype or a.shape != b.shape:
        return False
    if not a.dtype.is_floating_point:
        return torch.equal(a, b)
    words = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.element_size()]
    a, b = (t.contiguous().view(words).masked_fill(t.isnan(), -1) for t in (a, b))
    return torch.equal(a, b)


def assert_same(got, expected, label=""):
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        if not same_bits(got[name], value):
            raise AssertionError(f"{label}: {name} differs\n got      {got[name]}\n expected {value}")


def on_every_engine(function, *arguments, expected=None, engines=ENGINES, **keywords):
    """Runs on each engine; all must give `expected`, or what the first gives. Returns it."""
    for name in engines:
        with engine(name):
            got = function(*arguments, **keywords)
        if expected is None:
            expected = got
        else:
            assert_same(got, expected, name)
    return expected


# The CUDA kernels beside the law.
both = functools.partial(on_every_engine, engines=("reference", EXECUTOR))
