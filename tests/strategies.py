# SPDX-License-Identifier: Apache-2.0
"""Generated rows, parameters and masks; operations on one engine, on every engine, and in plain Python (R1).

Engines are called through the bare operators, so that what is compared is the law and nothing else. Results
are dicts of tensors by name, equal only if every bit is (NaN equals NaN).
"""

import math
import os
from contextlib import contextmanager
from dataclasses import dataclass

import fusedraw
import hypothesis.strategies as st
import torch
from fusedraw import reference as r1
from hypothesis import HealthCheck, settings

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


@contextmanager
def threads(n):
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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


# The same in plain Python


def row_arguments(params, row):
    temperature, top_p, min_p, mix_eps, top_k = params[row % params.shape[0]].tolist()
    return {
        "temperature": temperature,
        "top_p": top_p,
        "min_p": min_p,
        "mix_eps": mix_eps,
        "top_k": top_k if math.isnan(top_k) else int(top_k),
    }


def mode_arguments(mode):
    return {
        "filter_order": ORDERS[mode & 3],
        "ties": TIES[mode >> 2 & 1],
        "mix_support": SUPPORTS[mode >> 3 & 1],
    }


def row_mask(mask, row, size):
    """A row's mask as a list of booleans, or None."""
    if mask is None:
        return None
    line = mask[row % mask.shape[0]] if mask.dim() == 2 else mask
    if mask.dtype == torch.bool:
        return line.tolist()
    words = line.tolist()
    return [bool(words[i >> 5] >> (i & 31) & 1) for i in range(size)]


def sample_r1(x, params=None, keys=None, mask=None, mode=0, outputs=ALL, top_n=0, forced_noise=None):
    params = make_params() if params is None else params
    keys = make_keys(x.shape[0]) if keys is None else keys
    results = [
        r1.sample_row(
            line,
            mask=row_mask(mask, row, len(line)),
            key=tuple(keys[row].tolist()),
            domain=mode >> 4 & 3,
            top_n=top_n,
            probs=bool(mode & 64),
            forced=forced_noise,
            **row_arguments(params, row),
            **mode_arguments(mode),
        )
        for row, line in enumerate(x.float().tolist())
    ]
    return tensors_of(results, outputs, top_n)


def tensors_of(results, outputs, top_n):
    """RowResults as named_outputs gives them."""
    named = {"ids": torch.tensor([r.id for r in results])}
    for i, name in enumerate(OUTPUTS):
        if not outputs >> i & 1:
            continue
        if name == "kept":
            named["kept_ids"] = torch.tensor([i for r in results for i in r.kept], dtype=torch.int32)
            sizes = torch.tensor([0, *(len(r.kept) for r in results)])
            named["kept_offsets"] = sizes.cumsum(0)
        else:
            named[name] = torch.tensor([getattr(r, name) for r in results], dtype=DTYPES.get(name, F32))
    if top_n > 0:
        named["top_ids"] = torch.tensor([r.top_ids for r in results])
        named["top_logps"] = torch.tensor([r.top_logps for r in results], dtype=F32)
    return named


def _rows_of(results, dtype):
    return {
        "out": torch.tensor([values for _, values in results], dtype=F32).to(dtype),
        "status": torch.tensor([status for status, _ in results], dtype=torch.uint8),
    }


def softmax_r1(x, temperature, mask=None, log=False):
    results = [
        r1.softmax_row(line, temperature[row % len(temperature)].item(), row_mask(mask, row, len(line)), log)
        for row, line in enumerate(x.float().tolist())
    ]
    return _rows_of(results, F32)


def keep_r1(x, params, mask=None, mode=0, renorm=False):
    results = []
    for row, line in enumerate(x.float().tolist()):
        arguments = {**row_arguments(params, row), **mode_arguments(mode)}
        arguments["mask"] = row_mask(mask, row, len(line))
        if renorm:
            results.append(r1.renorm_row(line, from_logits=not mode & 64, **arguments))
        else:
            results.append(r1.mask_row(line, keep_weightless=bool(mode & 256), **arguments))
    return _rows_of(results, F32 if renorm else x.dtype)


def multinomial_r1(p, keys, n, replacement):
    results = [
        r1.multinomial_row(line, n, replacement, tuple(keys[row].tolist()))
        for row, line in enumerate(p.float().tolist())
    ]
    return {
        "ids": torch.tensor([ids for _, ids in results]),
        "status": torch.tensor([status for status, _ in results], dtype=torch.uint8),
    }


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


