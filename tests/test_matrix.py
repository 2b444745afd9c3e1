# SPDX-License-Identifier: Apache-2.0
"""One set of rows, called in every way: batch sizes, threads, instruction sets, eager, compiled, exported, in
child processes and workers of a loader. The results are golden (golden.py), or what each row gives alone."""

import multiprocessing
import os
import signal

import fusedraw
import golden
import pytest
import torch
from engines import BF16, ENGINES, F16, F32, FAST, assert_same, bits_of, engine, sample
from fusedraw._threads import threads
from golden_rows import Words, _bell, _holes, _spread, _ties, all_calls, keys_of, logits, params_of

ROWS, SIZE = 1000, 700
SIZES = (1, 2, 3, 7, 8, 64, 1000)
FINITE = (_bell, _spread, _ties, _holes)
ASKED = bits_of("status", "logp", "n_kept", "rank", "explored")


def batch(dtype=F32, rows=ROWS):
    """Rows with a token to draw, parameters and keys, of integers alone."""
    words = Words(f"matrix {dtype}")
    x = logits(words, rows, SIZE, dtype, FINITE)
    return x, params_of(words, rows, SIZE, spoil=False), keys_of(words, rows)


def in_parts(x, params, keys, size):
    """The rows `size` at a time."""
    parts = [
        sample(x[i : i + size], params[i : i + size], keys[i : i + size], outputs=ASKED)
        for i in range(0, len(x), size)
    ]
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


@pytest.mark.parametrize("dtype", [F32, BF16, F16])
def test_batch_sizes_threads_and_instruction_sets(dtype):
    """1000 rows, each alone in the slow engine and in batches of every size elsewhere."""
    x, params, keys = batch(dtype)
    with engine("reference"):
        expected = in_parts(x, params, keys, 1)
    for name in ENGINES:
        with engine(name):
            for size in SIZES:
                assert_same(in_parts(x, params, keys, size), expected, f"{name}, {size} at a time")
    for name in FAST:
        with engine(name):
            for n in (2, 4, 16):
                with threads(n):
                    for size in (3, 1000):
                        label = f"{name}, {n} threads, {size} at a time"
                        assert_same(in_parts(x, params, keys, size), expected, label)


def step(x, params, keys):
    out = fusedraw.sample(
        x,
        temperature=params[:, 0],
        top_p=params[:, 1],
        min_p=params[:, 2],
        mix_eps=params[:, 3],
        top_k=params[:, 4].clamp_max(SIZE).long(),
        keys=keys,
        returns=("logp",),
    )
    return out.ids, out.logp


class Step(torch.nn.Module):
    def forward(self, x, params, keys):
        return step(x, params, keys)


def exported():
    sizes = {0: torch.export.Dim("batch", min=2, max=4096)}
    example = [t[:5] for t in batch()]
    return torch.export.export(Step(), tuple(example), dynamic_shapes=(sizes,) * 3).module()


def compiled(backend):
    torch._dynamo.reset()
    return torch.compile(step, fullgraph=True, dynamic=True, backend=backend)


MAKERS = {
    "aot_eager": lambda: compiled("aot_eager"),
    "inductor": lambda: compiled("inductor"),
    "export": exported,
}


@pytest.mark.parametrize("how", MAKERS)
def test_graphs_give_what_each_row_gives_alone(how):
    x, params, keys = batch()
    params[:, 0].clamp_(0, 1e30)
    alone = [step(x[i : i + 1], params[i : i + 1], keys[i : i + 1]) for i in range(ROWS)]
    ids, logp = (torch.cat(parts) for parts in zip(*alone, strict=True))
    graph = MAKERS[how]()
    for size in SIZES[1:]:
        for begin in (0, 37, ROWS - size):
            some = slice(begin, begin + size)
            got_ids, got_logp = graph(x[some], params[some], keys[some])
            n = len(got_ids)
            assert torch.equal(got_ids, ids[some]) and n == len(x[some]), size
            assert torch.equal(got_logp.view(torch.int32), logp[some].view(torch.int32)), size


# Processes


def golden_differences(queue, count):
    torch.set_num_threads(count)
    queue.put(golden.differences(golden.collect([(call, golden.run(call)) for call in all_calls()])))


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_golden_rows_in_a_child(method):
    """After use here with threads, all 10,000 rows in a child: nothing moves, nothing hangs."""
    context = multiprocessing.get_context(method)
    x, params, keys = batch()
    with threads(4):
        expected = sample(x, params, keys, outputs=ASKED)
    queue = context.Queue()
    # libgomp's threads do not survive a fork: there a child has one thread, as torch's own workers do.
    child = context.Process(target=golden_differences, args=(queue, 1 if method == "fork" else 2))
    child.start()
    try:
        assert queue.get(timeout=120) == []
    finally:
        child.join(10)
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
    assert_same(sample(x, params, keys, outputs=ASKED), expected)


class Drawn(torch.utils.data.Dataset):
    """Row i and what is drawn from it, by the process that loads it."""

    def __init__(self, rows=48):
        self.x, self.params, self.keys = batch(F32, rows)

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        out = sample(self.x[i : i + 1], self.params[i : i + 1], self.keys[i : i + 1], outputs=ASKED)
        return {"worker": torch.utils.data.get_worker_info().id, **{name: t[0] for name, t in out.items()}}


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_of_a_loader(method):
    """Two of them, after use here with threads."""
    rows = Drawn()
    with threads(4):
        expected = sample(rows.x, rows.params, rows.keys, outputs=ASKED)
    loader = torch.utils.data.DataLoader(
        rows, batch_size=6, num_workers=2, multiprocessing_context=method, timeout=60
    )
    parts = list(loader)
    got = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    assert set(got.pop("worker").tolist()) == {0, 1}
    assert_same(got, expected)
