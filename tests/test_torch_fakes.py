# SPDX-License-Identifier: Apache-2.0
"""opcheck, fake tensors and meta tensors: what torch is told of the operators without running them."""

import fusedraw
import pytest
import torch
from fusedraw import _ops
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.utils._pytree import tree_map
from torch_cases import DERIVE, HALVES, INT64, LOG, B, V, X, each_call, keys, params, rows


@each_call
@pytest.mark.parametrize("dtype", HALVES)
def test_opcheck(op, arguments, dtype):
    torch.library.opcheck(op, arguments(rows(dtype)))


@pytest.mark.parametrize("mode", [0, LOG])
@pytest.mark.parametrize("dtype", [*HALVES, torch.float64])
def test_opcheck_softmax_with_gradient(mode, dtype):
    x = rows(dtype).requires_grad_()
    torch.library.opcheck(_ops.softmax, (x, params(B)[:, 0].clone(), x > -1, mode))


@pytest.mark.parametrize("arguments", DERIVE)
def test_opcheck_derive_keys(arguments):
    torch.library.opcheck(_ops.derive_keys, arguments)


def shapes(out):
    """(dtype, device, shape) of each tensor; kept_ids, whose length is data, without its length."""
    out = out if isinstance(out, (tuple, list)) else [out]
    return [(t.dtype, t.device.type, () if t.dtype == torch.int32 else tuple(t.shape), t.dim()) for t in out]


@each_call
@pytest.mark.parametrize("shape", [(B, V), (B, 1), (B, 300)])
@pytest.mark.parametrize("dtype", HALVES)
def test_fake_equals_real(op, arguments, shape, dtype):
    arguments = arguments(rows(dtype, shape))
    with FakeTensorMode(shape_env=ShapeEnv()) as mode:
        fake = op(*tree_map(lambda v: mode.from_tensor(v) if isinstance(v, torch.Tensor) else v, arguments))
    assert shapes(fake) == shapes(op(*arguments))


@pytest.mark.parametrize("arguments", DERIVE)
def test_fake_derive_keys(arguments):
    with FakeTensorMode() as mode:
        fake = _ops.derive_keys(*[mode.from_tensor(t) for t in arguments])
    assert shapes(fake) == shapes(_ops.derive_keys(*arguments))


def test_fake_kept_is_of_unknown_length():
    with FakeTensorMode(shape_env=ShapeEnv()) as mode:
        out = fusedraw.sample(mode.from_tensor(rows()), keys=mode.from_tensor(keys()), returns=("kept",))
    assert isinstance(out.kept_ids.shape[0], torch.SymInt) and out.kept_offsets.shape == (B + 1,)


def test_one_meta_tensor_among_real_ones():
    to_meta = [
        (_ops.sample, (X, params(), keys(), X > 0, 0, 0, 0), (1, 2, 3)),
        (_ops.softmax, (X, params()[:, 0].clone(), X > 0, 0), (1, 2)),
        (_ops.filter, (X, params(), X > 0, 0, 0), (1, 2)),
        (_ops.multinomial, (X, keys(), 1, False, 0), (1,)),
        (_ops.derive_keys, DERIVE[0], (0, 2, 3)),
    ]
    for op, arguments, which in to_meta:
        for i in which:
            mixed = [a.to("meta") if j == i else a for j, a in enumerate(arguments)]
            with pytest.raises(RuntimeError, match="must be on cpu, got one on meta"):
                op(*mixed)


def test_meta_tensors():
    x = torch.empty(B, V, device="meta")
    ids = fusedraw.sample(x, seed=1, temperature=0.5)
    assert (ids.device.type, ids.dtype, ids.shape) == ("meta", INT64, (B,))
    out = fusedraw.sample(x, keys=keys().to("meta"), returns=("logp", "explored"), top_n=4)
    assert out.logp.shape == (B,) and out.explored.dtype == torch.bool and out.top_logps.shape == (B, 4)
    assert fusedraw.sample(x[0]).shape == ()
    assert fusedraw.softmax(x).dtype == torch.float32
    assert fusedraw.top_k_mask(x.half(), 3).dtype == torch.float16
    assert fusedraw.multinomial(x, 4).shape == (B, 4)
    assert fusedraw.derive_keys(1, torch.empty(5, dtype=INT64, device="meta")).shape == (5, 2)


def test_fakes_are_not_cached():
    """Parameters packed while a fake mode is active must not reach later calls, nor the other way round."""
    arguments = {"temperature": 0.123, "top_p": 0.77}
    with FakeTensorMode() as mode:
        fusedraw.sample(mode.from_tensor(X), seed=1, **arguments)
        fusedraw.Sampler(**arguments)
    first = fusedraw.sample(X, seed=1, **arguments)
    with FakeTensorMode() as mode:
        assert fusedraw.sample(mode.from_tensor(X), seed=1, **arguments).shape == (B,)
    with torch.inference_mode():
        second = fusedraw.sample(X, seed=1, **arguments)
    with torch.device("meta"):
        third = fusedraw.sample(X, seed=1, **arguments)
    assert first.tolist() == second.tolist() == third.tolist()
