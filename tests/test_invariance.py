# SPDX-License-Identifier: Apache-2.0
"""A row's result depends on (logits, parameters, mask, key) of the row and on nothing else: not on the batch,
the memory layout, threads, dtype of equal values, process state or what else runs."""

import contextlib
import ctypes
import ctypes.util
import multiprocessing
import os
import signal
import threading

import fusedraw
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
    C,
    assert_same,
    bits_of,
    engine,
    keep,
    make_keys,
    make_mode,
    make_params,
    multinomial,
    same_bits,
    sample,
    softmax,
    threads,
)
from hypothesis import given
from hypothesis import strategies as st
from row_kinds import make_mask, make_probs, make_rows
from strategies import examples, modes, param_rows, row_batches, seeds

SIZE = 1500  # six blocks, the last one partial
ROWS = 64
SPLIT = 200_000  # logits in one row that more than one thread shares
PARAMS = (
    make_params(),
    make_params(0.7, top_k=20),
    make_params(1.3, 0.9, 0.01, 0.5),
    make_params(0.9, 0.8, top_k=400),
    make_params(0.0, mix_eps=0.5),
)


def batch(rows=ROWS, size=SIZE, dtype=F32):
    """Rows of all kinds with parameters of all kinds."""
    kinds = ("normal", "peaked", "tied", "holes", "sunken")
    x = torch.cat([make_rows(kinds[i % len(kinds)], 1, size, i, dtype) for i in range(rows)])
    params = torch.cat([PARAMS[i // 3 % len(PARAMS)] for i in range(rows)])
    return x, params, make_keys(rows, 3)


def rows_of(out, index):
    """What these rows of a batch have given, kept ids included."""
    index = torch.as_tensor(index)
    offsets = out["kept_offsets"]
    picked = {k: v[index] for k, v in out.items() if not k.startswith("kept_i") and k != "kept_offsets"}
    picked["kept_ids"] = torch.cat([out["kept_ids"][offsets[i] : offsets[i + 1]] for i in index])
    picked["kept_sizes"] = (offsets[1:] - offsets[:-1])[index]
    return picked


def check_rows(whole, index, part, label):
    assert_same(rows_of(part, range(len(index))), rows_of(whole, index), label)


# The batch


@pytest.mark.parametrize("name", ENGINES)
def test_batch_size_position_and_order(name):
    x, params, keys = batch()
    g = torch.Generator().manual_seed(4)
    parts = [[i] for i in range(0, ROWS, 9)]
    parts += [torch.randperm(ROWS, generator=g)[:n].tolist() for n in (2, 3, 7, 8, 33, ROWS)]
    parts += [torch.randint(0, ROWS, (ROWS * 3,), generator=g).tolist()]  # with repetitions
    with engine(name):
        whole = sample(x, params, keys, top_n=4)
        for index in parts:
            part = sample(x[index], params[index], keys[index], top_n=4)
            check_rows(whole, index, part, f"{name}, rows {index}")


@pytest.mark.parametrize("name", FAST)
def test_a_thousand_copies(name):
    """One row a thousand times, with one key: one token."""
    x, params, keys = batch(len(PARAMS) * 3)
    with engine(name):
        alone = sample(x, params, keys, outputs=bits_of("logp"))
        for i in range(len(x)):
            many = sample(x[i].expand(1000, -1), params[i : i + 1], keys[i].expand(1000, 2), outputs=2)
            assert (many["ids"] == alone["ids"][i]).all() and (many["logp"] == alone["logp"][i]).all()


@examples(80)
@given(row_batches(), st.data(), modes)
def test_mates_do_not_matter(rows, data, mode):
    """Other logits, keys, parameters, NaN and refused parameters in the other rows change nothing."""
    n, size = rows.x.shape
    params = data.draw(param_rows(n, size)).expand(n, 5)
    with engine(data.draw(st.sampled_from(FAST))):
        alone = [
            sample(
                rows.x[i : i + 1],
                params[i : i + 1],
                rows.keys[i : i + 1],
                rows.mask[i : i + 1] if rows.mask is not None and rows.mask.dim() == 2 else rows.mask,
                mode,
                top_n=3,
            )
            for i in range(n)
        ]
        mate = torch.full((1, size), data.draw(st.sampled_from([NAN, INF, -INF, 0.0, 7.0]))).to(rows.x.dtype)
        mate_params = make_params(data.draw(st.sampled_from([1.0, NAN, 0.0])), 0.5, mix_eps=0.5)
        x = torch.cat([mate, rows.x, mate])
        mask = rows.mask
        if mask is not None and mask.dim() == 2:
            mask = torch.cat([mask[:1], mask, ~mask[:1]])
        keys = torch.cat([make_keys(1), rows.keys, make_keys(1, 9)])
        together = sample(x, torch.cat([mate_params, params, mate_params]), keys, mask, mode, top_n=3)
    for i in range(n):
        check_rows(together, [i + 1], alone[i], "with mates")


# Memory


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


# Threads and processes


@pytest.mark.parametrize("name", FAST)
@pytest.mark.parametrize("rows", [1, 2, 3, 9])
def test_thread_counts(name, rows):
    """Blocks of one row shared by threads, and rows shared by threads."""
    x = torch.cat([make_rows(k, 1, SPLIT, 2) for k in ("normal", "peaked", "tied")])[torch.arange(rows) % 3]
    params = torch.cat([PARAMS[i % len(PARAMS)] for i in range(rows)])
    keys, p = make_keys(rows, 1), torch.softmax(x, -1)
    temperature = torch.tensor([0.8], dtype=torch.float64)

    def everything():
        return {
            **sample(x, params, keys, top_n=3),
            "softmax": softmax(x, temperature)["out"],
            "kept": keep(x, params, renorm=True)["out"],
            "many": multinomial(p, keys, 50, True)["ids"],
            "distinct": multinomial(p, keys, 50, False)["ids"],
            "one": multinomial(p, keys, 1, True)["ids"],
        }

    with engine(name):
        with threads(1):
            expected = everything()
        for n in (2, 3, 16):
            with threads(n):
                assert_same(everything(), expected, f"{n} threads")


def test_a_bad_row_shared_by_threads():
    """NaN and infinity in either half of a row whose blocks are shared."""
    with threads(2):
        for place in (0, SPLIT // 2 - 1, SPLIT // 2, SPLIT - 1):
            for value, status in ((NAN, 2), (INF, 3)):
                x = torch.zeros(1, SPLIT)
                x[0, place] = value
                assert sample(x, outputs=1)["status"].item() == status
        x = torch.full((1, SPLIT), -INF)
        assert sample(x, outputs=1)["status"].item() == 4
        x[0, SPLIT - 1] = -3.0
        assert sample(x, outputs=1)["ids"].item() == SPLIT - 1


def test_python_threads_share_inputs():
    """Eight threads at once, on the same tensors: everybody gets what one alone gets."""
    x, params, keys = batch(40, 3000)
    long = make_rows("normal", 1, SPLIT, 3)
    expected, expected_long = sample(x, params, keys), sample(long, PARAMS[2], keys[:1])
    start, problems = threading.Barrier(8), []

    def work():
        try:
            start.wait()
            for _ in range(25):
                assert_same(sample(x, params, keys), expected)
                assert_same(sample(long, PARAMS[2], keys[:1]), expected_long)
        except BaseException as error:
            problems.append(error)

    workers = [threading.Thread(target=work) for _ in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not problems


def draw_in_child(queue, x, keys, count):
    torch.set_num_threads(count)
    queue.put(fusedraw.sample(x, keys=keys, top_p=0.9).tolist())


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_child_processes(method):
    """After use here, with threads: a child draws the same, and does not hang."""
    context = multiprocessing.get_context(method)
    x, keys = make_rows("normal", 3, 70_000, 1), make_keys(3)
    with threads(2):
        expected = fusedraw.sample(x, keys=keys, top_p=0.9).tolist()
    queue = context.Queue()
    # libgomp's threads do not survive a fork: there a child has one thread, as torch's own workers do.
    child = context.Process(target=draw_in_child, args=(queue, x, keys, 1 if method == "fork" else 2))
    child.start()
    try:
        assert queue.get(timeout=60) == expected
    finally:
        child.join(10)
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
    assert sample(x, None, keys, outputs=0)["ids"].shape == (3,)


# The state of the process


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
