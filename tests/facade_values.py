# SPDX-License-Identifier: Apache-2.0
"""Arguments for the public functions, right ones and wrong ones of every kind, made anew when they are used.

A Value says how it is made; two calls with the same Value get equal arguments that share nothing.
"""

import decimal
import fractions
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import hypothesis.strategies as st
import numpy as np
import torch
from engines import BF16, F16, F32, FLT_MAX, INF, NAN
from row_kinds import FINITE_IN_F16, KINDS, MASKS, make_mask, make_probs, make_rows


@dataclass
class Value:
    text: str
    make: Callable[[], Any] = field(repr=False)

    def __repr__(self):
        return self.text


def plain(value):
    return Value(repr(value), lambda: value)


def values_of(strategy):
    return strategy.map(plain)


class Sub(torch.Tensor):
    """A subclass that changes nothing."""


class Stubborn:
    """Refuses to be compared, hashed, counted or printed nicely."""

    __hash__ = None

    def __eq__(self, other):
        raise ArithmeticError("compared")

    def __len__(self):
        raise ArithmeticError("counted")


def _strided(shape):
    """Every second element of every second row of something larger."""
    return torch.randn(*(2 * n for n in shape), generator=_generator())[
        tuple([slice(None, None, 2)] * len(shape))
    ]


def _generator():
    return torch.Generator().manual_seed(17)


def _negated(shape):
    """A view whose numbers are those of memory with the sign turned: torch negates when it is read."""
    return torch.imag(torch.conj(torch.randn(shape, dtype=torch.complex64, generator=_generator())))


# Layouts of a right tensor, by name: each keeps its numbers, shape and dtype.
def _as_transposed(t):
    return t.t().contiguous().t() if t.dim() == 2 else t


def _as_offset(t):
    room = t.new_empty(t.numel() + 3)
    view = room[3:].view(t.shape)
    view.copy_(t)
    return view


def _as_spaced(t):
    if t.dim() == 0:
        return t
    room = t.new_empty((*t.shape[:-1], 2 * t.shape[-1] + 1))
    view = room[..., 1::2][..., : t.shape[-1]]
    view.copy_(t)
    return view


def _as_negative_view(t):
    if not t.dtype.is_floating_point or t.dtype in (BF16, F16):
        return t
    return torch._neg_view(-t)


LAYOUTS = {
    "": lambda t: t,
    "transposed": _as_transposed,
    "offset": _as_offset,
    "spaced": _as_spaced,
    "needs gradient": lambda t: t.requires_grad_() if t.dtype.is_floating_point else t,
    "parameter": lambda t: torch.nn.Parameter(t) if t.dtype.is_floating_point else t,
    "subclass": lambda t: t.as_subclass(Sub),
    "negative view": _as_negative_view,
    "read-only numpy": lambda t: torch.from_numpy(t.numpy().copy()) if t.dtype not in (BF16,) else t,
}

_SHAPES = (
    (),
    (0,),
    (1,),
    (2,),
    (3,),
    (70,),
    (0, 0),
    (0, 70),
    (1, 1),
    (2, 1),
    (1, 70),
    (2, 70),
    (3, 70, 1),
    (2, 2, 70),
)
_DTYPES = (
    *(
        torch.float32,
        torch.float64,
        torch.bfloat16,
        torch.float16,
        torch.float8_e4m3fn,
        torch.int64,
        torch.int32,
    ),
    *(torch.int16, torch.int8, torch.uint8, torch.uint64, torch.uint32, torch.bool, torch.complex64),
)


