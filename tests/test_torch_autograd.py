# SPDX-License-Identifier: Apache-2.0
"""Gradients of softmax and of nothing else; inference mode, no_grad and autocast."""

import warnings

import fusedraw
import pytest
import torch
from torch_cases import HALVES, B, V, X, rows, same


def test_inference_mode_and_no_grad():
    expected = fusedraw.sample(X, seed=1, top_k=11)
    with torch.inference_mode():
        ids = fusedraw.sample(X, seed=1, top_k=12)
        assert torch.equal(fusedraw.sample(X, seed=1, top_k=11), expected)
        probs = fusedraw.softmax(X, 0.61)
    assert ids.is_inference()
    assert torch.equal(fusedraw.sample(X, seed=1, top_k=12), ids)
    x = X.clone().requires_grad_()  # after the temperature was first packed in inference mode
    fusedraw.softmax(x, 0.61)[:, 0].sum().backward()
    assert torch.equal(fusedraw.softmax(X, 0.61), probs) and x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast_casts_nothing(dtype):
    x = X * 3
    expected = fusedraw.sample(x, seed=1, returns=("logp", "entropy")), fusedraw.softmax(x)
    with torch.autocast("cpu", dtype=dtype):
        assert same((fusedraw.sample(x, seed=1, returns=("logp", "entropy")), fusedraw.softmax(x)), expected)


def test_no_gradient_through_draws():
    x = X.clone().requires_grad_()
    outputs = ("logp", "logp_full", "logp_raw", "entropy", "varentropy", "margin", "kept_mass")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = fusedraw.sample(x, seed=1, returns=outputs, top_n=2)
        assert torch.equal(out.ids, fusedraw.sample(X, seed=1))
        tensors = [t for t in out if t is not None]
        tensors += [fusedraw.top_k_renorm(x, 3, from_logits=True), fusedraw.top_p_mask(x, 0.5)]
        tensors.append(fusedraw.multinomial(x.exp(), 2, seed=1))
    assert not any(t.requires_grad for t in tensors)


TEMPERATURES = {
    "number": 0.7,
    "one": torch.tensor([1.3]),
    "rows": torch.tensor([0.5, 1.0, 3.0]),
    "edges": torch.tensor([0.0, torch.inf, 0.9]),
}


@pytest.mark.parametrize("temperature", TEMPERATURES.values(), ids=TEMPERATURES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("function", [fusedraw.softmax, fusedraw.log_softmax])
def test_gradcheck(function, masked, temperature):
    x = rows(torch.float64, (B, 9)).requires_grad_()
    mask = torch.ones(B, 9, dtype=torch.bool)
    if masked:
        mask[:, 2] = mask[1, 5] = False
    # -inf minus -inf is NaN in a finite difference: those positions are constant, and left out.
    fixed = (
        mask
        if temperature is not TEMPERATURES["edges"]
        else mask & mask.new_tensor([[False], [True], [True]])
    )

    def f(x):
        return torch.where(fixed, function(x, temperature, mask=mask), 0.0)

    assert torch.autograd.gradcheck(f, (x,))
    if temperature is not TEMPERATURES["edges"]:
        assert torch.autograd.gradgradcheck(f, (x,))


@pytest.mark.parametrize("dtype", [*HALVES, torch.float64])
@pytest.mark.parametrize("log", [False, True])
def test_gradient_equals_torch(dtype, log):
    x = rows(dtype).requires_grad_()
    y = x.detach().clone().requires_grad_()
    weights = torch.randn(B, V, generator=torch.Generator().manual_seed(3))
    t = torch.tensor([0.5, 1.0, 2.0])
    ours = (fusedraw.log_softmax if log else fusedraw.softmax)(x, t)
    wide = y.double() / t[:, None].double()
    theirs = (torch.log_softmax if log else torch.softmax)(wide, -1)
    (ours * weights).sum().backward()
    (theirs * weights).sum().backward()
    assert x.grad.dtype == dtype
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 4e-2}[dtype]
    assert torch.allclose(x.grad.double(), y.grad.double(), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("function", [fusedraw.softmax, fusedraw.log_softmax])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradient_is_zero_where_nothing_moves(function, dtype):
    x = rows(dtype, (6, 9))
    x[3] = torch.nan  # a bad row
    x[4, 3] = -torch.inf
    x = x.requires_grad_()
    mask = torch.ones(6, 9, dtype=torch.bool)
    mask[4, 5] = False
    t = torch.tensor([0.0, torch.inf, 2.0**65, 1.0, 1.0, 2.0**-149])
    weights = torch.randn(6, 9, dtype=dtype)
    weights[4, [3, 5]] = torch.inf  # what reaches a token without weight does not matter
    out = function(x, t, mask=mask, check="status")
    out.backward(weights)
    assert (x.grad[:4] == 0).all()
    assert x.grad[4, [3, 5]].tolist() == [0, 0] and x.grad[4].isfinite().all()
    assert not x.grad[5].isnan().any()
    assert x.grad[4].abs().sum() > 0
