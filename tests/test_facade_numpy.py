# SPDX-License-Identifier: Apache-2.0
"""The Python face: fusedraw.numpy gives the same bits."""

import fusedraw
import fusedraw.numpy
import numpy as np
import pytest
import torch
from facade_cases import KEYS, OUTPUTS, RULES, B, X
from fusedraw import sample


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_numpy_same_bits(dtype):
    x = X.numpy().astype(dtype)
    tensor = torch.from_numpy(x)
    ids = fusedraw.numpy.sample(x, keys=KEYS.numpy(), **RULES)
    assert isinstance(ids, np.ndarray) and ids.dtype == np.int64
    assert np.array_equal(ids, sample(tensor, keys=KEYS, **RULES).numpy())
    mask = (X > -1).numpy()
    temperature = np.linspace(0.5, 2, B)
    out = fusedraw.numpy.sample(
        x, seed=3, step=1, mask=mask, temperature=temperature, returns=OUTPUTS, top_n=2
    )
    want = sample(
        tensor,
        seed=3,
        step=1,
        mask=X > -1,
        temperature=torch.from_numpy(temperature),
        returns=OUTPUTS,
        top_n=2,
    )
    assert all(np.array_equal(a, b.numpy()) for a, b in zip(out, want, strict=True))
    assert fusedraw.numpy.sample(x[0], seed=3).shape == ()
    for view in (x[:, ::2], x[::-1], x[:, ::-1], np.asfortranarray(x), x.astype(x.dtype.newbyteorder(">"))):
        dense = torch.from_numpy(np.ascontiguousarray(view.astype(dtype)))
        assert np.array_equal(fusedraw.numpy.sample(view, seed=3), sample(dense, seed=3).numpy())
    frozen = x.copy()
    frozen.flags.writeable = False
    assert np.array_equal(fusedraw.numpy.sample(frozen, seed=3), sample(tensor, seed=3).numpy())
    raw = np.empty(x.nbytes + 1, np.uint8)[1:]  # misaligned
    raw[:] = np.frombuffer(x.tobytes(), np.uint8)
    assert np.array_equal(
        fusedraw.numpy.sample(raw.view(dtype).reshape(x.shape), seed=3), sample(tensor, seed=3).numpy()
    )


def test_numpy_generator_and_default():
    a, b = (fusedraw.numpy.sample(X.numpy(), generator=torch.Generator().manual_seed(2)) for _ in range(2))
    assert np.array_equal(a, b)
    torch.manual_seed(2)
    assert np.array_equal(fusedraw.numpy.sample(X.numpy()), a)


def test_numpy_refuses():
    with pytest.raises(TypeError, match="float32, bfloat16 or float16, got float64"):
        fusedraw.numpy.sample(X.numpy().astype(np.float64))
    with pytest.raises(TypeError, match="got int64"):
        fusedraw.numpy.sample(np.zeros((2, 3), np.int64))
    with pytest.raises(TypeError, match="sample: logits must be a numpy array or have __dlpack__, got list"):
        fusedraw.numpy.sample([[1.0]])
    with pytest.raises(TypeError, match="dtype that torch has, got <U1"):
        fusedraw.numpy.sample(np.array([["a"]]))
    with pytest.raises(ValueError, match="row 0 has status NAN"):
        fusedraw.numpy.sample(np.full((1, 3), np.nan, np.float32))


def test_numpy_takes_dlpack():
    class Capsule:
        def __init__(self, tensor):
            self.tensor = tensor

        def __dlpack__(self, **arguments):
            return self.tensor.__dlpack__()

        def __dlpack_device__(self):
            return self.tensor.__dlpack_device__()

    for x in (X, X.bfloat16()):
        ids = fusedraw.numpy.sample(
            Capsule(x), keys=Capsule(KEYS.view(torch.int64)), temperature=Capsule(torch.ones(B))
        )
        assert np.array_equal(ids, sample(x, keys=KEYS).numpy())
        assert np.array_equal(fusedraw.numpy.sample(x, keys=KEYS), ids)


def test_numpy_bfloat16():
    ml_dtypes = pytest.importorskip("ml_dtypes")
    x = X.numpy().astype(ml_dtypes.bfloat16)
    assert np.array_equal(fusedraw.numpy.sample(x, seed=3), sample(X.bfloat16(), seed=3).numpy())
