# SPDX-License-Identifier: Apache-2.0
"""What must lie on which device: beside CUDA rows, as far as fakes tell, beside meta rows, on the CPU."""

import types

import fusedraw
import pytest
import torch
from fusedraw import _ops, _params
from torch._subclasses.fake_tensor import FakeTensorMode
from torch_cases import INT64, RAISE, B, V, X, keys, params

BY_VALUE = [
    ("sample", _ops.sample, lambda x, p, k: (x, p, k, None, 0, 0, 0)),
    ("filter", _ops.filter, lambda x, p, k: (x, p, None, 0, 1)),
    ("softmax", _ops.softmax, lambda x, p, k: (x, p.select(1, 0), None, 0)),
]


@pytest.mark.parametrize("op, arguments", [row[1:] for row in BY_VALUE], ids=[row[0] for row in BY_VALUE])
def test_one_row_of_parameters_comes_from_the_cpu(op, arguments):
    """Beside CUDA rows, and beside no others: it goes to the kernel by value, without a copy that waits."""
    with FakeTensorMode() as mode:
        x, k = torch.empty(B, V, device="cuda"), torch.empty(B, 2, dtype=INT64, device="cuda")
        p = torch.empty(1, 5, dtype=torch.float64, device="cuda")
        out = op(*arguments(x, mode.from_tensor(params()), k))
        assert all(t.device.type == "cuda" for t in out)
        with pytest.raises(RuntimeError, match="must be on cuda:0, got one on cpu"):
            op(*arguments(x, mode.from_tensor(params(B)), k))
        with pytest.raises(RuntimeError, match="must be on cpu, got one on cuda:0"):
            op(*arguments(mode.from_tensor(X), p, mode.from_tensor(keys())))
    meta = torch.empty(B, V, device="meta")
    with pytest.raises(RuntimeError, match="must be on meta, got one on cpu"):
        op(*arguments(meta, params(), keys().to("meta")))


def test_gradient_with_the_temperature_on_the_cpu():
    """As softmax saves it beside CUDA rows. (A CPU build of torch has no engine for backward() there.)"""
    with FakeTensorMode() as mode:
        out = torch.empty(B, V, device="cuda")
        saved = (
            out,
            torch.empty(B, dtype=torch.uint8, device="cuda"),
            mode.from_tensor(params()[:, 0].clone()),
        )
        for log in (False, True):
            ctx = types.SimpleNamespace(saved_tensors=saved, log=log, dtype=torch.bfloat16)
            grad, *others = _ops._softmax_backward(ctx, out, None)
            assert (grad.device, grad.dtype, grad.shape) == (out.device, torch.bfloat16, out.shape)
            assert others == [None] * 3


def test_tensors_on_different_devices():
    """The ops refuse them, for the functions' fast paths leave it to them."""
    x = torch.empty(B, V, device="meta")
    for arguments in ({"keys": keys()}, {"seed": 1, "mask": X > 0}, {"seed": 1, "top_p": torch.ones(B)}):
        with pytest.raises(ValueError, match="must be on meta"):
            fusedraw.sample(x, **arguments)
        with pytest.raises(ValueError, match="must be on cpu"):
            fusedraw.sample(
                X, **{n: v.to("meta") if isinstance(v, torch.Tensor) else v for n, v in arguments.items()}
            )
    with pytest.raises(ValueError, match="must be on cpu"):
        fusedraw.Sampler(top_p=0.5)(X, keys=keys().to("meta"))
    with pytest.raises(ValueError, match="must be on meta"):
        fusedraw.Sampler(top_p=torch.ones(B))(x, seed=1)


def test_modes_of_cpu_and_device():
    """check=None raises on the CPU and tells on a device."""
    for check, cpu, device in ((None, RAISE, 0), ("raise", RAISE, RAISE), ("status", 0, 0)):
        sampler = fusedraw.Sampler(top_p=0.5, check=check)
        plan = _params.cached_plan(
            *("sample", 1.0, 0.5, 0.0, 0.0, 0, "kept", "sequential", "index", "target", (), 0, check)
        )
        assert (plan.cpu_mode, plan.device_mode) == (cpu, device)
        assert (sampler._cpu_mode, sampler._device_mode) == (cpu, device)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_draws_the_same():
    out = fusedraw.sample(X.cuda(), keys=keys().cuda(), top_p=0.9, returns=("logp",))
    expected = fusedraw.sample(X, keys=keys(), top_p=0.9, returns=("logp",))
    assert torch.equal(out.ids.cpu(), expected.ids) and torch.equal(out.logp.cpu(), expected.logp)
