# SPDX-License-Identifier: Apache-2.0
"""A row's result does not depend on the state of the process, which calls leave as it was."""

import contextlib
import ctypes
import ctypes.util
import os
import threading

import fusedraw
import pytest
import torch
from engines import (
    ALL,
    ENGINES,
    FAST,
    C,
    assert_same,
    engine,
    keep,
    make_keys,
    make_mode,
    make_params,
    multinomial,
    same_bits,
    sample,
    softmax,
)
from fusedraw._threads import threads
from invariance_cases import PARAMS, SPLIT, batch
from row_kinds import make_mask, make_probs, make_rows


def everything_small():
    x = torch.cat([make_rows(k, 2, 400, 4) for k in ("normal", "denormal", "cliff", "tied")])
    params = torch.cat([make_params(1e-39, 0.9), make_params(0.7, 1e-40, 1e-41, 0.5)]).repeat(4, 1)
    p = torch.cat([make_probs("peaked", 4, 400, 4), make_probs("cliff", 4, 400, 5)])
    keys = make_keys(8)
    return {
        **sample(x, params, keys, top_n=4),
        "softmax": softmax(x, params[:, 0].contiguous())["out"],
        "log": softmax(x, torch.ones(1, dtype=torch.float64), log=True)["out"],
        "renorm": keep(p, make_params(top_p=0.9), mode=make_mode(probs=True), renorm=True)["out"],
        "mask": keep(x, params)["out"],
        "many": multinomial(p, keys, 20, True)["ids"],
        "distinct": multinomial(p, keys, 20, False)["ids"],
        "probs": sample(p, mode=make_mode(probs=True), keys=keys, outputs=2)["logp"],
    }


def test_inference_mode():
    expected = everything_small()
    with torch.inference_mode():
        assert_same(everything_small(), expected)


@contextlib.contextmanager
def flushed_subnormals():
    assert torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(False)


def flushes():
    return (torch.tensor([1e-40]) * 1.0).item() == 0.0


@pytest.mark.parametrize("name", ENGINES)
def test_flushed_subnormals(name):
    """torch.set_flush_denormal(True) does not reach the law, and is still on after a call."""
    with engine(name), threads(1):
        tiny = make_rows("denormal", 8, 400, 4)
        kept = everything_small()
        assert not flushes()
        with flushed_subnormals():
            assert flushes()
            got = everything_small_from(tiny)
            assert flushes()
        assert not flushes()
        assert_same(got, everything_small_from(tiny))
        assert_same(everything_small(), kept)


def everything_small_from(x):
    """As everything_small, with inputs that torch does not make (it flushes what it makes)."""
    params = torch.cat([make_params(1e-39, 0.9), make_params(1e-38, 1e-40, 1e-41, 0.5)]).repeat(4, 1)
    keys = make_keys(8)
    p = x.clone()
    p.view(torch.int32).bitwise_and_(0x7FFFFFFF)  # subnormals, made positive by hand
    return {
        **sample(x, params, keys, top_n=4),
        "softmax": softmax(x, params[:, 0].contiguous())["out"],
        "renorm": keep(p, make_params(top_p=0.9), mode=make_mode(probs=True), renorm=True)["out"],
        "mask": keep(x, params)["out"],
        "many": multinomial(p, keys, 20, True)["ids"],
        "distinct": multinomial(p, keys, 20, False)["ids"],
        "probs": sample(p, mode=make_mode(probs=True), keys=keys, outputs=2)["logp"],
        "facade": fusedraw.sample(x, temperature=1e-39, keys=keys, check="status"),
        "facade_probs": fusedraw.sample_probs(p, top_p=0.9, keys=keys, check="status"),
    }


@pytest.mark.parametrize("name", ENGINES)
def test_rounding_mode(name):
    """fesetround of the caller does not reach the law, and is still set after a call."""
    libm = ctypes.CDLL(ctypes.util.find_library("m") or "libm.so.6")
    upward = {"x86_64": 0x800, "aarch64": 0x400000}.get(os.uname().machine)
    if upward is None:
        pytest.skip(f"no FE_UPWARD known for {os.uname().machine}")
    x, params, keys = batch(10)
    arguments = (x, params, keys, None, 0, ALL, 3)
    with engine(name), threads(1):
        expected, soft = sample(*arguments), softmax(x, params[:, 0].contiguous())
        before = libm.fegetround()
        assert libm.fesetround(upward) == 0
        try:
            got, got_soft = sample(*arguments), softmax(x, params[:, 0].contiguous())
            after = libm.fegetround()
        finally:
            libm.fesetround(before)
    assert after == upward
    assert_same(got, expected)
    assert_same(got_soft, soft)


def test_worker_threads_are_left_as_they_were():
    """A call from a thread that flushes does not make the pool's threads flush, nor the other way round."""
    x = make_rows("normal", 4, SPLIT, 2)
    with threads(2):
        expected = sample(x, make_params(0.8, 0.9))
        with flushed_subnormals():
            assert_same(sample(x, make_params(0.8, 0.9)), expected)
        tiny = torch.full((1 << 20,), 1e-40)
        assert (tiny * 1.0 == tiny).all()


def test_engine_choice_is_for_all_threads():
    """set_isa in one thread is seen by the others, as its documentation says."""
    seen = []
    with engine("scalar"):
        worker = threading.Thread(target=lambda: seen.append(C.isa()))
        worker.start()
        worker.join()
    assert seen == ["scalar"]


def test_stale_workspace():
    """Long and short rows, masks and configurations by turns on one thread: no call sees another's."""
    calls = []
    for i, size in enumerate((5000, 3, 140_000, 257, 70_000, 300, 1)):
        for params in PARAMS:
            x = make_rows(("normal", "tied", "holes")[i % 3], 1, size, i)
            mask = make_mask(("none", "rows-0.5", "words-1")[i % 3], 1, size, i)
            if mask is not None:
                mask.view(-1)[0] = 1  # never empty
            calls.append((x, params, make_keys(1, i), mask, 0, ALL, i))
    for name in FAST:
        with engine(name):
            first = [sample(*c) for c in calls]
            order = torch.randperm(len(calls), generator=torch.Generator().manual_seed(1)).tolist()
            for i in order + order[::-1]:
                assert_same(sample(*calls[i]), first[i])
            assert same_bits(first[0]["ids"], sample(*calls[0])["ids"])
