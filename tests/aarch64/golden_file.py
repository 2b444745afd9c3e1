# SPDX-License-Identifier: Apache-2.0
"""The golden calls as a file for golden.cpp, and its results back as tensors."""

import struct

import numpy as np
import torch

# Their places are the numbers that golden.cpp knows them by.
OPERATORS = (
    *("sample", "sample_processed", "softmax", "filter", "multinomial"),
    *("token_logprob", "mixture", "route", "verify"),
)
ABSENT = 0
TYPES = (
    None,
    *(torch.float32, torch.bfloat16, torch.float16, torch.float64),
    *(torch.int32, torch.int64, torch.uint8),
)


def _words(*values):
    return struct.pack(f"<{len(values)}q", *values)


def _field(value):
    if value is None:
        return _words(ABSENT, 0)
    if isinstance(value, list):
        value = torch.stack(value)
    if not isinstance(value, torch.Tensor):
        value = torch.tensor(int(value))
    if value.dtype == torch.bool:
        value = value.to(torch.uint8)
    value = value.contiguous()
    data = value.reshape(-1).view(torch.uint8).numpy().tobytes() if value.numel() else b""
    head = _words(TYPES.index(value.dtype), value.dim(), *value.shape)
    return head + data + bytes(-len(data) % 8)


def write(path, calls):
    with open(path, "wb") as out:
        out.write(_words(len(calls)))
        for call in calls:
            out.write(_words(OPERATORS.index(call.op), len(call.arguments)))
            out.writelines(map(_field, call.arguments))


def read(path, n):
    """The outputs of n calls, a list of tensors each."""
    data, at = np.fromfile(path, np.int64), 0

    def words(count):
        nonlocal at
        at += count
        return data[at - count : at].tolist()

    results = []
    for _ in range(n):
        outputs = []
        for _ in range(words(1)[0]):
            kind, dims = words(2)
            shape, dtype = words(dims), TYPES[kind]
            size = int(np.prod(shape)) * dtype.itemsize
            taken = data[at : at + (size + 7) // 8].view(np.uint8)[:size]
            at += (size + 7) // 8
            flat = torch.from_numpy(taken.copy()).view(dtype) if size else torch.empty(0, dtype=dtype)
            outputs.append(flat.reshape(shape))
        results.append(outputs)
    assert at == len(data), "more results than calls"
    return results