# Rows. Each kind exercises another part of the engines.

SPREADS = (1.0, 2.5, 3.0, 6.0, 10.0)  # standard deviations


def _random(g, rows, size):
    return torch.randn(rows, size, generator=g)


def _normal(g, rows, size):
    scale = SPREADS[torch.randint(0, len(SPREADS), (), generator=g)]
    return _random(g, rows, size) * scale


def _peaked(g, rows, size):
    """Zipf's law, shuffled."""
    ranks = torch.stack([torch.randperm(size, generator=g) for _ in range(rows)])
    return ranks.float().add(1).log() * -1.5 + _random(g, rows, size) * 0.1


def _tied(g, rows, size):
    return (_random(g, rows, size) * 2).round()


def _equal(g, rows, size):
    value = (0.0, -0.0, 3.5, -1e30, FLT_MAX)[torch.randint(0, 5, (), generator=g)]
    return torch.full((rows, size), value)


def _two_values(g, rows, size):
    low = -float(torch.randint(0, 46, (), generator=g))
    high_share = (0.5, 0.01, 0.99)[torch.randint(0, 3, (), generator=g)]
    high = torch.rand(rows, size, generator=g) < high_share
    return torch.where(high, 0.0, low)


def _holes(g, rows, size):
    x = _random(g, rows, size)
    x[torch.rand(rows, size, generator=g) < 0.7] = -INF
    x[:, torch.randint(0, size, (), generator=g)] = 1.0
    return x


def _signed_zeros(g, rows, size):
    x = (_random(g, rows, size)).round().clamp(-1, 0)
    return torch.where(torch.rand(rows, size, generator=g) < 0.5, x, -x.abs())


def _huge(g, rows, size):
    scale = (1e20, 1e30, 3e38)[torch.randint(0, 3, (), generator=g)]
    return (_random(g, rows, size) * scale).clamp(-FLT_MAX, FLT_MAX)


def _denormal(g, rows, size):
    scale = (1e-38, 1e-40, 1e-44)[torch.randint(0, 3, (), generator=g)]
    return _random(g, rows, size) * scale


def _cliff(g, rows, size):
    """One best token; the others around the gap of 44 bits (30.5 nats) at which weights end."""
    x = -30.5 + _random(g, rows, size) * 0.5
    x[:, torch.randint(0, size, (), generator=g)] = 0.0
    return x


def _sunken(g, rows, size):
    """A few high tokens, the bulk 15 to 29 nats below: blocks whose weights need one limb."""
    x = -15 - 14 * torch.rand(rows, size, generator=g)
    high = torch.randint(0, size, (3,), generator=g)
    x[:, high] = _random(g, rows, 3)
    return x


def _ramp(g, rows, size):
    """Distinct, evenly spaced values in random order, over 2 to 60 nats."""
    span = 2 + 58 * torch.rand((), generator=g)
    ranks = torch.stack([torch.randperm(size, generator=g) for _ in range(rows)])
    return -ranks.float() / size * span


def _integers(g, rows, size):
    """Whole bits below the best (at T = HALVING): weights are powers of two, sums hit thresholds exactly."""
    return -torch.randint(0, 46, (rows, size), generator=g).float()


KINDS = {
    "normal": _normal,
    "peaked": _peaked,
    "tied": _tied,
    "equal": _equal,
    "two_values": _two_values,
    "holes": _holes,
    "signed_zeros": _signed_zeros,
    "huge": _huge,
    "denormal": _denormal,
    "cliff": _cliff,
    "sunken": _sunken,
    "ramp": _ramp,
    "integers": _integers,
}
FINITE_IN_F16 = [kind for kind in KINDS if kind not in ("huge", "denormal", "equal")]


def make_rows(kind, rows, size, seed=0, dtype=F32):
    return KINDS[kind](torch.Generator().manual_seed(seed), rows, size).to(dtype)


def make_probs(kind, rows, size, seed=0, dtype=F32):
    """Non-negative numbers that do not sum to 1; some kinds hold zeros and subnormals."""
    x = make_rows(kind, rows, size, seed).clamp(-3e38, 3e38)
    p = torch.softmax(x, -1) * (1 if seed % 2 else 3.7)
    return (p * 1e-36 if seed % 5 == 4 else p).to(dtype)


