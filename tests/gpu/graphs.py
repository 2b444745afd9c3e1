# SPDX-License-Identifier: Apache-2.0
"""CUDA graphs: a captured call, replayed after its tensors were changed in place, gives what the same call
gives anew, on the device and on the CPU.

On a device "cpu" a replay is the call again, its results written where the first ones stand.
"""

import fusedraw
import pytest
import torch
from engines import BF16, F32, assert_same, make_keys
from on_device import DEVICE, ON_CPU
from row_kinds import make_probs, make_rows
from torch.utils._pytree import tree_leaves

SIZES = {"few rows": (3, 70_000), "many rows": (140, 1500), "short": (5, 63)}


def tensors_of(out):
    """What a call gave, by place."""
    return {str(i): t for i, t in enumerate(tree_leaves(out)) if isinstance(t, torch.Tensor)}


def captured(call):
    """(results, replay): `call` has run once before, as the documentation asks."""
    if ON_CPU:
        out = tensors_of(call())

        def replay():
            for name, tensor in tensors_of(call()).items():
                out[name].copy_(tensor)

        return out, replay
    with torch.cuda.device(DEVICE):
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            call()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = call()
    return tensors_of(out), graph.replay


def make_inputs(rows, size, dtype, seed=0):
    """On the CPU."""
    g = torch.Generator().manual_seed(seed)
    return {
        "x": make_rows("normal", rows, size, seed, dtype),
        "p": make_probs("peaked", rows, size, seed),
        "keys": make_keys(rows, seed),
        "temperature": torch.rand(rows, generator=g) + 0.3,
        "top_p": torch.rand(rows, generator=g) * 0.5 + 0.5,
        "top_k": torch.randint(1, 60, (rows,), generator=g),
        "mask": torch.rand(rows, size, generator=g) < 0.7,
        "seed": torch.randint(0, 2**62, (1,), generator=g),
        "step": torch.randint(0, 1000, (rows,), generator=g),
        "requests": torch.randint(0, 2**62, (rows,), generator=g),
    }


SAMPLER = fusedraw.Sampler(temperature=0.8, top_k=40, top_p=0.9)
CALLS = {
    "T": lambda t: fusedraw.sample(t["x"], temperature=0.8, keys=t["keys"]),
    "top-k": lambda t: fusedraw.sample(t["x"], top_k=50, keys=t["keys"]),
    "top-p": lambda t: fusedraw.sample(t["x"], top_p=0.9, keys=t["keys"]),
    "Sampler": lambda t: SAMPLER(t["x"], keys=t["keys"]),
    "tensor parameters": lambda t: fusedraw.sample(
        t["x"],
        temperature=t["temperature"],
        top_p=t["top_p"],
        top_k=t["top_k"],
        keys=t["keys"],
        mask=t["mask"],
        mix_eps=0.2,
        returns=("status", "logp", "logp_full", "entropy", "margin", "n_kept", "rank", "explored"),
        top_n=3,
    ),
    "seed and step": lambda t: fusedraw.sample(t["x"], seed=t["seed"], step=t["step"], min_p=0.01),
    "sample_probs": lambda t: fusedraw.sample_probs(t["p"], top_p=0.9, keys=t["keys"], returns=("logp",)),
    "softmax": lambda t: fusedraw.softmax(t["x"], t["temperature"], mask=t["mask"]),
    "log_softmax": lambda t: fusedraw.log_softmax(t["x"], 0.7),
    "top_k_mask": lambda t: fusedraw.top_k_mask(t["x"], 20),
    "top_p_renorm": lambda t: fusedraw.top_p_renorm(t["p"], t["top_p"]),
    "multinomial": lambda t: fusedraw.multinomial(t["p"], 3, keys=t["keys"]),
    "multinomial, again": lambda t: fusedraw.multinomial(t["p"], 5, True, keys=t["keys"]),
    "derive_keys": lambda t: fusedraw.derive_keys(t["seed"], t["requests"], step=t["step"]),
}


