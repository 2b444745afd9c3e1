# SPDX-License-Identifier: Apache-2.0
"""fusedraw for numpy arrays, and for whatever speaks DLPack (JAX, CuPy, tensorflow ...). The bits are those
of torch.

>>> import fusedraw.numpy
>>> ids = fusedraw.numpy.sample(logits, top_p=0.9, seed=1234, step=t)
"""

import numpy as np
import torch

from . import sampling
from .sampling import SampleOutput

__all__ = ["sample"]


def sample(logits, **arguments):
    """fusedraw.sample for arrays.

    Args:
        logits: numpy array [B, V] or [V] of float32, float16 or ml_dtypes.bfloat16, or any object with
            `__dlpack__`. float64 raises TypeError. A contiguous, writable array is not copied.
        arguments: the keyword arguments of fusedraw.sample; tensors among them (parameters, mask, keys, seed,
            step) may be arrays of the same kinds.

    Returns: numpy int64 [B] ids (0-D for 1-D logits), or a SampleOutput of numpy arrays. Errors as in
        fusedraw.sample.
    """
    if not _is_array(logits):
        got = type(logits).__name__
        raise TypeError(f"sample: logits must be a numpy array or have __dlpack__, got {got}")
    arguments = {
        name: _to_tensor(name, value) if _is_array(value) else value for name, value in arguments.items()
    }
    out = sampling.sample(_to_tensor("logits", logits), **arguments)
    if isinstance(out, SampleOutput):
        return SampleOutput(*[None if field is None else field.cpu().numpy() for field in out])
    return out.cpu().numpy()


def _is_array(value) -> bool:
    return isinstance(value, np.ndarray) or hasattr(value, "__dlpack__")


def _to_tensor(name, array) -> torch.Tensor:
    if isinstance(array, torch.Tensor):
        return array
    if not isinstance(array, np.ndarray):
        return torch.from_dlpack(array)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    # torch refuses negative strides and misaligned data, and warns about read-only memory.
    if not (array.flags.writeable and array.flags.aligned) or any(stride < 0 for stride in array.strides):
        array = array.copy()
    if array.dtype.name == "bfloat16":  # of ml_dtypes, which torch does not know
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    try:
        return torch.from_numpy(array)
    except TypeError:
        raise TypeError(f"sample: {name} must be of a dtype that torch has, got {array.dtype}") from None