def make_mask(kind, rows, size, seed=0):
    """A mask of this kind: None, bool or int32 words, one row or many, dense or sparse."""
    if kind == "none":
        return None
    g = torch.Generator().manual_seed(seed)
    form, share = kind.split("-")
    if form == "words":
        draws = torch.randint(-(2**31), 2**31, (int(share), rows, (size + 31) // 32), generator=g)
        words = draws[0]
        for more in draws[1:]:  # each halves the share of allowed tokens
            words = words & more
        return words.int()
    return torch.rand((rows, size) if form == "rows" else (size,), generator=g) < float(share)


MASKS = ("none", "line-0.5", "line-0.9", "rows-0.01", "rows-0.5", "rows-0.95", "words-1", "words-4")
EDGES = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 255, 256, 257, 511, 512, 513, 768, 1024, 1025)


# Hypothesis

FUZZ = int(os.environ.get("FUSEDRAW_FUZZ", "0"))  # > 0: that many times the examples, freshly seeded


def examples(n):
    """Settings of a generated test: fixed examples, always the same ones, unless fuzzing."""
    return settings(
        max_examples=n * max(FUZZ, 1),
        derandomize=not FUZZ,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


seeds = st.integers(0, 2**31 - 1)
keys_halves = st.one_of(
    st.integers(-(2**63), 2**63 - 1), st.sampled_from([0, 1, 2**32 - 1, 2**32, 2**63 - 1, -(2**63), -1])
)
sizes = st.one_of(st.sampled_from(EDGES), st.integers(1, 700), st.integers(1, 5000))
temperatures = st.one_of(
    st.sampled_from([1.0, 0.8, HALVING, 0.0, 2.0, 1e-30, 1e-45, 2.0**64, 1e30, INF]), st.floats(0.05, 20)
)
shares = st.sampled_from([0.5, 0.9, 0.95, 0.99, 0.1, 1e-9, 0.0, 1 - 2.0**-24, 0.75])
top_ps = st.one_of(st.just(1.0), shares, st.floats(0, 1))
min_ps = st.one_of(st.just(0.0), st.sampled_from([0.05, 0.5, 1.0, 0.001, 2.0**-43, 1e-30]), st.floats(0, 1))
epsilons = st.one_of(st.just(0.0), st.sampled_from([0.5, 1.0, 0.05, 1e-6]), st.floats(0, 1))
modes = st.builds(
    make_mode, st.sampled_from(ORDERS), st.sampled_from(TIES), st.sampled_from(SUPPORTS), st.integers(0, 3)
)


@st.composite
def param_rows(draw, rows, size, temperature=temperatures):
    """float64 [1 or rows, 5]; now and then a row that is not allowed."""
    n = draw(st.sampled_from([1, rows]))
    top_ks = st.one_of(st.just(0), st.sampled_from([1, 2, 5, 50, -1, 10**12]), st.integers(1, size + 2))
    lines = [[draw(temperature), draw(top_ps), draw(min_ps), draw(epsilons), draw(top_ks)] for _ in range(n)]
    if draw(st.integers(0, 39)) == 0:
        lines[-1][draw(st.integers(0, 3))] = draw(st.sampled_from([NAN, -1.0, INF]))
    return torch.tensor(lines, dtype=torch.float64)


@dataclass
class Rows:
    """Arguments that every operation on rows takes."""

    x: torch.Tensor
    mask: torch.Tensor | None
    keys: torch.Tensor
    about: str

    def __repr__(self):
        return self.about


@st.composite
def row_batches(draw, size=sizes, probs=False, masked=True):
    rows, v, seed = draw(st.integers(1, 3)), draw(size), draw(seeds)
    dtype = draw(st.sampled_from([F32, F32, BF16, F16]))
    kind = draw(st.sampled_from(list(KINDS) if dtype == F32 else FINITE_IN_F16))
    x = (make_probs if probs else make_rows)(kind, rows, v, seed, dtype)
    spoiled = ""
    if draw(st.integers(0, 29)) == 0:
        spoiled = draw(st.sampled_from([NAN, INF, -INF, -1.0] if probs else [NAN, INF]))
        x[draw(st.integers(0, rows - 1)), draw(st.integers(0, v - 1))] = spoiled
    mask_kind = draw(st.sampled_from(MASKS)) if masked and draw(st.booleans()) else "none"
    keys = torch.tensor([[draw(keys_halves), draw(keys_halves)] for _ in range(rows)])
    about = f"Rows(kind={kind}, rows={rows}, size={v}, seed={seed}, {dtype}, {mask_kind}, {spoiled=})"
    return Rows(x, make_mask(mask_kind, rows, v, seed + 1), keys, about)
