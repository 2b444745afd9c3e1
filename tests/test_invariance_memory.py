# SPDX-License-Identifier: Apache-2.0
"""A row's result does not depend on where its logits lie, nor on their dtype or length where values are the
same."""

import pytest
import torch
from engines import (
    ALL,
    BF16,
    ENGINES,
    F16,
    F32,
    FAST,
    INF,
    NAN,
    assert_same,
    engine,
    keep,
    make_keys,
    make_params,
    multinomial,
    sample,
    softmax,
)
from hypothesis import given
from hypothesis import strategies as st
from invariance_cases import PARAMS, SIZE, batch
from row_kinds import make_mask, make_probs, make_rows
from strategies import examples, modes, param_rows, seeds


def layouts(x):
    """The same values in other places."""
    rows, size = x.shape
    wide = torch.full((rows, size + 37), NAN, dtype=x.dtype)
    wide[:, 5 : 5 + size] = x
    flat = torch.full((rows * size + 1,), NAN, dtype=x.dtype)
    flat[1:] = x.reshape(-1)
    every_other = torch.full((2 * rows, size), NAN, dtype=x.dtype)
    every_other[::2] = x
    columns = torch.full((rows, 2 * size), NAN, dtype=x.dtype)
    columns[:, ::2] = x
    return {
        "row stride, offset": wide[:, 5 : 5 + size],
        "misaligned by one element": flat[1:].view(rows, size),
        "every other row": every_other[::2],
        "transposed": x.t().contiguous().t(),
        "every other column": columns[:, ::2],
    }


@pytest.mark.parametrize("dtype", [F32, BF16, F16])
@pytest.mark.parametrize("name", ENGINES)
def test_strides_and_offsets(name, dtype):
    x, params, keys = batch(15, 777, dtype)
    mask = make_mask("rows-0.5", 15, 777, 2)
    temperature = params[:, 0].contiguous()
    with engine(name):
        expected = sample(x, params, keys, mask, top_n=3)
        renormed, soft = keep(x, params, mask, renorm=True), softmax(x, temperature, mask)
        for label, view in layouts(x).items():
            assert torch.equal(view, x)
            assert_same(sample(view, params, keys, mask, top_n=3), expected, label)
            assert_same(keep(view, params, mask, renorm=True), renormed, label)
            assert_same(softmax(view, temperature, mask), soft, label)
        wide_mask = torch.zeros(15, 900, dtype=torch.bool)
        wide_mask[:, 3:780] = mask
        for other in (wide_mask[:, 3:780], mask.t().contiguous().t()):
            assert_same(sample(x, params, keys, other, top_n=3), expected, "mask")


@pytest.mark.parametrize("name", FAST)
def test_expanded_rows(name):
    x, params, keys = batch(1)
    params, keys = torch.cat(PARAMS), make_keys(len(PARAMS), 8)
    view = x.expand(len(PARAMS), -1)
    assert view.stride(0) == 0
    p = make_probs("normal", 1, SIZE).expand(len(PARAMS), -1)
    with engine(name):
        assert_same(sample(view, params, keys), sample(view.contiguous(), params, keys))
        assert_same(multinomial(p, keys, 9, False), multinomial(p.contiguous(), keys, 9, False))


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("dtype", [F32, BF16, F16])
def test_every_alignment(name, dtype):
    """All 64 offsets of a row within its cache line; nothing beyond its ends is looked at."""
    row = make_rows("normal", 1, 300, 5, dtype)
    with engine(name):
        expected = sample(row, make_params(0.8, 0.9), make_keys(1), top_n=2)
        for offset in range(64):
            room = torch.full((500,), NAN, dtype=dtype)
            view = room[offset : offset + 300][None]
            view.copy_(row)
            assert_same(sample(view, make_params(0.8, 0.9), make_keys(1), top_n=2), expected, f"{offset=}")


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("dtype", [BF16, F16])
def test_widened_values_give_the_same(name, dtype):
    x, params, keys = batch(30, SIZE, dtype)
    with engine(name):
        assert_same(sample(x, params, keys, top_n=5), sample(x.float(), params, keys, top_n=5))
        t = params[:, 0].contiguous()
        assert_same(softmax(x, t), softmax(x.float(), t))
        assert_same(keep(x, params, renorm=True), keep(x.float(), params, renorm=True))
        assert_same(
            {k: v.float() for k, v in keep(x, params).items()},
            {k: v.float() for k, v in keep(x.float(), params).items()},
        )
        p = make_probs("normal", 4, SIZE, 1, dtype)
        assert_same(multinomial(p, keys[:4], 7, True), multinomial(p.float(), keys[:4], 7, True))


@examples(100)
@given(seeds, st.integers(1, 600), st.integers(1, 600), modes, st.data())
def test_appended_minus_infinities_never_matter(seed, size, more, mode, data):
    x = make_rows(data.draw(st.sampled_from(["normal", "tied", "holes", "cliff"])), 2, size, seed)
    params = data.draw(param_rows(2, size))
    longer = torch.cat([x, torch.full((2, more), -INF)], 1)
    keys = make_keys(2, seed)
    with engine(data.draw(st.sampled_from(FAST))):
        assert_same(
            sample(longer, params, keys, None, mode, ALL, 3), sample(x, params, keys, None, mode, ALL, 3)
        )


def test_masked_out_is_minus_infinity():
    """What a mask excludes may hold anything; the result is that of -inf there."""
    x, params, keys = batch(20)
    for kind in ("rows-0.5", "rows-0.95", "words-1", "line-0.5"):
        mask = make_mask(kind, 20, SIZE, 6)
        allowed = mask
        if mask.dtype != torch.bool:
            allowed = (mask[:, :, None] >> torch.arange(32) & 1).flatten(1)[:, :SIZE].bool()
        trash = x.masked_fill(~allowed, NAN)
        trash[:, ::3] = trash[:, ::3].nan_to_num(nan=INF)
        for name in FAST:
            with engine(name):
                expected = sample(x.masked_fill(~allowed, -INF), params, keys)
                assert_same(sample(trash, params, keys, mask), expected, kind)
