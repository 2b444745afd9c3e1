# SPDX-License-Identifier: Apache-2.0
"""Streams, devices, memory that is freed while work is under way, and torch around the calls."""

import importlib.util
import time

import fusedraw
import pytest
import torch
from engines import BF16, assert_same, make_keys, sample
from on_device import DEVICE, ON_CPU, move
from row_kinds import make_rows
from torch.utils._pytree import tree_map
from torch_cases import CALLS, HALVES, rows

on_device_only = pytest.mark.skipif(ON_CPU, reason="needs a device")
RETURNS = ("logp", "entropy", "n_kept")


def draw(x, keys, **settings):
    return fusedraw.sample(x, keys=keys, top_k=60, top_p=0.95, returns=RETURNS, **settings)


def same(got, expected):
    for a, b in zip(got, expected, strict=True):
        assert (a is None) == (b is None) and (a is None or torch.equal(a.cpu(), b.cpu()))


@on_device_only
@pytest.mark.parametrize("shape", [(2, 100_000), (200, 3000)])
def test_two_streams_at_once(shape):
    """Each with rows of its own, many calls in flight, no workspace in common."""
    with torch.cuda.device(DEVICE):
        streams = [torch.cuda.Stream() for _ in range(2)]
        x = [make_rows("normal", *shape, seed) for seed in range(2)]
        keys = [make_keys(shape[0], seed) for seed in range(2)]
        expected = [draw(*pair) for pair in zip(x, keys, strict=True)]
        there = [(a.to(DEVICE), b.to(DEVICE)) for a, b in zip(x, keys, strict=True)]
        torch.cuda.synchronize()
        got = [[], []]
        for _ in range(40):
            for i, stream in enumerate(streams):
                with torch.cuda.stream(stream):
                    got[i].append(draw(*there[i]))
        torch.cuda.synchronize()
        for i in range(2):
            for out in got[i]:
                same(out, expected[i])


@on_device_only
def test_the_current_stream_is_used():
    """Logits that are still being computed on the stream of the call."""
    with torch.cuda.device(DEVICE):
        x, keys = make_rows("normal", 4, 50_000, 3), make_keys(4)
        source, there_keys = x.to(DEVICE), keys.to(DEVICE)
        torch.cuda.synchronize()
        stream = torch.cuda.Stream()
        for _ in range(20):
            target = torch.full_like(source, -1e30)
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                torch.cuda._sleep(2_000_000)
                target.copy_(source)
                out = draw(target, there_keys)
            stream.synchronize()
            same(out, draw(x, keys))


@on_device_only
def test_nothing_waits_for_the_device():
    with torch.cuda.device(DEVICE):
        x, keys = make_rows("normal", 4, 50_000, 3).to(DEVICE), make_keys(4).to(DEVICE)
        p, mask = torch.softmax(x, -1), x > -1
        temperature = torch.full((4,), 0.7, device=DEVICE)
        calls = [
            lambda: draw(x, keys),
            lambda: fusedraw.sample(x, temperature=temperature, keys=keys, mask=mask, top_n=4),
            lambda: fusedraw.sample(x, seed=1, step=2),
            lambda: fusedraw.sample(x),
            lambda: fusedraw.softmax(x, 0.5),
            lambda: fusedraw.top_p_mask(x, 0.5),
            lambda: fusedraw.multinomial(p, 4, True, keys=keys),
        ]
        for call in calls:
            call()
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for call in calls:
                torch.cuda._sleep(int(2e9))  # about a second
                started = time.perf_counter()
                call()
                assert time.perf_counter() - started < 0.3
                assert not torch.cuda.current_stream().query(), "the device was idle: nothing is shown"
        finally:
            torch.cuda.set_sync_debug_mode("default")
            torch.cuda.synchronize()


