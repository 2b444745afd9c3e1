# SPDX-License-Identifier: Apache-2.0
"""Devices without kernels of ours: the CPU draws the same, and says so once. CUDA, as far as fakes tell.

The CUDA kernels themselves run under the executor: test_cuda_*.py.
"""

import warnings

import fusedraw
import pytest
import torch
from fusedraw import _device
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map
from torch_cases import INT64, B, V, X, keys


class OtherDevice(torch.Tensor):
    """A CPU tensor that says it is on an "maia" device, which has no kernels in any CPU build of torch."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype, device="maia")

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        inside = tree_map(lambda v: v.inner if isinstance(v, cls) else v, (args, kwargs or {}))
        if func is torch.ops.aten._to_copy.default and str(inside[1].get("device")) == "cpu":
            return func(*inside[0], **inside[1])
        outside = {k: v for k, v in inside[1].items() if k != "device"}
        return cls(func(*inside[0], **outside))


class Arrivals(TorchFunctionMode):
    """Lets copies to the other device arrive."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is torch.Tensor.to and args[1:] == (torch.device("maia"),):
            return OtherDevice(args[0].clone())
        return func(*args, **(kwargs or {}))


@pytest.fixture
def quiet_start(monkeypatch):
    monkeypatch.setattr(_device, "_warned", False)


def test_fallback_draws_the_same(quiet_start):
    over = OtherDevice
    with Arrivals():
        with pytest.warns(UserWarning, match="no kernels for maia") as caught:
            out = fusedraw.sample(
                over(X),
                keys=over(keys()),
                temperature=over(torch.tensor([0.5, 1.0, 2.0])),
                mask=over(X > -1),
                returns=("logp", "kept"),
            )
            ids = fusedraw.sample(over(X), seed=3, step=4)
            probs = fusedraw.softmax(over(X), 0.5)
            masked = fusedraw.top_k_mask(over(X), 3)
            many = fusedraw.multinomial(over(X.exp()), 3, seed=3)
            derived = fusedraw.derive_keys(1, over(torch.arange(4)))
            sampled = fusedraw.Sampler(top_p=0.5)(over(X), keys=over(keys()))
        assert len(caught) == 1 and caught[0].filename == __file__
        home = [*[t for t in out if t is not None], ids, probs, masked, many, derived, sampled]
        assert all(isinstance(t, OtherDevice) and t.device.type == "maia" for t in home)
    expected = fusedraw.sample(
        X, keys=keys(), temperature=torch.tensor([0.5, 1.0, 2.0]), mask=X > -1, returns=("logp", "kept")
    )
    for got, want in zip(out, expected, strict=True):
        assert (got is None and want is None) or torch.equal(got.inner, want)
    assert torch.equal(ids.inner, fusedraw.sample(X, seed=3, step=4))
    assert torch.equal(probs.inner, fusedraw.softmax(X, 0.5))
    assert torch.equal(masked.inner, fusedraw.top_k_mask(X, 3))
    assert torch.equal(many.inner, fusedraw.multinomial(X.exp(), 3, seed=3))
    assert torch.equal(derived.inner, fusedraw.derive_keys(1, torch.arange(4)))
    assert torch.equal(sampled.inner, fusedraw.sample(X, keys=keys(), top_p=0.5))


def test_fallback_reports_by_status(quiet_start):
    x = X.clone()
    x[1, 4] = torch.nan
    with Arrivals(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        out = fusedraw.sample(OtherDevice(x), seed=1, returns=("status",))  # check=None: as on a device
        assert out.status.inner.tolist() == [0, fusedraw.Status.NAN, 0]
        with pytest.raises(ValueError, match="row 1 has status NAN"):
            fusedraw.sample(OtherDevice(x), seed=1, check="raise")


def test_parameters_belong_on_the_device(quiet_start):
    for arguments in ({"keys": keys()}, {"seed": 1, "mask": X > 0}, {"seed": 1, "top_p": torch.ones(B)}):
        with Arrivals(), pytest.raises(ValueError, match="must be on maia"):
            fusedraw.sample(OtherDevice(X), **arguments)


def test_fake_cuda(quiet_start):
    with FakeTensorMode(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        x = torch.empty(B, V, device="cuda")
        top_p = torch.empty(B, device="cuda")
        for out in (
            fusedraw.sample(x, seed=1, top_p=0.5),
            fusedraw.sample(x, top_p=top_p, keys=torch.empty(B, 2, dtype=INT64, device="cuda")),
            fusedraw.Sampler(top_k=4)(x, seed=2),
            fusedraw.Sampler(top_p=top_p)(x, seed=2),
            fusedraw.softmax(x),
            fusedraw.top_k_mask(x, 3),
            fusedraw.multinomial(x, 2),
            fusedraw.derive_keys(1, torch.empty(B, dtype=INT64, device="cuda")),
        ):
            assert out.device.type == "cuda" and out.shape[0] == B
    expected = [] if _device.HAS_CUDA else ["fusedraw has no kernels for cuda"]
    assert [str(w.message)[:32] for w in caught] == expected
