# SPDX-License-Identifier: Apache-2.0
"""A row's result does not depend on threads within a call, nor on the process."""

import multiprocessing
import os
import signal

import fusedraw
import pytest
import torch
from engines import (
    FAST,
    INF,
    NAN,
    assert_same,
    engine,
    keep,
    make_keys,
    multinomial,
    sample,
    softmax,
)
from fusedraw._threads import threads
from invariance_cases import PARAMS, SPLIT
from row_kinds import make_rows


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
