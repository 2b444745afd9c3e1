# SPDX-License-Identifier: Apache-2.0
"""Threads of Python on shared inputs, and forks in the midst of use. (Batches, processes and loaders:
test_matrix.py; threads within a call: test_invariance_threads.py; ThreadSanitizer: test_native.py.)"""

import os
import random
import select
import signal
import threading

import fusedraw
import golden
import pytest
import torch
from engines import ENGINES, assert_same, engine, make_keys, same_bits, sample
from golden_rows import all_calls
from invariance_cases import PARAMS, SPLIT, batch
from row_kinds import make_rows

THREADS, FORKS, TIMEOUT_S = 8, 50, 30


def in_threads(work, n=THREADS):
    """work(0) to work(n - 1) at the same time; raises what one of them raised."""
    barrier, failures = threading.Barrier(n), []

    def run(i):
        try:
            barrier.wait()
            work(i)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(n)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@pytest.mark.parametrize("name", ENGINES)
def test_eight_threads_on_shared_inputs(name):
    """Every operator, each thread in an order of its own: what one thread alone gets."""
    calls = all_calls()[:: 6 if name == "reference" else 2]
    with engine(name):
        expected = [golden.run(call) for call in calls]

        def work(thread):
            order = list(range(len(calls)))
            random.Random(thread).shuffle(order)
            for i in order:
                assert golden.same(golden.run(calls[i]), expected[i]), calls[i]

        in_threads(work)


def test_eight_threads_on_rows_that_threads_share():
    """On the same tensors, each call on torch's threads beside those of the others."""
    x, params, keys = batch(40, 3000)
    long = make_rows("normal", 1, SPLIT, 3)
    expected, expected_long = sample(x, params, keys), sample(long, PARAMS[2], keys[:1])

    def work(_):
        for _ in range(25):
            assert_same(sample(x, params, keys), expected)
            assert_same(sample(long, PARAMS[2], keys[:1]), expected_long)

    in_threads(work)


def test_eight_threads_on_the_facade():
    """What the facade remembers (packed parameters, checked rules) is shared by all threads too."""
    x, keys = torch.randn(3, 300), make_keys(3)
    settings = [
        dict(
            temperature=0.5 + i / 50,
            top_p=1 - i / 100,
            top_k=i,
            repetition_penalty=1 + i / 10,
            history=x[:, :4].argsort(),
        )
        for i in range(40)
    ]

    def draw(i):
        return fusedraw.sample(x, keys=keys, returns=("logp",), **settings[i])

    expected = [draw(i) for i in range(len(settings))]

    def work(thread):
        for turn in range(200):
            i = (turn * 7 + thread) % len(settings)
            assert all(same_bits(a, b) for a, b in zip(draw(i)[:3:2], expected[i][:3:2], strict=True))
            with pytest.raises(ValueError, match="top_p"):
                fusedraw.sample(x, keys=keys, top_p=2.0 + thread)

    in_threads(work)


def test_operators_let_other_threads_run():
    """The interpreter's lock is given up during a call: a thread counts on while another draws."""
    x, keys, done = torch.randn(4, 1 << 17), make_keys(4), threading.Event()
    with engine("reference"):  # sorts: long enough for a thread to get its turn

        def work():
            sample(x, None, keys)
            done.set()

        thread = threading.Thread(target=work)
        counted = 0
        thread.start()
        while not done.is_set():
            counted += 1
        thread.join()
    assert counted > 1000


def child_of(call):
    """What `call` gives in a fork, as bytes; a fork that hangs is ended and fails."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.write(writer, call())
        finally:
            os._exit(0)
    os.close(writer)
    try:
        ready, _, _ = select.select([reader], [], [], TIMEOUT_S)
        assert ready, "the child hangs"
        return os.read(reader, 1 << 16)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reader)


@pytest.mark.parametrize("busy", [False, True])
def test_forks_after_use(busy):
    """50 forks, each after a call here; `busy`: while other threads draw."""
    x, keys, stop = torch.randn(2, 3000), make_keys(2), threading.Event()

    def draw(i):
        out = fusedraw.sample(x, keys=keys + i, top_p=0.9, returns=("logp",))
        return out.ids.numpy().tobytes() + out.logp.numpy().tobytes()

    def keep_busy():
        while not stop.is_set():
            draw(0)

    others = [threading.Thread(target=keep_busy) for _ in range(2 if busy else 0)]
    for thread in others:
        thread.start()
    try:
        for i in range(FORKS):
            expected = draw(i)
            assert child_of(lambda i=i: draw(i)) == expected
            assert draw(i) == expected
    finally:
        stop.set()
        for thread in others:
            thread.join()


def test_a_child_that_hangs_fails(monkeypatch):
    monkeypatch.setitem(globals(), "TIMEOUT_S", 0.1)
    with pytest.raises(AssertionError, match="hangs"):
        child_of(lambda: signal.pause())