def _tensor_values():
    yield from (
        Value(
            f"zeros({list(shape)}, {dtype})", lambda shape=shape, dtype=dtype: torch.zeros(shape, dtype=dtype)
        )
        for shape in _SHAPES
        for dtype in _DTYPES
    )
    for number in (NAN, INF, -INF, -1.0, 2.0, FLT_MAX, 1e-45):
        yield Value(f"tensor([{number}])", lambda number=number: torch.tensor([number]))
        yield Value(f"full([2, 70], {number})", lambda number=number: torch.full((2, 70), number))
    for number in (-1, -(2**63), 2**63 - 1, 70, 2**31):
        yield Value(f"tensor([{number}])", lambda number=number: torch.tensor([number]))
        yield Value(f"full([2, 70], {number})", lambda number=number: torch.full((2, 70), number))
    for shape in ((70,), (2, 70), (2, 2), (2,)):
        yield Value(f"strided({shape})", lambda shape=shape: _strided(shape))
        yield Value(f"negated({shape})", lambda shape=shape: _negated(shape))
        yield Value(f"meta({shape})", lambda shape=shape: torch.zeros(shape, device="meta"))
        yield Value(f"sparse({shape})", lambda shape=shape: torch.zeros(shape).to_sparse())
        yield Value(f"expanded({shape})", lambda shape=shape: torch.tensor(1.5).expand(shape))
    yield Value("csr", lambda: torch.eye(3).to_sparse_csr())
    yield Value("nested", lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)]))
    yield Value(
        "jagged", lambda: torch.nested.nested_tensor([torch.zeros(2), torch.zeros(3)], layout=torch.jagged)
    )
    yield Value("quantized", lambda: torch.quantize_per_tensor(torch.zeros(2, 70), 0.1, 0, torch.quint8))
    yield Value("huge", lambda: torch.zeros(1, 1).expand(1, 2**33 + 1))
    yield Value("channels", lambda: torch.zeros(2, 3, 4, 5).to(memory_format=torch.channels_last))


_ODD = (
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        -2,
        2,
        5,
        70,
        71,
        2**31 - 1,
        2**31,
        2**32,
        2**63 - 1,
        2**63,
        2**64 - 1,
        2**64,
    ),
    *(
        -(2**63),
        -(2**63) - 1,
        10**400,
        -(10**400),
        0.0,
        -0.0,
        0.5,
        1.0,
        1.5,
        -1e-45,
        1e-45,
        1e308,
        NAN,
        INF,
        -INF,
    ),
    *(
        1j,
        "",
        "kept",
        "valid",
        "joint",
        "raise",
        "status",
        "all",
        "logp",
        "gumbel",
        "\x00",
        "é" * 1000,
        b"kept",
    ),
    *((), (1,), (1, 2), ("logp",), ("logp", "logp"), ("no such",), ("status", None), (NAN,)),
    *(fractions.Fraction(1, 3), decimal.Decimal("0.5"), decimal.Decimal("NaN"), np.float32(0.5), np.int64(3)),
    *(np.float64("nan"), np.bool_(True), np.uint64(2**64 - 1), np.str_("kept"), slice(None), Ellipsis),
    *(torch.float32, torch.device("cpu"), int, len, range(3)),
)
HOSTILE = [
    *map(plain, _ODD),
    *_tensor_values(),
    Value("[]", list),
    Value("[0.5]", lambda: [0.5]),
    Value("[[1, 2], [3]]", lambda: [[1, 2], [3]]),
    Value("[2**70]", lambda: [2**70]),
    Value("[None]", lambda: [None]),
    Value("{}", dict),
    Value("{0: 1.0}", lambda: {0: 1.0}),
    Value("{-1: 1.0}", lambda: {-1: 1.0}),
    Value("{0: 'x'}", lambda: {0: "x"}),
    Value("{2**70: 1.0}", lambda: {2**70: 1.0}),
    Value("{'a': nan}", lambda: {"a": NAN}),
    Value("{0}", lambda: {0}),
    Value("object()", object),
    Value("Stubborn()", Stubborn),
    Value("generator", lambda: (i for i in range(3))),
    Value("ndarray float32", lambda: np.zeros((2, 70), np.float32)),
    Value("ndarray object", lambda: np.array([None, 1], object)),
    Value("[tensor]", lambda: [torch.zeros(2, 70)]),
    Value("(ids, offsets)", lambda: (torch.tensor([1, 2, 3]), torch.tensor([0, 1, 3]))),
    Value("(ids, falling offsets)", lambda: (torch.tensor([1, 2, 3]), torch.tensor([0, 5, 3]))),
    Value("(ids, negative offsets)", lambda: (torch.tensor([1, 2, 3]), torch.tensor([-1, 1, 3]))),
    Value("(float ids, offsets)", lambda: (torch.zeros(3), torch.tensor([0, 1, 3]))),
    Value("(ids, values, offsets)", lambda: (torch.tensor([1, 2, 3]), torch.zeros(3), torch.tensor([0, 3]))),
    Value("(ids, NaN, offsets)", lambda: (torch.tensor([1, 2]), torch.full((2,), NAN), torch.tensor([0, 2]))),
    Value("Generator", _generator),
]


