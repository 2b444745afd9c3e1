# SPDX-License-Identifier: Apache-2.0
"""fusedraw as torch sees it: opcheck, fakes, compile, export, autograd, modes, devices without kernels."""

import os
import pathlib
import shutil
import subprocess
import sys
import types
import warnings

import fusedraw
import pytest
import torch
import torch._dynamo.testing
from fusedraw import _device, _ops, _params
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

B, V = 3, 70
HALVES = [torch.float32, torch.bfloat16, torch.float16]
ALL_OUTPUTS, KEPT = (1 << 12) - 1, 1 << 11
PROBS_OUTPUTS = ALL_OUTPUTS & ~0b111100  # logp_full, logp_raw, entropy, varentropy need logits
RAISE, PROBS, LOG, KEEP_ZERO = 128, 64, 1, 256
INT64 = torch.int64


def rows(dtype=torch.float32, shape=(B, V)):
    return torch.randn(shape, generator=torch.Generator().manual_seed(2)).to(dtype)


X = rows()


def params(n=1):
    return torch.tensor([[0.8, 0.9, 0.01, 0.1, 20.0]], dtype=torch.float64).repeat(n, 1)


def keys(n=B):
    return fusedraw.derive_keys(4, range(n)).view(INT64)


def bits(x):
    return torch.randint(-(2**31), 2**31, (x.shape[0], -(-x.shape[1] // 32)), dtype=torch.int32)


# (name, op, arguments of x), for opcheck and for the fakes
CALLS = [
    ("sample", _ops.sample, lambda x: (x, params(), keys(), None, RAISE, 0, 0)),
    ("sample, mask", _ops.sample, lambda x: (x, params(B), keys(), x > -1, 5, 1, 0)),
    ("sample, bits", _ops.sample, lambda x: (x, params(B), keys().view(torch.uint64), bits(x), 8, 1 << 9, 2)),
    ("sample, everything", _ops.sample, lambda x: (x, params(), keys(), None, 1 | RAISE, ALL_OUTPUTS, 5)),
    ("sample, kept", _ops.sample, lambda x: (x, params(), keys(), None, 2, KEPT, 0)),
    ("sample_probs", _ops.sample, lambda x: (x.softmax(-1), params(), keys(), None, PROBS, PROBS_OUTPUTS, 0)),
    ("row_keys", _ops.row_keys, lambda x: (x, -3, 2**62)),
    ("softmax", _ops.softmax, lambda x: (x, params(B)[:, 0].clone(), None, 0)),
    ("log_softmax", _ops.softmax, lambda x: (x, params()[:, 0].clone(), x > -1, LOG)),
    ("top_k_mask", _ops.filter, lambda x: (x, params(), None, KEEP_ZERO, 0)),
    ("top_p_renorm", _ops.filter, lambda x: (x.softmax(-1), params(B), x > -1, PROBS | 4, 1)),
    ("multinomial", _ops.multinomial, lambda x: (x.softmax(-1), keys(), 5, False, 0)),
    ("multinomial 1", _ops.multinomial, lambda x: (x.softmax(-1), keys(), 1, False, RAISE)),
    ("multinomial, again", _ops.multinomial, lambda x: (x.softmax(-1), keys(), 5, True, 0)),
]
DERIVE = [
    (torch.tensor([1]), torch.arange(5), torch.tensor([0]), torch.tensor([7])),
    (torch.arange(4), torch.arange(4), torch.arange(4), torch.arange(4)),
    (torch.tensor([1]), torch.tensor([2]), torch.tensor([3]), torch.tensor([4])),
]
each_call = pytest.mark.parametrize(
    "op, arguments", [row[1:] for row in CALLS], ids=[row[0] for row in CALLS]
)


def same(a, b):
    """Equal to the bit, in tensors however nested; NaN equals NaN."""
    if isinstance(a, torch.Tensor):
        nan = a.is_floating_point() and torch.equal(a.isnan(), b.isnan())
        return (
            a.dtype == b.dtype and torch.equal(a.nan_to_num(), b.nan_to_num()) if nan else torch.equal(a, b)
        )
    if isinstance(a, (tuple, list)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


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


# Compiled. (name, function, argument tuples one after another, most compilations allowed)
COMPILED = [
    (
        "keys",
        lambda x, k: fusedraw.sample(x, temperature=0.8, top_k=5, keys=k),
        [(X, keys()), (X + 1, keys())],
        1,
    ),
    ("uint64 keys", lambda x, k: fusedraw.sample(x, keys=k), [(X, keys().view(torch.uint64))], 1),
    (
        "seed and step",
        lambda x, s, t: fusedraw.sample(x, top_p=0.9, seed=s, step=t),
        [(X, s, t) for t, s in enumerate([1] * 6 + [2, 3, -1, 2**62])],
        3,
    ),
    (
        "seed and step tensors",
        lambda x, s, t: fusedraw.sample(x, seed=s, step=t),
        [(X, torch.tensor([s]), torch.tensor(t)) for s, t in ((1, 0), (1, 1), (5, 2), (-7, 3))],
        1,
    ),
    ("seeds beyond int64", lambda x, s: fusedraw.sample(x, seed=s), [(X, 2**64 - 1), (X, 2**63), (X, 3)], 3),
    (
        "temperatures",
        lambda x, t: fusedraw.sample(x, temperature=t, seed=1),
        [(X, t / 10) for t in range(1, 13)],
        3,
    ),
    ("top_k", lambda x, k: fusedraw.sample(x, top_k=k, seed=1), [(X, k) for k in range(2, 14)], 3),
    (
        "everything",
        lambda x, k: fusedraw.sample(
            x,
            keys=k,
            temperature=torch.tensor([0.5, 1.0, 2.0]),
            top_k=20,
            min_p=0.01,
            mix_eps=0.1,
            mix_support="valid",
            filter_order="joint",
            ties="all",
            domain="draft",
            mask=x > -1,
            returns=("status", "logp", "logp_full", "logp_raw", "entropy", "varentropy", "margin"),
            top_n=3,
        ),
        [(X, keys())],
        1,
    ),
    ("1-D", lambda x, k: fusedraw.sample(x, keys=k, returns=("rank",), top_n=2), [(X[0], keys()[0])], 1),
    ("Sampler", fusedraw.Sampler(temperature=0.7, top_k=30).__call__, None, 1),
    (
        "sample_probs",
        lambda x, s: fusedraw.sample_probs(x, top_p=0.5, seed=s),
        [(X.softmax(-1).double(), 1)],
        1,
    ),
    ("softmax", lambda x: fusedraw.softmax(x, 0.7, mask=x > -1), [(X,), (X.half(),)], 2),
    ("log_softmax", lambda x: fusedraw.log_softmax(x, 0.7), [(X,), (X.double(),)], 2),
    ("top_k_mask", lambda x: fusedraw.top_k_mask(x, 3), [(X,)], 1),
    ("top_p_mask", lambda x: fusedraw.top_p_mask(x, 0.4, temperature=0.5), [(X,)], 1),
    ("top_k_renorm", lambda x: fusedraw.top_k_renorm(x, 3), [(X.softmax(-1),)], 1),
    ("top_p_renorm", lambda x: fusedraw.top_p_renorm(x, 0.4, from_logits=True), [(X,)], 1),
    (
        "multinomial",
        lambda x, s: fusedraw.multinomial(x, 3, seed=s),
        [(X.softmax(-1), s) for s in range(5)],
        2,
    ),
    (
        "derive_keys",
        lambda r, t: fusedraw.derive_keys(7, r, step=t),
        [(torch.arange(n), n) for n in (4, 5, 6, 7, 9)],
        2,
    ),
    (
        "rows",
        lambda x, k: fusedraw.sample(x, keys=k, top_p=0.9, returns=("logp",)),
        [(rows(shape=(n, V)), keys(n)) for n in (2, 3, 4, 5, 9, 1)],
        3,
    ),
    (
        "rows, by seed",
        lambda x, s: fusedraw.sample(x, seed=s),
        [(rows(shape=(n, V)), n) for n in (2, 3, 4, 5, 9)],
        2,
    ),
    (
        "vocabularies",
        lambda x, k: fusedraw.sample(x, keys=k, top_k=9, returns=("logp",)),
        [(rows(shape=(B, n)), keys()) for n in (64, 65, 70, 100, 300)],
        2,
    ),
]


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
@pytest.mark.parametrize(
    "function, calls, allowed", [row[1:] for row in COMPILED], ids=[row[0] for row in COMPILED]
)
def test_compile(function, calls, allowed, backend):
    if calls is None:
        sampler, calls = function.__self__, [(X, keys())]
        function = lambda x, k: sampler(x, keys=k)  # noqa: E731
    torch._dynamo.reset()
    counter = torch._dynamo.testing.CompileCounterWithBackend(backend)
    compiled = torch.compile(function, fullgraph=True, backend=counter)
    for arguments in calls:
        assert same(compiled(*arguments), function(*arguments)), arguments[1:]
    assert counter.frame_count <= allowed


def test_compile_kept():
    torch._dynamo.reset()
    with torch._dynamo.config.patch(capture_dynamic_output_shape_ops=True):
        function = lambda x, k: fusedraw.sample(x, keys=k, top_k=7, returns=("kept",))  # noqa: E731
        assert same(torch.compile(function, fullgraph=True)(X, keys()), function(X, keys()))


def test_compile_default_generator():
    torch._dynamo.reset()
    draw = torch.compile(lambda x: fusedraw.sample(x), fullgraph=True)
    x = torch.zeros(8, 5000)
    first, second = draw(x), draw(x)
    assert ((first >= 0) & (first < 5000)).all() and not torch.equal(first, second)


def test_compiled_bad_row():
    torch._dynamo.reset()
    x = X.clone()
    x[1, 4] = torch.nan
    raising = torch.compile(lambda x: fusedraw.sample(x, seed=1), fullgraph=True)
    with pytest.raises(RuntimeError, match="row 1 has status NAN"):
        raising(x)
    telling = torch.compile(lambda x: fusedraw.sample(x, seed=1, check="status"), fullgraph=True)
    assert telling(x)[1] == -1


def test_compiled_gradient():
    torch._dynamo.reset()
    target = torch.tensor([3, 1, 4])

    def loss(x):
        return -fusedraw.log_softmax(x, 0.7).gather(1, target[:, None]).sum()

    eager, traced = X.clone().requires_grad_(), X.clone().requires_grad_()
    loss(eager).backward()
    torch.compile(loss, fullgraph=True)(traced).backward()
    assert torch.allclose(eager.grad, traced.grad, atol=1e-7, rtol=0)


class Model(torch.nn.Module):
    def forward(self, x, k):
        out = fusedraw.sample(x, keys=k, temperature=0.7, top_p=0.8, returns=("logp",))
        return out.ids, out.logp, fusedraw.softmax(x)


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict):
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(
        Model(), (X, keys()), dynamic_shapes={"x": {0: batch}, "k": {0: batch}}, strict=strict
    )
    for n in (B, 7):
        x = rows(shape=(n, V))
        assert same(program.module()(x, keys(n)), Model()(x, keys(n)))


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


# Devices without kernels of ours


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


# CUDA, as far as fakes tell. (The kernels themselves run under the executor, tests/test_simt*.py.)


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


def run(code, **environment):
    return subprocess.run(
        [sys.executable, *code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        timeout=120,
    )


def test_import_needs_no_cuda_and_is_light():
    code = "import sys, fusedraw, torch; print(torch.cuda.is_initialized(), 'fusedraw.numpy' in sys.modules)"
    done = run(["-c", code], CUDA_VISIBLE_DEVICES="")
    assert done.stdout.strip() == "False False", done.stderr


def test_import_without_torch_says_what_to_install(tmp_path):
    (tmp_path / "torch.py").write_text("raise ModuleNotFoundError(\"No module named 'torch'\", name='torch')")
    path = os.pathsep.join([str(tmp_path), os.path.dirname(os.path.dirname(fusedraw.__file__))])
    done = run(["-c", "import fusedraw"], PYTHONPATH=path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == "ImportError: fusedraw needs PyTorch: pip install torch==2.13.0"
    done = run(["-m", "fusedraw", "info"], PYTHONPATH=path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.splitlines() == ["fusedraw needs PyTorch: pip install torch==2.13.0"]


def test_import_without_extension_says_how_to_build(tmp_path):
    package = tmp_path / "fusedraw"
    package.mkdir()
    for source in pathlib.Path(fusedraw.__file__).parent.glob("*.py"):
        shutil.copy(source, package)
    done = run(["-c", "import fusedraw"], PYTHONPATH=str(tmp_path))
    said = "fusedraw._C is not built: run `pip install --no-build-isolation -e .`"
    assert done.returncode == 1 and done.stderr.splitlines()[-1] == f"ImportError: {said}"
    done = run(["-m", "fusedraw", "info"], PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stderr.splitlines()) == (1, [said])
    (package / "_C.abi3.so").write_bytes(b"no library")
    done = run(["-c", "import fusedraw"], PYTHONPATH=str(tmp_path))
    assert f"fusedraw._C does not load with torch {torch.__version__}: " in done.stderr.splitlines()[-1]


def test_info_command():
    done = run(["-m", "fusedraw", "info"])
    assert done.returncode == 0, done.stderr
    assert f"using {fusedraw.isa()}" in done.stdout and "stream version 1" in done.stdout
    if not _device.CUDA_ARCHS:
        assert "\ncuda: fallback" in done.stdout
