# SPDX-License-Identifier: Apache-2.0
"""Odd tensors that are no error: strides, offsets, sizes, classes, and memory that changes meanwhile."""

import mmap
import threading

import fusedraw
import pytest
import torch
from input_cases import KEYS, NAN, B, V, rows, sample

MAP_NORESERVE = 0x4000  # Linux; Python has no name for it


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_memory_layouts(dtype):
    x = rows(dtype)
    odd = torch.empty(B * V + 1, dtype=dtype)[1:].view(B, V)  # off by one element from every alignment
    wide = torch.empty(B, V + 3, dtype=dtype)[:, 2 : V + 2]
    apart = torch.empty(B, V, 2, dtype=dtype)[:, :, 1]  # elements two apart
    layouts = {"odd": odd, "wide": wide, "apart": apart, "transposed": torch.empty(V, B, dtype=dtype).t()}
    expected = sample(x, returns=("logp",), top_k=20)
    for name, view in layouts.items():
        view.copy_(x)
        out = sample(view, returns=("logp",), top_k=20)
        assert torch.equal(out.ids, expected.ids) and torch.equal(out.logp, expected.logp), name
        assert torch.equal(fusedraw.softmax(view), fusedraw.softmax(x)), name
        assert torch.equal(fusedraw.top_k_mask(view, 3), fusedraw.top_k_mask(x, 3)), name
    same = x[:1].expand(B, V)  # row stride 0
    assert torch.equal(sample(same), sample(same.contiguous()))
    assert torch.equal(sample(x.flip(1)), sample(x.flip(1).contiguous()))
    keys = torch.empty(2, B, dtype=torch.int64).t().copy_(KEYS.view(torch.int64))
    assert torch.equal(sample(x, keys=keys), sample(x))
    mask = torch.rand(V, B) > 0.5
    assert torch.equal(sample(x, mask=mask.t()), sample(x, mask=mask.t().contiguous()))
    stepped = torch.linspace(0.1, 2, 2 * B)[::2]
    assert torch.equal(sample(x, temperature=stepped), sample(x, temperature=stepped.contiguous()))


def test_rows_beyond_32_bit_offsets():
    # Rows 2^31 and 2^32 elements apart in memory that is reserved, not used.
    size = 2 * (2**32 + V)
    memory = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE)
    x = torch.frombuffer(memory, dtype=torch.float16).as_strided((3, V), (2**31, 1))
    x.copy_(rows(torch.float16)[:3])
    assert torch.equal(sample(x, keys=KEYS[:3]), sample(x.clone(), keys=KEYS[:3]))
    assert torch.equal(fusedraw.softmax(x), fusedraw.softmax(x.clone()))


@pytest.mark.parametrize("vocab", [2**20, pytest.param(2**25, marks=pytest.mark.slow)])
def test_long_rows(vocab):
    x = torch.zeros(1, vocab)
    x[0, -1] = 60.0
    assert sample(x, seed=1).item() == vocab - 1
    x[0, -1] = 0.0
    assert 0 <= sample(x, seed=1).item() < vocab


def test_logits_that_change_meanwhile():
    # Undefined token, but one of the row or -1, and no crash.
    x, stop = torch.randn(2, 5000), threading.Event()

    def disturb():
        generator = torch.Generator().manual_seed(1)
        while not stop.is_set():
            x.copy_(torch.randn(2, 5000, generator=generator))
            x[0, 7] = NAN

    thread = threading.Thread(target=disturb)
    thread.start()
    try:
        for step in range(300):
            ids = fusedraw.sample(x, seed=1, step=step, top_k=40, top_p=0.9, check="status")
            assert ((ids >= -1) & (ids < 5000)).all()
    finally:
        stop.set()
        thread.join()