@pytest.mark.parametrize("dtype", [F32, BF16])
@pytest.mark.parametrize("shape", SIZES)
@pytest.mark.parametrize("name", CALLS)
def test_replay_reads_its_tensors_anew(name, shape, dtype):
    call = CALLS[name]
    inputs = make_inputs(*SIZES[shape], dtype)
    there = {k: v.to(DEVICE, copy=True) for k, v in inputs.items()}
    out, replay = captured(lambda: call(there))
    for seed in range(4):
        changed = make_inputs(*SIZES[shape], dtype, seed)
        for k, v in changed.items():
            there[k].copy_(v)
        replay()
        got = {k: v.cpu() for k, v in out.items()}
        eager = {k: v.cpu() for k, v in tensors_of(call(there)).items()}
        assert_same(got, eager, f"replay {seed}, eager")
        assert_same(got, tensors_of(call(changed)), f"replay {seed}, CPU")


def test_an_offset_written_into_the_keys_draws_anew():
    """As a decoder does: one graph, the offset advanced by one per token."""
    x = torch.zeros(8, 50_000)
    keys = make_keys(8, 5)
    there, x_there = keys.to(DEVICE, copy=True), x.to(DEVICE)
    out, replay = captured(lambda: fusedraw.sample(x_there, keys=there))
    seen = []
    for step in range(6):
        there[:, 1] = keys[:, 1].to(DEVICE) + step
        replay()
        seen.append(out["0"].cpu().clone())
        now = torch.stack([keys[:, 0], keys[:, 1] + step], 1)
        assert torch.equal(seen[-1], fusedraw.sample(x, keys=now))
    assert len({tuple(ids.tolist()) for ids in seen}) == 6
    there[:, 1] = keys[:, 1].to(DEVICE)
    replay()
    assert torch.equal(out["0"].cpu(), seen[0])


def test_bad_rows_are_told_in_a_replay():
    x, keys = make_rows("normal", 4, 2000, 1), make_keys(4)
    there, keys_there = x.to(DEVICE, copy=True), keys.to(DEVICE)
    out, replay = captured(
        lambda: fusedraw.sample(there, keys=keys_there, check="status", returns=("status", "logp"))
    )
    for value, status in ((float("nan"), 2), (float("inf"), 3)):
        there[2, 1999] = value
        replay()
        ids, statuses, logp = (out[k].cpu() for k in ("0", "1", "2"))
        assert statuses.tolist() == [0, 0, status, 0] and ids[2] == -1 and logp[2].isnan()
    there.copy_(x)
    replay()
    assert torch.equal(out["0"].cpu(), fusedraw.sample(x, keys=keys))


@pytest.mark.skipif(ON_CPU, reason="needs a device")
def test_the_default_generator_in_a_graph():
    """torch advances its generator at each replay."""
    x = torch.zeros(64, 5000, device=DEVICE)
    out, replay = captured(lambda: fusedraw.sample(x))
    draws = []
    for _ in range(3):
        replay()
        draws.append(tuple(out["0"].tolist()))
    assert len(set(draws)) == 3


@pytest.mark.skipif(ON_CPU, reason="needs a device")
def test_two_graphs_share_a_pool():
    """A workspace that the allocator gives to two graphs, replayed in turns."""
    x, keys = make_rows("normal", 3, 70_000, 1).to(DEVICE), make_keys(3).to(DEVICE)
    with torch.cuda.device(DEVICE):
        expected = [fusedraw.sample(x, top_k=k, keys=keys) for k in (1, 50)]
        pool, graphs, outs = torch.cuda.graph_pool_handle(), [], []
        torch.cuda.synchronize()
        for k in (1, 50):
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool):
                outs.append(fusedraw.sample(x, top_k=k, keys=keys))
            graphs.append(graph)
        for i in (0, 1, 0, 0, 1):
            graphs[i].replay()
            assert torch.equal(outs[i], expected[i])