# Right arguments


@st.composite
def layouts(draw, make, text):
    """A tensor, laid out somehow."""
    name = draw(st.sampled_from([*LAYOUTS, *[""] * 8]))
    return Value(f"{text} {name}".strip(), lambda: LAYOUTS[name](make()))


@st.composite
def rows(draw, shape, probs=False, dtypes=(F32, F32, BF16, F16)):
    """Logits, or probabilities, of this shape; now and then a spoiled one."""
    dtype, seed = draw(st.sampled_from(dtypes)), draw(st.integers(0, 2**31 - 1))
    kind = draw(st.sampled_from(FINITE_IN_F16 if dtype == F16 else list(KINDS)))
    spoiled = draw(st.sampled_from([None] * 12 + [NAN, INF, -INF, -1.0]))
    n = int(np.prod(shape[:-1]))

    def make():
        x = (make_probs if probs else make_rows)(kind, max(n, 1), shape[-1], seed)[:n].to(dtype)
        if spoiled is not None and n > 0:
            x[seed % n, seed % shape[-1]] = spoiled
        return x.reshape(shape)

    return draw(layouts(make, f"{kind} {list(shape)} {dtype} seed={seed} spoiled={spoiled}"))


@st.composite
def masks(draw, n, size):
    kind, seed = draw(st.sampled_from(MASKS)), draw(st.integers(0, 999))
    return (
        draw(layouts(lambda: make_mask(kind, n, size, seed), f"mask {kind} {seed}"))
        if kind != "none"
        else plain(None)
    )


@st.composite
def keys(draw, n, one_row=False):
    words = draw(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=2 * n, max_size=2 * n))
    dtype = draw(st.sampled_from([torch.int64, torch.uint64]))
    return draw(layouts(lambda: torch.tensor(words).view(n, 2).view(dtype), f"keys {words} {dtype}"))


def per_row(strategy, n):
    """A number, or a tensor of one for each row."""
    dtypes = st.sampled_from([F32, torch.float64])
    many = st.tuples(st.lists(strategy, min_size=n, max_size=n), dtypes).map(
        lambda drawn: Value(f"tensor({drawn[0]}, {drawn[1]})", lambda: torch.tensor(drawn[0], dtype=drawn[1]))
    )
    return st.one_of(values_of(strategy), many)


def integers_per_row(strategy, n):
    many = st.lists(strategy, min_size=n, max_size=n).map(
        lambda drawn: Value(f"tensor({drawn})", lambda: torch.tensor(drawn, dtype=torch.int64))
    )
    return st.one_of(values_of(strategy), many)


@st.composite
def ids(draw, shape, size, lowest=0):
    """int64 or int32 ids of this shape."""
    n = int(np.prod(shape))
    numbers = draw(st.lists(st.integers(lowest, size - 1), min_size=n, max_size=n))
    dtype = draw(st.sampled_from([torch.int64, torch.int32]))
    return draw(
        layouts(lambda: torch.tensor(numbers, dtype=dtype).view(shape), f"ids {numbers} {shape} {dtype}")
    )


@st.composite
def biases(draw, size):
    chosen = draw(
        st.dictionaries(st.integers(0, size - 1), st.sampled_from([0.0, 1.5, -3.0, -INF, 40.0]), max_size=4)
    )
    return Value(f"{chosen}", lambda: dict(chosen))