@on_device_only
def test_memory_is_freed_while_calls_are_under_way():
    """Inputs, outputs and workspaces go back to the allocator at once and are written by others."""
    with torch.cuda.device(DEVICE):
        rows_, keys = make_rows("normal", 3, 100_000, 1, BF16), make_keys(3)
        expected = draw(rows_, keys)
        source, there_keys = rows_.to(DEVICE), keys.to(DEVICE)
        kept = []
        for i in range(200):
            x = source.clone()
            out = draw(x, there_keys.clone())
            del x
            torch.full((3, 100_000), float("nan"), device=DEVICE, dtype=BF16)
            torch.full((1 << 16,), 255, device=DEVICE, dtype=torch.uint8)
            if i % 10 == 0:
                kept.append(out)
        for out in kept:
            same(out, expected)


@on_device_only
def test_another_device():
    """The rows' device counts, not the current one, which stays as it was."""
    if torch.cuda.device_count() < 2:
        pytest.skip("there is one device")
    x, keys = make_rows("normal", 4, 50_000, 3), make_keys(4)
    for current, home in ((0, 1), (1, 0)):
        with torch.cuda.device(current):
            out = draw(x.to(f"cuda:{home}"), keys.to(f"cuda:{home}"))
            assert torch.cuda.current_device() == current
            assert all(t is None or t.device.index == home for t in out)
            same(out, draw(x, keys))
    with pytest.raises(ValueError, match="keys must be on cuda:1"):
        draw(x.to("cuda:1"), keys.to("cuda:0"))


def test_kept_sets_of_many_rows():
    x, keys = make_rows("normal", 300, 2000, 1), make_keys(300)
    arguments = {"top_p": 0.8, "returns": ("kept",)}
    expected = fusedraw.sample(x, keys=keys, **arguments)
    got = fusedraw.sample(x.to(DEVICE), keys=keys.to(DEVICE), **arguments)
    assert torch.equal(got.kept_ids.cpu(), expected.kept_ids)
    assert torch.equal(got.kept_offsets.cpu(), expected.kept_offsets)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("op, arguments", [row[1:] for row in CALLS], ids=[row[0] for row in CALLS])
def test_opcheck(op, arguments, dtype):
    here = arguments(rows(dtype))
    torch.library.opcheck(op, tree_map(lambda v: move(v) if isinstance(v, torch.Tensor) else v, here))


def test_move_keeps_layout():
    """What the other tests rely on: the copy has the strides, the offset modulo 64, and the values."""
    base = torch.arange(3000.0)
    for view in (
        base[5:105].view(10, 10),
        base[7:].as_strided((4, 50), (600, 1), 71),
        base[:50].expand(6, 50),
        base[:200].view(10, 20).t(),
        base[:0],
    ):
        copy = move(view)
        assert copy.stride() == view.stride() and torch.equal(copy.cpu(), view)
        if view.numel():
            assert (copy.storage_offset() - view.storage_offset()) % 64 == 0
            assert copy.data_ptr() != view.data_ptr()


@pytest.mark.parametrize("mode", ["default", "reduce-overhead"])
def test_compiled(mode):
    """fullgraph, eager and compiled alike; reduce-overhead captures CUDA graphs of its own."""
    if not ON_CPU and importlib.util.find_spec("triton") is None:
        pytest.skip("torch.compile for CUDA needs triton")
    torch._dynamo.reset()

    def function(x, keys):
        return fusedraw.sample(x * 2, temperature=0.7, top_k=30, keys=keys, returns=("logp",))[:3]

    compiled = torch.compile(function, fullgraph=True, mode=mode)
    for seed in range(4):
        x, keys = make_rows("normal", 3, 3000, seed), make_keys(3, seed)
        got = [t.clone() if t is not None else t for t in compiled(x.to(DEVICE), keys.to(DEVICE))]
        same(got, function(x, keys))


def test_a_call_after_a_failed_one():
    """A refused call leaves nothing behind on the device."""
    x, keys = make_rows("normal", 3, 3000, 1), make_keys(3)
    expected = sample(x, None, keys)
    with pytest.raises(RuntimeError):
        torch.ops.fusedraw.sample(x.to(DEVICE), torch.zeros(2, 5, dtype=torch.float64), keys, None, 0, 0, 0)
    there = fusedraw.sample(x.to(DEVICE), keys=keys.to(DEVICE))
    assert_same({"ids": there.cpu()}, {"ids": expected["ids"]})
